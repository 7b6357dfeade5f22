package relay

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func from(addr string) [16]byte { return netip.MustParseAddr(addr).As16() }

// many is one of many clients, each in a network of its own.
func many(i int) (a [16]byte) {
	a[0] = 0x20
	binary.BigEndian.PutUint32(a[4:], uint32(i))
	return a
}

func (t *sources) size() (n int) {
	for i := range t.shards {
		n += len(t.shards[i].clients)
	}
	return n
}

func TestSources(t *testing.T) {
	table, lim := newSources(), &sourceLimits{max: 2}
	enter := func(addr string, want sourceVerdict) {
		t.Helper()
		if got := table.enterAt(0, from(addr), lim); got != want {
			t.Errorf("%s: %d, want %d", addr, got, want)
		}
	}
	enter("10.0.0.1", sourceCounted)
	enter("10.0.0.1", sourceCounted)
	enter("10.0.0.1", sourceRefused)
	enter("10.0.0.2", sourceCounted)
	enter("2001:db8:0:1::1", sourceCounted)
	enter("2001:db8:0:1:ffff::2", sourceCounted)
	enter("2001:db8:0:1::3", sourceRefused) // of the same /64
	enter("2001:db8:0:2::1", sourceCounted)
	table.leaveAt(0, from("10.0.0.1"))
	enter("10.0.0.1", sourceCounted)
	enter("10.0.0.1", sourceRefused)
	for _, a := range []string{"10.0.0.1", "10.0.0.1", "10.0.0.2", "2001:db8:0:1::9", "2001:db8:0:1::9", "2001:db8:0:2::9"} {
		table.leaveAt(0, from(a))
	}
	if n := table.size(); n != 0 || table.n.Load() != 0 {
		t.Errorf("%d clients are left, %d counted", n, table.n.Load())
	}
}

// TestSourceRate: a client has its rate, keeps its debt when it has no
// connections, and is forgotten when it has recovered and others come.
func TestSourceRate(t *testing.T) {
	table, lim := newSources(), &sourceLimits{pace: paceOf(mustRate(t, "2/s"))}
	a := from("10.0.0.1")
	visit := func(now time.Duration) bool {
		if table.enterAt(now, a, lim) == sourceRefused {
			return false
		}
		table.leaveAt(now, a)
		return true
	}
	for i, c := range []struct {
		at int // ms
		in bool
	}{{0, true}, {0, true}, {0, false}, {499, false}, {500, true}, {500, false}} {
		if visit(ms(c.at)) != c.in {
			t.Errorf("visit %d, after %d ms: not %v", i, c.at, c.in)
		}
	}
	if n := table.size(); n != 1 {
		t.Fatalf("%d clients in the table, want the one that owes", n)
	}
	for i := range 1000 { // some of them in its shard
		table.enterAt(time.Hour, many(i), &sourceLimits{max: 1})
		table.leaveAt(time.Hour, many(i))
	}
	if n := table.size(); n != 0 || table.n.Load() != 0 {
		t.Errorf("%d clients are left, %d counted", n, table.n.Load())
	}
	// A debt to a slow rate is none to a fast one.
	slow := &sourceLimits{pace: paceOf(mustRate(t, "1/h"))}
	if table.enterAt(0, a, slow) != sourceCounted || table.enterAt(time.Second, a, slow) != sourceRefused {
		t.Error("1/h is not one an hour")
	}
	if table.enterAt(2*time.Second, a, lim) == sourceCounted || table.enterAt(3*time.Second, a, lim) != sourceCounted {
		t.Error("after a reload the debt is not one of the new rate")
	}
}

// TestSourcesBound: the table does not grow without end. Who owes only is
// forgotten for who comes; when all are connected, one more is not counted.
func TestSourcesBound(t *testing.T) {
	table, lim := newSources(), &sourceLimits{max: 1, pace: paceOf(mustRate(t, "1/h"))}
	i := 0
	for ; i < maxSources; i++ {
		table.enterAt(0, many(i), lim)
		table.leaveAt(0, many(i))
	}
	for range 2 * maxSources {
		if v := table.enterAt(0, many(i), lim); v == sourceUncounted && len(table.shard(sourceOf(many(i))).resting) > 0 {
			t.Fatalf("client %d is not counted, though others only owe", i)
		}
		i++
	}
	if n := table.size(); n != maxSources || table.n.Load() != maxSources {
		t.Fatalf("%d clients in the table, %d counted, want %d", n, table.n.Load(), maxSources)
	}
	if v := table.enterAt(0, from("10.0.0.1"), lim); v != sourceUncounted {
		t.Errorf("one more than the table holds: %d", v)
	}
	if v := table.enterAt(0, many(i-1), lim); v == sourceCounted {
		t.Error("a second connection of a client that may have one, while the table is full")
	}
}

// TestSourcesShared: the count of a client is exact when all loops count at once,
// and nothing is left at the end.
func TestSourcesShared(t *testing.T) {
	table, lim := newSources(), &sourceLimits{max: 3}
	var now [4]atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 5000 {
				k := (g + i) % len(now)
				if table.enter(many(k), lim) != sourceCounted {
					continue
				}
				if n := now[k].Add(1); n > 3 {
					t.Errorf("%d connections of a client that may have 3", n)
				}
				now[k].Add(-1)
				table.leave(many(k))
			}
		})
	}
	wg.Wait()
	if n := table.size(); n != 0 || table.n.Load() != 0 {
		t.Errorf("%d clients are left, %d counted", n, table.n.Load())
	}
}
