package relay

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"midspan/internal/plan"
)

// upstream makes choices of servers a, b, c… with the given weights.
func upstream(weights ...int) []choice {
	var list []choice
	for i, w := range weights {
		s := &plan.Server{Name: string(rune('a' + i)), Weight: w}
		list = append(list, choice{&endpoint{addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}, s, new(atomic.Int64)})
	}
	return list
}

func pickerOf(b plan.Balance, up []choice) *picker { return newPicker(b, up, new(atomic.Uint64)) }

func client(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}) }

func mustPick(t *testing.T, p *picker, from netip.Addr, tried ...*endpoint) string {
	t.Helper()
	c, result := p.pick(from, tried)
	if result != picked {
		t.Fatalf("nothing picked: %d", result)
	}
	return c.server.Name
}

// TestTake: several that choose at the same time have no more than the server's
// max_connections.
func TestTake(t *testing.T) {
	up := upstream(1)
	up[0].server.MaxConnections = 1
	p := pickerOf(plan.First, up)
	var wg sync.WaitGroup
	var has, most atomic.Int64
	for range 16 {
		wg.Go(func() {
			for range 200_000 {
				if c, result := p.take(netip.Addr{}, nil); result == picked {
					most.Store(max(most.Load(), has.Add(1)))
					has.Add(-1)
					c.drop()
				}
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 || up[0].load.Load() != 0 || up[0].active.Load() != 0 {
		t.Errorf("%d at once, %d left", most.Load(), up[0].load.Load())
	}
}

func TestInterleave(t *testing.T) {
	for _, c := range []struct {
		weights []int
		want    string
	}{
		{[]int{1}, "a"},
		{[]int{1, 1, 1}, "abc"},
		{[]int{5, 1, 1}, "aabacaa"},
		{[]int{200, 100}, "aba"},
		{[]int{3, 0, 3}, "ac"},
		{[]int{256, 256}, "ab"},
	} {
		got := ""
		for _, i := range interleave(c.weights) {
			got += string(rune('a' + i))
		}
		if got != c.want {
			t.Errorf("%v: %s, want %s", c.weights, got, c.want)
		}
	}
}

func TestRoundRobin(t *testing.T) {
	p := pickerOf(plan.RoundRobin, upstream(3, 1, 0))
	got := map[string]int{}
	for i := range 400 {
		got[mustPick(t, p, client(i))]++
	}
	if got["a"] != 300 || got["b"] != 100 || got["c"] != 0 {
		t.Errorf("%v", got)
	}
}

// TestTried: a failed endpoint is not picked again for the same connection,
// whatever the way of balancing.
func TestTried(t *testing.T) {
	for _, b := range []plan.Balance{plan.RoundRobin, plan.LeastConn, plan.Source, plan.First} {
		up := upstream(1, 2, 3)
		p := pickerOf(b, up)
		var tried []*endpoint
		for range 3 {
			c, result := p.pick(client(1), tried)
			if result != picked || slices.Contains(tried, c.endpoint) {
				t.Fatalf("%s: %v after %d tries", b, result, len(tried))
			}
			tried = append(tried, c.endpoint)
		}
		if _, result := p.pick(client(1), tried); result != pickedNone {
			t.Errorf("%s: a fourth of three", b)
		}
	}
}

func TestLeastConn(t *testing.T) {
	up := upstream(1, 1, 2)
	p := pickerOf(plan.LeastConn, up)
	got := ""
	for range 8 {
		c, _ := p.pick(client(1), nil)
		c.take()
		got += c.server.Name
	}
	if a, b, c := up[0].active.Load(), up[1].active.Load(), up[2].active.Load(); a != 2 || b != 2 || c != 4 {
		t.Errorf("%s: %d %d %d; want 2 2 4", got, a, b, c)
	}
	up[2].active.Store(0)
	if got := mustPick(t, p, client(1)); got != "c" {
		t.Errorf("%s is not the least busy", got)
	}
}

// TestTurnGoesOn: pickers that are made anew, as at each change of health, do not
// start over; and of equals leastconn does not always take the same.
func TestTurnGoesOn(t *testing.T) {
	for _, b := range []plan.Balance{plan.RoundRobin, plan.LeastConn} {
		up, turn, got := upstream(1, 1), new(atomic.Uint64), map[string]int{}
		for range 10 {
			got[mustPick(t, newPicker(b, up, turn), client(1))]++
		}
		if got["a"] != 5 || got["b"] != 5 {
			t.Errorf("%s: %v", b, got)
		}
	}
}

// TestServerLimit: a server's limit is for all its addresses together.
func TestServerLimit(t *testing.T) {
	up := upstream(1, 1)
	up[1].server, up[1].load = up[0].server, up[0].load
	up[0].server.MaxConnections = 1
	p := pickerOf(plan.RoundRobin, up)
	c, _ := p.pick(client(1), nil)
	c.take()
	if _, result := p.pick(client(1), nil); result != pickedFull {
		t.Error("a second connection to a server that takes one")
	}
	c.drop()
	mustPick(t, p, client(1))
}

// TestSource: a client keeps its server, clients are spread by weight, and when
// a server goes only its own clients move.
func TestSource(t *testing.T) {
	up := upstream(1, 1, 2)
	p, without := pickerOf(plan.Source, up), pickerOf(plan.Source, up[:2])
	count := map[string]int{}
	for i := range 4000 {
		first := mustPick(t, p, client(i))
		if again := mustPick(t, p, client(i)); again != first {
			t.Fatalf("client %d: %s, then %s", i, first, again)
		}
		count[first]++
		if then := mustPick(t, without, client(i)); first != "c" && then != first {
			t.Fatalf("client %d moved from %s to %s though its server stayed", i, first, then)
		}
	}
	for name, want := range map[string]int{"a": 1000, "b": 1000, "c": 2000} {
		if n := count[name]; n < want*9/10 || n > want*11/10 {
			t.Errorf("%s has %d clients of 4000, want about %d", name, n, want)
		}
	}
}

// TestSourceIsTheSameEverywhere pins the hash: forwarders of different
// versions behind one load balancer must agree.
func TestSourceIsTheSameEverywhere(t *testing.T) {
	p := pickerOf(plan.Source, upstream(1, 1, 1))
	got := ""
	for i := range 24 {
		got += mustPick(t, p, client(i))
	}
	if want := sourcePinned; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

const sourcePinned = "cbabcbcbabaababaabbabbcc"

func TestFirstAndBackup(t *testing.T) {
	up := upstream(1, 1, 1)
	up[0].server.MaxConnections, up[1].server.MaxConnections = 1, 1
	up[2].server.Backup = true
	p := pickerOf(plan.First, up)
	for _, want := range []string{"a", "b"} {
		c, result := p.pick(client(1), nil)
		if result != picked || c.server.Name != want {
			t.Fatalf("%v, want %s", c.server, want)
		}
		c.take()
	}
	if _, result := p.pick(client(1), nil); result != pickedFull {
		t.Error("the backup was taken although the servers are only full")
	}
	if got := mustPick(t, p, client(1), up[0].endpoint, up[1].endpoint); got != "c" {
		t.Errorf("%s, not the backup, after both failed", got)
	}
	if got := mustPick(t, pickerOf(plan.First, up[2:]), client(1)); got != "c" {
		t.Errorf("%s, not the backup, with both down", got)
	}
}

func TestTimers(t *testing.T) {
	var h timers
	pairs := map[int]*pair{}
	for i, at := range []int{50, 30, 90, 10, 70, 31, 80, 20} {
		pairs[at] = &pair{id: uint64(i)}
		h.set(pairs[at], ms(at))
	}
	h.set(pairs[70], ms(15)) // earlier
	h.set(pairs[10], ms(60)) // later
	h.set(pairs[30], 0)      // taken out
	h.set(pairs[30], 0)      // twice
	h.set(&pair{}, 0)        // never in
	h.set(pairs[90], ms(90)) // the same
	if h.first() != ms(15) || h.next(ms(14)) != nil {
		t.Error("too early")
	}
	got := ""
	for p := h.next(ms(100)); p != nil; p = h.next(ms(100)) {
		if p.inTimers != 0 {
			t.Error("still in")
		}
		got += fmt.Sprint(int(p.timer/ms(1)), " ")
	}
	if got != "15 20 31 50 60 80 90 " || h.first() != 0 {
		t.Errorf("order %s", got)
	}
}
