// Package certs makes TLS settings of PEM files: those of routes that speak TLS
// with their clients, and of those that speak it with their servers. It takes up
// files that change, without a reload and without an end to any connection.
//
// Everything that is wrong with the files is reported at once, each with its
// file. A file that is wrong when it changes does no harm: what was made of its
// former content stays in force.
//
// Limits: PEM only; keys without a password; no OCSP and no revocation lists. A
// file may have 4 MiB.
package certs

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"midspan/internal/plan"
)

// watchEvery is how often files are looked at. One that has changed is read at
// the next look that finds it as the one before did: a certificate and its key
// are two files, and writing takes a while.
const watchEvery = 2 * time.Second

// Problem is what is wrong with one file.
type Problem struct {
	Route string
	File  string
	Text  string
}

func (p Problem) String() string { return fmt.Sprintf("route %q: %s: %s", p.Route, p.File, p.Text) }

// Problems are all that there are.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// Check reads all files that p's routes need. Warnings are of certificates that
// are out of date: they can be used, and nobody will like them.
func Check(p *plan.Plan) (problems, warnings Problems) {
	for _, r := range p.Routes {
		if r.TLS != nil {
			m := readClients(r.Name, r.TLS)
			problems, warnings = append(problems, m.problems...), append(warnings, m.warnings...)
		}
		if r.UpstreamTLS.On {
			m := readServers(r.Name, r.UpstreamTLS)
			problems, warnings = append(problems, m.problems...), append(warnings, m.warnings...)
		}
	}
	return problems, warnings
}

// Route is the TLS of one route.
type Route struct {
	Clients *Clients // nil: none
	Servers *Servers // nil: none
}

// Shown is a file with certificates that are shown to others.
type Shown struct {
	Route   string
	File    string
	Expires time.Time // the first of its certificates to
	Problem string    // why its newest content is not in force; "": it is
}

// Store has the TLS settings of the routes in force. It may be used from any
// goroutine.
type Store struct {
	log  *slog.Logger
	mu   sync.Mutex
	now  map[string]Route // by route
	stop chan struct{}    // nil: nobody watches the files
	done sync.WaitGroup
}

// NewStore is an empty one.
func NewStore(log *slog.Logger) *Store { return &Store{log: log} }

// Load makes what p's routes need, and changes nothing. What is in force and
// wanted as it was is taken as it is, with the keys of its session tickets, even
// if its files have come to be wrong. The error is of type Problems.
func (s *Store) Load(p *plan.Plan) (map[string]Route, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[string]Route{}
	var problems Problems
	for _, r := range p.Routes {
		old, v := s.now[r.Name], Route{}
		switch {
		case r.TLS == nil:
		case old.Clients != nil && reflect.DeepEqual(old.Clients.want, *r.TLS):
			v.Clients = old.Clients
		default:
			m := readClients(r.Name, r.TLS)
			problems = append(problems, m.problems...)
			v.Clients = newClients(r.Name, *r.TLS, m)
		}
		switch {
		case !r.UpstreamTLS.On:
		case old.Servers != nil && old.Servers.want == r.UpstreamTLS:
			v.Servers = old.Servers
		default:
			m := readServers(r.Name, r.UpstreamTLS)
			problems = append(problems, m.problems...)
			v.Servers = newServers(r.Name, r.UpstreamTLS, m)
		}
		if v != (Route{}) {
			next[r.Name] = v
		}
	}
	return next, problems.err()
}

// Use puts what Load has made in force, and takes up what has changed in files
// meanwhile.
func (s *Store) Use(next map[string]Route) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = next
	s.refresh(true)
	if s.stop == nil && len(next) > 0 {
		stop := make(chan struct{})
		s.stop = stop
		s.done.Go(func() { s.watch(stop) })
	}
}

func (s *Store) watch(stop chan struct{}) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			s.mu.Lock()
			s.refresh(false)
			s.mu.Unlock()
		}
	}
}

// refresh takes up changed files; atOnce: without waiting for them to rest.
func (s *Store) refresh(atOnce bool) {
	for _, v := range s.now {
		if v.Clients != nil {
			s.reread(&v.Clients.files, atOnce, func() made { return v.Clients.reread() })
		}
		if v.Servers != nil {
			s.reread(&v.Servers.files, atOnce, func() made { return v.Servers.reread() })
		}
	}
}

func (s *Store) reread(f *files, atOnce bool, read func() made) {
	if !f.changed(atOnce) {
		return
	}
	m := read()
	f.problems = m.problems
	if len(m.problems) > 0 {
		s.log.Error("a certificate file has changed and cannot be used; what it had before stays in force", "error", m.problems.Error())
		return
	}
	f.expires = m.expires
	s.log.Info("certificate files have changed and are in force", "route", f.route, "files", strings.Join(f.paths, " "))
	for _, w := range m.warnings {
		s.log.Warn(w.String())
	}
}

// Files are those whose certificates are shown to others, in the order of routes'
// names.
func (s *Store) Files() []Shown {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Shown
	for _, v := range s.now {
		if v.Clients != nil {
			all = v.Clients.appendTo(all)
		}
		if v.Servers != nil {
			all = v.Servers.appendTo(all)
		}
	}
	slices.SortStableFunc(all, func(a, b Shown) int { return strings.Compare(a.Route, b.Route) })
	return all
}

// Close ends the watch.
func (s *Store) Close() {
	s.mu.Lock()
	stop := s.stop
	s.stop = nil
	s.mu.Unlock()
	if stop != nil {
		close(stop)
		s.done.Wait()
	}
}

// version is crypto/tls's number for the file's word.
func version(lowest string) uint16 {
	if lowest == "1.3" {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}
