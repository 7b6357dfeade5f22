package enginetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

func loadCases() []testCase {
	return []testCase{
		{"many applies under load", testAppliesUnderLoad},
		{"endpoints change under load", testEndpointsUnderLoad},
	}
}

// load are connections that are busy all the time, and others that come and go.
type load struct {
	r     *rig
	stop  atomic.Bool
	trips atomic.Int64 // round trips on the busy ones
	fresh atomic.Int64 // new connections that did their work
	done  chan error
}

// start puts load on at, behind which there is an echo.
func (r *rig) start(at netip.AddrPort, busy, coming int) *load {
	r.Helper()
	l := &load{r: r, done: make(chan error, 1)}
	conns := make([]*peer, busy)
	for i := range conns {
		conns[i] = r.dial(at)
		r.wantEcho(conns[i], "a connection")
	}
	r.wg.Go(func() {
		l.done <- parallel(busy+coming, func(i int) error {
			if i < busy {
				return l.work(conns[i], i)
			}
			return l.comeAndGo(at)
		})
	})
	return l
}

func (l *load) work(c *peer, i int) error {
	rng := rand.New(rand.NewPCG(uint64(i), 2))
	for !l.stop.Load() {
		payload := make([]byte, 1+rng.IntN(128<<10))
		payload[rng.IntN(len(payload))] = 1
		if err := c.ping(payload); err != nil {
			return fmt.Errorf("busy connection %d was cut: %w", i, err)
		}
		l.trips.Add(1)
	}
	return c.bye()
}

func (l *load) comeAndGo(at netip.AddrPort) error {
	for !l.stop.Load() {
		if err := l.r.once(at, []byte("hello")); err != nil {
			return fmt.Errorf("after %d good ones a new connection: %w", l.fresh.Load(), err)
		}
		l.fresh.Add(1)
	}
	return nil
}

// moved waits until both kinds of connections have done something since the last
// call, so that whatever was changed has met them.
func (l *load) moved() error {
	trips, fresh := l.trips.Load(), l.fresh.Load()
	for give := time.Now().Add(patience); l.trips.Load() == trips || l.fresh.Load() == fresh; time.Sleep(time.Millisecond) {
		if time.Now().After(give) {
			return errors.New("the load has come to a halt")
		}
	}
	return nil
}

func (l *load) end() error {
	l.stop.Store(true)
	return <-l.done
}

// testAppliesUnderLoad changes everything around a route, and its own settings,
// again and again.
func testAppliesUnderLoad(r *rig) {
	backend, second := r.serve(echo), r.serve(echo)
	at, moving := r.freePort(), r.freePorts(10)
	plans := func(i int) string {
		text := fmt.Sprintf("route: { listen: %q, idle_timeout: %ds, to: [%q, %q] }\n", at, 300+i, backend.addr, second.addr)
		for j := range i % 10 {
			text += fmt.Sprintf("other%d: { listen: %q, to: %q }\n", j, r.at(moving.Port()+uint16(j)), backend.addr)
		}
		return text
	}
	r.apply("%s", plans(0))
	l := r.start(at, 16, 4)
	for i := range 50 {
		r.down[second.addr.String()] = i%3 == 1
		r.apply("%s", plans(i))
		if i%5 == 0 {
			if err := l.moved(); err != nil {
				r.Error(err)
				break
			}
		}
	}
	if err := l.end(); err != nil {
		r.Error(err)
	}
	if testing.Verbose() {
		r.Logf("%d round trips and %d new connections during 50 applies", l.trips.Load(), l.fresh.Load())
	}
}

// testEndpointsUnderLoad moves a name from address to address. Connections to
// addresses that it has no longer must live.
func testEndpointsUnderLoad(r *rig) {
	all := r.place.server
	port := r.freePort().Port()
	for _, a := range all {
		r.serveOn(netip.AddrPortFrom(a, port), echo)
	}
	at := r.freePort()
	r.names["db.example"] = all
	p := r.plan(`route: { listen: %q, to: "db.example:%d" }`, at, port)
	r.applyPlan(p)
	l := r.start(at, 8, 4)
	for i := range 24 {
		r.names["db.example"] = all[i%len(all) : i%len(all)+1]
		if i%3 == 0 {
			r.names["db.example"] = all[:1+i%len(all)]
		}
		if change := r.applyPlan(r.with(p)); !change.Empty() {
			r.Errorf("new addresses change %+v", change)
		}
		if i%4 == 0 {
			if err := l.moved(); err != nil {
				r.Error(err)
				break
			}
		}
	}
	if err := l.end(); err != nil {
		r.Error(err)
	}
}
