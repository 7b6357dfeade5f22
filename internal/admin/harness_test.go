package admin

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"midspan/internal/daemon"
	"midspan/internal/engine"
	"midspan/internal/freeport"
	"midspan/internal/plan"
)

// stubEngine carries nothing: it remembers the plan, and has the connections
// that a test gives it.
type stubEngine struct {
	mu     sync.Mutex
	plan   *plan.Plan
	conns  []engine.Conn
	refuse error // of Apply
}

func (e *stubEngine) Apply(_ context.Context, p *plan.Plan) (engine.Change, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refuse != nil {
		return engine.Change{}, e.refuse
	}
	e.plan = p
	return engine.Change{}, nil
}

func (e *stubEngine) Status() engine.Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := engine.Status{Connections: len(e.conns), MaxConnections: 1000, Routes: []engine.RouteStatus{}, Tracking: &engine.Tracking{Entries: 1234, Max: 262144}}
	s.Consumers = []engine.ConsumerStatus{{Name: "onprem", Active: 1, Accepted: 9, Refused: 2}}
	for _, r := range e.plan.Routes {
		rs := engine.RouteStatus{Name: r.Name, Counters: engine.Counters{Accepted: 7, Ended: map[engine.Reason]uint64{}}}
		for _, l := range r.Listen {
			rs.Listening = append(rs.Listening, l.String())
		}
		for _, srv := range r.Servers {
			for _, ep := range srv.Endpoints {
				rs.Endpoints = append(rs.Endpoints, engine.EndpointStatus{Server: srv.Name, Addr: netip.AddrPortFrom(ep.Addr, srv.Port), Up: ep.Up})
			}
		}
		s.Routes = append(s.Routes, rs)
	}
	return s
}

func (e *stubEngine) Conns() []engine.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]engine.Conn{}, e.conns...)
}

func (e *stubEngine) Kill(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, c := range e.conns {
		if c.ID == id {
			e.conns = append(e.conns[:i], e.conns[i+1:]...)
			return true
		}
	}
	return false
}

func (e *stubEngine) Close() error { return nil }

// rig is a Server before a running daemon.
type rig struct {
	*Server
	daemon *daemon.Daemon
	engine *stubEngine
	log    *diary
	reload error // of Load, if set

	mu   sync.Mutex
	plan *plan.Plan // what Load gives
}

// start runs a daemon on a plan with all three endpoints, which change may
// alter. When the test ends, nothing of it may be left.
func start(t *testing.T, change func(*plan.Plan)) *rig {
	t.Helper()
	noLeaks(t)
	r := &rig{engine: &stubEngine{}, log: &diary{}, plan: basicPlan(t)}
	if change != nil {
		change(r.plan)
	}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	r.daemon = daemon.New(daemon.Options{
		Load:    r.load,
		Engine:  func(engine.Hooks) (engine.Engine, error) { return r.engine, nil },
		Prepare: func(p *plan.Plan) error { return r.Use(p) },
	})
	r.Server = New(Options{Daemon: r.daemon, Version: "1.2.3", Log: log, LogDropped: func() uint64 { return 4 }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.daemon.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the daemon is running", func() bool { return r.daemon.Status().State == daemon.Running })
	return r
}

func (r *rig) load() (*plan.Plan, []string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan, []string{"a warning"}, r.reload
}

// set changes what the file says.
func (r *rig) set(change func(*plan.Plan)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := *r.plan
	change(&p)
	r.plan = &p
}

func (r *rig) probeAddr() string { return dialable(r.plan.Health.Listen) }
func (r *rig) adminURL() string  { return "http://" + dialable(r.plan.Admin) }

func dialable(l plan.Listen) string {
	a := l.Addr
	if !a.IsValid() || a.IsUnspecified() {
		a = netip.MustParseAddr("127.0.0.1")
	}
	return netip.AddrPortFrom(a, l.From).String()
}

func basicPlan(t *testing.T) *plan.Plan {
	t.Helper()
	port := freePorts(t, 2)
	return &plan.Plan{
		Health:  plan.Health{Listen: loopback(port), DownWhen: plan.DownNoRoute},
		Admin:   loopback(port + 1),
		Control: filepath.Join(t.TempDir(), "control.sock"),
		Drain:   plan.Drain{Detection: plan.Duration(time.Minute), Timeout: plan.Duration(time.Minute)},
		Routes: []*plan.Route{
			{
				Name: "sql", Listen: []plan.Listen{{From: 1433, To: 1433}},
				Servers: []*plan.Server{{Name: "10.0.0.5:1433", Host: "10.0.0.5", Port: 1433, Weight: 1}},
				Check:   plan.Check{Kind: plan.CheckOff, Every: plan.Duration(time.Minute)},
			},
			{
				Name: "spare", Listen: []plan.Listen{{From: 1434, To: 1434}},
				Servers: []*plan.Server{{Name: "10.0.0.6:1433", Host: "10.0.0.6", Port: 1433, Weight: 0}},
				Check:   plan.Check{Kind: plan.CheckOff, Every: plan.Duration(time.Minute)},
			},
		},
	}
}

func loopback(port uint16) plan.Listen {
	return plan.Listen{Addr: netip.MustParseAddr("127.0.0.1"), From: port, To: port}
}

func freePort(t *testing.T) uint16 { t.Helper(); return freePorts(t, 1) }

// freePorts is the first of n ports in a row that are free.
func freePorts(t *testing.T, n int) uint16 {
	t.Helper()
	port, err := freeport.Find(n)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(port)
}

// noLeaks fails the test if it leaves goroutines of ours or descriptors.
func noLeaks(t *testing.T) {
	t.Helper()
	before := openFiles(t)
	t.Cleanup(func() {
		ours := func() string {
			stacks := make([]byte, 1<<20)
			for g := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
				if strings.Contains(g, "net/http.(*") || strings.Contains(g, "admin.(*Server)") {
					return g
				}
			}
			return ""
		}
		eventually(t, "every goroutine has ended", func() bool { return ours() == "" })
		eventually(t, "every descriptor is closed", func() bool { return openFiles(t) <= before })
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// diary is a log that tests may read while it is written.
type diary struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.Write(p)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.String()
}

var errBad = errors.New("midspan.yaml:3:5: no such thing\nmidspan.yaml:9:1: nor this")
