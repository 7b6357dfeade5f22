package enginetest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// atOnce is what "a reset at once, not a timeout" means. Of several tries the
// fastest counts, so that a slow machine is not taken for a slow engine.
const atOnce = 500 * time.Millisecond

func upstreamCases() []testCase {
	return []testCase{
		{"server refuses", testRefused},
		{"one of two servers refuses", testOneRefuses},
		{"one of two addresses refuses", testOneAddressRefuses},
		{"no server up", testNoneUp},
		{"server drops everything", testBlackHole},
		{"one of two servers drops everything", testOneBlackHole},
		{"client sends and ends before the server is reached", testEarlyClient},
		{"client resets before the server is reached", testEarlyReset},
		{"connects are told", testDialHook},
	}
}

// dead is an address of which connects are refused.
func (r *rig) dead() *server { return &server{addr: r.serverAt(r.freePort().Port())} }

// ends makes a connection to at, waits for its end without sending a byte, and
// says how and after how long it came.
func (r *rig) ends(at netip.AddrPort) (how string, after time.Duration, client netip.AddrPort) {
	r.Helper()
	began := time.Now()
	p, err := r.connect(at)
	if err != nil {
		return fate(err), time.Since(began), netip.AddrPort{}
	}
	defer p.Close()
	how = p.all().String()
	return how, time.Since(began), p.local
}

const turnedAwayTries = 5

// wantTurnedAway makes some connections to at. Each must be turned away at once,
// and counted as such.
func (r *rig) wantTurnedAway(at netip.AddrPort, why engine.Reason) {
	r.Helper()
	before := r.countTurnedAway(why)
	fastest := time.Hour
	for range turnedAwayTries {
		how, after, _ := r.ends(at)
		if !r.turnedAway(how) {
			r.Errorf("the client sees: %s; want it turned away", how)
		}
		fastest = min(fastest, after)
	}
	if fastest > atOnce {
		r.Errorf("the fastest of %d resets took %s, want %s", turnedAwayTries, fastest, atOnce)
	}
	r.until(fmt.Sprintf("%d ends because of %q", turnedAwayTries, why), func() bool { return r.countTurnedAway(why) == before+turnedAwayTries })
}

func testRefused(r *rig) {
	at := r.route("", r.dead())
	r.wantTurnedAway(at, engine.ConnectFailed)
	for _, record := range r.log.all() {
		if record.End.IsZero() {
			r.Errorf("a start record although no server was reached: %+v", record)
		}
		if record.Err == "" {
			r.Errorf("the record does not say what failed: %+v", record)
		}
	}
	route := r.engine.Status().Routes[0]
	if e := route.Endpoints[0]; e.Failures == 0 || e.Connects != 0 || e.LastError == "" || e.Active != 0 {
		r.Errorf("status of the endpoint is %+v", e)
	}
	if n := route.Counters.Ended[engine.ConnectFailed]; n != route.Counters.Accepted {
		r.Errorf("%d of %d connections are counted as failed", n, route.Counters.Accepted)
	}
}

func testOneRefuses(r *rig) {
	at := r.route("", r.dead(), r.serve(echo))
	for i := range 100 {
		if err := r.once(at, []byte("hello")); err != nil {
			r.Fatalf("connection %d: %v", i, err)
		}
	}
	r.until("100 orderly ends", func() bool { return r.log.reasons()[engine.ClosedByClient] == 100 })
	retries := 0
	for _, record := range r.log.all() {
		if !record.End.IsZero() {
			retries += record.Retries
		}
	}
	if failures := r.engine.Status().Routes[0].Endpoints[0].Failures; failures == 0 || int(failures) != retries {
		r.Errorf("%d connects to the dead server are counted, the records have %d retries", failures, retries)
	}
}

func testOneAddressRefuses(r *rig) {
	alive := r.serve(echo) // on one address only
	r.names["db.example"] = r.place.server[:2]
	at := r.freePort()
	r.apply(`route: { listen: %q, to: "db.example:%d" }`, at, alive.addr.Port())
	for i := range 100 {
		if err := r.once(at, []byte("hello")); err != nil {
			r.Fatalf("connection %d: %v", i, err)
		}
	}
}

func testNoneUp(r *rig) {
	backend := r.serve(echo)
	r.down[backend.addr.String()] = true
	at := r.route("", backend)
	r.wantTurnedAway(at, engine.NoServer)
	if n := backend.accepted.Load(); n != 0 {
		r.Errorf("%d connections came to a server that is down", n)
	}
	// A name without an address is no different.
	at = r.freePort()
	r.apply(`route: { listen: %q, to: "nowhere.example:80" }`, at)
	r.wantTurnedAway(at, engine.NoServer)
}

