package relay

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"midspan/internal/config"
	"midspan/internal/plan"
)

const slowly = time.Hour // long beside a test

// risen makes the last of up as if it had come up some time ago.
func risen(up []choice, ago time.Duration) []choice {
	last := up[len(up)-1].endpoint
	last.mark(false, slowly)
	last.mark(true, slowly)
	last.rise.from.Add(-int64(ago))
	return up
}

// TestSlowStartShares: half-way, a server has a bit more than half of its weight;
// what it does not get goes to the others by theirs. At the end it has all.
func TestSlowStartShares(t *testing.T) {
	const n = 20_000
	for _, c := range []struct {
		ago  time.Duration
		want float64 // share of server c, which has half of all weights
	}{
		{time.Second, 0.05 / (1 + 0.05)},
		{slowly / 2, 0.525 / (1 + 0.525)},
		{slowly, 0.5},
		{-time.Hour, 0.5}, // the clock was set back
	} {
		for _, b := range []plan.Balance{plan.RoundRobin, plan.LeastConn, plan.Source} {
			up := risen(upstream(1, 2, 3), c.ago)
			p := pickerOf(b, up)
			got := map[string]int{}
			for i := range n {
				x, _ := p.pick(client(i), nil)
				if b == plan.LeastConn {
					x.take()
				}
				got[x.server.Name]++
			}
			if want := c.want * n; float64(got["c"]) < want*0.9-2 || float64(got["c"]) > want*1.1+2 {
				t.Errorf("%s after %s: %d of %d, want about %.0f", b, c.ago, got["c"], n, want)
			}
			if ratio := float64(got["b"]) / float64(got["a"]); ratio < 1.85 || ratio > 2.15 {
				t.Errorf("%s after %s: the others got %d and %d, want 1 to 2", b, c.ago, got["a"], got["b"])
			}
		}
	}
}

// TestSlowStartAlone: who is the only one to take connections takes all, whether
// server or backup, and so do some that all rise.
func TestSlowStartAlone(t *testing.T) {
	for _, b := range []plan.Balance{plan.RoundRobin, plan.LeastConn, plan.Source, plan.First} {
		mustPick(t, pickerOf(b, risen(upstream(1), 0)), client(1))

		up := risen(upstream(1, 1), 0)
		if got := mustPick(t, pickerOf(b, up), client(1), up[0].endpoint); got != "b" {
			t.Errorf("%s: %s when the other was tried", b, got)
		}
		up[0].server.MaxConnections = 1
		up[0].take()
		if got := mustPick(t, pickerOf(b, up), client(1)); got != "b" {
			t.Errorf("%s: %s when the other is full", b, got)
		}
		up = risen(upstream(1), 0)
		up[0].server.Backup = true
		mustPick(t, pickerOf(b, up), client(1))
	}
	up := risen(risen(upstream(1, 1), 0)[:1], 0)
	p := pickerOf(plan.RoundRobin, up[:2])
	got := map[string]int{}
	for range 1000 {
		got[mustPick(t, p, client(1))]++
	}
	if got["a"] < 450 || got["b"] < 450 {
		t.Errorf("two that rise alike: %v", got)
	}
}

// TestSlowStartBegins: when a server comes back, and at no other time; reloads
// keep it.
func TestSlowStartBegins(t *testing.T) {
	e, err := New(Options{Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	listen := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	apply := func(settings string, bUp bool) (rising bool, since int64) {
		t.Helper()
		f, err := config.Parse("test", fmt.Appendf(nil, "health: off\nadmin: off\nroutes: {r: {listen: %q, to: [127.0.0.1:1, 127.0.0.1:2], slow_start: 1h%s}}", listen, settings))
		if err != nil {
			t.Fatal(err)
		}
		p, _, err := plan.New(f)
		if err != nil {
			t.Fatal(err)
		}
		p = p.With(nil, func(_ *plan.Route, s *plan.Server, _ netip.Addr) (bool, bool) { return s.Port == 1 || bUp, false })
		if _, err := e.Apply(context.Background(), p); err != nil {
			t.Fatal(err)
		}
		r := e.routes[0]
		return r.set.Load().picker.rising() != 0, r.endpoints[endpointKey{"127.0.0.1:2", netip.MustParseAddr("127.0.0.1")}].rise.from.Load()
	}
	if rising, _ := apply("", true); rising {
		t.Error("at the start")
	}
	if rising, _ := apply("", false); rising {
		t.Error("while it is down")
	}
	rising, since := apply("", true)
	if !rising || time.Since(time.Unix(0, since)) > time.Minute {
		t.Fatalf("not when it is up again: since %d", since)
	}
	if rising, again := apply(", idle_timeout: 5m", true); !rising || again != since {
		t.Errorf("a reload changed it: %v, %d and not %d", rising, again, since)
	}
}
