// Package daemon keeps an engine doing what the file, the names and the health
// of the servers say at this moment: each change of one of the three makes a
// new plan, and the engine is told the whole of it. It also ends: it drains,
// with the probe failing first.
//
// It knows no concrete engine, no file format and no signal; cmd/midspan wires
// those in.
//
// Limits: one engine. Reloads are done one at a time.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"midspan/internal/engine"
	"midspan/internal/health"
	"midspan/internal/plan"
)

// Options of a daemon. Load and Engine are required.
type Options struct {
	// Load reads the file anew: a plan without endpoints, and warnings.
	Load func() (*plan.Plan, []string, error)
	// Engine makes the engine.
	Engine func(engine.Hooks) (engine.Engine, error)
	// Prepare, if set, is called with each newly loaded plan before it comes
	// into force: it opens the probe endpoint, admin and the access log where
	// the plan has them. When it fails, nothing changes.
	Prepare func(*plan.Plan) error
	// Record, if set, gets the access log's records. It must not block.
	Record func(*engine.Record)
	// Notify, if set, tells the service manager (sd_notify(3) states).
	Notify func(state string)
	Log    *slog.Logger // nil: silent
}

// Daemon is one running daemon.
type Daemon struct {
	o        Options
	log      *slog.Logger
	engine   engine.Engine
	inUse    sync.RWMutex // held for reading by whoever asks the engine from outside Run
	running  bool         // guarded by inUse: the engine may be asked
	ended    chan struct{}
	names    *names
	health   *health.Monitor
	wake     chan struct{} // something changed: apply
	reloads  chan loaded
	draining chan struct{}
	drainOne sync.Once
	servers  atomic.Pointer[map[string]server] // by route and name

	mu     sync.Mutex // guards what follows
	base   *plan.Plan // as loaded
	now    *plan.Plan // with endpoints: in force
	status Status     // but for Engine, Health and Names
	// notReady is the reason that was last logged for the probe's 503.
	notReady string
}

// State is where the daemon is in its life.
type State string

// The states.
const (
	Starting State = "starting"
	Running  State = "running"
	Draining State = "draining"
)

// Status is all that there is to see.
type Status struct {
	State       State           `json:"state"`
	StateSince  time.Time       `json:"state_since"`
	Since       time.Time       `json:"since"` // of the start
	Loaded      time.Time       `json:"loaded"`
	Reloads     int             `json:"reloads"`
	FailedLoad  string          `json:"failed_load,omitempty"` // the error of the last reload, if it failed
	FailedLoads int             `json:"failed_loads"`
	Warnings    []string        `json:"warnings,omitempty"`
	DrainUntil  time.Time       `json:"drain_until,omitzero"`
	Engine      engine.Status   `json:"engine"`
	Health      []health.State  `json:"health"`
	Names       map[string]Name `json:"names"`
	NotReady    string          `json:"not_ready,omitempty"` // why this machine should get no new connections; "": it should
}

// Name is what is known of a name.
type Name struct {
	Addrs   []netip.Addr `json:"addrs"`
	Problem string       `json:"problem,omitempty"` // why the newest look-up failed; "": Addrs are fresh
	Since   time.Time    `json:"since,omitzero"`    // when Addrs were last confirmed; zero: never
	Next    time.Time    `json:"next,omitzero"`     // when it is asked again
}

// startWait bounds how long a start waits for names and first tests, so that
// the first connections find a server. A start never needs them.
const startWait = time.Second

// retryPending is how often a listener that waits for the host is tried again.
const retryPending = 2 * time.Second

// New makes a daemon. Nothing runs before Run.
func New(o Options) *Daemon {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Notify == nil {
		o.Notify = func(string) {}
	}
	if o.Prepare == nil {
		o.Prepare = func(*plan.Plan) error { return nil }
	}
	d := &Daemon{
		o: o, log: o.Log,
		wake:     make(chan struct{}, 1),
		reloads:  make(chan loaded),
		draining: make(chan struct{}),
		ended:    make(chan struct{}),
		status:   Status{State: Starting, StateSince: time.Now(), Since: time.Now()},
	}
	d.servers.Store(&map[string]server{})
	d.names = newNames(d.log, d.changed)
	d.health = health.New(health.Options{Log: d.log, OnChange: d.changed})
	return d
}

