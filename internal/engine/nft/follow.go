package nft

import (
	"errors"
	"net"
	"time"

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
			e.resync()
		default:
			e.log.Error("reading connection events", "error", err)
			time.Sleep(100 * time.Millisecond) // not for ever at full speed
		}
	}
}

// resync brings the tracker up to date with the kernel's table.
func (e *Engine) resync() {
	if err := e.tracker.resync(); err != nil && !errors.Is(err, conntrack.ErrInterrupted) && !errors.Is(err, net.ErrClosed) {
		e.log.Error("reading the connection table", "error", err)
	}
}

// end resets the live connections that f picks.
func (e *Engine) end(why engine.Reason, f func(*conntrack.Flow) bool) (n int) {
	var picked []conntrack.Flow
	err := e.flows.Dump(markOurs, markOursBits, func(flow *conntrack.Flow) {
		if !over(flow) && f(flow) {
			picked = append(picked, *flow)
		}
	})
	if err != nil {
		e.log.Warn("reading the connection table", "error", err)
	}
	for i := range picked {
		if e.reset(&picked[i], why) {
			n++
		}
	}
	return n
}

// reset cuts a connection on both legs and tells whether it was there.
func (e *Engine) reset(f *conntrack.Flow, why engine.Reason) bool {
	e.tracker.doom(f, why)
	var err error
	if f.Orig.Proto == tcp {
		err = e.flows.Reset(f)
	} else {
		err = e.flows.Delete(f)
	}
	if err != nil && !errors.Is(err, conntrack.ErrNotFound) {
		e.log.Warn("a connection could not be reset at both ends", "client", f.Orig.Src, "server", f.Reply.Src, "error", err)
	}
	return !errors.Is(err, conntrack.ErrNotFound)
}

// Kill implements engine.Engine.
func (e *Engine) Kill(id string) bool {
	return e.end(engine.Killed, func(f *conntrack.Flow) bool { return connID(f) == id }) > 0
}

// cut resets the connections to endpoints that have gone down or from the plan,
// on routes that ask for it.
func (e *Engine) cut(before, now *plan.Plan) {
	up := usable(now)
	lost := map[uint16]bool{}
	for route, was := range usable(before) {
		if now := up[route]; now != nil && now.cut {
			for addr := range was.up {
				if !now.up[addr] {
					lost[e.numbers[route]] = true
				}
			}
		}
	}
	if len(lost) == 0 {
		return
	}
	byNumber := map[uint16]*reachable{}
	for route, r := range up {
		byNumber[e.numbers[route]] = r
	}
	n := e.end(engine.ServerDown, func(f *conntrack.Flow) bool {
		r := byNumber[routeOf(f.Mark)]
		return lost[routeOf(f.Mark)] && r != nil && !r.up[f.Reply.Src] && !r.up[anyPort(f.Reply.Src)]
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

// idle cuts connections that have been silent for their route's idle_timeout.
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
	if len(limits) > 0 {
		e.end(engine.IdleTimeout, func(f *conntrack.Flow) bool {
			limit, has := limits[routeOf(f.Mark)]
			return has && e.gauge.idle(f) >= limit
		})
	}
}
