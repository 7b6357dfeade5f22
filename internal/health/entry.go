package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"midspan/internal/plan"
)

// entry is one target under test. Monitor.mu guards it, but for target and
// check, which do not change.
type entry struct {
	target Target
	check  plan.Check // target.Check, filled
	stop   context.CancelFunc

	gone    bool // results that come now are too late
	verdict verdict
	known   State // but for what verdict knows

	late     bool          // the newest failure of the data path was after the connect
	counted  time.Time     // newest failed connect that counted
	coolDown time.Duration // the newest one; 0: none since a connect worked
	back     *time.Timer   // ends the cool-down
}

// enter begins the tests of a new target. The caller holds m.mu.
func (m *Monitor) enter(t Target) *entry {
	ctx, stop := context.WithCancel(m.ctx)
	e := &entry{
		target:  t,
		check:   filled(t.Check),
		stop:    stop,
		verdict: fresh(),
		known:   State{Target: t, Since: time.Now()},
	}
	if e.active() {
		m.wg.Go(func() { m.keep(ctx, e) })
	} else {
		// There is no test to fail, so there is nothing to be tried by.
		e.verdict.trial = false
	}
	return e
}

// active tells whether tests decide, and not only the connects of the data path.
func (e *entry) active() bool { return e.check.Kind != plan.CheckOff && e.check.Kind != "" }

// forget ends the tests of e. The caller holds Monitor.mu.
func (e *entry) forget() {
	e.gone = true
	e.stop()
	if e.back != nil {
		e.back.Stop()
	}
}

func (e *entry) state() State {
	s := e.known
	s.Up, s.Trial = e.verdict.up, e.verdict.trial
	if s.Up {
		s.Failures = e.verdict.run
	}
	return s
}

// keep tests e until ctx ends.
func (m *Monitor) keep(ctx context.Context, e *entry) {
	every, timeout := e.check.Every.D(), e.check.Timeout.D()
	wait := firstPause(every, rand.Float64())
	for sleep(ctx, wait) {
		select {
		case m.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		test, cancel := context.WithTimeout(ctx, timeout)
		latency, err := m.probe(test, e.target)
		cancel()
		<-m.slots
		m.tested(e, began, latency, err)
		wait = time.Until(began.Add(pause(every, rand.Float64())))
	}
}

// sleep tells whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// tested takes in the result of an active test.
func (m *Monitor) tested(e *entry, began time.Time, latency time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.gone {
		return
	}
	if ownShortage(err) {
		return // it says nothing about the server
	}
	e.known.Checked, e.known.LastCheck, e.known.LastError = true, began, ""
	e.known.Tests++
	if err == nil {
		e.known.Latency = latency
	} else {
		e.known.Failed++
		e.known.LastError = err.Error()
	}
	m.settle(e, next(e.verdict, err == nil, e.check.Rise, e.check.Fall))
}

// ownShortage tells whether a test failed for want of something on this machine.
func ownShortage(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Report tells of a connect of the data path to addr: it failed with err, or
// worked, after others had failed. It counts for every target with t's Addr.
//
// With late, err is of what follows on the TCP connect, and counts only for the
// targets that have t's Path; as do connects that work after such a failure.
//
// For a target with active tests a failure counts as a failed test, but at most
// one in a tenth of Check.Every: what many connections see in one instant is one
// observation. Only tests bring it back.
func (m *Monitor) Report(t Target, err error, late bool) {
	t = t.Key()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.byAddr[t.Addr] {
		if e.gone || !e.sharesPath(t) && (late || err == nil && e.late) {
			continue
		}
		if late || err == nil {
			e.late = late
		}
		if e.active() {
			m.reportActive(e, err)
		} else {
			m.reportPassive(e, err)
		}
	}
}

// sharesPath tells whether connections to both go alike after the TCP connect.
// The server's name matters only where the certificate must have it.
func (e *entry) sharesPath(t Target) bool {
	tls := t.Path.TLS
	return e.target.Path == t.Path && (!tls.On || tls.Name != "" || e.target.Host == t.Host)
}

func (m *Monitor) reportActive(e *entry, err error) {
	if err == nil {
		e.verdict = worked(e.verdict)
		return
	}
	now := time.Now()
	if !e.verdict.up || (!e.counted.IsZero() && now.Sub(e.counted) < e.check.Every.D()/10) {
		return
	}
	e.counted = now
	e.known.LastError = connectWords(err)
	m.settle(e, failedConnect(e.verdict, e.check.Rise, e.check.Fall))
}

// reportPassive is for a target without active tests: every failure counts, and
// one connect that works clears all.
func (m *Monitor) reportPassive(e *entry, err error) {
	if err == nil {
		e.coolDown = 0
		e.known.LastError = ""
		m.settle(e, verdict{up: true})
		return
	}
	e.known.LastError = connectWords(err)
	m.settle(e, next(e.verdict, false, 1, e.check.Fall))
}

// tryAgain ends the cool-down of e.
func (m *Monitor) tryAgain(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !e.gone && !e.verdict.up {
		m.settle(e, fresh())
	}
}

// settle makes v the verdict on e and tells of a change. The caller holds m.mu.
func (m *Monitor) settle(e *entry, v verdict) {
	was := e.verdict
	e.verdict = v
	if was.up == v.up {
		return
	}
	e.known.Since = time.Now()
	switch {
	case !v.up:
		m.log.Warn(fmt.Sprintf("server %s is down: %s (%s)", e.target.Addr, e.known.LastError, failures(was.run+1)), e.which()...)
		if !e.active() {
			e.coolDown = coolDown(e.coolDown, e.check.Every.D())
			e.back = time.AfterFunc(e.coolDown, func() { m.tryAgain(e) })
		}
	case v.trial:
		m.log.Info(fmt.Sprintf("server %s is up (on trial after %s)", e.target.Addr, e.coolDown), e.which()...)
	default:
		if e.back != nil {
			e.back.Stop()
		}
		m.log.Info(fmt.Sprintf("server %s is up", e.target.Addr), e.which()...)
	}
	select {
	case m.change <- struct{}{}:
	default:
	}
}

// which are the attributes that tell the targets of one address apart.
func (e *entry) which() []any {
	kind := e.check.Kind
	if !e.active() {
		kind = plan.CheckOff
	}
	which := []any{"check", string(kind)}
	for _, one := range [][2]string{{"path", e.check.Path}, {"host", cmp.Or(e.check.Host, e.target.Host)}, {"tls", e.tlsText()}} {
		if one[1] != "" {
			which = append(which, one[0], one[1])
		}
	}
	return which
}

// tlsText is the name that a route which encrypts asks for; "": it does not.
func (e *entry) tlsText() string {
	t := e.target.Path.TLS
	if !t.On {
		return ""
	}
	return cmp.Or(t.Name, e.target.Host, "on")
}

func failures(n int) string {
	if n == 1 {
		return "1 failure"
	}
	return fmt.Sprintf("%d failures", n)
}