// changed asks for an apply, soon. It never blocks.
func (d *Daemon) changed() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run forwards until ctx ends (at once: live connections are reset) or a drain
// is done. The error says why it could not start.
func (d *Daemon) Run(ctx context.Context) (err error) {
	defer close(d.ended)
	defer d.health.Close()
	defer d.names.close()
	base, warnings, err := d.o.Load()
	if err != nil {
		return err
	}
	d.engine, err = d.o.Engine(engine.Hooks{Dial: d.dialled, Record: d.o.Record})
	if err != nil {
		return err
	}
	defer func() {
		d.open(false)
		err = errors.Join(err, d.engine.Close())
	}()
	if err := d.o.Prepare(base); err != nil {
		return err
	}
	for _, w := range warnings {
		d.log.Warn(w)
	}
	d.names.use(ctx, base)
	pending, err := d.adopt(ctx, base, warnings)
	if err != nil {
		return err
	}
	d.open(true)
	d.setState(Running)
	d.o.Notify("READY=1")
	d.log.Info("forwarding", "routes", len(base.Routes), "max_connections", d.engine.Status().MaxConnections)
	return d.loop(ctx, pending)
}

// open says whether the engine may be asked from outside Run. When it returns,
// nobody is in the middle of asking.
func (d *Daemon) open(yes bool) {
	d.inUse.Lock()
	defer d.inUse.Unlock()
	d.running = yes
}

// ask calls f with the engine, unless there is none (any more).
func (d *Daemon) ask(f func(engine.Engine)) {
	d.inUse.RLock()
	defer d.inUse.RUnlock()
	if d.running {
		f(d.engine)
	}
}

// loop applies what changes until the end.
func (d *Daemon) loop(ctx context.Context, pending bool) error {
	for {
		var retry <-chan time.Time
		if pending || d.onInterfaces() {
			retry = time.After(retryPending)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.draining:
			return d.drain(ctx)
		case <-d.wake:
			pending = d.refresh(ctx, pending)
		case <-retry:
			pending = d.refresh(ctx, pending)
		case l := <-d.reloads:
			still, err := d.reload(ctx, l)
			pending = still || (err != nil && pending)
			l.reply <- err
		}
	}
}

// onInterfaces tells whether a route listens on an interface, which can go and
// come again: the engine looks for that at each Apply.
func (d *Daemon) onInterfaces() bool {
	return slices.ContainsFunc(d.base.Routes, func(r *plan.Route) bool {
		return slices.ContainsFunc(r.Listen, func(l plan.Listen) bool { return l.Interface != "" })
	})
}

// refresh applies the plan in force with what is known now.
func (d *Daemon) refresh(ctx context.Context, pending bool) bool {
	still, err := d.apply(ctx, d.base)
	if err != nil {
		d.log.Error("cannot apply a change; the old state stays in force", "error", err)
		return pending
	}
	return still
}

