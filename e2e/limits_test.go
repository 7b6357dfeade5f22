package e2e

import (
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// crowd makes n connections at the same time from a loopback address, has
// each exchange a few bytes, and counts those that were served and reset. Those that
// are served stay until leave says so; nil: until it is known what has become of all.
func crowd(t *testing.T, from, addr string, n int, leave func()) (served, resets int) {
	t.Helper()
	var ok, cut atomic.Int64
	var all, decided sync.WaitGroup
	if leave == nil {
		leave = decided.Wait
	}
	decided.Add(n)
	for i := range n {
		all.Go(func() {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: rig.Patience}
			c, err := d.Dial("tcp", addr)
			if err == nil {
				defer c.Close()
				if err = c.SetDeadline(time.Now().Add(rig.Patience)); err == nil {
					err = rig.Exchange(c, uint64(i), 500)
				}
			}
			decided.Done()
			switch {
			case err == nil:
				ok.Add(1)
				leave()
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

// atOnce is for those who leave when they were served.
func atOnce() {}

func endedBy(t *testing.T, m *rig.Midspan, reason string) int {
	t.Helper()
	return int(metrics(t, m)[`midspan_route_ended_total{reason="`+reason+`",route="echo"}`])
}

// wantEndedBy wants n connections counted that ended for a reason. A client sees its
// end a moment before it is booked.
func wantEndedBy(t *testing.T, m *rig.Midspan, reason string, n int) {
	t.Helper()
	got := -1
	for end := time.Now().Add(rig.Patience); got < n && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		got = endedBy(t, m, reason)
	}
	if got != n {
		t.Errorf("%d resets by %s are counted, and there were %d", got, reason, n)
	}
}

// TestRateQueues: above its rate a route lets connections wait, and loses none.
func TestRateQueues(t *testing.T) {
	const rate, n = 50, 300
	addr, m := limitsLab(t, fmt.Sprintf("rate: %d/s", rate))
	begin := time.Now()
	served, resets := crowd(t, "127.0.8.1", addr, n, atOnce)
	took := time.Since(begin)
	if served != n || resets != 0 {
		t.Errorf("%d of %d were served, %d reset", served, n, resets)
	}
	// A second's worth goes at once. At half the rate it would be twice as long.
	if least := time.Duration(n-rate) * time.Second / rate; took < least-300*time.Millisecond || took > 2*least {
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
	// The first ones stay until all that there may be are there, and longer.
	leave := make(chan struct{})
	go func() {
		defer close(leave)
		for end := time.Now().Add(rig.Patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if now, err := m.Metrics(); err == nil && now[`midspan_route_connections{route="echo"}`] >= most {
				break
			}
		}
		time.Sleep(300 * time.Millisecond) // more might come
	}()
	served, resets := crowd(t, "127.0.8.1", addr, n, func() {
		<-leave
		time.Sleep(50 * time.Millisecond) // so that the next ones are a crowd too
	})
	close(stop)
	if high := <-highest; served != n || resets != 0 || high != most {
		t.Errorf("%d of %d were served, %d reset; at the most %d at a time, of %d", served, n, resets, high, most)
	}
}

// TestResets: where the file says so, what is above a limit is reset at once, and
// the counters say how often and why.
func TestResets(t *testing.T) {
	for _, c := range []struct {
		settings, reason string
		n, least, rate   int // connections at a time; how many of them are to be served, and how many more each second
	}{
		{"rate: 20/s, when_full: reset", "rate limit", 100, 20, 20},
		{"max_connections: 10, when_full: reset", "route limit", 50, 10, 0},
		{"per_source: { max_connections: 5 }", "source limit", 30, 5, 0},
		{"per_source: { rate: 8/s }", "source limit", 40, 8, 8},
	} {
		t.Run(c.settings, func(t *testing.T) {
			addr, m := limitsLab(t, c.settings)
			begin := time.Now()
			served, resets := crowd(t, "127.0.8.1", addr, c.n, nil)
			most := c.least + int(math.Ceil(float64(c.rate)*time.Since(begin).Seconds()))
			if served+resets != c.n || served < c.least || served > most {
				t.Errorf("of %d, %d were served and %d reset; want %d to %d served", c.n, served, resets, c.least, most)
			}
			wantEndedBy(t, m, c.reason, resets)
			t.Logf("%d served, %d reset in %s", served, resets, time.Since(begin).Round(time.Millisecond))
		})
	}
}

// TestSourceLimit: one client that wants too much takes nothing from another.
func TestSourceLimit(t *testing.T) {
	addr, m := limitsLab(t, "per_source: { max_connections: 5 }")
	var all sync.WaitGroup
	others := make(chan struct{})
	all.Go(func() { crowd(t, "127.0.8.1", addr, 50, func() { <-others }) })
	rig.Until(t, rig.Patience, "one wants too much", func() bool { return endedBy(t, m, "source limit") > 0 })
	for i := range 10 {
		from := fmt.Sprintf("127.0.9.%d", i+1)
		if served, resets := crowd(t, from, addr, 5, nil); served != 5 {
			t.Errorf("%s: %d served, %d reset", from, served, resets)
		}
	}
	wantEndedBy(t, m, "source limit", 45)
	close(others)
	all.Wait()
}
