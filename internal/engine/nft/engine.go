// Package nft forwards in the kernel: connections are led to their servers by
// address translation (NAT), with rules in one nftables table of our own. It is
// what ip_fwd.sh does, with health, names, balancing, and a way back.
//
// The engine writes the table over netlink, in one transaction for each Apply,
// and reads connection tracking: for what is live, for the access log, and to
// reset connections. No external program is needed. What it cannot do, compared
// with package relay, is in plan.Capabilities.
//
// The kernel goes on when this process does not: rules and connections survive
// a crash, and the next engine takes them over. Close leaves nothing behind,
// unless the plan says keep.
//
// Limits: one engine in a network namespace. TCP and UDP only. Connections from
// this host to its own loopback addresses are not led anywhere.
package nft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"midspan/internal/conntrack"
	"midspan/internal/engine"
	"midspan/internal/host"
	"midspan/internal/plan"
)

// Options of an engine.
type Options struct {
	Hooks engine.Hooks
	Log   *slog.Logger // nil: silent
	// State is a directory for what must survive a crash: the former values of
	// kernel settings. "": a crash leaves the settings as they are.
	State string
	// Early installs also what this host cannot have yet: rules for interfaces
	// and addresses that are to come. It is for the time before the network is up.
	Early bool
	// Ours tells whether another engine of this process listens there and is
	// about to close that; nil: none does.
	Ours func(plan.Mode, plan.Listen) bool
}

// Engine is the kernel engine.
type Engine struct {
	hooks   engine.Hooks
	log     *slog.Logger
	kernel  *kernel
	flows   *conntrack.Conn
	events  *conntrack.Listener
	tracker *tracker
	guard   *guard
	ours    func(plan.Mode, plan.Listen) bool
	early   bool
	gauge   gauge
	rests   map[conntrack.Tuple]rest // of connections with an idle_timeout; of watch alone
	done    chan struct{}            // closed by Close
	wg      sync.WaitGroup

	mu       sync.Mutex // guards what follows
	lock     net.Listener
	settings host.Sysctls
	plan     *plan.Plan // as applied; nil: nothing was, and nothing is ours to remove
	// inherited tells that there was a table before the first Apply.
	inherited bool
	table     table
	now       *inForce // nil: the kernel's table is not ours yet
	numbers   map[string]uint16
	pending   []engine.Pending

	toldMu sync.Mutex
	told   map[string]bool // what was logged once; guarded by toldMu
}

// New makes an engine that forwards nothing yet. It fails where this kernel or
// this user cannot do NAT, with all the reasons.
func New(o Options) (*Engine, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Ours == nil {
		o.Ours = func(plan.Mode, plan.Listen) bool { return false }
	}
	warnings, err := host.CheckNAT()
	if err != nil {
		return nil, fmt.Errorf("engine nft cannot work here: %w", err)
	}
	for _, w := range warnings {
		o.Log.Warn(w)
	}
	e := &Engine{
		hooks: o.Hooks, log: o.Log, ours: o.Ours, early: o.Early, done: make(chan struct{}),
		settings: host.Sysctls{Dir: o.State}, numbers: map[string]uint16{}, told: map[string]bool{},
	}
	if err := e.open(); err != nil {
		e.release()
		return nil, err
	}
	e.gauge.looked = time.Now() // nothing is used up at the start
	e.tracker = newTracker(e.flows, o.Hooks)
	e.wg.Go(e.follow)
	e.wg.Go(e.watch)
	e.wg.Go(func() { e.guard.run(e.restore) })
	return e, nil
}

// eventBuffer holds some 30,000 events of connections that have not been read.
const eventBuffer = 32 << 20

func (e *Engine) open() (err error) {
	if e.kernel, err = openKernel(); err != nil {
		return err
	}
	if e.flows, err = conntrack.Open(); err != nil {
		return err
	}
	if e.events, err = conntrack.Listen(markOurs, markOursBits, eventBuffer); err != nil {
		return err
	}
	e.guard, err = newGuard(e.kernel.port)
	return err
}

// release gives back what open has got.
func (e *Engine) release() (err error) {
	if e.guard != nil {
		err = errors.Join(err, e.guard.close())
	}
	if e.events != nil {
		err = errors.Join(err, e.events.Close())
	}
	e.wg.Wait()
	if e.flows != nil {
		err = errors.Join(err, e.flows.Close())
	}
	if e.kernel != nil {
		err = errors.Join(err, e.kernel.close())
	}
	if e.lock != nil {
		err = errors.Join(err, e.lock.Close())
	}
	return err
}

