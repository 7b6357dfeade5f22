// Package relay is the user-space engine: it accepts TCP connections and moves
// their bytes to a server, on a few epoll loops over raw non-blocking sockets.
//
// One loop a CPU; each has a listening socket of its own for every address
// (SO_REUSEPORT), and a connection stays on the loop that accepted it, so its
// state needs no locks. Small reads are copied through one buffer per loop;
// streams that keep moving go through splice(2). A connection that is idle
// holds two file descriptors and a few hundred bytes, no buffer and no pipe.
//
// Of mode kafka the loop looks at the heads of frames, and splices what is large behind
// them. An idle connection holds 700 bytes more than others.
//
// Where TLS is spoken or requests are forwarded, the loop hands the connection to
// a goroutine: a session. An idle one holds its descriptors and no buffer of ours;
// with its stacks and what crypto/tls keeps it is 22 KiB with TLS on one side, 32
// with TLS on both, 90 where much has moved (crypto/tls keeps its largest record),
// and 8 of mode http.
//
// What a connection through the relay does is what a direct one would do:
// half-close, reset and back-pressure are passed on in both directions.
//
// Limits: Linux only; about a million connections a loop. Urgent data is
// passed on as ordinary data.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/certs"
	"midspan/internal/engine"
	"midspan/internal/plan"
)

// Options of an engine; the zero value works.
type Options struct {
	Hooks engine.Hooks
	Log   *slog.Logger // nil: silent
	Loops int          // 0: one for each CPU that Go uses

	// Dedicated says that GOMAXPROCS exceeds Loops: a loop may then keep a
	// processor of Go's for itself while connections are busy. Else it gives
	// way to other goroutines within a millisecond.
	Dedicated bool
}

// Engine is the relay. It implements engine.Engine.
type Engine struct {
	hooks engine.Hooks
	log   *slog.Logger
	loops []*loop
	keepP time.Duration // see loop.wait
	epoch time.Time     // see clock
	done  sync.WaitGroup

	active       atomic.Int64  // connections now
	limit        atomic.Int64  // how many there may be
	room         atomic.Int64  // descriptors for connections and what extra counts
	extra        atomic.Int64  // descriptors of pipes, spare sockets and warm connections
	servers      atomic.Int64  // connections of mode http to servers; see takeServer
	held         atomic.Int64  // bytes, see maxHeld
	atLimit      atomic.Int32  // listeners paused at a limit, over all loops
	turn         atomic.Uint32 // of the loops to fill the room that an ended connection leaves
	acceptErrors atomic.Uint64
	panics       atomic.Uint64
	lastComplain atomic.Int64 // when a shortage was last logged, unix seconds
	own          atomic.Pointer[ownListeners]
	certs        *certs.Store

	mu        sync.Mutex // guards what follows
	routes    []*route   // in the order of the plan, then the removed ones
	listeners map[address]*listener
	pending   []engine.Pending
	warm      bool        // a route has warm connections
	consumers []*consumer // in the order of the plan, then those that are gone
}

var _ engine.Engine = (*Engine)(nil)

// reservedFDs are left for what is not a connection: standard streams, epoll,
// admin, logs, DNS, checks.
const reservedFDs = 128

// New starts the loops. Nothing is forwarded before Apply.
func New(o Options) (*Engine, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Loops <= 0 {
		o.Loops = runtime.GOMAXPROCS(0)
	}
	e := &Engine{
		hooks: o.Hooks, log: o.Log, keepP: shared, epoch: time.Now(),
		certs: certs.NewStore(o.Log), listeners: map[address]*listener{},
	}
	if o.Dedicated {
		e.keepP = dedicated
	}
	for i := range o.Loops {
		l, err := newLoop(e, i)
		if err != nil {
			return nil, errors.Join(err, e.Close())
		}
		e.loops = append(e.loops, l)
		e.done.Add(1)
		go func() {
			defer e.done.Done()
			l.run()
		}()
	}
	return e, nil
}

// Apply implements engine.Engine.
func (e *Engine) Apply(_ context.Context, p *plan.Plan) (engine.Change, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	want := wanted(p)
	e.forgetDead()
	tls, errTLS := e.certs.Load(p)
	opened, pending, err := e.open(want)
	if err = errors.Join(errTLS, err); err != nil {
		for _, ln := range opened {
			ln.closeSockets()
		}
		return engine.Change{}, err
	}

	// From here on nothing can fail.
	change := engine.Change{Pending: pending}
	e.pending = pending
	e.setLimits(p, len(e.listeners)+len(opened))
	e.certs.Use(tls)
	byName := e.setRoutes(p, tls)
	var moved []string // sockets that stay, under another route
	for _, w := range want {
		ln := e.listeners[w.address]
		if ln == nil {
			if ln = opened[w.address]; ln == nil {
				continue // pending
			}
			e.listeners[w.address] = ln
			change.Added = append(change.Added, w.route.Name+" "+w.address.String())
		}
		r := byName[w.route.Name]
		if old := ln.route.Load(); old != nil && old != r {
			change.Added = append(change.Added, r.name+" "+w.address.String())
			moved = append(moved, old.name+" "+w.address.String())
		}
		if ln.options != optionsOf(w.route) {
			ln.setOptions(optionsOf(w.route))
		}
		ln.route.Store(r)
	}
	for _, l := range e.loops {
		l.call(l.forgetTokens)
	}
	e.own.Store(newOwnListeners(e.listeners, e.routes))
	e.enlist(opened)
	e.setWarm(p, byName)
	e.cutDown(byName)
	change.Removed = append(moved, e.closeUnwanted(want)...)
	return change, nil
}

