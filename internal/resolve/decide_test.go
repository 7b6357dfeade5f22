package resolve

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// addrs parses addresses that are separated by spaces.
func addrs(text string) []netip.Addr {
	var list []netip.Addr
	for s := range strings.FieldsSeq(text) {
		list = append(list, netip.MustParseAddr(s))
	}
	return list
}

func got(text string, ttl time.Duration) family { return family{addrs: addrs(text), ttl: ttl} }

func bad(o outcome) family {
	word := map[outcome]string{noName: "NXDOMAIN", noAddrs: "empty", refused: "SERVFAIL", silent: "timeout"}[o]
	return family{outcome: o, err: errors.New(word)}
}

func TestMerge(t *testing.T) {
	for _, tt := range []struct {
		name       string
		old4, old6 string
		a, aaaa    family
		want4      string
		want6      string
		err        string
	}{
		{"first answer", "", "", got("10.0.0.1", 1), got("fd00::1", 1), "10.0.0.1", "fd00::1", ""},
		{"replaced", "10.0.0.1", "fd00::1", got("10.0.0.2", 1), got("fd00::2", 1), "10.0.0.2", "fd00::2", ""},
		{"AAAA records removed", "10.0.0.1", "fd00::1", got("10.0.0.1", 1), bad(noAddrs), "10.0.0.1", "", ""},
		{"A records removed", "10.0.0.1", "fd00::1", bad(noAddrs), got("fd00::1", 1), "", "fd00::1", ""},
		{"NXDOMAIN for one type is believed as empty", "10.0.0.1", "fd00::1", got("10.0.0.1", 1), bad(noName), "10.0.0.1", "", ""},
		{"AAAA fails, old ones stay", "10.0.0.1", "fd00::1", got("10.0.0.2", 1), bad(silent), "10.0.0.2", "fd00::1", "AAAA: timeout"},
		{"A fails, old ones stay", "10.0.0.1", "fd00::1", bad(refused), got("fd00::2", 1), "10.0.0.1", "fd00::2", "A: SERVFAIL"},
		{"AAAA fails, there were none", "10.0.0.1", "", got("10.0.0.2", 1), bad(silent), "10.0.0.2", "", ""},
		{"NXDOMAIN never empties", "10.0.0.1", "fd00::1", bad(noName), bad(noName), "10.0.0.1", "fd00::1", "NXDOMAIN"},
		{"empty never empties", "10.0.0.1", "", bad(noAddrs), bad(noAddrs), "10.0.0.1", "", "empty"},
		{"all fails", "10.0.0.1", "fd00::1", bad(silent), bad(silent), "10.0.0.1", "fd00::1", "timeout"},
		{"empty and failed keeps both", "10.0.0.1", "fd00::1", bad(noAddrs), bad(silent), "10.0.0.1", "fd00::1", "timeout"},
		{"never known", "", "", bad(noName), bad(noName), "", "", "NXDOMAIN"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old := [2][]netip.Addr{addrs(tt.old4), addrs(tt.old6)}
			kept, err := merge(old, [2]family{tt.a, tt.aaaa})
			want := [2][]netip.Addr{addrs(tt.want4), addrs(tt.want6)}
			if !reflect.DeepEqual(kept, want) || text(err) != tt.err {
				t.Errorf("got %v, %q; want %v, %q", kept, text(err), want, tt.err)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	for n, want := range map[int]time.Duration{
		1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 8 * time.Second,
		5: 16 * time.Second, 6: 30 * time.Second, 7: 30 * time.Second, 1 << 40: 30 * time.Second,
	} {
		if d := backoff(n, 0); d != want {
			t.Errorf("failure %d: %v, want %v", n, d, want)
		}
		if d := backoff(n, 0.999); d < want*3/4 || d >= want {
			t.Errorf("failure %d with jitter: %v, want within a quarter below %v", n, d, want)
		}
	}
}

func TestPauseAfter(t *testing.T) {
	lim := limits{minTTL: 2 * time.Second, maxTTL: time.Minute}
	for _, tt := range []struct {
		name    string
		a, aaaa family
		fails   int
		want    time.Duration
	}{
		{"the lesser TTL", got("10.0.0.1", 20*time.Second), got("fd00::1", 10*time.Second), 0, 10 * time.Second},
		{"only the family with addresses counts", got("10.0.0.1", 20*time.Second), bad(noAddrs), 0, 20 * time.Second},
		{"TTL 0", got("10.0.0.1", 0), bad(noAddrs), 0, 2 * time.Second},
		{"TTL too long", got("10.0.0.1", time.Hour), bad(noAddrs), 0, time.Minute},
		{"all failed", bad(silent), bad(silent), 2, 2 * time.Second},
		{"one family failed, back-off is sooner", got("10.0.0.1", time.Minute), bad(silent), 3, 4 * time.Second},
		{"one family failed, TTL is sooner", got("10.0.0.1", 5*time.Second), bad(silent), 9, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := result{fam: [2]family{tt.a, tt.aaaa}}
			if d := pauseAfter(res, tt.fails, lim, 0); d != tt.want {
				t.Errorf("%v, want %v", d, tt.want)
			}
		})
	}
}

func TestSpread(t *testing.T) {
	for _, tt := range []struct {
		ttl  time.Duration
		u    float64
		want time.Duration
	}{
		{10 * time.Second, 0, 10 * time.Second},
		{10 * time.Second, 0.5, 10500 * time.Millisecond},
		{time.Hour, 0.5, time.Hour + 2500*time.Millisecond},
	} {
		if d := spread(tt.ttl, tt.u); d != tt.want {
			t.Errorf("spread(%v, %v) = %v, want %v", tt.ttl, tt.u, d, tt.want)
		}
	}
}

func TestTidyKeepsTheLowest(t *testing.T) {
	var many []netip.Addr
	for i := 99; i >= 0; i-- {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		many = append(many, a, a)
	}
	kept, cut := tidy(many)
	if !cut || len(kept) != maxAddrs || kept[0] != many[len(many)-1] && kept[0].String() != "10.0.0.0" {
		t.Errorf("kept %d from %v, cut %v", len(kept), kept[0], cut)
	}
	if last := kept[maxAddrs-1].String(); last != "10.0.0.63" {
		t.Errorf("the last kept is %s, want 10.0.0.63", last)
	}
}

func TestFixed(t *testing.T) {
	res := fixed(addrs("10.0.0.2 ::ffff:10.0.0.1 fd00::1 0.0.0.0 224.0.0.1 255.255.255.255 :: ff02::1"), "", time.Minute)
	s := state{}.after(res, time.Now(), limits{time.Second, time.Hour}, 0)
	if want := addrs("10.0.0.1 10.0.0.2 fd00::1"); !reflect.DeepEqual(s.answer.Addrs, want) || s.answer.Err != nil {
		t.Errorf("got %v, %v; want %v", s.answer.Addrs, s.answer.Err, want)
	}
	s = state{name: "ads"}.after(fixed(addrs("0.0.0.0 ::"), " from /etc/hosts", time.Minute), time.Now(), limits{}, 0)
	if got, want := text(s.answer.Err), "ads: only unusable addresses (0.0.0.0 from /etc/hosts)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A name goes through good, partly failed, failed and good again.
func TestStateAfter(t *testing.T) {
	lim := limits{time.Second, time.Minute}
	t0 := time.Unix(1e9, 0)
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	s := state{name: "db"}
	for i, step := range []struct {
		a, aaaa family
		addrs   string
		err     string
		since   time.Time
		pause   time.Duration
	}{
		{bad(silent), bad(silent), "", "db: timeout", time.Time{}, time.Second},
		{got("10.0.0.1", 20*time.Second), got("fd00::1", 9*time.Second), "10.0.0.1 fd00::1", "", at(1), 9 * time.Second},
		{got("10.0.0.2", 20*time.Second), bad(refused), "10.0.0.2 fd00::1", "db: AAAA: SERVFAIL", at(1), time.Second},
		{bad(noName), bad(noName), "10.0.0.2 fd00::1", "db: NXDOMAIN", at(1), 2 * time.Second},
		{bad(noAddrs), bad(silent), "10.0.0.2 fd00::1", "db: timeout", at(1), 4 * time.Second},
		{got("10.0.0.3", 0), bad(noAddrs), "10.0.0.3", "", at(5), time.Second},
	} {
		s = s.after(result{fam: [2]family{step.a, step.aaaa}}, at(i), lim, 0)
		want := Answer{Addrs: addrs(step.addrs), Err: s.answer.Err, Since: step.since, Next: at(i).Add(step.pause)}
		if !reflect.DeepEqual(s.answer, want) || text(s.answer.Err) != step.err {
			t.Errorf("step %d: got %+v\nwant %+v and error %q", i, s.answer, want, step.err)
		}
	}
}
