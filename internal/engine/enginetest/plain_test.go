package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// TestPlain holds the suite against an engine that is made to be read: if a case
// fails here, the case is wrong.
func TestPlain(t *testing.T) {
	newEngine := func(_ *testing.T, h engine.Hooks) engine.Engine { return newPlain(h) }
	run := func(t *testing.T, at *Place) {
		Run(t, Engine{Kind: plan.Relay, Place: at, New: newEngine, Lacks: []plan.Feature{plan.FeatureProxy, plan.FeatureSendProxy, plan.FeatureSNI, plan.FeatureKafka}})
	}
	t.Run("loopback", func(t *testing.T) { run(t, Loopback()) })
	t.Run("machines", func(t *testing.T) { run(t, Machines(t)) })
}

// plain is the plainest engine that can pass: a goroutine for each direction of
// each connection, one lock for all else. It is right about half-close, resets
// and back-pressure, and about nothing else that an engine should be: it reads
// nothing of what is sent, it looks
// for a client that gave up only every 20 ms, takes connections from the queue
// that have to wait, and is deaf for a moment where a new listener needs the
// place of an old one.
type plain struct {
	hooks  engine.Hooks
	ctx    context.Context // ends on Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	room      *sync.Cond // a connection ended, or the engine
	plan      *plan.Plan
	listeners map[place]*listener
	pending   []engine.Pending
	routes    map[string]*route // also those that are gone
	conns     map[string]*conn
	ids       uint64
}

// place is one listening socket.
type place struct {
	addr netip.Addr
	dev  string
	port uint16
}

func (p place) String() string {
	return plan.Listen{Addr: p.addr, Interface: p.dev, From: p.port, To: p.port}.String()
}

type listener struct {
	*net.TCPListener
	route *route
}

// route is what is known of a route by name, whatever plan it is in.
type route struct {
	cfg       *plan.Route
	removed   bool
	active    int
	accepted  uint64
	up, down  atomic.Uint64
	ended     map[engine.Reason]uint64
	servers   map[string]*serverState
	endpoints map[string]*endpointState // by server and address
}

type serverState struct{ active, current int } // current is of smooth weighted round robin

type endpointState struct {
	active, inTurn     int
	connects, failures uint64
	lastError          string
	failing            bool
}

const plainLimit = 100_000 // connections, if the plan says nothing

func newPlain(h engine.Hooks) *plain {
	e := &plain{
		hooks: h, plan: new(plan.Plan),
		listeners: map[place]*listener{}, routes: map[string]*route{}, conns: map[string]*conn{},
	}
	e.room = sync.NewCond(&e.mu)
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

func (e *plain) Apply(ctx context.Context, p *plan.Plan) (engine.Change, error) {
	owner := map[place]string{}
	for _, r := range p.Routes {
		for _, at := range places(r) {
			owner[at] = r.Name
		}
	}
	opened, shut := map[place]*listener{}, map[place]*listener{}
	var pending []engine.Pending
	for at, name := range owner {
		if e.listeners[at] != nil {
			continue
		}
		l, err := listen(ctx, at)
		if errors.Is(err, syscall.EADDRINUSE) {
			e.makeWay(at, owner, shut)
			l, err = listen(ctx, at)
		}
		switch {
		case err == nil:
			opened[at] = &listener{TCPListener: l}
		case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.EADDRNOTAVAIL):
			pending = append(pending, engine.Pending{Route: name, Listen: at.String(), Why: err.Error()})
		default:
			return engine.Change{}, errors.Join(fmt.Errorf("route %s: listen on %s: %w", name, at, err), e.back(opened, shut))
		}
	}
	change := e.swap(p, owner, opened, pending)
	e.cutDown()
	return change, nil
}

// makeWay closes the listeners on the port of at that would go anyway.
func (e *plain) makeWay(at place, owner map[place]string, shut map[place]*listener) {
	for old, l := range e.listeners {
		if old.port == at.port && owner[old] == "" {
			l.Close()
			shut[old] = l
		}
	}
}

// back undoes an Apply that failed.
func (e *plain) back(opened, shut map[place]*listener) error {
	for _, l := range opened {
		l.Close()
	}
	for at, old := range shut {
		l, err := listen(e.ctx, at)
		if err != nil {
			return err
		}
		e.mu.Lock()
		again := &listener{l, old.route}
		e.listeners[at] = again
		e.mu.Unlock()
		e.wg.Go(func() { e.accept(again) })
	}
	return nil
}

func places(r *plan.Route) (all []place) {
	for _, l := range r.Listen {
		for port := int(l.From); port <= int(l.To); port++ {
			all = append(all, place{l.Addr, l.Interface, uint16(port)})
		}
	}
	return all
}

