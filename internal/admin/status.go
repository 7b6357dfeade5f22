package admin

import (
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"midspan/internal/daemon"
	"midspan/internal/health"
	"midspan/internal/plan"
)

// Status is a daemon's, as it goes over the wire. Health has the shape that can be
// read back from JSON.
type Status struct {
	Version
	Ready bool `json:"ready"`
	daemon.Status
	Health     []Check                `json:"health"`
	Engines    map[string]plan.Engine `json:"engines"`     // of each route in force
	LogDropped uint64                 `json:"log_dropped"` // records of the access log
}

// Check is what is known of one endpoint under test.
type Check struct {
	Routes    []string       `json:"routes,omitempty"` // whose check it is, in the file's order
	Endpoint  netip.AddrPort `json:"endpoint"`
	Kind      plan.CheckKind `json:"kind"`
	Port      uint16         `json:"port,omitempty"` // of the check, if not the endpoint's
	Path      string         `json:"path,omitempty"`
	Host      string         `json:"host,omitempty"`
	Up        bool           `json:"up"`
	Trial     bool           `json:"trial,omitempty"`
	Checked   bool           `json:"checked"`
	Since     time.Time      `json:"since"`
	Failures  int            `json:"failures"`
	LastError string         `json:"last_error,omitempty"`
	LastCheck time.Time      `json:"last_check,omitzero"`
	Latency   time.Duration  `json:"latency_ns"`
	Tests     uint64         `json:"tests"`
	Failed    uint64         `json:"failed"`
}

// Version says which midspan answers.
type Version struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	PID     int    `json:"pid"`
}

func (s *Server) version() Version {
	return Version{Version: s.o.Version, Go: runtime.Version(), PID: os.Getpid()}
}

func (s *Server) status() Status {
	st := Status{Version: s.version(), Status: s.o.Daemon.Status(), Health: []Check{}, Engines: map[string]plan.Engine{}, LogDropped: s.logDropped()}
	st.Ready = st.NotReady == ""
	p := s.o.Daemon.Plan()
	routes := routesByCheck(p)
	for _, h := range st.Status.Health {
		c := checkOf(h)
		c.Routes = routes[h.Target]
		st.Health = append(st.Health, c)
	}
	if p != nil {
		for _, r := range p.Routes {
			st.Engines[r.Name] = r.Engine
		}
	}
	return st
}

// routesByCheck are the routes that each test is for.
func routesByCheck(p *plan.Plan) map[health.Target][]string {
	routes := map[health.Target][]string{}
	if p == nil {
		return routes
	}
	for _, r := range p.Routes {
		for _, srv := range r.Servers {
			for _, e := range srv.Endpoints {
				k := checkTarget(r, srv, e.Addr)
				if !slices.Contains(routes[k], r.Name) {
					routes[k] = append(routes[k], r.Name)
				}
			}
		}
	}
	return routes
}

func (s *Server) logDropped() uint64 {
	if s.o.LogDropped == nil {
		return 0
	}
	return s.o.LogDropped()
}

func checkOf(h health.State) Check {
	host := h.Target.Check.Host
	if host == "" {
		host = h.Target.Host
	}
	return Check{
		Endpoint: h.Target.Addr, Kind: h.Target.Check.Kind, Port: h.Target.Check.Port, Path: h.Target.Check.Path, Host: host,
		Up: h.Up, Trial: h.Trial, Checked: h.Checked, Since: h.Since, Failures: h.Failures, LastError: h.LastError,
		LastCheck: h.LastCheck, Latency: h.Latency, Tests: h.Tests, Failed: h.Failed,
	}
}
