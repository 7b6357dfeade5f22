package e2e

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"midspan/e2e/rig"
)

const reloads = 50

// TestReloadUnderLoad reloads 50 times, in both ways there are, while 64
// connections are busy and others come and go. Nobody may notice.
func TestReloadUnderLoad(t *testing.T) {
	a := rig.Serve(t, nil, "127.0.0.2:0", rig.Echo)
	b := rig.Serve(t, nil, "127.0.0.3:0", rig.Echo)
	f := rig.NewFile(t)
	addr, extra := rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1")
	main := func(settings string, weights ...int) string {
		return fmt.Sprintf("  main: { listen: %q, %s to: [{ server: %q, weight: %d }, { server: %q, weight: %d }] }\n",
			addr, settings, a.Addr, weights[0], b.Addr, weights[1])
	}
	// Each differs from the next in another respect.
	variants := []string{
		main("", 1, 1),
		main("", 1, 1) + fmt.Sprintf("  extra: { listen: %q, to: %q }\n", extra, a.Addr),
		main("", 3, 1),
		main("connect_timeout: 7s, idle_timeout: 30m, keepalive: 33s,", 3, 1),
		main("balance: leastconn, check: { kind: tcp, every: 100ms },", 1, 0),
	}
	f.Write("routes:\n%s", variants[0])
	m := rig.Run(t, f)
	load := startPumps(t, addr, 64, 4, false)
	first := metrics(t, m)
	last := first
	var held []net.Conn
	for i := range reloads {
		f.Write("routes:\n%s", variants[(i+1)%len(variants)])
		if i%2 == 0 {
			m.Signal(syscall.SIGHUP)
		} else {
			m.Control("reload")
		}
		rig.Until(t, rig.Patience, fmt.Sprintf("reload %d is done", i+1), func() bool { return m.Says("msg=reloaded") == i+1 })
		if (i+1)%len(variants) == 1 {
			held = append(held, idle(t, extra)) // it outlives its route
		}
		load.wait(64, 8)
		now := metrics(t, m)
		wantGrowth(t, fmt.Sprintf("reload %d", i+1), last, now)
		last = now
	}
	load.stop()
	t.Logf("%d reloads: %d exchanges on 64 connections, %d new connections, %d failures",
		reloads, load.exchanges.Load(), load.churned.Load(), load.failed.Load())
	for i, c := range held {
		if err := exchange(c, uint64(i), 1000); err != nil {
			t.Errorf("connection %d of a route that came and went: %v", i, err)
		}
	}
	if n := m.Says("level=ERROR"); n > 0 {
		t.Errorf("midspan logged %d errors", n)
	}
	series := `midspan_route_accepted_total{route="main"}`
	rig.Until(t, rig.Patience, "all connections are accounted for", func() bool {
		return metrics(t, m)[series] == float64(64+load.churned.Load())
	})
}

func metrics(t *testing.T, m *rig.Midspan) rig.Metrics {
	t.Helper()
	all, err := m.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// wantGrowth wants no counter of the daemon or of the route that stays to have
// lost anything. Those of what a reload took away may go.
func wantGrowth(t *testing.T, when string, before, now rig.Metrics) {
	t.Helper()
	for _, s := range before.Shrunk(now) {
		if !strings.Contains(s, `route="extra"`) && !strings.HasPrefix(s, "midspan_check") {
			t.Errorf("%s: %s", when, s)
		}
	}
	for _, series := range []string{`midspan_route_accepted_total{route="main"}`, `midspan_route_bytes_total{direction="client_to_server",route="main"}`} {
		if now[series] <= before[series] {
			t.Errorf("%s: %s went from %g to %g under load", when, series, before[series], now[series])
		}
	}
}
