package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/engine"
)

// limited is an engine of four loops with a route to a server that greets and
// echoes.
type limited struct {
	*testing.T
	e      *Engine
	addr   string
	server *guests
	mu     sync.Mutex
	starts []*engine.Record // in the order in which servers were reached
}

func newLimited(t *testing.T, settings string) *limited {
	l := &limited{T: t}
	l.server = newGuests(t, func(c net.Conn) {
		io.WriteString(c, "!")
		echo(c)
	})
	e, err := New(Options{Loops: 4, Hooks: engine.Hooks{Record: func(r *engine.Record) {
		if r.End.IsZero() {
			l.mu.Lock()
			l.starts = append(l.starts, r)
			l.mu.Unlock()
		}
	}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	l.e, l.addr = e, fmt.Sprintf("127.0.0.1:%d", freePort(t))
	l.apply(settings)
	return l
}

func (l *limited) apply(settings string) {
	l.Helper()
	p, err := planFor(fmt.Sprintf("routes: {r: {listen: %q, to: %q, %s}}", l.addr, l.server.addr, settings))
	if err != nil {
		l.Fatal(err)
	}
	if _, err := l.e.Apply(context.Background(), p); err != nil {
		l.Fatal(err)
	}
}

var errTurnedAway = errors.New("turned away")

// visit makes a connection from an address of this host and waits for the
// greeting.
func (l *limited) visit(from string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: time.Minute}
	c, err := d.Dial("tcp", l.addr)
	if err == nil {
		l.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(time.Minute))
		if _, err = io.ReadFull(c, make([]byte, 1)); err != nil {
			c.Close()
		}
	}
	if errors.Is(err, unix.ECONNRESET) {
		return nil, errTurnedAway
	}
	return c, err
}

// crowd has n clients come at once, and gives those that were let in.
func (l *limited) crowd(n int) (in []net.Conn) {
	l.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			c, err := l.visit("127.0.0.1")
			switch {
			case err == nil:
				mu.Lock()
				in = append(in, c)
				mu.Unlock()
			case !errors.Is(err, errTurnedAway):
				l.Error(err)
			}
		})
	}
	wg.Wait()
	return in
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}

func (l *limited) counters() engine.Counters { return l.e.Status().Routes[0].Counters }

// TestRouteLimitReset: of a crowd exactly as many get in as the route takes, on
// all loops together, and the others are reset and counted.
func TestRouteLimitReset(t *testing.T) {
	l := newLimited(t, "max_connections: 20, when_full: reset")
	in := l.crowd(200)
	if len(in) != 20 {
		t.Fatalf("%d were let in, want 20", len(in))
	}
	if c := l.counters(); c.Active != 20 || c.Accepted != 200 || c.Ended[engine.RouteLimit] != 180 {
		t.Errorf("counters are %+v", c)
	}
	closeAll(in[:5])
	eventually(t, "five have ended", func() bool { return l.counters().Active == 15 })
	if in := l.crowd(50); len(in) != 5 {
		t.Errorf("%d were let in, want the 5 there is room for", len(in))
	}
}

// TestRouteLimitQueue: a crowd that comes and goes is served to the last, never
// more at once than the route takes, also while it is reloaded.
func TestRouteLimitQueue(t *testing.T) {
	l := newLimited(t, "max_connections: 10")
	var inside, most atomic.Int64
	var wg sync.WaitGroup
	full := make(chan struct{}) // the first stay until there are as many as there may be
	var once sync.Once
	for range 300 {
		wg.Go(func() {
			c, err := l.visit("127.0.0.1")
			if err != nil {
				t.Error(err)
				return
			}
			n := inside.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			if n == 10 {
				once.Do(func() { close(full) })
			}
			select {
			case <-full:
				time.Sleep(2 * time.Millisecond)
			case <-time.After(time.Minute):
			}
			inside.Add(-1) // before the engine can know
			c.Close()
		})
	}
	for i := range 20 {
		l.apply(fmt.Sprintf("max_connections: 10, idle_timeout: %dm", 5+i))
		time.Sleep(5 * time.Millisecond)
	}
	wg.Wait()
	if most.Load() != 10 {
		t.Errorf("%d at once, want 10", most.Load())
	}
}

// TestRateQueue: a crowd above the rate waits, is served to the last, and no
// faster than at the rate; meanwhile every loop gets its turn, and rests.
func TestRateQueue(t *testing.T) {
	// A loop that gets no processor in time, on a machine with other work, loses some
	// turns; one that starves loses them at each try. Likewise with slowness.
	const tries = 3
	for try := 1; ; try++ {
		wrong := rateQueue(t)
		switch {
		case wrong == "" || t.Failed():
			return
		case try == tries:
			t.Fatal(wrong)
		}
		t.Log(wrong)
	}
}

