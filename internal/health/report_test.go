package health

import (
	"slices"
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
				r.Report(tested, failed, false)
			}
			if !r.after(0, tested) {
				t.Error("one burst took the server down")
			}
			for range 2 {
				time.Sleep(600 * time.Millisecond)
				r.Report(tested, failed, false)
			}
			if r.after(0, tested) {
				t.Error("up after three failed connects, each 600 ms after the last")
			}
			if got := r.State()[0].LastError; got != "connect: no route to host" {
				t.Errorf("LastError is %q", got)
			}
			r.Report(tested, nil, false)
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
				r.Report(tested, failed, false)
				r.Report(tested, nil, false)
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
				r.Report(Target{Addr: addr("[::ffff:10.0.0.5]:1433")}, failed, false)
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
			r.Report(passive, errRefused, false)
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
			r.Report(passive, nil, false)
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
				r.Report(passive, errRefused, false)
				r.Report(passive, errRefused, false)
				r.Report(passive, nil, false)
			}
			down(t, r, 3)
		})
	})
	t.Run("a success ends the cool-down", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			r.Watch([]Target{passive})
			down(t, r, 3)
			r.Report(passive, nil, false)
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

// TestLateFailures: what fails after the TCP connect counts for the routes that
// do the same there, and connects that work elsewhere do not excuse it.
func TestLateFailures(t *testing.T) {
	route := func(kind plan.CheckKind, tls plan.UpstreamTLS, host string) Target {
		return Target{Addr: passive.Addr, Check: check(kind), Host: host, Path: Path{TLS: tls}}
	}
	wrong := plan.UpstreamTLS{On: true, Name: "other.corp"}
	bad, twin := route(plan.CheckOff, wrong, "a"), route(plan.CheckTCP, wrong, "b")
	byHost, otherHost := route(plan.CheckOff, plan.UpstreamTLS{On: true}, "a"), route(plan.CheckOff, plan.UpstreamTLS{On: true}, "b")
	right := route(plan.CheckOff, plan.UpstreamTLS{On: true, Name: "reports.corp"}, "a")
	all := []Target{passive, bad, twin, byHost, otherHost, right}
	fails := func(r *rig, of Target, late bool) {
		for range 3 {
			r.Report(of, errRefused, late)
			time.Sleep(time.Second)
		}
	}
	wants := func(t *testing.T, r *rig, when string, down ...Target) {
		t.Helper()
		for _, x := range all {
			if r.after(0, x) == slices.Contains(down, x) {
				t.Errorf("%s: up is %t for host %q, %+v, check %s", when, r.Up(x), x.Host, x.Path.TLS, x.Check.Kind)
			}
		}
	}
	inBubble(t, func(t *testing.T, r *rig) {
		r.Watch(all)
		time.Sleep(time.Second) // twin's first test has passed
		fails(r, bad, true)
		wants(t, r, "a wrong name", bad, twin)
		if !strings.Contains(r.log.String(), " check=off tls=other.corp\n") {
			t.Errorf("the log does not tell which: %s", r.log)
		}
		r.Report(passive, nil, false)
		wants(t, r, "a plain connect that worked", bad, twin)
		r.Report(bad, nil, false)
		wants(t, r, "TLS that worked", twin) // only its tests bring it back
	})
	inBubble(t, func(t *testing.T, r *rig) {
		r.Watch(all)
		fails(r, byHost, true)
		wants(t, r, "a host that the certificate does not have", byHost)
	})
	inBubble(t, func(t *testing.T, r *rig) {
		r.Watch(all)
		time.Sleep(time.Second)
		fails(r, bad, false)
		wants(t, r, "nobody listens", all...)
	})
}
