package resolve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatchIsTheWholeSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(both(got("10.0.0.1", 5*time.Minute)))
		r := start(ttls(Options{}), f.lookup)
		defer r.Close()
		r.Watch([]string{"a", "b", "b"})
		synctest.Wait()
		r.Watch([]string{"b", "c"})
		synctest.Wait()
		if f.count() != 3 {
			t.Errorf("%d look-ups, want one each of a, b, c", f.count())
		}
		all := r.Answers()
		if _, ok := all["a"]; ok || len(all) != 2 || len(all["b"].Addrs) != 1 || len(all["c"].Addrs) != 1 {
			t.Errorf("answers %v", all)
		}
		all["b"].Addrs[0] = addrs("10.9.9.9")[0]
		if got := r.Answers()["b"].Addrs[0].String(); got != "10.0.0.1" {
			t.Errorf("a caller changed the resolver's answer to %s", got)
		}
	})
}

func TestForgottenNameIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := newFake(both(got("10.0.0.1", 5*time.Minute)))
		f.takes = time.Hour
		r := start(ttls(Options{Log: logTo(&log), OnChange: func() { t.Error("OnChange was called") }}), f.lookup)
		r.Watch([]string{"a"})
		time.Sleep(time.Second)
		waited := make(chan error)
		go func() { waited <- r.Wait(t.Context()) }()
		synctest.Wait()
		r.Watch(nil)
		if err := <-waited; err != nil {
			t.Errorf("Wait for a forgotten name: %v", err)
		}
		r.Close()
		if log.Len() > 0 {
			t.Errorf("logged %s", log.String())
		}
	})
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(both(bad(silent)))
		f.takes = 4 * time.Second
		r := start(ttls(Options{}), f.lookup)
		if err := r.Wait(t.Context()); err != nil {
			t.Errorf("with no names: %v", err)
		}
		r.Watch([]string{"a", "b"})
		if a, ok := r.Answers()["a"]; !ok || a.Err != nil || !a.Since.IsZero() || !a.Next.IsZero() {
			t.Errorf("before the first try: %+v", a)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with too little time: %v", err)
		}
		if err := r.Wait(t.Context()); err != nil || time.Since(f.t0) != 4*time.Second {
			t.Errorf("after %v: %v", time.Since(f.t0), err)
		}
		if err := r.Answers()["a"].Err; err == nil {
			t.Error("no error after a failed try")
		}
		r.Watch([]string{"c"})
		r.Close()
		if err := r.Wait(t.Context()); err == nil {
			t.Error("no error after Close")
		}
		r.Watch([]string{"d"})
		r.Refresh("d")
		r.Close()
		if _, ok := r.Answers()["d"]; ok {
			t.Error("Watch after Close took a name")
		}
	})
}

func TestManyNamesDoNotFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(both(got("10.0.0.1", 100*time.Second)))
		f.takes = 100 * time.Millisecond
		r := start(ttls(Options{}), f.lookup)
		var names []string
		for i := range 1000 {
			names = append(names, fmt.Sprintf("n%d", i))
		}
		r.Watch(names)
		if err := r.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if f.peak() != maxLookups || f.count() != 1000 {
			t.Errorf("%d look-ups, %d at a time", f.count(), f.peak())
		}
		time.Sleep(112 * time.Second)
		if f.count() != 2000 || f.peak() != maxLookups {
			t.Fatalf("second round: %d look-ups, up to %d at a time", f.count()-1000, f.peak())
		}
		asked := f.times()
		if span := asked[1990] - asked[1000]; span < 4*time.Second {
			t.Errorf("the second round came within %v, want it spread", span)
		}
		r.Close()
	})
}

// A test in a bubble fails if a goroutine is left, so this one guards leaks too.
func TestCloseWhileLookupsHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(both(bad(silent)))
		f.takes = time.Hour
		r := start(ttls(Options{OnChange: func() {}}), f.lookup)
		var names []string
		for i := range 100 { // more than look-ups at a time
			names = append(names, fmt.Sprintf("n%d", i))
		}
		r.Watch(names)
		time.Sleep(time.Second)
		r.Close()
		if d := time.Since(f.t0); d != time.Second {
			t.Errorf("Close took %v", d-time.Second)
		}
	})
}