// rateQueue tells what was wrong that may be the machine's fault.
func rateQueue(t *testing.T) (wrong string) {
	t.Helper()
	const rate, waiting = 100, 160
	l := newLimited(t, fmt.Sprintf("rate: %d/s", rate))
	began, cpu := time.Now(), cpuTime()
	if in := len(l.crowd(rate)) + len(l.crowd(waiting)); in != rate+waiting {
		t.Fatalf("%d were served of %d", in, rate+waiting)
	}
	took, used := time.Since(began), cpuTime()-cpu
	least := time.Second * waiting / rate
	if took < least-50*time.Millisecond {
		t.Errorf("it took %s, want %s", took, least)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	// In the order in which they were let in. A slow loop may have a server for one
	// later than for another that came after it.
	slices.SortStableFunc(l.starts, func(a, b *engine.Record) int { return a.Start.Compare(b.Start) })
	for i, r := range l.starts[rate:] {
		at := time.Second * time.Duration(i+1) / rate
		if after := r.Start.Sub(began); after < at-50*time.Millisecond {
			t.Fatalf("connection %d came after %s, want %s", rate+i, after, at)
		}
	}
	switch {
	case took > 2*least:
		return fmt.Sprintf("it took %s, want %s", took, least)
	case used > took/2 && !raceDetector:
		return fmt.Sprintf("%s of processor time in %s of waiting", used, took)
	}
	return unfairTurns(t, l.starts[rate:], 4)
}

// unfairTurns tells how the loops of connections that all had to wait have not taken
// turns, as long as each had some; "": they have.
func unfairTurns(t *testing.T, starts []*engine.Record, loops uint64) string {
	t.Helper()
	of := func(some []*engine.Record) []int {
		n := make([]int, loops)
		for _, r := range some {
			id, err := strconv.ParseUint(r.ID, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			n[id%loops]++
		}
		return n
	}
	each := slices.Min(of(starts)) / 2
	turns := of(starts[:each*int(loops)])
	if slices.Min(turns) < each-each/3-3 || slices.Max(turns) > each+each/3+3 {
		return fmt.Sprintf("the loops took %d turns, want about %d each; they had %d waiting", turns, each, of(starts))
	}
	return ""
}

func cpuTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestRateReset: above the rate clients are reset, and a reload does not fill the
// bucket.
func TestRateReset(t *testing.T) {
	l := newLimited(t, "rate: 300/h, when_full: reset")
	if in := l.crowd(20); len(in) != 1 {
		t.Fatalf("%d were let in, want the one that 300/h begins with", len(in))
	}
	if c := l.counters(); c.Ended[engine.RateLimit] != 19 || c.Active != 1 {
		t.Errorf("counters are %+v", c)
	}
	l.apply("rate: 300/h, when_full: reset, idle_timeout: 10m")
	l.apply("rate: 600/h, when_full: reset")
	if in := l.crowd(20); len(in) != 0 {
		t.Errorf("%d were let in after a reload, want none", len(in))
	}
	l.apply("idle_timeout: 10m")
	if in := l.crowd(20); len(in) != 20 {
		t.Errorf("%d of 20 were let in without a rate", len(in))
	}
}

// TestRateReload: who waits for a token of a slow rate does not wait for it when
// the rate is another, or none, and is reset when nobody is to wait.
func TestRateReload(t *testing.T) {
	for _, then := range []string{"rate: 1000/s", "idle_timeout: 5m", "rate: 1/h, when_full: reset"} {
		l := newLimited(t, "rate: 1/h")
		l.crowd(1)
		in := make(chan int)
		go func() { in <- len(l.crowd(10)) }()
		select {
		case n := <-in:
			t.Fatalf("%d of 10 did not wait", n)
		case <-time.After(200 * time.Millisecond):
		}
		l.apply(then)
		want := 10
		if then == "rate: 1/h, when_full: reset" {
			want = 0
		}
		select {
		case n := <-in:
			if n != want {
				t.Errorf("%s: %d of 10 were let in, want %d", then, n, want)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%s: they still wait", then)
		}
	}
}

// TestRateRefund: connections that are turned away take nothing of the rate that
// others need.
func TestRateRefund(t *testing.T) {
	l := newLimited(t, "rate: 1/h, when_full: reset, allow: [127.0.0.1]")
	for range 5 {
		if _, err := l.visit("127.0.0.2"); !errors.Is(err, errTurnedAway) {
			t.Fatal(err)
		}
	}
	eventually(t, "they have ended", func() bool { return l.counters().Ended[engine.NotAllowed] == 5 })
	if in := l.crowd(5); len(in) != 1 {
		t.Errorf("%d were let in, want 1", len(in))
	}
}

// TestNoRefund: who has had a server has had its token, however it ends.
func TestNoRefund(t *testing.T) {
	l := newLimited(t, "rate: 1/h, when_full: reset")
	c, err := l.visit("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "PROXY TCP4 192.0.2.7 198.51.100.9 40000 1433\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the header is refused", func() bool { return l.counters().Ended[engine.ProxyNotAllowed] == 1 })
	if in := l.crowd(5); len(in) != 0 {
		t.Errorf("%d were let in, want none", len(in))
	}
}

// TestPerSource: each client has limits of its own, on all loops together.
func TestPerSource(t *testing.T) {
	l := newLimited(t, "per_source: { max_connections: 3 }")
	in := l.crowd(40)
	if len(in) != 3 {
		t.Fatalf("%d were let in, want 3", len(in))
	}
	if _, err := l.visit("127.0.0.2"); err != nil {
		t.Errorf("another client: %v", err)
	}
	if c := l.counters(); c.Ended[engine.SourceLimit] != 37 || c.Active != 4 {
		t.Errorf("counters are %+v", c)
	}
	// The count goes on through reloads, and through one without.
	l.apply("idle_timeout: 5m")
	closeAll(in[:1])
	eventually(t, "one has ended", func() bool { return l.counters().Active == 3 })
	l.apply("per_source: { max_connections: 3 }, idle_timeout: 5m")
	if more := l.crowd(10); len(more) != 1 {
		t.Errorf("%d were let in, want the 1 there is room for", len(more))
	}

	l.apply("per_source: { rate: 2/m }")
	for i, want := range []error{nil, errTurnedAway, errTurnedAway} {
		if _, err := l.visit("127.0.0.3"); !errors.Is(err, want) {
			t.Errorf("connection %d in the minute: %v", i, err)
		}
	}
}

// TestPerSourceBehindProxy: it is the client in the PROXY header that is counted,
// and of IPv6 its network.
func TestPerSourceBehindProxy(t *testing.T) {
	l := newLimited(t, "proxy_protocol: required, per_source: { max_connections: 2 }")
	visit := func(header string) error {
		c, err := net.Dial("tcp", l.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, header+" 1000 80\r\n")
		_, err = io.ReadFull(c, make([]byte, 1))
		return err
	}
	for i, c := range []struct {
		header string
		in     bool
	}{
		{"PROXY TCP4 10.0.0.1 10.0.0.9", true},
		{"PROXY TCP4 10.0.0.1 10.0.0.9", true},
		{"PROXY TCP4 10.0.0.1 10.0.0.9", false},
		{"PROXY TCP4 10.0.0.2 10.0.0.9", true},
		{"PROXY TCP6 2001:db8::1 2001:db8::9", true},
		{"PROXY TCP6 2001:db8::2 2001:db8::9", true},
		{"PROXY TCP6 2001:db8::ffff:3 2001:db8::9", false},
		{"PROXY TCP6 2001:db8:0:1::1 2001:db8::9", true},
	} {
		if err := visit(c.header); (err == nil) != c.in {
			t.Errorf("connection %d, %s: %v", i, c.header, err)
		}
	}
	if c := l.counters(); c.Ended[engine.SourceLimit] != 2 || c.Active != 6 {
		t.Errorf("counters are %+v", c)
	}
}

// TestProbesTakeNoTokens: a load balancer's probes of a route's own port use up
// nothing of its rate.
func TestProbesTakeNoTokens(t *testing.T) {
	l := newLimited(t, "proxy_protocol: required, rate: 1/h, when_full: reset")
	for i := range 5 {
		c, err := net.Dial("tcp", l.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		eventually(t, "the probe is over", func() bool { return l.counters().Ended[engine.Probe] == uint64(i+1) })
	}
}

// TestPerSourceEnds: nothing is left of clients that have gone, however their
// connections ended.
func TestPerSourceEnds(t *testing.T) {
	l := newLimited(t, "per_source: { max_connections: 5 }, connect_timeout: 1s")
	closeAll(l.crowd(20))
	eventually(t, "they have ended", func() bool { return l.counters().Active == 0 })
	in := l.crowd(5)
	if len(in) != 5 || len(l.e.Conns()) != 5 {
		t.Fatalf("%d clients, %d connections, want 5", len(in), len(l.e.Conns()))
	}
	for _, c := range l.e.Conns() {
		l.e.Kill(c.ID)
	}
	l.server.closeAll()
	closeAll(in)
	table := l.e.routes[0].sources
	eventually(t, "the table is empty", func() bool { return table.n.Load() == 0 })
	if table.size() != 0 {
		t.Errorf("%d clients are left", table.size())
	}
}

// TestLimitsOfSessions: a connection that a goroutine carries is under the same
// limits, and gives back what it was counted for.
func TestLimitsOfSessions(t *testing.T) {
	a := newAuthority(t)
	s := newTheatre(t, echoServer(t), fmt.Sprintf("per_source: {max_connections: 2}, tls: %s", a.leaf("s.pem", "a.test")))
	shake := func() *tls.Conn {
		c, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: a.pool(), ServerName: "a.test"})
		if err != nil {
			return nil
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	first, second := shake(), shake()
	if first == nil || second == nil {
		t.Fatal("two connections were not let in")
	}
	if shake() != nil {
		t.Error("a third one was let in")
	}
	first.Close()
	eventually(t, "one has ended", func() bool { return s.Status().Connections == 1 })
	if third := shake(); third == nil {
		t.Error("none was let in when there was room")
	} else {
		third.Close()
	}
	second.Close()
	eventually(t, "all have ended", func() bool { return s.Status().Connections == 0 })
	if n := s.routes[0].sources.n.Load(); n != 0 {
		t.Errorf("%d clients are left in the table", n)
	}
	if n := s.Status().Routes[0].Counters.Ended[engine.SourceLimit]; n != 1 {
		t.Errorf("%d ended by the limit, want 1", n)
	}
}
