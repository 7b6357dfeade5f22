package admin

import (
	"fmt"
	"net/http"
)

// The control API: HTTP and JSON over a Unix socket. An error is an object with
// the one key "error".
const (
	pathStatus  = "/v1/status"
	pathConns   = "/v1/conns"
	pathReload  = "/v1/reload"
	pathDrain   = "/v1/drain"
	pathPlan    = "/v1/plan"
	pathVersion = "/v1/version"
)

type errorAnswer struct {
	Error string `json:"error"`
}

type reloadAnswer struct {
	Warnings []string `json:"warnings"`
}

// apiServer has no deadline for the answer: a reload takes the time it takes.
func (s *Server) apiServer() *http.Server { return s.server(s.api) }

func newAPI(s *Server) http.Handler {
	mux := http.NewServeMux()
	get := func(path string, answer func() any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, answer()) })
	}
	get(pathStatus, func() any { return s.status() })
	get(pathConns, func() any { return s.conns() })
	get(pathVersion, func() any { return s.version() })
	mux.HandleFunc("GET "+pathPlan, s.plan)
	mux.HandleFunc("DELETE "+pathConns+"/{id}", s.kill)
	mux.HandleFunc("POST "+pathReload, s.reload)
	mux.HandleFunc("POST "+pathDrain, s.drain)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, http.StatusNotFound, fmt.Sprintf("midspan %s has no %s %s", s.o.Version, r.Method, r.URL.Path))
	})
	return mux
}

func (s *Server) plan(w http.ResponseWriter, _ *http.Request) {
	p := s.o.Daemon.Plan()
	if p == nil {
		writeError(w, http.StatusServiceUnavailable, "starting: no plan is in force yet")
		return
	}
	writeJSON(w, http.StatusOK, p)
}

func (s *Server) kill(w http.ResponseWriter, r *http.Request) {
	if id := r.PathValue("id"); !s.o.Daemon.Kill(id) {
		writeError(w, http.StatusNotFound, "no connection has the ID "+id)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	if err := s.o.Daemon.Reload(r.Context()); err != nil {
		writeError(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	warnings := s.o.Daemon.Status().Warnings
	if warnings == nil {
		warnings = []string{}
	}
	writeJSON(w, http.StatusOK, reloadAnswer{warnings})
}

func (s *Server) drain(w http.ResponseWriter, _ *http.Request) {
	s.o.Daemon.Drain()
	writeJSON(w, http.StatusAccepted, struct{}{})
}

func writeError(w http.ResponseWriter, code int, text string) {
	writeJSON(w, code, errorAnswer{text})
}
