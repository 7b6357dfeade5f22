// Package enginetest is the suite of behaviour that every engine must pass. It
// gives an engine plans, drives real TCP connections through it, and compares
// what both ends see with what they see of each other over a direct connection:
// the contract of package engine is "as if nothing stood in between", and here
// it is said in bytes.
//
// Only _test files import it:
//
//	func TestMain(m *testing.M) {
//		os.Exit(netns.Alone(m.Run))
//	}
//
//	func TestEngine(t *testing.T) {
//		enginetest.Run(t, enginetest.Engine{
//			Kind:  plan.Relay,
//			Place: enginetest.Machines(t),
//			New:   func(t *testing.T, h engine.Hooks) engine.Engine { … },
//		})
//	}
//
// A Place says where clients, the engine and servers are: Loopback, for which no
// TestMain is needed, or Machines, without which an engine that translates
// addresses has nothing to do.
//
// What package plan says that the kind of engine does not carry is not asked of
// it: cases that need it are not run, and where engines differ in what a client
// sees or a counter says, the suite wants of each what it can do. All of that is
// in differences.go.
//
// After every case the process must have the open files and the goroutines that
// it had before. With -short, or the race detector, the amounts are smaller. With
// MIDSPAN_SLOW in the environment stalls last 10 s and not 2 s.
//
// Limits: all traffic is inside one kernel, so there is no loss and no delay
// unless a case makes it, and on loopback no packet below 64 KiB; the reasons
// "client lost", "server lost" and "out of resources" are not provoked; keepalive
// and user timeout are not looked at, nor is UDP; warm connections are left to
// the engine's own tests. No two suites may run in one process at once.
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

const (
	// Both are long, so that a machine with other work is not taken for an engine
	// that is broken.
	caseLimit = 3 * time.Minute  // for a case as a whole; its sockets give up before
	patience  = 30 * time.Second // for what happens soon unless something is broken
)

// Engine is what Run holds to the contract.
type Engine struct {
	Kind  plan.Engine // whose column in plan's table of who carries what holds for it
	Place *Place
	Lacks []plan.Feature // what its kind carries and it does not
	// New makes one with the hooks given; the suite closes it.
	New func(t *testing.T, hooks engine.Hooks) engine.Engine
}

// Run holds the engines that e makes to the contract.
func Run(t *testing.T, e Engine) {
	warmUp(t, e.Place)
	for _, c := range allCases(e.Place) {
		lacks := func(f plan.Feature) bool { return slices.Contains(e.Lacks, f) }
		if c.carriedBy(e.Kind) && !slices.ContainsFunc(c.needs(), lacks) {
			t.Run(c.name, func(t *testing.T) { c.run(t, e) })
		}
	}
}

func allCases(p *Place) []testCase {
	return slices.Concat(
		transferCases(), stallCases(), edgeCases(), upstreamCases(), familyCases(p), balanceCases(), limitCases(),
		applyCases(), allowCases(p), downCases(p), loadCases(), endingCases(), reportCases(),
		proxyCases(), sendProxyCases(), consumerCases(), sniCases(), kafkaCases(),
	)
}

type testCase struct {
	name string // see needs
	test func(r *rig)
}

// run is one case with all that surrounds it.
func (c testCase) run(t *testing.T, e Engine) {
	watchdog := time.AfterFunc(caseLimit, func() {
		stacks := make([]byte, 1<<20)
		panic(fmt.Sprintf("enginetest: %q still runs after %s\n%s", c.name, caseLimit, stacks[:runtime.Stack(stacks, true)]))
	})
	// Cleanups run in the reverse order, and also after Fatal or Skip.
	t.Cleanup(func() { watchdog.Stop() })
	before := count()
	t.Cleanup(func() { checkLeaks(t, before) })
	r := &rig{
		T:        t,
		kind:     e.Kind,
		place:    e.Place,
		log:      &log{},
		names:    map[string][]netip.Addr{},
		down:     map[string]bool{},
		deadline: time.Now().Add(caseLimit - 2*patience),
		open:     map[io.Closer]bool{},
		ports:    map[uint16]bool{},
	}
	t.Cleanup(r.finish)
	r.newEngine = func(h engine.Hooks) engine.Engine { return e.New(t, h) }
	r.engine = r.newEngine(engine.Hooks{Dial: r.log.dial, Record: r.log.record, Node: r.log.node})
	c.test(r)
}

