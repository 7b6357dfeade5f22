package relay

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"midspan/internal/config"
)

func mustRate(t *testing.T, s string) config.Rate {
	t.Helper()
	r, err := config.ParseRate(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestBucket: a full bucket at first, then a token an interval, and never more
// than the bucket holds after a rest.
func TestBucket(t *testing.T) {
	for _, c := range []struct {
		rate         string
		burst        int
		over         time.Duration // asked 120 times in it
		during, rest int           // tokens during it after the burst, and after a long rest
	}{
		{"100/s", 100, 10 * time.Second, 1000, 100},
		{"1/s", 1, 10 * time.Second, 10, 1},
		{"30/m", 1, time.Minute, 30, 1},
		{"600/m", 10, time.Minute, 600, 10},
		{"1/h", 1, 3 * time.Hour, 3, 1},
		{"10000000/s", 10_000_000, time.Millisecond, 10_000, 10_000_000},
	} {
		b := newBucket(mustRate(t, c.rate))
		all := func(now time.Duration) (n int) {
			for b.take(now) {
				n++
			}
			return n
		}
		start := 7 * time.Hour
		if n := all(start); n != c.burst {
			t.Errorf("%s: %d at first, want %d", c.rate, n, c.burst)
		}
		n := 0
		for i := range 120 {
			n += all(start + c.over*time.Duration(i+1)/120)
		}
		if n != c.during {
			t.Errorf("%s: %d in %s, want %d", c.rate, n, c.over, c.during)
		}
		if n := all(start + 1000*time.Hour); n != c.rest {
			t.Errorf("%s: %d after a rest, want %d", c.rate, n, c.rest)
		}
	}
}

// TestBucketShared: many takers at once get what there is, no more and no less.
func TestBucketShared(t *testing.T) {
	b := newBucket(mustRate(t, "5000/s"))
	var got atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				if b.take(time.Second) {
					got.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got.Load() != 5000 {
		t.Errorf("%d tokens of 5000", got.Load())
	}
}

// TestTokensInOrder: listeners that wait get their tokens in the order in which
// they asked, however often one asks, and one that finds nobody waiting makes
// room for the others.
func TestTokensInOrder(t *testing.T) {
	b := newBucket(mustRate(t, "10/s"))
	now := time.Second
	for b.take(now) {
	}
	var first, second, third tokens
	want := func(what string, got, due time.Duration) {
		t.Helper()
		if got != due {
			t.Errorf("%s is due at %s, want %s", what, got, due)
		}
	}
	want("the first", first.reserve(b, now), now+100*time.Millisecond)
	want("the second", second.reserve(b, now), now+200*time.Millisecond)
	want("the first again", first.reserve(b, now+50*time.Millisecond), now+100*time.Millisecond)
	if first.take(b, now+99*time.Millisecond) {
		t.Error("a token before it is due")
	}
	at := now + 100*time.Millisecond
	if !first.take(b, at) || first.take(b, at) {
		t.Error("when one is due, the first does not get exactly one")
	}
	want("the first once more", first.reserve(b, at), now+300*time.Millisecond)
	second.giveBack()
	want("the third, for the second's", third.reserve(b, at), now+300*time.Millisecond)
	if other := newBucket(mustRate(t, "1/s")); !first.take(other, at) || first.n != 0 {
		t.Error("a reservation of another bucket was not given up")
	}
	if !first.take(nil, at) {
		t.Error("without a rate there is no token")
	}
}

// TestBucketInherits: another rate begins as empty as the old one was, and a debt
// of an hour is none of a second's.
func TestBucketInherits(t *testing.T) {
	for _, c := range []struct {
		from, to    string
		taken, want int
	}{
		{"100/s", "1000/s", 100, 0},
		{"100/s", "1000/s", 50, 500},
		{"100/s", "10/s", 90, 1},
		{"100/s", "1000/s", 0, 1000},
		{"1/h", "100/s", 1, 0},
	} {
		now := time.Hour
		old, b := newBucket(mustRate(t, c.from)), newBucket(mustRate(t, c.to))
		for range c.taken {
			old.take(now)
		}
		b.inherit(old, now)
		n := 0
		for b.take(now) {
			n++
		}
		if n != c.want {
			t.Errorf("%s with %d taken, then %s: %d tokens, want %d", c.from, c.taken, c.to, n, c.want)
		}
		if !b.take(now + b.window) {
			t.Errorf("%s, then %s: no token after %s", c.from, c.to, b.window)
		}
	}
}

// TestLevel: what all loops share goes on when the pace changes, but a debt to a
// slow one is no debt to a fast one.
func TestLevel(t *testing.T) {
	var v level
	hourly, quick := paceOf(mustRate(t, "1/h")), paceOf(mustRate(t, "2/s"))
	if !v.take(hourly, 0) || v.take(hourly, time.Minute) {
		t.Error("1/h is not one an hour")
	}
	if v.take(quick, 2*time.Minute) {
		t.Error("another pace begins full")
	}
	at := 2*time.Minute + 500*time.Millisecond
	if !v.take(quick, at) || v.take(quick, at) {
		t.Error("2/s is not one in half a second")
	}
	var shared level
	var got atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if shared.take(paceOf(config.Rate{N: 500, Per: time.Second}), time.Hour) {
					got.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got.Load() != 500 {
		t.Errorf("%d tokens of 500", got.Load())
	}
}
