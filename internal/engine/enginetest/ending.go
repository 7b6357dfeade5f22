package enginetest

import (
	"fmt"
	"time"

	"midspan/internal/engine"
)

func endingCases() []testCase {
	return []testCase{
		{"idle_timeout", testIdleTimeout},
		{"fin_timeout", testFinTimeout},
		{"end of a flow after a long rest", testEndAfterRest},
		{"kill", testKill},
		{"close", testClose},
		{"close while connecting", testCloseConnecting},
	}
}

// testEndAfterRest has a connection that rests for longer than fin_timeout before
// one side ends its flow: the other still has that time to answer.
func testEndAfterRest(r *rig) {
	backend := r.serve(nil)
	client, server := r.pair(r.route(", fin_timeout: 2s", backend), backend)
	time.Sleep(shortest + shortest/2)
	client.CloseWrite()
	if g := server.all(); g != (got{0, "end"}) {
		r.Fatalf("the server sees: %s; want the end of the flow", g)
	}
	time.Sleep(shortest / 8)
	server.send(1000)
	server.Close()
	if g := client.all(); g != (got{1000, "end"}) {
		r.Errorf("the client sees: %s; want the answer and its end", g)
	}
	r.endsFor(client.local, engine.ClosedByClient)
}

// The timeouts of the plans here are short, and yet long beside what a busy
// machine makes of a sleep. An engine may look at its clock in steps.
const (
	shortest = 2 * time.Second
	step     = 5 * time.Second
	beats    = 28 // signs of life, so often that a slow machine does not miss the timeout
	beat     = shortest / 16
)

// testIdleTimeout has one connection on which nothing moves, and two on which a
// byte moves, one in each direction, within each timeout.
func testIdleTimeout(r *rig) {
	backend := r.serve(nil)
	at := r.route(", idle_timeout: 2s", backend)
	began := time.Now() // before the connection: the engine may look at it before we do
	idle, idleServer := r.pair(at, backend)
	up, upServer := r.pair(at, backend)
	down, downServer := r.pair(at, backend)

	type ending struct {
		how   got
		after time.Duration
	}
	cut := make(chan ending, 1)
	r.wg.Go(func() { g := idle.all(); cut <- ending{g, time.Since(began)} })
	for range beats {
		time.Sleep(beat)
		up.send(1)
		downServer.send(1)
	}
	select {
	case e := <-cut:
		if e.how != (got{0, "reset"}) || e.after < shortest-r.idleStep()-50*time.Millisecond || e.after > shortest+step {
			r.Errorf("the idle connection: %s after %s; want a reset after %s", e.how, e.after, shortest)
		}
	case <-time.After(step):
		r.Fatalf("the idle connection is not cut after %s", time.Since(began))
	}
	if g := idleServer.all(); g != (got{0, "reset"}) {
		r.Errorf("the server of the idle connection sees: %s; want a reset", g)
	}
	r.endsFor(idle.local, engine.IdleTimeout)
	for _, p := range []*peer{upServer, down} {
		if g := p.get(beats); g != (got{beats, ""}) {
			r.Errorf("on a connection that is not idle there came %s, want %d bytes", g, beats)
		}
	}
	up.Close()
	down.Close()
}

// testFinTimeout has two connections that the client has ended. On one the
// server goes on sending, which is no reason to cut it.
func testFinTimeout(r *rig) {
	backend := r.serve(nil)
	at := r.route(", fin_timeout: 2s", backend)
	open, openServer := r.pair(at, backend)
	quiet, quietServer := r.pair(at, backend)
	began := time.Now()
	quiet.CloseWrite()
	slow, slowServer := r.pair(at, backend)
	slow.CloseWrite()
	for range beats {
		time.Sleep(beat)
		slowServer.send(1)
	}
	if g := slow.get(beats); g != (got{beats, ""}) {
		r.Errorf("on the connection whose server goes on there came %s, want %d bytes", g, beats)
	}
	slowServer.Close()
	if g := slow.all(); g != (got{0, "end"}) {
		r.Errorf("that connection then ends with %s, want a clean end", g)
	}
	end := r.endsFor(quiet.local, engine.FinTimeout)
	if d := end.End.Sub(began); d < shortest-50*time.Millisecond || d > shortest+step {
		r.Errorf("the quiet connection was cut after %s, want %s", d, shortest)
	}
	if g := quietServer.all(); g.bytes != 0 || g.end == "" {
		r.Errorf("the server of the quiet connection sees: %s", g)
	}
	if g := quiet.all(); g != (got{0, "reset"}) {
		r.Errorf("the client of the quiet connection sees: %s; want a reset", g)
	}
	open.send(1)
	if g := openServer.get(1); g != (got{1, ""}) {
		r.Errorf("a connection that nobody has ended: %s", g)
	}
}