// want is one socket address that a plan listens on.
type want struct {
	address
	route *plan.Route
}

func wanted(p *plan.Plan) []want {
	var ws []want
	for _, r := range p.Routes {
		for _, l := range r.Listen {
			for port := int(l.From); port <= int(l.To); port++ {
				ws = append(ws, want{address{l.Addr, l.Interface, uint16(port)}, r})
			}
		}
	}
	return ws
}

// open makes the sockets that are wanted and not there. Those made are
// returned also when it fails, for the caller to close.
func (e *Engine) open(all []want) (map[address]*listener, []engine.Pending, error) {
	var missing []want
	for _, w := range all {
		if e.listeners[w.address] == nil {
			missing = append(missing, w)
		}
	}
	opened := map[address]*listener{}
	var pending []engine.Pending
	var errs []error
	var who holders
	for i, r := range e.listenAll(missing) {
		w := missing[i]
		if errors.Is(r.err, unix.EADDRINUSE) {
			r.err = fmt.Errorf("%w%s", r.err, who.of(w.address))
		}
		var soon notYet
		switch {
		case r.listener != nil:
			opened[w.address] = r.listener
		case r.err == nil: // not tried, for want of files: that is an error of another one
		case !errors.Is(r.err, unix.EMFILE) && (errors.As(r.err, &soon) || e.waits(w)):
			pending = append(pending, engine.Pending{Route: w.route.Name, Listen: w.address.String(), Why: r.err.Error()})
		default:
			errs = append(errs, fmt.Errorf("route %q: cannot listen on %s: %w", w.route.Name, w.address, r.err))
		}
	}
	return opened, pending, errors.Join(errs...)
}

// result is what became of a want; neither: it was not tried.
type result struct {
	*listener
	err error
}

// listenAll opens listeners on all processors, for a thousand of them take a
// while. It stops when this process may have no more files.
func (e *Engine) listenAll(ws []want) []result {
	results := make([]result, len(ws))
	var next atomic.Int64
	var full atomic.Bool
	var workers sync.WaitGroup
	for range min(len(ws), runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(ws) && !full.Load(); i = int(next.Add(1)) - 1 {
				w := ws[i]
				ln, err := listen(w.address, len(e.loops), optionsOf(w.route), e.holdsPort(w.port))
				results[i] = result{ln, err}
				if errors.Is(err, unix.EMFILE) {
					full.Store(true)
				}
			}
		})
	}
	workers.Wait()
	return results
}

// waits tells whether w was pending before. What keeps it from being opened now
// must not keep the rest of the plan from coming into force.
func (e *Engine) waits(w want) bool {
	return slices.ContainsFunc(e.pending, func(p engine.Pending) bool {
		return p.Route == w.route.Name && p.Listen == w.address.String()
	})
}

// forgetDead closes listeners whose interface is gone, or is another one of the
// same name: they are bound to its number and will never see a connection again.
func (e *Engine) forgetDead() {
	var dead []*listener
	for a, ln := range e.listeners {
		if a.dev != "" && ifindex(a.dev) != ln.ifindex {
			dead = append(dead, ln)
			delete(e.listeners, a)
			e.log.Warn("the interface of a listener is gone or new; listening anew", "listen", a.String())
		}
	}
	e.discard(dead)
}

// discard takes listeners from the loops and closes them.
func (e *Engine) discard(gone []*listener) {
	if len(gone) == 0 {
		return
	}
	for _, l := range e.loops {
		l.call(func() {
			for _, ln := range gone {
				l.removeListener(ln)
			}
		})
	}
}

// holdsPort tells whether the engine itself listens on that port of some address.
func (e *Engine) holdsPort(port uint16) bool {
	for a := range e.listeners {
		if a.port == port {
			return true
		}
	}
	return false
}

// setRoutes brings e.routes to what p says. Routes that are gone stay while
// they have connections, to be counted.
func (e *Engine) setRoutes(p *plan.Plan, tls map[string]certs.Route) map[string]*route {
	who := e.setConsumers(p)
	old := map[string]*route{}
	for _, r := range e.routes {
		old[r.name] = r
	}
	byName := map[string]*route{}
	next := make([]*route, 0, len(p.Routes))
	for _, pr := range p.Routes {
		r := old[pr.Name]
		if r == nil {
			r = newRoute(pr.Name, len(e.loops))
		}
		delete(old, pr.Name)
		if pr.Kafka != nil && r.cluster == nil {
			r.cluster = newCluster(e, r.name, len(e.loops))
		}
		r.update(pr, who, tls[pr.Name], e.clock())
		byName[pr.Name] = r
		next = append(next, r)
	}
	for _, r := range e.routes {
		if old[r.name] != nil {
			r.remove()
			if r.active.Load() > 0 {
				next = append(next, r)
			}
		}
	}
	e.routes = next
	return byName
}