// rig is an engine with the clients and servers around it.
type rig struct {
	*testing.T
	kind      plan.Engine
	place     *Place
	engine    engine.Engine
	newEngine func(engine.Hooks) engine.Engine
	log       *log

	names map[string][]netip.Addr // what host names stand for
	down  map[string]bool         // servers, by name or address, that are not up

	deadline time.Time // of every socket
	wg       sync.WaitGroup
	mu       sync.Mutex // guards what follows
	open     map[io.Closer]bool
	finished bool            // what opens now is closed at once
	ports    map[uint16]bool // given out by freePorts
}

// finish closes the engine and all that the case has left open. The engine goes
// first: it must cope with connections that live.
func (r *rig) finish() {
	if r.engine != nil {
		r.closeEngine()
	}
	r.mu.Lock()
	r.finished = true
	for c := range r.open {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

func (r *rig) closeEngine() {
	e := r.engine
	r.engine = nil
	if e == nil {
		return
	}
	if n := e.Status().Panics; n > 0 {
		r.Errorf("%d connections ended by a panic", n)
	}
	if err := e.Close(); err != nil {
		r.Errorf("Close: %v", err)
	}
}

// keep makes finish close c.
func (r *rig) keep(c io.Closer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.finished {
		c.Close()
		return
	}
	r.open[c] = true
}

func (r *rig) drop(c io.Closer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
}

// until waits for something that is to happen soon.
func (r *rig) until(what string, happened func() bool) {
	r.Helper()
	for give := time.Now().Add(patience); !happened(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(give) {
			r.Fatalf("after %s still not so: %s", patience, what)
		}
	}
}

// inTime has work measured until it takes no longer than most, some times at the
// most: a machine with other work makes anything late now and then, what is broken
// is late each time. It must never take less than least.
func (r *rig) inTime(what string, least, most time.Duration, work func() time.Duration) {
	r.Helper()
	const tries = 5
	fastest := time.Hour
	for range tries {
		took := work()
		if took < least {
			r.Errorf("%s after %s, want at least %s", what, took, least)
			return
		}
		if fastest = min(fastest, took); fastest <= most {
			return
		}
	}
	r.Errorf("%s after %s at the fastest, want at most %s", what, fastest, most)
}

// parallel runs n workers and gives the first errors, should there be any.
func parallel(n int, work func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = work(i) })
	}
	wg.Wait()
	some := make([]error, 0, 5)
	for _, err := range errs {
		if err != nil && len(some) < cap(some) {
			some = append(some, err)
		}
	}
	return errors.Join(some...)
}

// together is parallel for work of several kinds.
func together(work ...func() error) error {
	return parallel(len(work), func(i int) error { return work[i]() })
}

// apply applies a plan with the routes given (see plan) and must succeed.
func (r *rig) apply(format string, args ...any) engine.Change {
	r.Helper()
	return r.applyPlan(r.plan(format, args...))
}

func (r *rig) applyPlan(p *plan.Plan) engine.Change {
	r.Helper()
	change, err := r.engine.Apply(context.Background(), p)
	if err != nil {
		r.Fatalf("Apply: %v", err)
	}
	return change
}

// census is what may not grow from case to case.
type census struct{ files, goroutines int }

func count() census {
	files, _ := os.ReadDir("/proc/self/fd")
	return census{len(files), runtime.NumGoroutine()}
}

func checkLeaks(t *testing.T, before census) {
	var after census
	for give := time.Now().Add(patience); time.Now().Before(give); time.Sleep(5 * time.Millisecond) {
		if after = count(); after.files <= before.files && after.goroutines <= before.goroutines {
			return
		}
	}
	if after.files > before.files {
		t.Errorf("%d open files, %d before the case: %v", after.files, before.files, openFiles())
	}
	if after.goroutines > before.goroutines {
		stacks := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before the case\n%s", after.goroutines, before.goroutines, stacks[:runtime.Stack(stacks, true)])
	}
}

func openFiles() (names []string) {
	files, _ := os.ReadDir("/proc/self/fd")
	for _, f := range files {
		if name, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil {
			names = append(names, f.Name()+" "+name)
		}
	}
	return names
}

// warmUp makes the runtime open what it keeps for ever (its epoll descriptor).
func warmUp(t *testing.T, p *Place) {
	l, err := listenIn(p.servers, netip.AddrPortFrom(p.server[0], 0))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
