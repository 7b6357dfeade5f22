package admin

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// probes counts the answers to probes, by HTTP status, and those that asked
// nothing as "tcp".
type probes struct {
	mu     sync.Mutex
	byCode map[string]uint64
}

func newProbes() *probes {
	p := &probes{byCode: map[string]uint64{}}
	for _, code := range []string{"200", "503", "tcp"} {
		p.byCode[code] = 0 // from the start, so that the first one shows as a rise
	}
	return p
}

func (p *probes) count(code string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byCode[code]++
}

func (p *probes) counts() map[string]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.byCode)
}

// probeServer is the HTTP server of the probe endpoint. Every step of a
// connection has a deadline, because the load balancer shares the few there may
// be with whoever else can reach the port.
func (s *Server) probeServer() *http.Server {
	srv := s.server(http.HandlerFunc(s.probe))
	srv.DisableGeneralOptionsHandler = true
	srv.ReadTimeout = s.limits.header // a body is read too, to be thrown away
	srv.WriteTimeout = s.limits.header
	srv.ConnState = (&crowd{max: s.limits.conns}).watch
	return srv
}

// probe answers whether this machine, or one route, or one node of a route's Kafka
// cluster, should get new connections.
func (s *Server) probe(w http.ResponseWriter, r *http.Request) {
	code, text := s.verdict(r)
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	if code == http.StatusMethodNotAllowed {
		h.Set("Allow", "GET, HEAD")
	}
	w.WriteHeader(code)
	_, _ = fmt.Fprintln(w, text) // who went away needs no answer
	s.probes.count(strconv.Itoa(code))
}

func (s *Server) verdict(r *http.Request) (code int, text string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return http.StatusMethodNotAllowed, "a probe is GET or HEAD"
	}
	err := s.o.Daemon.Ready()
	if name, ok := strings.CutPrefix(r.URL.Path, "/route/"); ok && s.o.Daemon.Plan() != nil {
		known := false
		if route, id, ok := nodeOf(name); ok {
			err, known = s.o.Daemon.NodeReady(route, id)
		} else {
			err, known = s.o.Daemon.RouteReady(name)
		}
		if !known {
			return http.StatusNotFound, err.Error()
		}
	}
	if err != nil {
		return http.StatusServiceUnavailable, err.Error()
	}
	return http.StatusOK, "ok"
}

// nodeOf takes ROUTE/node/ID apart.
func nodeOf(path string) (route string, id int32, ok bool) {
	route, number, ok := strings.Cut(path, "/node/")
	if !ok {
		return "", 0, false
	}
	n, err := strconv.ParseInt(number, 10, 32)
	return route, int32(n), err == nil && n >= 0
}
