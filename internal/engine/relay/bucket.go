package relay

import (
	"sync/atomic"
	"time"

	"midspan/internal/config"
)

// pace is a token bucket without its state: a token comes each interval, and the
// bucket holds what comes in window.
//
// The state is one time, at which the bucket will be full (the generic cell rate
// algorithm of ITU-T I.371): a token taken puts it off by interval, and there is
// one as long as it is not further off than window.
type pace struct{ interval, window time.Duration }

// paceOf is the pace of a rate. The bucket holds a second's worth, and at least
// one token.
func paceOf(r config.Rate) pace {
	interval := r.Per / time.Duration(r.N)
	return pace{interval, interval * max(1, time.Second/interval)}
}

// take is the state after a token is taken, if there is one.
func (p pace) take(fullAt, now time.Duration) (time.Duration, bool) {
	next := max(fullAt, now) + p.interval
	return next, next <= now+p.window
}

// level is the state of a pace that all loops share and that may be another one
// after a reload. Its zero value is full.
type level struct{ fullAt atomic.Int64 }

func (v *level) take(p pace, now time.Duration) bool {
	for {
		at := v.fullAt.Load()
		least := min(time.Duration(at), now+p.window) // empty, but no debt to another pace
		next, ok := p.take(least, now)
		if !ok {
			next = least
		}
		if v.fullAt.CompareAndSwap(at, int64(next)) {
			return ok
		}
	}
}

// bucket is a token bucket of which tokens can be reserved, and that all loops
// share. Times are since the engine's
// start.
type bucket struct {
	pace
	batch  int // how many tokens a listener reserves at once
	fullAt atomic.Int64
}

func newBucket(r config.Rate) *bucket {
	p := paceOf(r)
	// No fewer than come in a millisecond, which is how finely loops can wait.
	return &bucket{pace: p, batch: int(min(acceptBatch, max(1, time.Millisecond/p.interval)))}
}

// inherit makes b as empty as old is.
func (b *bucket) inherit(old *bucket, now time.Duration) {
	lacks := time.Duration(old.fullAt.Load()) - now
	part := min(1, max(0, float64(lacks)/float64(old.window)))
	b.fullAt.Store(int64(now) + int64(part*float64(b.window)))
}

// take takes a token, if there is one that nobody has reserved.
func (b *bucket) take(now time.Duration) bool {
	for {
		at := b.fullAt.Load()
		next, ok := b.pace.take(time.Duration(at), now)
		if !ok {
			return false
		}
		if b.fullAt.CompareAndSwap(at, int64(next)) {
			return true
		}
	}
}

// reserve takes n tokens in advance, and says when the last of them is due.
func (b *bucket) reserve(now time.Duration, n int) time.Duration {
	for {
		at := b.fullAt.Load()
		next := max(time.Duration(at), now) + time.Duration(n)*b.interval
		if b.fullAt.CompareAndSwap(at, int64(next)) {
			return next - b.window
		}
	}
}

// giveBack puts tokens back that were taken or reserved.
func (b *bucket) giveBack(n int) { b.fullAt.Add(-int64(n) * int64(b.interval)) }

// tokens are what a listener has reserved. Listeners get theirs in the order in
// which they asked: would each look again when there is a token, the quickest
// loop would get them all, and what waits in the others' queues none.
type tokens struct {
	of  *bucket
	n   int
	due time.Duration
}

// take takes a token of b, if there is one now. A nil b has no end of them.
func (t *tokens) take(b *bucket, now time.Duration) bool {
	if t.n > 0 && t.of != b {
		t.giveBack()
	}
	if t.n == 0 {
		return b == nil || b.take(now)
	}
	if now < t.due {
		return false
	}
	t.n--
	return true
}

// reserve makes sure of the next tokens, and says when they are due.
func (t *tokens) reserve(b *bucket, now time.Duration) time.Duration {
	if t.n == 0 {
		*t = tokens{b, b.batch, b.reserve(now, b.batch)}
	}
	return t.due
}

func (t *tokens) giveBack() {
	if t.n > 0 {
		t.of.giveBack(t.n)
	}
	*t = tokens{}
}
