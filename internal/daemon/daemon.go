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
	"iter"
	"log/slog"
	"net/netip"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"midspan/internal/engine"
	"midspan/internal/health"
	"midspan/internal/plan"
	"midspan/internal/resolve"
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
	// Known are addresses that names had in an earlier life, used until newer ones
	// are there; Remember, if set, is given those of now when they change.
	Known    map[string][]netip.Addr
	Remember func(map[string][]netip.Addr)
	// Clusters are what was known of routes' clusters in an earlier life, and
	// RememberClusters, if set, is given what is known now when it changes.
	Clusters         map[string]Cluster
	RememberClusters func(map[string]Cluster)
	// Record, if set, gets the access log's records. It must not block.
	Record func(*engine.Record)
	// Wants, if set, tells whether records of starts, or of ends, are of use.
	Wants func(end bool) bool
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
	clusters *clusters
	discover *discovery
	health   *health.Monitor
	wake     chan struct{} // something changed: apply
	reloads  chan loaded
	draining chan struct{}
	drainOne sync.Once
	// What Remember and RememberClusters were last given; only Run has to do with it.
	remembered   map[string][]netip.Addr
	keptClusters map[string]Cluster
	servers      atomic.Pointer[map[string]server] // by route and name

	mu     sync.Mutex // guards what follows
	base   *plan.Plan // as loaded
	now    *plan.Plan // with endpoints: in force
	status Status     // but for Engine, Health and Names
	// notReady is the reason that was last logged for the probe's 503.
	notReady string
}

// startWait bounds how long a start waits for names and first tests, so that
// the first connections find a server. A start never needs them.
const startWait = time.Second

// nodeWait bounds how long a plan with new nodes of clusters waits for their names.
// Nothing else is done meanwhile.
const nodeWait = 200 * time.Millisecond

// settleTime is when all that follows a new file is done. Reading a thousand routes
// and telling everybody of them leaves tens of MiB behind.
const settleTime = time.Second

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
	d.names = newNames(d.log, d.changed, o.Known)
	d.health = health.New(health.Options{Log: d.log, OnChange: d.changed})
	d.clusters = newClusters(d.log, d.changed, o.Clusters)
	d.discover = &discovery{log: d.log, plan: d.Plan, ask: askBroker, answered: d.clusters.answered, onChange: d.changed}
	d.clusters.wanted = d.discover.wanted
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
	defer d.discover.close()
	base, warnings, err := d.o.Load()
	if err != nil {
		return err
	}
	d.engine, err = d.o.Engine(engine.Hooks{Dial: d.dialled, Record: d.o.Record, Node: d.clusters.heard, Wants: d.o.Wants})
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
	d.clusters.use(base)
	d.names.use(ctx, base.WithNodes(d.clusters.known()))
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
	d.discover.use(base)
	time.AfterFunc(settleTime, debug.FreeOSMemory)
	return pending, nil
}

// apply tells the engine the whole wanted state: base with the nodes and addresses
// of now, those up that are.
func (d *Daemon) apply(ctx context.Context, base *plan.Plan) (pending bool, err error) {
	base = base.WithNodes(d.clusters.known())
	d.names.add(ctx, base)
	answers := d.names.answers()
	d.remember(answers)
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
	d.logNodes(old, next)
	d.logReady(old, next)
	d.rememberClusters()
	return len(change.Pending) > 0, nil
}

// remember hands the addresses of now on, if they are others than before.
func (d *Daemon) remember(answers map[string]resolve.Answer) {
	if d.o.Remember == nil {
		return
	}
	now := map[string][]netip.Addr{}
	for name, a := range answers {
		if len(a.Addrs) > 0 {
			now[name] = a.Addrs
		}
	}
	if !reflect.DeepEqual(now, d.remembered) {
		d.remembered = now
		d.o.Remember(now)
	}
}

// rememberClusters hands on what is known of clusters, if that is other than before.
func (d *Daemon) rememberClusters() {
	if d.o.RememberClusters == nil {
		return
	}
	if now := d.clusters.kept(); !reflect.DeepEqual(now, d.keptClusters) {
		d.keptClusters = now
		d.o.RememberClusters(now)
	}
}

// server is what the data path's reports about a server are good for.
type server struct {
	host   string
	target health.Target // but for the address
}

// watchHealth gives the monitor the endpoints of p.
func (d *Daemon) watchHealth(p *plan.Plan) {
	var targets []health.Target
	servers := map[string]server{}
	for _, r := range p.Routes {
		for _, s := range r.Servers {
			servers[r.Name+" "+s.Name] = server{s.Host, target(r, s, netip.Addr{})}
			for _, e := range s.Endpoints {
				targets = append(targets, target(r, s, e.Addr))
			}
		}
	}
	d.servers.Store(&servers)
	d.health.Watch(targets)
}

func target(r *plan.Route, s *plan.Server, a netip.Addr) health.Target {
	return health.TargetOf(r, s, a)
}

// state is the monitor's verdict, but for one thing: where no test is made,
// failed connects alone never take the last server of a set away. There is
// nothing to lose by trying it.
func (d *Daemon) state(p *plan.Plan) func(*plan.Route, *plan.Server, netip.Addr) (up, lastResort bool) {
	lost := map[*plan.Server]bool{}
	for _, r := range p.Routes {
		if r.Check.Kind != plan.CheckOff {
			continue
		}
		for set := range sets(r) {
			if slices.ContainsFunc(set, func(i int) bool { return d.usable(r, r.Servers[i]) }) {
				continue
			}
			for _, i := range set {
				lost[r.Servers[i]] = true
			}
		}
	}
	return func(r *plan.Route, s *plan.Server, a netip.Addr) (up, lastResort bool) {
		up = d.health.Up(target(r, s, a))
		return up || lost[s], !up && lost[s]
	}
}

// sets are those of which a connection takes a server: the route's own, and each
// node of a cluster, which is its only one.
func sets(r *plan.Route) iter.Seq[[]int] {
	return func(yield func([]int) bool) {
		for set := range r.Sets() {
			if !yield(set) {
				return
			}
		}
		if r.Kafka == nil {
			return
		}
		for _, n := range r.Kafka.Nodes {
			if !yield([]int{n.Server}) {
				return
			}
		}
	}
}

// usable tells whether an address of s gets new connections.
func (d *Daemon) usable(r *plan.Route, s *plan.Server) bool {
	return s.Weight > 0 && slices.ContainsFunc(s.Endpoints, func(e plan.Endpoint) bool { return d.health.Up(target(r, s, e.Addr)) })
}

// dialled is told of failed connects: a sign for health, and a reason to look
// the name up again.
func (d *Daemon) dialled(x engine.Dial) {
	s, known := (*d.servers.Load())[x.Route+" "+x.Server]
	if !known {
		return // of a plan that is gone
	}
	t := s.target
	t.Addr = netip.AddrPortFrom(x.Addr.Addr(), t.Addr.Port())
	d.health.Report(t, x.Err, x.Late)
	if x.Err != nil {
		d.names.refresh(s.host)
	}
}