// cutDown resets the connections to endpoints that went down, on the routes that
// ask for it.
func (e *Engine) cutDown(routes map[string]*route) {
	must := false
	for _, r := range routes {
		must = must || r.mustCut()
	}
	if !must {
		return
	}
	n := 0
	for _, l := range e.loops {
		l.call(func() { n += l.cutDown() })
		n += l.endSessions(serverDown, func(p *pair) bool { return p.to != nil && p.to.cut.Load() })
	}
	for _, r := range routes {
		n += r.cutHTTP()
	}
	if n > 0 {
		e.log.Info("connections to servers that are down were cut", "connections", n)
	}
}

// enlist gives each loop its sockets of the new listeners.
func (e *Engine) enlist(opened map[address]*listener) {
	if len(opened) == 0 {
		return
	}
	for _, l := range e.loops {
		l.call(func() {
			for _, ln := range opened {
				l.addListener(ln)
			}
		})
	}
}

func (e *Engine) closeUnwanted(want []want) []string {
	keep := map[address]bool{}
	for _, w := range want {
		keep[w.address] = true
	}
	var gone []*listener
	var names []string
	for a, ln := range e.listeners {
		if !keep[a] {
			gone = append(gone, ln)
			names = append(names, ln.route.Load().name+" "+a.String())
			delete(e.listeners, a)
		}
	}
	slices.Sort(names)
	e.discard(gone)
	return names
}

// setLimits works out how many connections there may be: the plan's number, as
// far as the fd limit allows it at two fds a connection. Pipes are optional; they
// get what connections leave, and half of the reserve.
func (e *Engine) setLimits(p *plan.Plan, listeners int) {
	var r unix.Rlimit
	fds := 1 << 21
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil && r.Cur < 1<<30 {
		fds = int(r.Cur)
	}
	fds -= reservedFDs + listeners*len(e.loops)
	e.room.Store(int64(fds + reservedFDs/2))
	limit := max(1, (fds-warmFDs(p, len(e.loops)))/2)
	if p.MaxConnections > 0 {
		limit = min(p.MaxConnections, limit)
	}
	e.limit.Store(int64(limit))
}

// Status implements engine.Engine.
func (e *Engine) Status() engine.Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := engine.Status{
		Connections:    int(e.active.Load()),
		MaxConnections: int(e.limit.Load()),
		AcceptErrors:   e.acceptErrors.Load(),
		Panics:         e.panics.Load(),
		Pending:        slices.Clone(e.pending),
	}
	for _, f := range e.certs.Files() {
		s.Certificates = append(s.Certificates, engine.Certificate(f))
	}
	listening := map[*route][]address{}
	for a, ln := range e.listeners {
		r := ln.route.Load()
		listening[r] = append(listening[r], a)
	}
	e.routes = slices.DeleteFunc(e.routes, func(r *route) bool { return r.removed.Load() && r.active.Load() == 0 })
	for _, r := range e.routes {
		s.Routes = append(s.Routes, r.status(listening[r]))
	}
	for _, c := range e.consumers {
		s.Consumers = append(s.Consumers, c.status())
	}
	return s
}

// Conns implements engine.Engine.
func (e *Engine) Conns() []engine.Conn {
	var all []engine.Conn
	for _, l := range e.loops {
		l.call(func() { all = append(all, l.conns()...) })
	}
	slices.SortFunc(all, func(a, b engine.Conn) int { return a.Start.Compare(b.Start) })
	return all
}

// Kill implements engine.Engine.
func (e *Engine) Kill(id string) bool {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return false
	}
	found := false
	l := e.loops[n%uint64(len(e.loops))]
	l.call(func() {
		if p := l.find(n); p != nil {
			found = true
			l.abort(p, killed)
		}
	})
	if s := l.sessions.find(n); s != nil {
		found = s.end(killed) || found
	}
	return found
}

// Close implements engine.Engine.
func (e *Engine) Close() error {
	for _, l := range e.loops {
		l.stop()
	}
	e.done.Wait()
	for _, l := range e.loops {
		l.endSessions(stopped, func(*pair) bool { return true })
		l.sessions.done.Wait()
	}
	e.certs.Close()
	e.mu.Lock()
	for _, r := range e.routes {
		r.remove()
	}
	defer e.mu.Unlock()
	for _, l := range e.loops {
		l.closeFDs()
	}
	e.listeners, e.loops = nil, nil
	return nil
}

// clock is the time since the engine was made. It is the same for all loops,
// whose own times begin when each was made.
func (e *Engine) clock() time.Duration { return time.Since(e.epoch) }

// complain logs a shortage of this machine's, at most once in ten seconds: it
// comes from the data path, thousands of times a second when it comes.
func (e *Engine) complain(msg string, args ...any) {
	now := time.Now().Unix()
	if last := e.lastComplain.Load(); now-last >= 10 && e.lastComplain.CompareAndSwap(last, now) {
		e.log.Error(msg, args...)
	}
}