func testKill(r *rig) {
	backend := r.serve(nil)
	at := r.route("", backend)
	client, server := r.pair(at, backend)
	other, otherServer := r.pair(at, backend)
	client.send(1000)
	server.get(1000)
	id := ""
	r.until("the connection is listed", func() bool {
		for _, c := range r.engine.Conns() {
			if c.Client == client.local {
				id = c.ID
			}
		}
		return id != ""
	})
	if r.engine.Kill("no such id") {
		r.Error("Kill found a connection that does not exist")
	}
	if !r.engine.Kill(id) {
		r.Fatalf("Kill did not find connection %q", id)
	}
	for who, p := range map[string]*peer{"client": client, "server": server} {
		if g := p.all(); g != (got{0, "reset"}) {
			r.Errorf("the %s of the killed connection sees: %s; want a reset", who, g)
		}
	}
	r.wantBytes(r.endsFor(client.local, engine.Killed), 1000, 0)
	if r.engine.Kill(id) {
		r.Error("Kill found a connection that it had killed")
	}
	other.send(1)
	if g := otherServer.get(1); g != (got{1, ""}) {
		r.Errorf("the other connection: %s", g)
	}
}

// testClose closes the engine over connections in all states.
func testClose(r *rig) {
	backend := r.serve(nil)
	at := r.route("", backend)
	type end struct {
		who string
		*peer
		over bool // it has seen the end of the other's stream
	}
	var ends []end
	for _, state := range []string{"open", "half-closed by the client", "half-closed by the server"} {
		client, server := r.pair(at, backend)
		client.send(1000)
		server.get(1000)
		c, s := end{"client, " + state, client, false}, end{"server, " + state, server, false}
		switch state {
		case "half-closed by the client":
			client.CloseWrite()
			server.all()
			s.over = true
		case "half-closed by the server":
			server.CloseWrite()
			client.all()
			c.over = true
		}
		ends = append(ends, c, s)
	}
	r.closeEngine()
	r.wantRefused(at)
	for i, e := range ends {
		if e.over { // it would only read that end again
			if how := e.send(much); how != "reset" {
				r.Errorf("%s: sending after Close: %s; want a reset", e.who, how)
			}
		} else if g := e.all(); g != (got{0, "reset"}) {
			r.Errorf("%s: after Close: %s; want a reset", e.who, g)
		}
		if i%2 == 0 {
			r.wantBytes(r.endsFor(e.local, engine.Stopped), 1000, 0)
		}
	}
}

// testCloseConnecting closes the engine while it waits for a server.
func testCloseConnecting(r *rig) {
	at := r.route(", connect_timeout: 20s", r.blackHole())
	client := r.dial(at)
	r.until("the connection is listed", func() bool { return len(r.engine.Conns()) == 1 })
	began := time.Now()
	r.closeEngine()
	if d := time.Since(began); d > patience/3 { // and not after connect_timeout
		r.Errorf("Close took %s", d)
	}
	if g := client.all(); g != (got{0, "reset"}) {
		r.Errorf("the client sees: %s; want a reset", g)
	}
	r.endsFor(client.local, engine.Stopped)
}

// summary is for messages.
func summary(c engine.Conn) string {
	return fmt.Sprintf("%s %s %s: %s via %s to %s (%s), up %d, down %d", c.ID, c.Route, c.State, c.Client, c.Listener, c.Endpoint, c.Server, c.BytesUp, c.BytesDown)
}