// adopt puts a newly loaded plan in force and tells whether listeners wait.
func (d *Daemon) adopt(ctx context.Context, base *plan.Plan, warnings []string) (pending bool, err error) {
	pending, err = d.apply(ctx, base)
	if err != nil {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.base = base
	d.status.Loaded, d.status.Warnings = time.Now(), warnings
	return pending, nil
}

// apply tells the engine the whole wanted state: base with the addresses of
// now, those up that are.
func (d *Daemon) apply(ctx context.Context, base *plan.Plan) (pending bool, err error) {
	answers := d.names.answers()
	addrs := func(host string) []netip.Addr { return answers[host].Addrs }
	known := base.With(addrs, func(*plan.Route, *plan.Server, netip.Addr) (bool, bool) { return true, false })
	next := known.With(addrs, d.state(known)) // an endpoint that is new is up
	change, err := d.engine.Apply(ctx, next)
	if err != nil {
		return false, err
	}
	d.watchHealth(next)
	d.logChange(change)
	d.mu.Lock()
	old := d.now
	d.now = next
	d.mu.Unlock()
	d.logReady(old, next)
	return len(change.Pending) > 0, nil
}

// server is what the data path's reports about a server are good for.
type server struct {
	host string
	port uint16 // under which health knows its endpoints
}

// watchHealth gives the monitor the endpoints of p.
func (d *Daemon) watchHealth(p *plan.Plan) {
	var targets []health.Target
	servers := map[string]server{}
	for _, r := range p.Routes {
		for _, s := range r.Servers {
			servers[r.Name+" "+s.Name] = server{s.Host, r.MainPort(s)}
			for _, e := range s.Endpoints {
				targets = append(targets, target(r, s, e.Addr))
			}
		}
	}
	d.servers.Store(&servers)
	d.health.Watch(targets)
}

func target(r *plan.Route, s *plan.Server, a netip.Addr) health.Target {
	return health.Target{Addr: netip.AddrPortFrom(a, r.MainPort(s)), Check: r.Check, Host: s.Host}
}

// state is the monitor's verdict, but for one thing: where no test is made,
// failed connects alone never take the last server of a route away. There is
// nothing to lose by trying it.
func (d *Daemon) state(p *plan.Plan) func(*plan.Route, *plan.Server, netip.Addr) (up, lastResort bool) {
	lost := map[string]bool{}
	for _, r := range p.Routes {
		lost[r.Name] = r.Check.Kind == plan.CheckOff && !slices.ContainsFunc(r.Servers, func(s *plan.Server) bool {
			return s.Weight > 0 && slices.ContainsFunc(s.Endpoints, func(e plan.Endpoint) bool { return d.health.Up(target(r, s, e.Addr)) })
		})
	}
	return func(r *plan.Route, s *plan.Server, a netip.Addr) (up, lastResort bool) {
		return lost[r.Name] || d.health.Up(target(r, s, a)), lost[r.Name]
	}
}

// dialled is told of failed connects: a sign for health, and a reason to look
// the name up again.
func (d *Daemon) dialled(x engine.Dial) {
	s, known := (*d.servers.Load())[x.Route+" "+x.Server]
	if !known {
		return // of a plan that is gone
	}
	d.health.Report(netip.AddrPortFrom(x.Addr.Addr(), s.port), x.Err)
	if x.Err != nil {
		d.names.refresh(s.host)
	}
}

// logReady says when a route loses its last server or has one again, and when
// the probe's answer changes for another reason.
func (d *Daemon) logReady(old, now *plan.Plan) {
	usable := map[string]bool{}
	if old != nil {
		for _, r := range old.Routes {
			usable[r.Name] = r.Usable()
		}
	}
	for _, r := range now.Routes {
		switch before, known := usable[r.Name]; {
		case r.Usable() && known && !before:
			d.log.Info("the route has a server again", "route", r.Name)
		case !r.Usable() && (before || !known):
			d.log.Warn("the route has no server that is up", "route", r.Name)
		}
	}
	reason := ""
	if err := d.Ready(); err != nil && old != nil {
		reason = err.Error()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch before := d.notReady; {
	case reason != "" && reason != before:
		d.log.Warn("the probe answers 503", "why", reason)
	case reason == "" && before != "":
		d.log.Info("the probe answers 200")
	}
	d.notReady = reason
}

func (d *Daemon) logChange(c engine.Change) {
	d.logListeners("listening", c.Added)
	d.logListeners("stopped listening", c.Removed)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range c.Pending {
		if !slices.Contains(d.status.Engine.Pending, p) {
			d.log.Warn("cannot listen yet; trying again", "route", p.Route, "listen", p.Listen, "why", p.Why)
		}
	}
	d.status.Engine.Pending = c.Pending
}

// logListeners writes one line for each route, however many ports it has.
func (d *Daemon) logListeners(msg string, listeners []string) {
	var routes []string
	of := map[string][]string{}
	for _, s := range listeners {
		route, address, _ := strings.Cut(s, " ")
		if of[route] == nil {
			routes = append(routes, route)
		}
		of[route] = append(of[route], address)
	}
	for _, route := range routes {
		on := of[route]
		text := strings.Join(on, ", ")
		if len(on) > 4 {
			text = fmt.Sprintf("%s … %s (%d)", on[0], on[len(on)-1], len(on))
		}
		d.log.Info(msg, "route", route, "on", text)
	}
}

// Reload reads the file anew and puts it in force. When it fails, all stays as
// it was.
func (d *Daemon) Reload(ctx context.Context) error {
	// Here and not in Run: a file that blocks must not keep the daemon from
	// ending.
	l := loaded{reply: make(chan error, 1)}
	l.base, l.warnings, l.err = d.o.Load()
	var err error
	select {
	case d.reloads <- l:
		return <-l.reply
	case <-d.draining:
		err = errors.New("draining: a reload would come too late")
	case <-d.ended:
		err = errors.New("the daemon has ended")
	case <-ctx.Done():
		err = ctx.Err()
	}
	d.log.Warn("not reloaded", "why", err)
	return err
}

// loaded is a file that was read, on its way to Run.
type loaded struct {
	base     *plan.Plan
	warnings []string
	err      error
	reply    chan error
}

func (d *Daemon) reload(ctx context.Context, l loaded) (pending bool, err error) {
	d.o.Notify(reloading())
	defer d.o.Notify("READY=1")
	if err = l.err; err == nil {
		if err = d.o.Prepare(l.base); err == nil {
			d.names.use(ctx, l.base)
			pending, err = d.adopt(ctx, l.base, l.warnings)
		}
		if err != nil {
			// Back to what the old plan has, whatever of the new one was done.
			d.names.use(ctx, d.base)
			err = errors.Join(err, d.o.Prepare(d.base))
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.status.FailedLoad = err.Error()
		d.status.FailedLoads++
		d.log.Error("reload failed; the old file stays in force", "error", err)
		return false, err
	}
	d.status.Reloads++
	d.status.FailedLoad = ""
	d.log.Info("reloaded", "routes", len(l.base.Routes), "warnings", len(l.warnings))
	for _, w := range l.warnings {
		d.log.Warn(w)
	}
	return pending, nil
}

func (d *Daemon) setState(s State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status.State, d.status.StateSince = s, time.Now()
}

// Status may be called at any time after Run has begun.
func (d *Daemon) Status() Status {
	d.mu.Lock()
	s := d.status
	d.mu.Unlock()
	s.Health = d.health.State()
	s.Names = map[string]Name{}
	for name, a := range d.names.answers() {
		n := Name{Addrs: a.Addrs, Since: a.Since, Next: a.Next}
		if a.Err != nil {
			n.Problem = a.Err.Error()
		}
		s.Names[name] = n
	}
	if err := d.Ready(); err != nil {
		s.NotReady = err.Error()
	}
	d.ask(func(e engine.Engine) { s.Engine = e.Status() })
	return s
}

// Plan is the plan in force, with endpoints; nil before the first.
func (d *Daemon) Plan() *plan.Plan {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

// Conns are the live connections.
func (d *Daemon) Conns() (conns []engine.Conn) {
	d.ask(func(e engine.Engine) { conns = e.Conns() })
	return conns
}

// Kill resets a connection and tells whether there was one of that ID.
func (d *Daemon) Kill(id string) (found bool) {
	d.ask(func(e engine.Engine) { found = e.Kill(id) })
	return found
}

// Ready says whether this machine should get new connections, and why not.
func (d *Daemon) Ready() error {
	s, p := d.current()
	switch {
	case s.State == Starting:
		return errors.New("starting")
	case s.State == Draining:
		return errors.New("draining")
	}
	if n := len(s.Engine.Pending); n > 0 {
		return fmt.Errorf("route %s is not listening: %s", s.Engine.Pending[0].Route, s.Engine.Pending[0].Why)
	}
	usable := 0
	var dead string
	for _, r := range p.Routes {
		if r.Usable() {
			usable++
		} else {
			dead = r.Name
		}
	}
	switch {
	case p.Health.DownWhen == plan.DownAnyRoute && dead != "":
		return fmt.Errorf("route %s has no server that is up", dead)
	case p.Health.DownWhen == plan.DownNoRoute && usable == 0:
		return errors.New("no route has a server that is up")
	}
	return nil
}

// RouteReady says whether a route should get new connections, and why not;
// false when there is no such route.
func (d *Daemon) RouteReady(name string) (error, bool) {
	s, p := d.current()
	if p == nil {
		return errors.New("starting"), true
	}
	i := slices.IndexFunc(p.Routes, func(r *plan.Route) bool { return r.Name == name })
	switch {
	case i < 0:
		return errors.New("no such route"), false
	case s.State == Draining:
		return errors.New("draining"), true
	case slices.ContainsFunc(s.Engine.Pending, func(p engine.Pending) bool { return p.Route == name }):
		return errors.New("not listening yet"), true
	case !p.Routes[i].Usable():
		return errors.New("no server is up"), true
	}
	return nil, true
}

// current is the status without what is costly, and the plan in force.
func (d *Daemon) current() (Status, *plan.Plan) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status, d.now
}
