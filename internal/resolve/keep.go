package resolve

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// entry is one watched name. Its goroutine, keep, is the only writer of state,
// and holds Resolver.mu to write; it alone uses started and cutLogged.
type entry struct {
	state     state
	busy      bool // a look-up is under way
	stop      context.CancelFunc
	wake      chan struct{} // one token: look up again, see due
	tried     chan struct{} // closed after the first full try, and when the name is forgotten
	started   time.Time     // of the newest look-up
	cutLogged bool
}

// due asks for one more look-up, after the one under way if there is one. It must
// be called with Resolver.mu held, which orders it with begin: a token is never
// left over from before a look-up.
func (e *entry) due() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// keep looks one name up again and again until ctx ends.
func (r *Resolver) keep(ctx context.Context, e *entry) {
	first := true
	defer func() {
		if first {
			close(e.tried) // nobody may wait for a name that is forgotten
		}
	}()
	for {
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		via := r.begin(e)
		res := r.lookup(ctx, e.state.name, via)
		<-r.slots
		if !r.settle(ctx, e, res) {
			return
		}
		if first {
			first = false
			close(e.tried)
		}
		if !e.pause(ctx) {
			return
		}
	}
}

// begin marks the start of a look-up and returns by which full name the newest
// good answer was found.
func (r *Resolver) begin(e *entry) (via string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.busy = true
	e.started = time.Now()
	select {
	case <-e.wake:
	default:
	}
	return e.state.via
}

// settle takes the result of a look-up over. It is false when the name was
// forgotten meanwhile: the result is then a cancelled one, and not to be told.
func (r *Resolver) settle(ctx context.Context, e *entry, res result) bool {
	r.mu.Lock()
	if ctx.Err() != nil { // cannot change before the lock is let go, see Watch
		r.mu.Unlock()
		return false
	}
	old := e.state
	e.state = old.after(res, time.Now(), r.lim, rand.Float64())
	e.busy = false
	now := e.state
	r.mu.Unlock()

	r.report(e, old, now)
	if !slices.Equal(old.answer.Addrs, now.answer.Addrs) || text(old.answer.Err) != text(now.answer.Err) {
		select {
		case r.change <- struct{}{}:
		default: // a call is due already and will see this change too
		}
	}
	return true
}

// report logs what changed for a name, and nothing for a repeated failure.
func (r *Resolver) report(e *entry, old, now state) {
	was, is := old.answer, now.answer
	switch {
	case was.Err == nil && is.Err != nil:
		r.log.Warn("name does not resolve", "name", now.name, "err", is.Err, "still_used", is.Addrs)
	case was.Err != nil && is.Err == nil:
		r.log.Info("name resolves again", "name", now.name, "addrs", is.Addrs)
	}
	if len(was.Addrs) > 0 && !slices.Equal(was.Addrs, is.Addrs) {
		r.log.Info("addresses changed", "name", now.name, "old", was.Addrs, "new", is.Addrs)
	}
	if now.cut && !e.cutLogged {
		e.cutLogged = true
		r.log.Warn("name has too many addresses, the lowest are used", "name", now.name, "used", len(is.Addrs))
	}
}

// pause waits until the name is due. It is false when ctx has ended.
func (e *entry) pause(ctx context.Context) bool {
	next := e.state.answer.Next
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-e.wake:
	}
	// Woken: now, but not within refreshGap of the newest look-up.
	timer.Reset(min(time.Until(next), time.Until(e.started.Add(refreshGap))))
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// notify calls onChange, one call at a time, so that a start with many names
// does not become as many calls.
func (r *Resolver) notify(onChange func()) {
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.change:
			onChange()
		}
	}
}

// poll makes every name due when the hosts file or resolv.conf has changed, so
// that an entry added in an emergency, or a new server, need not wait for a TTL.
func (r *Resolver) poll(src *sources, gen int) {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-ticker.C:
		}
		_, _, now := src.current()
		if now == gen {
			continue
		}
		gen = now
		r.mu.Lock()
		for _, e := range r.names {
			e.due() // even if busy: that look-up may have read the old files
		}
		r.mu.Unlock()
	}
}

// text is what an error says. Errors of two look-ups are never the same value.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
