package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"midspan/internal/plan"
)

var errRefused = fmt.Errorf("connect: %w", syscall.ECONNREFUSED)

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func check(kind plan.CheckKind) plan.Check {
	return plan.Check{
		Kind: kind, Every: plan.Duration(5 * time.Second), Timeout: plan.Duration(2 * time.Second), Rise: 2, Fall: 3,
	}
}

var (
	tested  = Target{Addr: addr("10.0.0.5:1433"), Check: check(plan.CheckTCP)}
	passive = Target{Addr: addr("10.0.0.6:1433"), Check: check(plan.CheckOff)}
)

// rig is a monitor in a bubble of virtual time, whose tests end as the test says.
type rig struct {
	*Monitor
	log     *bytes.Buffer
	changes *atomic.Int32

	mu     sync.Mutex
	errs   map[netip.AddrPort]error
	probes []time.Time
}

func inBubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{log: new(bytes.Buffer), changes: new(atomic.Int32), errs: map[netip.AddrPort]error{}}
		o := Options{
			Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{
				ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
					if a.Key == slog.TimeKey {
						return slog.Attr{}
					}
					return a
				},
			})),
			OnChange: func() { r.changes.Add(1) },
		}
		r.Monitor = start(o, r.probe)
		defer r.Close()
		test(t, r)
	})
}

func (r *rig) probe(ctx context.Context, t Target) (time.Duration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.probes = append(r.probes, time.Now())
	return time.Millisecond, r.errs[t.Addr]
}

func (r *rig) set(t Target, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs[t.Addr] = err
}

// tests is when each test began.
func (r *rig) tests() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.probes)
}

// after lets d pass and says whether t is up then.
func (r *rig) after(d time.Duration, t Target) bool {
	time.Sleep(d)
	synctest.Wait()
	return r.Up(t)
}

func TestNewTargetIsUpUntilItsFirstTest(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.set(tested, errRefused)
		r.Watch([]Target{tested})
		if !r.Up(tested) {
			t.Error("down before any test")
		}
		if r.after(maxSpread, tested) {
			t.Error("up although its first test failed")
		}
		if n := r.changes.Load(); n != 1 {
			t.Errorf("OnChange was called %d times, want once", n)
		}
		want := "level=WARN msg=\"server 10.0.0.5:1433 is down: connect: connection refused (1 failure)\" check=tcp\n"
		if got := r.log.String(); got != want {
			t.Errorf("log is\n%swant\n%s", got, want)
		}
	})
}

func TestFallAndRise(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.Watch([]Target{tested})
		if !r.after(maxSpread, tested) {
			t.Fatal("down although its test passed")
		}
		r.set(tested, errRefused)
		// The third test from now starts after 3 × 5 s ± 10 % at the latest.
		if !r.after(8*time.Second, tested) {
			t.Error("down after one or two failures")
		}
		if r.after(9*time.Second, tested) {
			t.Error("up after three failures")
		}
		r.set(tested, nil)
		if r.after(4400*time.Millisecond, tested) {
			t.Error("up after one success")
		}
		if !r.after(8*time.Second, tested) {
			t.Error("down after two successes")
		}
		time.Sleep(time.Hour)
		want := "level=WARN msg=\"server 10.0.0.5:1433 is down: connect: connection refused (3 failures)\" check=tcp\n" +
			"level=INFO msg=\"server 10.0.0.5:1433 is up\" check=tcp\n"
		if got := r.log.String(); got != want {
			t.Errorf("log is\n%swant\n%s", got, want)
		}
	})
}

func TestPaceOfTests(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		began := time.Now()
		r.Watch([]Target{tested})
		time.Sleep(time.Hour)
		synctest.Wait()
		r.Close()
		probes := r.tests()
		if d := probes[0].Sub(began); d > maxSpread {
			t.Errorf("the first test came after %s", d)
		}
		var gaps []time.Duration
		for i := range probes[1:] {
			gaps = append(gaps, probes[i+1].Sub(probes[i]))
		}
		lo, hi := slices.Min(gaps), slices.Max(gaps)
		if lo < 4500*time.Millisecond || hi > 5500*time.Millisecond || hi-lo < 500*time.Millisecond {
			t.Errorf("pauses are %s to %s, want all of 4.5s to 5.5s", lo, hi)
		}
	})
}

