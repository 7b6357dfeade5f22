package enginetest

import (
	"fmt"
	"net/netip"
	"time"

	"midspan/internal/engine"
)

func limitCases() []testCase {
	return []testCase{
		{"max_connections of a server", testServerLimit},
		{"max_connections of a route", func(r *rig) {
			testWaiting(r, "route: { listen: %q, max_connections: 2, to: %q }")
		}},
		{"max_connections of a route, when_full: reset", testRouteLimitReset},
		{"max_connections of all", func(r *rig) {
			testWaiting(r, "max_connections: 2\nroute: { listen: %q, to: %q }")
		}},
	}
}

func testServerLimit(r *rig) {
	at := r.freePort()
	servers := r.serveNames("ab")
	r.apply("route: { listen: %q, connect_timeout: 500ms, to: %s }", at, to(servers, "max_connections: 1", "max_connections: 2"))
	held := map[string][]*peer{}
	for range 3 {
		name, p := r.who(at)
		held[name] = append(held[name], p)
	}
	if len(held["a"]) != 1 || len(held["b"]) != 2 {
		r.Fatalf("3 connections went %d to a and %d to b, want 1 and 2", len(held["a"]), len(held["b"]))
	}
	r.inTime("with all servers full, a reset", 0, 500*time.Millisecond+2*time.Second, func() time.Duration {
		how, after, client := r.ends(at)
		if !r.turnedAway(how) {
			r.Errorf("with all servers full the client sees: %s; want a reset", how)
		}
		if client.IsValid() {
			r.endsFor(client, engine.ServersFull)
		}
		return after
	})
	if err := held["b"][0].bye(); err != nil {
		r.Fatal(err)
	}
	r.until("the engine knows of the end", func() bool { return len(r.engine.Conns()) == 2 })
	if name, _ := r.who(at); name != "b" {
		r.Errorf("the new connection went to %s, want b, which has room", name)
	}
}

// testWaiting has two connections where two are allowed. The third is made, as
// the kernel's queue takes it, but gets nowhere until one of the two ends.
func testWaiting(r *rig, format string) {
	backend := r.serveNames("a")[0]
	at := r.freePort()
	r.apply(format, at, backend.addr)
	_, first := r.who(at)
	r.who(at)
	answer := make(chan error, 1)
	began := time.Now()
	r.wg.Go(func() { answer <- r.asks(at) })
	select {
	case err := <-answer:
		r.Fatalf("the third connection did not wait: %v", err)
	case <-time.After(300 * time.Millisecond): // a time in which it would have got through
	}
	if n := backend.accepted.Load(); n != 2 {
		r.Errorf("%d connections came to the server, want 2", n)
	}
	if err := first.bye(); err != nil {
		r.Fatal(err)
	}
	select {
	case err := <-answer:
		if err != nil {
			r.Errorf("the third connection: %v", err)
		}
	case <-time.After(patience):
		r.Fatalf("the third connection still waits %s after there was room", time.Since(began))
	}
}

// testRouteLimitReset has two connections where two are allowed: others are turned
// away at once, and get in when there is room.
func testRouteLimitReset(r *rig) {
	backend := r.serveNames("a")[0]
	at := r.freePort()
	r.apply("route: { listen: %q, max_connections: 2, when_full: reset, to: %q }", at, backend.addr)
	_, first := r.who(at)
	r.who(at)
	r.wantTurnedAway(at, engine.RouteLimit)
	r.until("those turned away are in Status", func() bool {
		c := r.engine.Status().Routes[0].Counters
		return c.Ended[engine.RouteLimit] == turnedAwayTries && c.Accepted == 2+turnedAwayTries && c.Active == 2
	})
	if n := backend.accepted.Load(); n != 2 {
		r.Errorf("%d connections came to the server, want 2", n)
	}
	if err := first.bye(); err != nil {
		r.Fatal(err)
	}
	r.until("the engine knows of the end", func() bool { return len(r.engine.Conns()) == 1 })
	r.who(at)
}

// asks makes a connection to a server that says its name.
func (r *rig) asks(at netip.AddrPort) error {
	p, err := r.connect(at)
	if err != nil {
		return err
	}
	var letter [1]byte
	if _, err := p.Read(letter[:]); err != nil {
		return fmt.Errorf("instead of a name: %s", fate(err))
	}
	return p.bye()
}