// Apply implements engine.Engine.
func (e *Engine) Apply(_ context.Context, p *plan.Plan) (engine.Change, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.alone(); err != nil {
		return engine.Change{}, err
	}
	had := listenersOf(e.plan)
	ready, pending, err := e.available(p, had)
	if err != nil {
		return engine.Change{}, err
	}
	first := e.plan == nil
	if first {
		if e.inherited, err = e.kernel.present(); err != nil {
			return engine.Change{}, err
		}
	}
	if err = e.set(ready); err == nil {
		err = e.write(ready)
	}
	if err != nil {
		if first && !e.inherited {
			err = errors.Join(err, e.putSettingsBack())
		}
		return engine.Change{}, err
	}
	before, followed := e.plan, e.tracker.logs
	e.plan, e.pending = ready, pending
	e.tracker.use(ready, e.numbers, e.logs())
	if first || e.tracker.logs && !followed {
		e.unread(e.flows.Dump(markOurs, markOursBits, e.tracker.adopt))
	}
	change := compareListeners(had, listenersOf(ready))
	change.Pending = pending
	if len(change.Added) > 0 {
		e.look(ready)
	}
	e.cut(before, ready)
	e.renewUDP(ready)
	return change, nil
}

// lockName is an abstract Unix socket: there is one of a name in each network
// namespace, and it goes with the process.
const lockName = "@midspan-nft"

// alone keeps a second engine from overwriting the table of the first, and puts
// down the anchor, once.
func (e *Engine) alone() (err error) {
	if e.lock != nil {
		return nil
	}
	if e.lock, err = net.Listen("unix", lockName); err != nil {
		return fmt.Errorf("another midspan has the nft engine in this network namespace (it holds the socket %s); stop it, or write engine: relay here", lockName)
	}
	if err := e.kernel.commit(anchor()); err != nil {
		e.once(slog.LevelWarn, "live connections may be reset when somebody else flushes all rules: "+err.Error())
	}
	return nil
}

// set makes the kernel forward at all.
func (e *Engine) set(p *plan.Plan) error {
	if len(p.Routes) == 0 {
		return nil
	}
	wanted := host.NAT{HalfClosed: halfClosed(p), Flows: wantedFlows}
	named := false // IPv6 is only among the addresses of a name
	for _, r := range p.Routes {
		for _, l := range r.Listen {
			if l.Interface != "" {
				wanted.Interfaces = append(wanted.Interfaces, l.Interface)
			}
			wanted.IPv6 = wanted.IPv6 || l.Addr.Is6()
		}
		for _, s := range r.Servers {
			_, literal := s.Literal()
			for _, a := range s.Endpoints {
				wanted.IPv6 = wanted.IPv6 || a.Addr.Is6() && literal
				named = named || a.Addr.Is6() && !literal
			}
		}
	}
	if named && !wanted.IPv6 {
		with := wanted
		with.IPv6 = true
		err := e.setAll(with)
		if err == nil {
			return nil
		}
		// A name's other addresses must not suffer from a host without IPv6.
		e.once(slog.LevelWarn, "IPv6 servers cannot be reached: "+err.Error())
	}
	return e.setAll(wanted)
}

func (e *Engine) setAll(wanted host.NAT) error {
	changed, warnings, err := e.settings.Set(wanted.Sysctls())
	for _, c := range changed {
		e.log.Info("kernel setting changed", "sysctl", c)
	}
	for _, w := range warnings {
		e.once(slog.LevelWarn, w.Error())
	}
	return err
}

// putSettingsBack leaves forwarding on where others have come to need it.
func (e *Engine) putSettingsBack() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if used, err := host.Forwards(ctx); err != nil || used {
		e.log.Warn("ip_forward and what goes with it stay on, since there are other rules that may need them")
		if err := e.settings.Leave("net/ipv4/", "net/ipv6/"); err != nil {
			e.log.Warn(err.Error())
		}
	}
	warnings, err := e.settings.Close()
	if warnings != nil {
		e.log.Warn(warnings.Error())
	}
	return err
}

// wantedFlows is room in the connection table for what a VM's network interface
// takes in Azure: 500,000 flows (azure-virtual-network-limits).
const wantedFlows = 524288

// halfClosed is the longest fin_timeout of all routes: the kernel has one for all.
func halfClosed(p *plan.Plan) (longest time.Duration) {
	const forever = 5 * 24 * time.Hour // as long as an established connection may rest
	for _, r := range p.Routes {
		if r.FinTimeout == 0 {
			return forever
		}
		longest = max(longest, r.FinTimeout.D())
	}
	return longest
}

// once logs what would otherwise come with each Apply. It may be called with or
// without mu.
func (e *Engine) once(level slog.Level, text string) {
	e.toldMu.Lock()
	known := e.told[text]
	e.told[text] = true
	e.toldMu.Unlock()
	if !known {
		e.log.Log(context.Background(), level, text)
	}
}