func listen(ctx context.Context, at place) (*net.TCPListener, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) (err error) {
		if at.dev != "" {
			c.Control(func(fd uintptr) { err = syscall.BindToDevice(int(fd), at.dev) })
		}
		return err
	}}
	lc.SetMultipathTCP(false)
	host := ""
	if at.addr.IsValid() {
		host = at.addr.String()
	}
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, fmt.Sprint(at.port)))
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// swap puts p in force. Nothing in it can fail.
func (e *plain) swap(p *plan.Plan, owner map[place]string, opened map[place]*listener, pending []engine.Pending) (c engine.Change) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.plan, e.pending, c.Pending = p, pending, pending
	for _, r := range e.routes {
		r.removed = true
	}
	for _, r := range p.Routes {
		if e.routes[r.Name] == nil {
			e.routes[r.Name] = &route{
				ended: map[engine.Reason]uint64{}, servers: map[string]*serverState{}, endpoints: map[string]*endpointState{},
			}
		}
		e.routes[r.Name].cfg, e.routes[r.Name].removed = r, false
	}
	for at, l := range e.listeners {
		old, now := l.route.cfg.Name, owner[at]
		if now == old {
			continue
		}
		c.Removed = append(c.Removed, old+" "+at.String())
		if now == "" {
			l.Close()
			delete(e.listeners, at)
		} else {
			l.route = e.routes[now]
			c.Added = append(c.Added, now+" "+at.String())
		}
	}
	for at, l := range opened {
		l.route = e.routes[owner[at]]
		e.listeners[at] = l
		c.Added = append(c.Added, owner[at]+" "+at.String())
		e.wg.Go(func() { e.accept(l) })
	}
	e.forget()
	e.room.Broadcast()
	return c
}

// forget drops routes that are gone and have no connection. The caller holds
// e.mu.
func (e *plain) forget() {
	maps.DeleteFunc(e.routes, func(_ string, r *route) bool { return r.removed && r.active == 0 })
}

func (e *plain) accept(l *listener) {
	for {
		c, err := l.AcceptTCP()
		switch {
		case err == nil:
			e.wg.Go(func() { e.serve(l, c) })
		case errors.Is(err, net.ErrClosed):
			return
		}
	}
}

func (e *plain) limit() int {
	if e.plan.MaxConnections > 0 {
		return e.plan.MaxConnections
	}
	return plainLimit
}

func (e *plain) Status() engine.Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := engine.Status{Connections: len(e.conns), MaxConnections: e.limit(), Pending: e.pending}
	for _, r := range e.plan.Routes {
		s.Routes = append(s.Routes, e.status(e.routes[r.Name]))
	}
	for _, name := range slices.Sorted(maps.Keys(e.routes)) {
		if e.routes[name].removed {
			s.Routes = append(s.Routes, e.status(e.routes[name]))
		}
	}
	return s
}

func (e *plain) status(r *route) engine.RouteStatus {
	s := engine.RouteStatus{Name: r.cfg.Name, Removed: r.removed, Counters: engine.Counters{
		Active: r.active, Accepted: r.accepted, BytesUp: r.up.Load(), BytesDown: r.down.Load(), Ended: maps.Clone(r.ended),
	}}
	if r.removed {
		return s
	}
	for at, l := range e.listeners {
		if l.route == r {
			s.Listening = append(s.Listening, at.String())
		}
	}
	slices.Sort(s.Listening)
	for _, srv := range r.cfg.Servers {
		for _, end := range srv.Endpoints {
			st := r.endpoint(srv, end.Addr)
			s.Endpoints = append(s.Endpoints, engine.EndpointStatus{
				Server: srv.Name, Addr: netip.AddrPortFrom(end.Addr, srv.Port), Up: end.Up,
				Active: st.active, Connects: st.connects, Failures: st.failures, LastError: st.lastError,
			})
		}
	}
	return s
}

func (e *plain) Conns() []engine.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []engine.Conn
	for _, c := range e.conns {
		all = append(all, c.conn())
	}
	slices.SortFunc(all, func(a, b engine.Conn) int {
		if d := a.Start.Compare(b.Start); d != 0 {
			return d
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

func (e *plain) Kill(id string) bool {
	e.mu.Lock()
	c := e.conns[id]
	e.mu.Unlock()
	return c != nil && c.cut(engine.Killed)
}

func (e *plain) Close() error {
	e.cancel()
	e.mu.Lock()
	for _, l := range e.listeners {
		l.Close()
	}
	live := slices.Collect(maps.Values(e.conns))
	e.room.Broadcast()
	e.mu.Unlock()
	for _, c := range live {
		c.cut(engine.Stopped)
	}
	e.wg.Wait()
	return nil
}
