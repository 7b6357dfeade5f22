package health

import (
	"testing"
	"time"

	"midspan/internal/plan"
)

// In these scripts + is a test that passed, - one that failed, x a connect of
// the data path that failed and o one that worked. The verdict after each is U
// or D.
func TestNext(t *testing.T) {
	for _, c := range []struct {
		name          string
		start         verdict
		rise, fall    int
		script, wants string
	}{
		{"new, first test fails", fresh(), 2, 3, "-", "D"},
		{"new, first test passes", fresh(), 2, 3, "+--", "UUU"},
		{"falls after fall", verdict{up: true}, 2, 3, "---", "UUD"},
		{"a success clears the run", verdict{up: true}, 2, 3, "--+--+---", "UUUUUUUUD"},
		{"never two in a row", verdict{up: true}, 2, 2, "-+-+-+-+-+", "UUUUUUUUUU"},
		{"rises after rise", verdict{}, 3, 3, "+++", "DDU"},
		{"a failure clears the rise", verdict{}, 2, 3, "+-++", "DDDU"},
		{"after a fall, rise counts from nothing", verdict{up: true}, 2, 2, "--++--", "UDDUUD"},
		{"rise and fall of one", verdict{up: true}, 1, 1, "-+-+", "DUDU"},
		{"failed connects count", verdict{up: true}, 2, 3, "xxx", "UUD"},
		{"failed connects and tests add up", verdict{up: true}, 2, 3, "x-x", "UUD"},
		{"a connect that works takes connects back", verdict{up: true}, 2, 3, "xxoxxoxxx", "UUUUUUUUD"},
		{"but not tests", verdict{up: true}, 2, 3, "-xo--", "UUUUD"},
		{"a connect brings nothing back", verdict{}, 1, 3, "ooo+", "DDDU"},
		{"connects are no trial", fresh(), 2, 3, "x+xx-", "UUUUD"},
		{"connects do not end the trial", fresh(), 2, 3, "xo-", "UUD"},
		{"enough connects end it", fresh(), 2, 2, "xx", "UD"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, got := c.start, ""
			for _, step := range c.script {
				switch step {
				case '+', '-':
					v = next(v, step == '+', c.rise, c.fall)
				case 'x':
					v = failedConnect(v, c.rise, c.fall)
				case 'o':
					v = worked(v)
				}
				got += map[bool]string{true: "U", false: "D"}[v.up]
				if v.reported < 0 || v.reported > v.run {
					t.Fatalf("after %s: %d reported of a run of %d", c.script[:len(got)], v.reported, v.run)
				}
			}
			if got != c.wants {
				t.Errorf("%s gives %s, want %s", c.script, got, c.wants)
			}
		})
	}
}

func TestCoolDown(t *testing.T) {
	last := time.Duration(0)
	for i, want := range []time.Duration{5, 10, 20, 40, 40, 40} {
		last = coolDown(last, 5*time.Second)
		if last != want*time.Second {
			t.Errorf("cool-down %d is %s, want %s", i+1, last, want*time.Second)
		}
	}
}

func TestPause(t *testing.T) {
	for _, c := range []struct {
		u           float64
		first, wait time.Duration
	}{
		{0, 0, 9 * time.Second},
		{0.5, 250 * time.Millisecond, 10 * time.Second},
		{1, 500 * time.Millisecond, 11 * time.Second},
	} {
		if got := pause(10*time.Second, c.u); got != c.wait {
			t.Errorf("pause with jitter %v is %s, want %s", c.u, got, c.wait)
		}
		if got := firstPause(10*time.Second, c.u); got != c.first {
			t.Errorf("first pause with jitter %v is %s, want %s", c.u, got, c.first)
		}
	}
	if got := firstPause(20*time.Millisecond, 1); got != 20*time.Millisecond {
		t.Errorf("first pause is %s, want at most `every`", got)
	}
}

func TestFilled(t *testing.T) {
	got := filled(plan.Check{Kind: plan.CheckTCP})
	want := plan.Check{
		Kind: plan.CheckTCP, Every: plan.Duration(5 * time.Second), Timeout: plan.Duration(5 * time.Second), Rise: 1, Fall: 1,
	}
	if got != want {
		t.Errorf("filled is %+v, want %+v", got, want)
	}
	if got := filled(want); got != want {
		t.Errorf("filled changes a full check to %+v", got)
	}
}
