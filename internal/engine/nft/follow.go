package nft

import (
	"errors"
	"log/slog"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/conntrack"
	"midspan/internal/engine"
	"midspan/internal/plan"
)

// follow reads the kernel's events until Close.
func (e *Engine) follow() {
	for {
		err := e.events.Receive(e.tracker.event)
		switch {
		case err == nil:
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, conntrack.ErrOverrun):
			e.log.Warn("more connections than could be followed; some records are missing or late")
			e.unread(e.tracker.resync())
		default:
			e.log.Error("reading connection events", "error", err)
			time.Sleep(100 * time.Millisecond) // not for ever at full speed
		}
	}
}

// unread says why the connection table could not be read. That it moved meanwhile
// is no failure.
func (e *Engine) unread(err error) {
	if err != nil && !errors.Is(err, conntrack.ErrInterrupted) && !errors.Is(err, net.ErrClosed) {
		e.log.Error("reading the connection table", "error", err)
	}
}

// end resets the live connections that f picks.
func (e *Engine) end(why engine.Reason, f func(*conntrack.Flow) bool) (n int) {
	var picked []conntrack.Flow
	e.unread(e.flows.Dump(markOurs, markOursBits, func(flow *conntrack.Flow) {
		if !over(flow) && flow.Status&conntrack.DstNAT != 0 && f(flow) {
			picked = append(picked, *flow)
		}
	}))
	for i := range picked {
		if e.reset(&picked[i], why) {
			n++
		}
	}
	return n
}

// reset cuts a connection on both legs and tells whether it was there.
func (e *Engine) reset(f *conntrack.Flow, why engine.Reason) bool {
	undo := e.tracker.doom(f, why)
	var err error
	if f.Orig.Proto == tcp {
		err = e.flows.Reset(f)
	} else {
		err = e.flows.Delete(f)
	}
	if err != nil && !errors.Is(err, conntrack.ErrNotFound) {
		e.once(slog.LevelWarn, "connections cannot be reset at both ends at once, only when they next send: "+reasonText(err))
		// Without its entry, what either end sends is answered with a reset.
		if err = e.flows.Delete(f); err == nil || errors.Is(err, conntrack.ErrNotFound) {
			return true // the entry may have gone before
		}
	}
	if err != nil {
		undo()
	}
	return err == nil
}

// reasonText is an error without the addresses of a connection: it is told once.
func reasonText(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// Kill implements engine.Engine.
func (e *Engine) Kill(id string) bool {
	return e.end(engine.Killed, func(f *conntrack.Flow) bool { return connID(f) == id }) > 0
}

// cut resets the connections to endpoints that have gone down or from the plan,
// on routes that ask for it.
func (e *Engine) cut(before, now *plan.Plan) {
	was := map[string]*plan.Route{}
	if before != nil {
		for _, r := range before.Routes {
			was[r.Name] = r
		}
	}
	left := map[uint16]reachable{} // of the routes that have lost endpoints
	for _, r := range now.Routes {
		if r.OnDown != plan.Cut || was[r.Name] == nil {
			continue
		}
		up := reachableBy(r)
		for addr := range reachableBy(was[r.Name]) {
			if !up[addr] {
				left[e.numbers[r.Name]] = up
			}
		}
	}
	if len(left) == 0 {
		return
	}
	n := e.end(engine.ServerDown, func(f *conntrack.Flow) bool {
		up, has := left[routeOf(f.Mark)]
		return has && !up.has(f.Reply.Src)
	})
	if n > 0 {
		e.log.Info("connections to servers that are down were cut", "connections", n)
	}
}

// watchEvery is how often idle connections and the gauges are looked at.
const watchEvery = time.Second

// watch looks after what no event tells of.
func (e *Engine) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-e.done:
			return
		case <-tick.C:
			e.idle()
			e.pressure()
		}
	}
}

// rest is since when a connection has had no packet.
type rest struct {
	packets uint64
	since   time.Time
}

// idle cuts connections that have been silent for their route's idle_timeout. It
// looks at what was counted: the kernel's own timeouts can be changed by anybody.
func (e *Engine) idle() {
	e.mu.Lock()
	limits := map[uint16]time.Duration{}
	if e.plan != nil {
		for _, r := range e.plan.Routes {
			if r.IdleTimeout > 0 {
				limits[e.numbers[r.Name]] = r.IdleTimeout.D()
			}
		}
	}
	e.mu.Unlock()
	if len(limits) == 0 {
		e.rests = nil
		return
	}
	now, rests := time.Now(), map[conntrack.Tuple]rest{}
	e.end(engine.IdleTimeout, func(f *conntrack.Flow) bool {
		limit, has := limits[routeOf(f.Mark)]
		if !has {
			return false
		}
		r := rest{f.Up.Packets + f.Down.Packets, now}
		if before, known := e.rests[f.Orig]; known && before.packets == r.packets && r.packets > 0 {
			r.since = before.since
		}
		rests[f.Orig] = r
		return now.Sub(r.since) >= limit
	})
	e.rests = rests
}

// renewUDP makes the kernel forget flows of UDP that lead elsewhere than the
// rules do now: those that began before their route had a rule, or whose server is
// up no more. A client that goes on sending would keep them for ever, and UDP has
// no connection to spare.
func (e *Engine) renewUDP(p *plan.Plan) {
	up := map[uint16]reachable{}
	var listens []plan.Listen
	for _, r := range p.Routes {
		if r.Mode == plan.UDP {
			up[e.numbers[r.Name]] = reachableBy(r)
			listens = append(listens, r.Listen...)
		}
	}
	if len(up) == 0 {
		return
	}
	own := ownAddresses()
	var stale []conntrack.Flow
	e.unread(e.flows.Dump(0, 0, func(f *conntrack.Flow) {
		if f.Orig.Proto != unix.IPPROTO_UDP {
			return
		}
		if f.Mark&markOursBits == markOurs {
			if r, has := up[routeOf(f.Mark)]; has && !r.has(f.Reply.Src) {
				stale = append(stale, *f)
			}
			return
		}
		port := f.Orig.Dst.Port()
		if slices.ContainsFunc(listens, func(l plan.Listen) bool {
			return l.From <= port && port <= l.To && (!l.Addr.IsValid() || l.Addr.IsUnspecified() || l.Addr == f.Orig.Dst.Addr())
		}) && own[f.Orig.Dst.Addr()] {
			stale = append(stale, *f)
		}
	}))
	for i := range stale {
		_ = e.flows.Delete(&stale[i]) // it is gone, or tried again at the next Apply
	}
}
