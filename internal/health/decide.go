package health

import (
	"time"

	"midspan/internal/plan"
)

const (
	maxSpread   = 500 * time.Millisecond // of first tests, so that a start is no burst
	maxCoolDown = 8                      // times Check.Every
)

// verdict is what the results until now say of a target.
type verdict struct {
	up    bool
	trial bool // up, but one failure is enough
	run   int  // results in a row that speak against up

	// reported is how many of run are failed connects of the data path, and not
	// tests.
	reported int
}

// fresh is the verdict on a target of which nothing is known.
func fresh() verdict { return verdict{up: true, trial: true} }

// next is the verdict after one more result. Only consecutive results count: one
// that agrees with the verdict clears the run.
func next(v verdict, ok bool, rise, fall int) verdict {
	if ok == v.up {
		return verdict{up: v.up}
	}
	need := fall
	switch {
	case ok:
		need = rise
	case v.trial:
		need = 1
	}
	if v.run+1 >= need {
		return verdict{up: ok}
	}
	v.run++
	return v
}

// failedConnect is next for a connect of the data path that failed. It is no
// trial: that is for the first test, which is due within maxSpread.
func failedConnect(v verdict, rise, fall int) verdict {
	trial := v.trial
	v.trial = false
	n := next(v, false, rise, fall)
	if n.up {
		n.trial = trial
		n.reported++
	}
	return n
}

// worked is the verdict after a connect of the data path that worked. It takes
// back what failed connects counted, and nothing else: a server that refuses an
// HTTP test still accepts connects, and must go down all the same. A target that
// is down stays down, because only tests bring it back.
func worked(v verdict) verdict {
	if v.up {
		v.run -= v.reported
		v.reported = 0
	}
	return v
}

// coolDown is how long a target without active tests stays down, after it was
// down for last the time before; 0: it was not.
func coolDown(last, every time.Duration) time.Duration {
	if last == 0 {
		return every
	}
	return min(2*last, maxCoolDown*every)
}

// pause is the time between the starts of two tests: every, give or take a
// tenth, so that the tests of many VMs do not go in step. u in [0,1) is the
// jitter.
func pause(every time.Duration, u float64) time.Duration {
	return every - every/10 + time.Duration(u*float64(every/5))
}

// firstPause is the time until the first test of a new target.
func firstPause(every time.Duration, u float64) time.Duration {
	return time.Duration(u * float64(min(every, maxSpread)))
}

// filled is c with a sensible value wherever it has none, as plan.New sets them.
func filled(c plan.Check) plan.Check {
	if c.Every <= 0 {
		c.Every = plan.Duration(5 * time.Second)
	}
	if c.Timeout <= 0 {
		c.Timeout = min(c.Every, plan.Duration(5*time.Second))
	}
	c.Rise, c.Fall = max(c.Rise, 1), max(c.Fall, 1)
	return c
}
