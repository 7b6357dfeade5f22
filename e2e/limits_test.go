package e2e

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// crowd makes n connections at the same time from a loopback address, has
// each exchange a few bytes, and counts those that were served and reset. Each
// stays for a while.
func crowd(t *testing.T, from, addr string, n int, stays time.Duration) (served, resets int) {
	t.Helper()
	var ok, cut atomic.Int64
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}
			c, err := d.Dial("tcp", addr)
			if err == nil {
				defer c.Close()
				if err = c.SetDeadline(time.Now().Add(20 * time.Second)); err == nil {
					err = rig.Exchange(c, uint64(i), 500)
				}
			}
			switch {
			case err == nil:
				ok.Add(1)
				time.Sleep(stays)
			case errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
				cut.Add(1)
			default:
				t.Errorf("connection %d from %s: %v", i, from, err)
			}
		})
	}
	all.Wait()
	return int(ok.Load()), int(cut.Load())
}

// limitsLab is an echoing server behind a route with these settings.
func limitsLab(t *testing.T, settings string) (addr string, m *rig.Midspan) {
	t.Helper()
	echo := rig.Serve(t, nil, "127.0.0.1:0", rig.Echo)
	addr = rig.Addr(t, "127.0.0.1")
	f := rig.NewFile(t)
	f.Write("routes:\n  echo: { listen: %q, to: %q, %s }\n", addr, echo.Addr, settings)
	return addr, rig.Run(t, f)
}

func endedBy(t *testing.T, m *rig.Midspan, reason string) int {
	t.Helper()
	return int(metrics(t, m)[`midspan_route_ended_total{reason="`+reason+`",route="echo"}`])
}

// TestRateQueues: above its rate a route lets connections wait, and loses none.
func TestRateQueues(t *testing.T) {
	const rate, n = 50, 200
	addr, m := limitsLab(t, fmt.Sprintf("rate: %d/s", rate))
	begin := time.Now()
	served, resets := crowd(t, "127.0.8.1", addr, n, 0)
	took := time.Since(begin)
	if served != n || resets != 0 {
		t.Errorf("%d of %d were served, %d reset", served, n, resets)
	}
	// A second's worth goes at once.
	if least := time.Duration(n-rate) * time.Second / rate; took < least-300*time.Millisecond || took > least+3*time.Second {
		t.Errorf("%d connections at %d/s took %s, want about %s", n, rate, took, least)
	}
	if n := endedBy(t, m, "rate limit"); n != 0 {
		t.Errorf("%d were reset by the counters", n)
	}
}

// TestQueueOfRoute: above max_connections connections wait until others end.
func TestQueueOfRoute(t *testing.T) {
	const most, n = 10, 60
	addr, m := limitsLab(t, fmt.Sprintf("max_connections: %d", most))
	stop := make(chan struct{})
	highest := make(chan int)
	go func() {
		high := 0
		for {
			select {
			case <-stop:
				highest <- high
				return
			case <-time.After(10 * time.Millisecond):
				if now, err := m.Metrics(); err == nil {
					high = max(high, int(now[`midspan_route_connections{route="echo"}`]))
				}
			}
		}
	}()
	served, resets := crowd(t, "127.0.8.1", addr, n, 200*time.Millisecond)
	close(stop)
	if high := <-highest; served != n || resets != 0 || high > most || high < most/2 {
		t.Errorf("%d of %d were served, %d reset; at the most %d at a time, of %d", served, n, resets, high, most)
	}
}

// TestResets: where the file says so, what is above a limit is reset at once, and
// the counters say how often and why.
func TestResets(t *testing.T) {
	for _, c := range []struct {
		settings, reason string
		n, least, most   int // connections at a time; how many of them are to be served
	}{
		{"rate: 20/s, when_full: reset", "rate limit", 100, 20, 60},
		{"max_connections: 10, when_full: reset", "route limit", 50, 10, 10},
		{"per_source: { max_connections: 5 }", "source limit", 30, 5, 5},
		{"per_source: { rate: 8/s }", "source limit", 40, 8, 24},
	} {
		t.Run(c.settings, func(t *testing.T) {
			addr, m := limitsLab(t, c.settings)
			served, resets := crowd(t, "127.0.8.1", addr, c.n, 2*time.Second)
			if served+resets != c.n || served < c.least || served > c.most {
				t.Errorf("of %d, %d were served and %d reset; want %d to %d served", c.n, served, resets, c.least, c.most)
			}
			if n := endedBy(t, m, c.reason); n != resets {
				t.Errorf("%d resets by %s are counted, and %d were seen", n, c.reason, resets)
			}
			t.Logf("%d served, %d reset", served, resets)
		})
	}
}

// TestSourceLimit: one client that wants too much takes nothing from another.
func TestSourceLimit(t *testing.T) {
	addr, m := limitsLab(t, "per_source: { max_connections: 5 }")
	var all sync.WaitGroup
	all.Go(func() { crowd(t, "127.0.8.1", addr, 50, time.Second) })
	for i := range 10 {
		from := fmt.Sprintf("127.0.9.%d", i+1)
		if served, resets := crowd(t, from, addr, 5, 0); served != 5 {
			t.Errorf("%s: %d served, %d reset", from, served, resets)
		}
	}
	all.Wait()
	if n := endedBy(t, m, "source limit"); n != 45 {
		t.Errorf("%d resets are counted, want 45", n)
	}
}