func TestWatch(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		dead := Target{Addr: addr("10.0.0.7:80"), Check: check(plan.CheckTCP)}
		r.set(dead, errRefused)
		r.Watch([]Target{tested, dead, dead})
		if r.after(time.Second, dead) {
			t.Fatal("up")
		}
		before := len(r.tests())
		r.Watch([]Target{dead, passive})
		if r.Up(dead) {
			t.Error("a target that stays lost its state")
		}
		if r.after(0, dead); len(r.tests()) != before {
			t.Error("a target that stays was tested again at once")
		}
		if states := r.State(); len(states) != 2 || states[0].Target != passive || states[1].Target != dead {
			t.Errorf("State is %+v", states)
		}
		r.Watch(nil)
		if !r.Up(dead) {
			t.Error("a target that is not watched is down")
		}
		r.Report(dead, errRefused, false)
		n := len(r.tests())
		if r.after(time.Hour, dead); len(r.tests()) != n {
			t.Error("a target that is not watched is tested")
		}
		r.Watch([]Target{dead})
		if !r.Up(dead) {
			t.Error("a target that comes back has its old state")
		}
	})
}

// A result that is on its way when its target goes must not count for what
// comes after it.
func TestLateResult(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		hold := make(chan struct{})
		r.Monitor.probe = func(context.Context, Target) (time.Duration, error) {
			<-hold
			return 0, errRefused
		}
		r.Watch([]Target{tested})
		time.Sleep(time.Second)
		r.Watch(nil)
		r.Watch([]Target{tested})
		close(hold)
		synctest.Wait()
		if !r.Up(tested) || r.changes.Load() != 0 {
			t.Error("the result of a forgotten target counted")
		}
	})
}

func TestSharedProber(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		named := func(k plan.CheckKind, own, host string) Target {
			c := check(k)
			c.Host = own
			return Target{Addr: tested.Addr, Check: c, Host: host}
		}
		r.Watch([]Target{
			named(plan.CheckTCP, "", "a"), named(plan.CheckTCP, "", "b"),
			named(plan.CheckHTTP, "x", "a"), named(plan.CheckHTTP, "x", "b"),
			named(plan.CheckHTTP, "", "a"), named(plan.CheckHTTP, "", "b"),
		})
		time.Sleep(time.Second)
		if n := len(r.tests()); n != 4 {
			t.Errorf("%d first tests, want 4: one tcp, one for x, and one each for a and b", n)
		}
	})
}

func TestState(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		began := time.Now()
		r.Watch([]Target{tested})
		s := r.State()[0]
		if !s.Up || !s.Trial || s.Checked || !s.Since.Equal(began) || !s.LastCheck.IsZero() {
			t.Errorf("new: %+v", s)
		}
		time.Sleep(time.Second)
		s = r.State()[0]
		if !s.Up || s.Trial || !s.Checked || s.Latency != time.Millisecond || s.Tests != 1 || s.LastCheck.IsZero() {
			t.Errorf("after a test: %+v", s)
		}
		r.set(tested, errRefused)
		time.Sleep(8 * time.Second)
		s = r.State()[0]
		if !s.Up || s.Failures == 0 || s.LastError != "connect: connection refused" || !s.Since.Equal(began) {
			t.Errorf("failing: %+v", s)
		}
		time.Sleep(time.Minute)
		s = r.State()[0]
		if s.Up || s.Failures != 0 || s.Tests < 12 || s.Failed != s.Tests-1 || !s.Since.After(began) {
			t.Errorf("down: %+v", s)
		}
	})
}

func TestManyTestsAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var now, most atomic.Int32
		r.Monitor.probe = func(ctx context.Context, _ Target) (time.Duration, error) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			<-ctx.Done() // as with a server that drops everything
			now.Add(-1)
			return 0, errors.New("http: no answer in 2s")
		}
		var many []Target
		for i := range 500 {
			many = append(many, Target{
				Addr:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 80),
				Check: check(plan.CheckTCP),
			})
		}
		r.Watch(many)
		time.Sleep(500/maxProbes*2*time.Second + 3*time.Second)
		synctest.Wait()
		if n := most.Load(); n != maxProbes {
			t.Errorf("%d tests at once, want %d", n, maxProbes)
		}
		for _, target := range many {
			if r.Up(target) {
				t.Fatalf("%s has not had its turn", target.Addr)
			}
		}
	})
}

// Every goroutine of the bubble must be gone when it ends, so each test here is
// a test of Close; this one is about a Close that is called early or twice.
func TestCloseEarly(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.Watch([]Target{tested, passive})
		r.Report(passive, errRefused, false)
		r.Close()
		r.Close()
		r.Watch([]Target{tested})
		r.Report(tested, errRefused, false)
		if len(r.State()) != 2 {
			t.Error("the state is gone after Close")
		}
	})
}
