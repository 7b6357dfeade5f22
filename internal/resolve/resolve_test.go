package resolve

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLookedUpAgainAfterTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(both(got("10.0.0.1", 20*time.Second)))
		r := start(ttls(Options{}), f.lookup)
		defer r.Close()
		r.Watch([]string{"db"})
		time.Sleep(100 * time.Second)
		asked := f.times()
		if len(asked) != 5 {
			t.Fatalf("asked at %v, want at about 0s 20s 40s 60s 80s", asked)
		}
		for i := range 4 {
			if gap := asked[i+1] - asked[i]; gap < 20*time.Second || gap > 22*time.Second {
				t.Errorf("pause %v, want 20s to 22s", gap)
			}
		}
		a := r.Answers()["db"]
		if a.Err != nil || time.Since(a.Since) > 22*time.Second || time.Until(a.Next) > 22*time.Second || time.Until(a.Next) < 0 {
			t.Errorf("answer %+v", a)
		}
	})
}

// Guards: a resolver that dies after a hiccup, one that empties the pool, and one
// that fills the log with a line for each retry.
func TestFailureKeepsAddressesAndLogsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		changes := 0
		f := newFake(both(got("10.0.0.1 10.0.0.2", 10*time.Second)))
		r := start(ttls(Options{Log: logTo(&log), OnChange: func() { changes++ }}), f.lookup)
		r.Watch([]string{"db"})
		time.Sleep(5 * time.Second)
		f.set(both(bad(silent)))
		time.Sleep(5 * time.Minute)

		a := r.Answers()["db"]
		if !slices.Equal(a.Addrs, addrs("10.0.0.1 10.0.0.2")) || text(a.Err) != "db: timeout" || !a.Since.Equal(f.t0) {
			t.Errorf("after five minutes of failure: %+v", a)
		}
		asked := f.times()
		last := asked[len(asked)-1] - asked[len(asked)-2]
		if second := asked[2] - asked[1]; second > time.Second || last < 22*time.Second || last > 30*time.Second {
			t.Errorf("the first pause after a failure is %v and the last %v; asked at %v", second, last, asked)
		}
		f.set(both(bad(noName))) // another failure changes the error, not the state
		time.Sleep(time.Minute)
		f.set(both(got("10.0.0.3", 10*time.Second)))
		time.Sleep(time.Minute)
		r.Close()
		if changes != 4 {
			t.Errorf("OnChange was called %d times, want 4: addresses, two errors, addresses", changes)
		}
		want := `level=WARN msg="name does not resolve" name=db err="db: timeout" still_used="[10.0.0.1 10.0.0.2]"
level=INFO msg="name resolves again" name=db addrs=[10.0.0.3]
level=INFO msg="addresses changed" name=db old="[10.0.0.1 10.0.0.2]" new=[10.0.0.3]
`
		if log.String() != want {
			t.Errorf("log is\n%s\nwant\n%s", log.String(), want)
		}
	})
}

func TestTooManyAddressesLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		many := got("10.0.0.1", 5*time.Second)
		many.cut = true
		r := start(ttls(Options{Log: logTo(&log)}), newFake(both(many)).lookup)
		r.Watch([]string{"db"})
		time.Sleep(time.Minute)
		r.Close()
		if n := strings.Count(log.String(), "too many addresses"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, log.String())
		}
	})
}

func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(both(got("10.0.0.1", 5*time.Minute)))
		r := start(ttls(Options{}), f.lookup)
		defer r.Close()
		r.Watch([]string{"db"})
		synctest.Wait()
		for range 35 { // 3.5 s of failing connects, ten a second
			r.Refresh("db")
			r.Refresh("unknown")
			time.Sleep(100 * time.Millisecond)
		}
		if want := []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}; !slices.Equal(f.times(), want) {
			t.Errorf("asked at %v, want %v", f.times(), want)
		}
		time.Sleep(10 * time.Second)
		n := f.count()
		r.Refresh("db")
		synctest.Wait()
		if f.count() != n+1 {
			t.Error("a refresh after a quiet time does not ask at once")
		}
	})
}

func TestRefreshDuringALookupIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(both(got("10.0.0.1", 5*time.Minute)))
		f.takes = 3 * time.Second
		r := start(ttls(Options{}), f.lookup)
		defer r.Close()
		r.Watch([]string{"db"})
		time.Sleep(time.Second)
		r.Refresh("db")
		time.Sleep(time.Minute)
		if f.count() != 1 {
			t.Errorf("asked at %v", f.times())
		}
	})
}

func TestRefreshOfAQueuedNameIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(both(got("10.0.0.1", 5*time.Minute)))
		f.takes = 3 * time.Second
		r := start(ttls(Options{}), f.lookup)
		defer r.Close()
		for range maxLookups {
			r.slots <- struct{}{}
		}
		r.Watch([]string{"db"})
		synctest.Wait()
		r.Refresh("db")
		<-r.slots
		time.Sleep(time.Minute)
		if f.count() != 1 {
			t.Errorf("asked at %v", f.times())
		}
	})
}

func TestHostsFileIsNoticedBeforeTTL(t *testing.T) {
	hosts := filepath.Join(t.TempDir(), "hosts")
	synctest.Test(t, func(t *testing.T) {
		write(t, hosts, "10.0.0.1 db\n")
		changes := 0
		r := New(Options{Hosts: hosts, OnChange: func() { changes++ }})
		defer r.Close()
		r.Watch([]string{"DB.", "10.0.0.7"})
		synctest.Wait()
		write(t, hosts, "10.0.0.1 db\n10.0.0.2 db\nfd00::1 db")
		time.Sleep(pollEvery)
		synctest.Wait()
		all := r.Answers()
		if got := all["DB."].Addrs; !slices.Equal(got, addrs("10.0.0.1 10.0.0.2 fd00::1")) {
			t.Errorf("got %v", got)
		}
		if got := all["10.0.0.7"].Addrs; !slices.Equal(got, addrs("10.0.0.7")) {
			t.Errorf("an address answers with %v", got)
		}
		synctest.Wait()
		if changes < 2 {
			t.Errorf("OnChange was called %d times", changes)
		}
	})
}

// Guards: a hosts entry that is added while name servers hang, and is noticed
// only a TTL later.
func TestChangedFileIsNoticedDuringALookup(t *testing.T) {
	hosts := filepath.Join(t.TempDir(), "hosts")
	synctest.Test(t, func(t *testing.T) {
		f := newFake(both(got("10.0.0.1", 5*time.Minute)))
		f.takes = 8 * time.Second
		r := start(ttls(Options{}), f.lookup)
		defer r.Close()
		r.wg.Go(func() { r.poll(newSources(hosts, hosts, nil), 0) })
		r.Watch([]string{"db"})
		time.Sleep(time.Second)
		write(t, hosts, "10.0.0.2 db\n")
		time.Sleep(time.Minute)
		if want := []time.Duration{0, 8 * time.Second}; !slices.Equal(f.times(), want) {
			t.Errorf("asked at %v, want %v", f.times(), want)
		}
	})
}
