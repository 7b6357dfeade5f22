package certs

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"

	"midspan/internal/plan"
)

// Servers is the TLS of a route with its servers.
type Servers struct {
	want   plan.UpstreamTLS
	files  files
	config atomic.Pointer[tls.Config]
}

// sessionCache is how many servers' sessions are kept, to be resumed.
const sessionCache = 64

// Config is for a connection to a server of that host, a name or an address.
// protocols are those for ALPN; none: no ALPN.
func (s *Servers) Config(host string, protocols ...string) *tls.Config {
	c := s.config.Load().Clone() // with the same cache of sessions
	c.NextProtos = protocols
	if c.ServerName == "" {
		c.ServerName = host
	}
	return c
}

func (s *Servers) paths() (all []string) {
	for _, p := range []string{s.want.CA, s.want.Cert, s.want.Key} {
		if p != "" {
			all = append(all, p)
		}
	}
	return all
}

func newServers(route string, want plan.UpstreamTLS, m made) *Servers {
	s := &Servers{want: want}
	s.files = files{route: route, paths: s.paths()}
	if want.Cert != "" {
		s.files.shown = []string{want.Cert}
	}
	s.put(m)
	return s
}

func (s *Servers) put(m made) {
	s.files.take(m)
	s.config.Store(m.config)
}

// reread makes it anew of files that have changed.
func (s *Servers) reread() made {
	m := readServers(s.files.route, s.want)
	if len(m.problems) == 0 {
		s.put(m)
	}
	return m
}

func (s *Servers) appendTo(all []Shown) []Shown { return s.files.appendTo(all) }

// Read is what want asks for, of its files as they are now: for connections that
// belong to no route's traffic. Nobody watches the files. The error names the one
// that is wrong.
func Read(want plan.UpstreamTLS) (*tls.Config, error) {
	m := readServers("", want)
	if len(m.problems) > 0 {
		return nil, fmt.Errorf("%s: %s", m.problems[0].File, m.problems[0].Text)
	}
	return m.config, nil
}

// readServers reads the files of want.
func readServers(route string, want plan.UpstreamTLS) made {
	s := Servers{want: want}
	r := begin(route, s.paths())
	config := &tls.Config{
		ServerName:                  want.Name,
		InsecureSkipVerify:          want.Insecure,
		MinVersion:                  version(want.Min),
		DynamicRecordSizingDisabled: true,
	}
	if !want.NoResume {
		// A new one with the files: what they let in is not asked again when a
		// session goes on.
		config.ClientSessionCache = tls.NewLRUClientSessionCache(sessionCache)
	}
	if want.CA != "" {
		config.RootCAs = r.pool(want.CA)
	}
	if want.Cert != "" {
		if c := r.pair(want.Cert, want.Key); c != nil {
			// Always that one: crypto/tls would show none to a server that does
			// not list its issuer, and the server could not say what it lacks.
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
		}
	}
	r.config = config
	return r.made
}
