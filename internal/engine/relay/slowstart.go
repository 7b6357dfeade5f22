package relay

import (
	"sync/atomic"
	"time"
)

// leastShare is what a server that has just come up gets of its share.
const leastShare = 0.05

// rise is the slow start of an endpoint: from when it came up (Unix nanoseconds;
// 0: it was never down) its weight grows for as long as the route's slow_start
// (nanoseconds).
type rise struct{ from, length atomic.Int64 }

// share is the part of its weight that the endpoint has at a time.
func (r *rise) share(now int64) float64 {
	since, length := now-r.from.Load(), r.length.Load()
	if since < 0 || since >= length { // over, or the clock was set back
		return 1
	}
	return leastShare + (1-leastShare)*float64(since)/float64(length)
}

// mark takes in whether the endpoint is up and for how long it is to rise.
// Route.mu is held.
func (ep *endpoint) mark(up bool, slowStart time.Duration) {
	switch {
	case !up:
		ep.wasDown = true
	case ep.wasDown:
		ep.wasDown = false
		ep.rise.from.Store(time.Now().UnixNano())
	}
	ep.rise.length.Store(int64(slowStart))
}

// ramps tells the picker whether to reckon with endpoints that rise, and until
// when. Another picker is made whenever one comes up.
func (p *picker) ramps() (until int64) {
	for _, tier := range p.tiers {
		for _, c := range tier {
			until = max(until, c.rise.from.Load()+c.rise.length.Load())
		}
	}
	return until
}

// rising is the time, if some endpoint may rise now, else 0.
func (p *picker) rising() int64 {
	until := p.risenAt.Load()
	if until == 0 {
		return 0
	}
	now := time.Now().UnixNano()
	if now >= until {
		p.risenAt.Store(0)
		return 0
	}
	return now
}

// inRisingTurn takes turns as inTurn does, but passes over an endpoint as often
// as its rise has it. What it does not get goes to all others by weight: a turn
// that is passed over is used up. Where all rise alike, nobody is passed over.
func (p *picker) inRisingTurn(turns []uint16, all []choice, now int64, free func(*choice) bool) *choice {
	best := 0.0
	for i := range all {
		best = max(best, all[i].rise.share(now))
	}
	for range 4 * len(all) {
		n := p.turn.Add(1) - 1
		c := &all[turns[n%uint64(len(turns))]]
		if spread(n)*best < c.rise.share(now) && free(c) {
			return c
		}
	}
	return nil
}

// spread maps turns to [0, 1) evenly and without a pattern (the finish of
// MurmurHash3), so that a share of them is a share of those of each endpoint.
func spread(n uint64) float64 { return float64(finish(n+1)>>11) / (1 << 53) }
