package health

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/internal/plan"
)

func TestFailedConnects(t *testing.T) {
	failed := &syscallError{syscall.EHOSTUNREACH}
	t.Run("a burst is one observation", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			r.Watch([]Target{tested})
			time.Sleep(time.Second)
			for range 100 {
				r.Report(tested.Addr, failed)
			}
			if !r.after(0, tested) {
				t.Error("one burst took the server down")
			}
			for range 2 {
				time.Sleep(600 * time.Millisecond)
				r.Report(tested.Addr, failed)
			}
			if r.after(0, tested) {
				t.Error("up after three failed connects, each 600 ms after the last")
			}
			if got := r.State()[0].LastError; got != "connect: no route to host" {
				t.Errorf("LastError is %q", got)
			}
			r.Report(tested.Addr, nil)
			if r.after(0, tested) {
				t.Error("a connect brought back what tests decide")
			}
			if !r.after(11*time.Second, tested) {
				t.Error("tests did not bring it back")
			}
		})
	})
	t.Run("a success in between", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			r.Watch([]Target{tested})
			for range 100 {
				time.Sleep(600 * time.Millisecond)
				r.Report(tested.Addr, failed)
				r.Report(tested.Addr, nil)
			}
			if !r.after(0, tested) {
				t.Error("down although connects worked all the time")
			}
		})
	})
	t.Run("every target of that address", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			other := tested
			other.Check.Kind, other.Check.Path = plan.CheckHTTP, "/"
			elsewhere := tested
			elsewhere.Addr = addr("10.0.0.5:1434")
			r.Watch([]Target{tested, other, elsewhere})
			time.Sleep(time.Second)
			for range 3 {
				r.Report(addr("[::ffff:10.0.0.5]:1433"), failed)
				time.Sleep(500 * time.Millisecond)
			}
			if r.Up(tested) || r.Up(other) {
				t.Error("a target of the address is still up")
			}
			if !r.Up(elsewhere) {
				t.Error("a target of another port is down")
			}
		})
	})
}

type syscallError struct{ error }

func (e *syscallError) Unwrap() error { return e.error }

func TestWithoutTests(t *testing.T) {
	down := func(t *testing.T, r *rig, failures int) {
		t.Helper()
		for i := range failures {
			if !r.Up(passive) {
				t.Fatalf("down after %d failures, want %d", i, failures)
			}
			r.Report(passive.Addr, errRefused)
		}
		if r.after(0, passive) {
			t.Fatalf("up after %d failures", failures)
		}
	}
	t.Run("cool-down doubles", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			r.Watch([]Target{passive})
			time.Sleep(time.Hour)
			if len(r.tests()) != 0 || !r.Up(passive) {
				t.Fatal("tested although its check is off")
			}
			failures := 3
			for _, s := range []time.Duration{5, 10, 20, 40, 40} {
				down(t, r, failures)
				if r.after(s*time.Second-time.Millisecond, passive) {
					t.Errorf("up before %ds", s)
				}
				if !r.after(time.Millisecond, passive) {
					t.Errorf("down after %ds", s)
				}
				failures = 1 // on trial
			}
			r.Report(passive.Addr, nil)
			down(t, r, 3)
			if !r.after(5*time.Second, passive) {
				t.Error("a connect that worked did not reset the cool-down")
			}
			if !strings.Contains(r.log.String(), `msg="server 10.0.0.6:1433 is up (on trial after 40s)"`) {
				t.Errorf("log is\n%s", r.log)
			}
		})
	})
	t.Run("a success clears the run", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			r.Watch([]Target{passive})
			for range 10 {
				r.Report(passive.Addr, errRefused)
				r.Report(passive.Addr, errRefused)
				r.Report(passive.Addr, nil)
			}
			down(t, r, 3)
		})
	})
	t.Run("a success ends the cool-down", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			r.Watch([]Target{passive})
			down(t, r, 3)
			r.Report(passive.Addr, nil)
			if !r.after(0, passive) {
				t.Fatal("down although a connect worked")
			}
			down(t, r, 3)
			if r.after(4*time.Second, passive) {
				t.Error("the old cool-down ended the new one")
			}
		})
	})
}