// blackHole is an address of a server where connects get no answer at all: a
// listener whose queue is full and never emptied, for which the kernel drops
// further SYNs.
func (r *rig) blackHole() *server {
	r.Helper()
	fd := -1
	err := r.place.servers.Do(func() (err error) {
		fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		// Ended connections of an earlier case may still have the port.
		return syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	})
	if err != nil {
		r.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "black hole")
	r.keep(f)
	at := r.serverAt(r.freePort().Port())
	err = syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()})
	if err = errors.Join(err, syscall.Listen(fd, 0)); err != nil {
		r.Fatal(err)
	}
	for i := range 10 {
		wait := 200 * time.Millisecond // in which a connect would be done
		if i == 0 {
			wait = patience // this one is, however slow the machine: else nothing would be full
		}
		c, err := dialIn(nil, netip.Addr{}, at, time.Now().Add(wait))
		switch {
		case err == nil:
			r.keep(c)
		case i > 0 && timedOut(err):
			return &server{addr: at}
		default:
			r.Fatal(err)
		}
	}
	r.Fatal("a listener with backlog 0 took 10 connections")
	return nil
}

func testBlackHole(r *rig) {
	if !r.kind.Carries(plan.FeatureConnectTimeout) { // the client's own is all there is
		at := r.route("", r.blackHole())
		_, err := dialIn(r.place.clients, netip.Addr{}, at, time.Now().Add(time.Second))
		if !timedOut(err) {
			r.Errorf("the client sees: %s; want no answer", fate(err))
		}
		return
	}
	at := r.route(", connect_timeout: 400ms", r.blackHole())
	r.inTime("a reset, which is for connect_timeout (400ms),", 300*time.Millisecond, 400*time.Millisecond+2*time.Second, func() time.Duration {
		how, after, client := r.ends(at)
		if !r.turnedAway(how) {
			r.Errorf("the client sees: %s; want a reset", how)
		}
		if client.IsValid() && r.endsFor(client, engine.ConnectFailed).Err == "" {
			r.Error("the record does not say what failed")
		}
		return after
	})
	r.until("a record says that a connect has failed", func() bool { return r.log.reasons()[engine.ConnectFailed] > 0 })
}

func testOneBlackHole(r *rig) {
	const timeout = 20 * time.Second
	at := r.route(", connect_timeout: 20s", r.blackHole(), r.serve(echo))
	for i := range 4 {
		began := time.Now()
		if err := r.once(at, []byte("hello")); err != nil {
			r.Fatalf("connection %d: %v", i, err)
		}
		if d := time.Since(began); d > timeout/2 {
			r.Errorf("connection %d took %s of %s to reach the server that answers", i, d, timeout)
		}
	}
}

// testEarlyClient has a client that is done before the engine has found a
// server: what it sent, and its end, must still arrive.
func testEarlyClient(r *rig) {
	backend := r.serve(nil)
	at := r.route(", connect_timeout: 20s, balance: first", r.blackHole(), backend)
	client := r.dial(at)
	if s := client.send(10_000); s != "sent" {
		r.Fatal(s)
	}
	client.CloseWrite()
	server := r.accept(backend)
	if err := server.all().want(10_000, "end"); err != nil {
		r.Fatalf("the request: %v", err)
	}
	server.send(20_000)
	server.Close()
	if err := client.all().want(20_000, "end"); err != nil {
		r.Fatalf("the answer: %v", err)
	}
	r.wantBytes(r.endsFor(client.local, engine.ClosedByClient), 10_000, 20_000)
}

// testEarlyReset has a client that gives up: nobody needs the server any more.
func testEarlyReset(r *rig) {
	at := r.route(", connect_timeout: 20s", r.blackHole())
	client := r.dial(at)
	r.until("the connection is listed as connecting", func() bool {
		all := r.engine.Conns()
		return len(all) == 1 && all[0].State == "connecting" && all[0].Client == client.local
	})
	client.reset()
	r.endsFor(client.local, engine.ResetByClient)
}

// testDialHook holds Hooks.Dial to its word: each failure, and the first success
// after one.
func testDialHook(r *rig) {
	dead := r.dead()
	at := r.route("", dead)
	for range 2 {
		r.ends(at)
	}
	r.until("two failures are told", func() bool { return len(r.log.dials()) >= 2 })
	for _, d := range r.log.dials() {
		if d.Route != "route" || d.Server != dead.addr.String() || d.Addr != dead.addr || d.Err == nil {
			r.Errorf("told was %+v", d)
		}
	}
	told := len(r.log.dials())
	r.serveOn(dead.addr, echo)
	for range 3 {
		if err := r.once(at, []byte("hello")); err != nil {
			r.Fatal(err)
		}
	}
	r.until("the first success is told", func() bool { return len(r.log.dials()) > told })
	news := r.log.dials()[told:]
	if len(news) != 1 || news[0].Err != nil || news[0].Addr != dead.addr {
		r.Errorf("told were %+v, want one success", news)
	}
}