// write makes the kernel's table that of p: the difference, or all of it when the
// table is not known to be ours.
func (e *Engine) write(p *plan.Plan) error {
	if e.now == nil {
		if err := e.recall(); err != nil {
			return err
		}
	}
	numbers, err := number(p, e.numbers)
	if err != nil {
		return err
	}
	var b *batch
	var next *inForce
	if e.now != nil {
		b, next = e.now.difference(e.makeRuleset(p, numbers))
	} else {
		counters, err := e.kernel.counters()
		if err != nil {
			return err
		}
		e.table = table{} // what it keeps is the text alone
		b, next = replace(e.makeRuleset(p, numbers), counters)
	}
	if err := e.commit(b); err != nil {
		return err
	}
	e.numbers, e.now = numbers, next
	next.settle()
	return nil
}

func (e *Engine) makeRuleset(p *plan.Plan, numbers map[string]uint16) *ruleset {
	closed := map[family]bool{ipv4: e.settings.Changed("net.ipv4.ip_forward"), ipv6: e.settings.Changed("net.ipv6.conf.all.forwarding")}
	return e.table.makeRuleset(p, numbers, e.logs(), closed)
}

// recall finds the numbers that routes have in a table of a predecessor, since
// its connections bear them.
func (e *Engine) recall() error {
	known, err := e.kernel.numbers()
	if err != nil {
		return err
	}
	for name, n := range known {
		if _, has := e.numbers[name]; !has {
			e.numbers[name] = n
			e.tracker.name(n, name)
		}
	}
	return nil
}

// manyMessages are so many that the guard is better not told of them.
const manyMessages = 500

// commit runs a transaction of our own, and notices those of others.
func (e *Engine) commit(b *batch) error {
	if len(b.what) < manyMessages {
		return e.kernel.commit(b)
	}
	before, err := e.kernel.generation()
	if err != nil {
		return err
	}
	if err := e.guard.pause(); err != nil {
		return err
	}
	failed := e.kernel.commit(b)
	if err := e.guard.resume(); err != nil {
		return errors.Join(failed, err)
	}
	after, err := e.kernel.generation()
	if failed == nil && err == nil && after != before+1 {
		e.wg.Go(func() { e.restore("unknown") }) // once this Apply is done
	}
	return errors.Join(failed, err)
}

// logs tells whether all of a connection's life is of use to somebody.
func (e *Engine) logs() bool {
	return e.hooks.Record != nil && (e.hooks.Wants == nil || e.hooks.Wants(false) || e.hooks.Wants(true))
}

// restore writes the table anew, since somebody else has changed it.
func (e *Engine) restore(who string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.now == nil {
		return
	}
	e.now = nil // and so the next Apply tries again, should this fail
	counters, err := e.kernel.counters()
	if len(counters) == 0 {
		counters = e.gauge.lastCounters()
	}
	e.table = table{} // what it keeps is the text alone
	b, next := replace(e.makeRuleset(e.plan, e.numbers), counters)
	if err = errors.Join(err, e.kernel.commit(b)); err != nil {
		e.log.Error("the rules in the kernel were changed by somebody else, and cannot be put back", "who", who, "error", err)
		return
	}
	e.now = next
	next.settle()
	e.log.Warn("the rules in the kernel were changed by somebody else: put back", "who", who)
}

// look warns of rules of others that are in the way. It takes its time, and so
// nobody waits for it.
func (e *Engine) look(p *plan.Plan) {
	e.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		found, err := host.Conflicts(ctx, hostListeners(p))
		if err != nil {
			e.once(slog.LevelWarn, err.Error())
		}
		for _, c := range found {
			if c.Harmless {
				e.once(slog.LevelInfo, "a rule that is not midspan's: "+c.String())
			} else {
				e.once(slog.LevelWarn, "a rule that is not midspan's is in the way: "+c.String())
			}
		}
	})
}

// Close implements engine.Engine. With keep in the plan the kernel forwards on.
func (e *Engine) Close() error {
	close(e.done)
	e.mu.Lock()
	applied := e.plan != nil
	keep := applied && e.plan.NFT.Keep
	e.mu.Unlock()
	var err error
	if applied && !keep {
		err = e.remove()
	}
	return errors.Join(err, e.release())
}

// remove resets what lives and takes the table and the settings away.
func (e *Engine) remove() (err error) {
	e.guard.ignore()
	e.mu.Lock()
	defer e.mu.Unlock()
	err = e.write(e.plan.WithoutListeners()) // nothing new
	e.end(engine.Stopped, func(*conntrack.Flow) bool { return true })
	e.tracker.settle(closeTime)
	b := &batch{}
	b.addTable() // it may be gone
	b.deleteTable()
	err = errors.Join(err, e.kernel.commit(b))
	return errors.Join(err, e.putSettingsBack())
}

// closeTime is how long Close waits for the kernel to tell of the connections
// that it has ended.
const closeTime = 2 * time.Second
