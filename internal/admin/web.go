package admin

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

//go:embed index.html
var indexHTML string

// A page may be large, and its reader slow.
const webTimeout = time.Minute

func (s *Server) webServer() *http.Server {
	srv := s.server(s.web)
	srv.ReadTimeout = s.limits.header
	srv.WriteTimeout = webTimeout
	return srv
}

// newWeb is the handler of the admin endpoint. It reads and never changes.
func newWeb(s *Server) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics())
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, s.status()) })
	mux.HandleFunc("GET /conns", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, s.conns()) })
	page := template.Must(template.New("index").Parse(indexHTML))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if err := page.Execute(w, s.index()); err != nil {
			s.o.Log.Debug("the page was not read to its end", "error", err)
		}
	})
	return guard(mux)
}

// guard keeps web pages of others from reading ours through a browser on this
// machine: on loopback no name but localhost is ours (DNS rebinding), and nobody
// may frame or keep what is answered. On another address the network is what
// protects it, and a name is how Prometheus may know it.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")
		if onLoopback(r) && !ownHost(r.Host) {
			http.Error(w, fmt.Sprintf("on loopback this is answered under an IP address or localhost only, not under the name %q: "+
				"a name that somebody else points here could let a web page read it", r.Host), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func onLoopback(r *http.Request) bool {
	a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return !ok || a.IP.IsLoopback()
}

// ownHost tells whether a Host header is an IP address or localhost, or empty,
// which no browser sends.
func ownHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if host == "" || strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// metrics answers with a registry of its own. What cannot be collected is left
// out, and the rest is still there.
func (s *Server) metrics() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(newCollector(s.snapshot), collectors.NewGoCollector(), processCollector{collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})})
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError,
		ErrorLog:      slog.NewLogLogger(s.o.Log.Handler(), slog.LevelWarn),
	})
}

// processCollector leaves out the bytes of the whole network namespace, which
// the process collector gives as if they were the process's.
type processCollector struct{ prometheus.Collector }

func (c processCollector) Collect(to chan<- prometheus.Metric) {
	all := make(chan prometheus.Metric)
	go func() {
		defer close(all)
		c.Collector.Collect(all)
	}()
	for m := range all {
		if !strings.Contains(m.Desc().String(), "process_network_") {
			to <- m
		}
	}
}

func (s *Server) conns() []engine.Conn {
	if c := s.o.Daemon.Conns(); c != nil {
		return c
	}
	return []engine.Conn{}
}

// indexPage is what the page for people is made of.
type indexPage struct {
	Status
	Rows []indexRow
}

// indexRow is one route.
type indexRow struct {
	*plan.Route
	engine.RouteStatus
	Usable bool
}

func (s *Server) index() indexPage {
	page := indexPage{Status: s.status()}
	p := s.o.Daemon.Plan()
	if p == nil {
		return page
	}
	live := map[string]engine.RouteStatus{}
	for _, r := range page.Engine.Routes {
		live[r.Name] = r
	}
	for _, r := range p.Routes {
		page.Rows = append(page.Rows, indexRow{r, live[r.Name], r.Usable()})
	}
	return page
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // who went away needs no answer
}
