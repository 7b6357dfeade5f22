package enginetest

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"midspan/internal/engine"
)

func proxyCases() []testCase {
	return []testCase{
		{"PROXY header, cut anywhere", testProxyCuts},
		{"PROXY header, then the server speaks first", testProxyServerFirst},
		{"PROXY header that is slow", testProxySlow},
		{"PROXY header that is wrong", testProxyWrong},
		{"PROXY header of the wrong sender", testProxyFrom},
		{"PROXY header where none is taken", testProxyRefused},
		{"PROXY header passed on", testProxyPass},
		{"PROXY headers of several proxies", testProxySeveral},
		{"PROXY header LOCAL", testProxyLocal},
		{"PROXY header cut off", testProxyCutOff},
		{"PROXY header and allow", testProxyAllow},
		{"PROXY header and much data", testProxyBulk},
		{"PROXY header and balance source", testProxySource},
		{"PROXY header and a client in a hurry", testProxyEarlyEnd},
	}
}

func testProxyCuts(r *rig) {
	at := r.route(", proxy_protocol: required", r.serve(echo))
	const data = "hello"
	for _, tt := range []struct {
		header string
		whole  int // what must come at once: a second header is not waited for
	}{{v1(far, front), 0}, {v2(far, front, linkID(1)), 0}, {v2(far, front, "") + v1(far, front), 29}} {
		stream := tt.header + data
		step := amount(1, 7)
		err := parallel((len(stream)-tt.whole)/step+1, func(i int) error {
			c, err := r.connect(at)
			if err != nil {
				return err
			}
			cut := tt.whole + i*step
			if err := c.say(stream[:cut]); err != nil {
				return err
			}
			pause()
			if err := c.say(stream[cut:]); err != nil {
				return err
			}
			if err := c.hear(data); err != nil {
				return fmt.Errorf("cut after %d bytes: %w", cut, err)
			}
			return c.bye()
		})
		if err != nil {
			r.Error(err)
		}
		c := r.dial(at)
		if err := c.say(stream[:tt.whole]); err != nil {
			r.Fatal(err)
		}
		for i := tt.whole; i < len(stream); i++ {
			if err := c.say(stream[i : i+1]); err != nil {
				r.Fatal(err)
			}
			time.Sleep(200 * time.Microsecond)
		}
		if err := c.hear(data); err != nil {
			r.Errorf("byte by byte: %v", err)
		}
		if all := r.engine.Conns(); len(all) != 1 || all[0].Client != far || all[0].Peer != c.local {
			r.Errorf("listed is %+v, want client %s and peer %s", all, far, c.local)
		}
		if err := c.bye(); err != nil {
			r.Error(err)
		}
		r.until("the end of all", func() bool { return len(r.engine.Conns()) == 0 })
	}
	for _, record := range r.log.all() {
		if record.Client != far || !record.Peer.IsValid() {
			r.Fatalf("a record is of %s, peer %s; want %s and a peer", record.Client, record.Peer, far)
		}
		if up := record.BytesUp; !record.End.IsZero() && up != uint64(len(data)) {
			r.Fatalf("%d bytes up, want %d: headers are no payload", up, len(data))
		}
	}
}

// testProxyServerFirst: nothing may be waited for behind the header.
func testProxyServerFirst(r *rig) {
	at := r.route(", proxy_protocol: required", r.serve(func(p *peer) {
		_ = p.say("220 ready")
		echo(p)
	}))
	for _, header := range []string{v1(far, front), v2(far, front, "")} {
		fastest := time.Hour
		for range 5 {
			c := r.dial(at)
			began := time.Now()
			if err := c.say(header); err != nil {
				r.Fatal(err)
			}
			if err := c.hear("220 ready"); err != nil {
				r.Fatal(err)
			}
			fastest = min(fastest, time.Since(began))
			r.wantEcho(c, "after the greeting")
		}
		if fastest > atOnce {
			r.Errorf("the fastest of 5 greetings took %s", fastest)
		}
	}
}

func testProxySlow(r *rig) {
	backend := r.serve(echo)
	at := r.route(", proxy_protocol: { timeout: 300ms }", backend)
	for _, s := range []string{"", "P", v1(far, front)[:20], v2(far, front, "")[:15], v2Raw(0x20, 0, "1234")[:18]} {
		r.inTime("a header was given up", 300*time.Millisecond, 2*time.Second, func() time.Duration {
			began := time.Now()
			r.wantReset(at, s, engine.OpeningTimeout)
			return time.Since(began)
		})
	}
	// A byte now and then does not make it longer.
	r.inTime("a header that drips was given up", 0, 1300*time.Millisecond, func() time.Duration {
		began := time.Now()
		c, err := r.connect(at)
		for i := 0; i < 30 && err == nil; i++ {
			err = c.say(v1(far, front)[i : i+1])
			time.Sleep(50 * time.Millisecond)
		}
		if err != nil && fate(err) != "reset" {
			r.Error(err)
		}
		return time.Since(began)
	})
	// One can be ended like others, and does not hold up the end of all.
	at = r.route(", proxy_protocol: required", backend)
	for i := range 2 {
		c := r.dial(at)
		if err := c.say(v1(far, front)[:20]); err != nil {
			r.Fatal(err)
		}
		r.until("it is listed as opening", func() bool {
			all := r.engine.Conns()
			return len(all) == 1 && all[0].State == "opening" && all[0].Client == c.local
		})
		if i > 0 {
			break // it is there when the engine is closed
		}
		if id := r.engine.Conns()[0].ID; !r.engine.Kill(id) {
			r.Errorf("there is no connection %s to kill", id)
		}
		r.endsFor(c.local, engine.Killed)
	}
	if n := backend.accepted.Load(); n > 0 {
		r.Errorf("%d of them came to the server", n)
	}
}

func testProxyWrong(r *rig) {
	backend := r.serve(echo)
	at := r.route(", proxy_protocol: required", backend)
	for _, s := range []string{
		"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01", "PROXY TCP4 1.2.3.4\r\n", "PROXY TCP4 " + strings.Repeat("1", 200), v2Raw(0x22, 0x11, ""),
		v2Raw(0x21, 0x11, "short"), v2Raw(0x21, 0x11, strings.Repeat("x", 5000)), v2(far, front, "\x03\x00\x041234"), v2(far, front, "\xee\x00\x09"),
	} {
		r.wantReset(at, s, engine.BadProxyHeader)
	}
	if n := backend.accepted.Load(); n > 0 {
		r.Errorf("%d of them came to the server", n)
	}
}

func testProxyFrom(r *rig) {
	backend := r.serve(echo)
	at := r.route(", proxy_protocol: { from: ["+elsewhere+"] }", backend)
	r.wantTurnedAway(at, engine.ProxyNotAllowed)
	if c, err := r.connect(at); err == nil { // or it is reset already
		if got := c.refusal(v1(far, front) + "hello"); got != "0 bytes, reset" {
			r.Errorf("with a header the client sees: %s; want a reset", got)
		}
	}
	if n := backend.accepted.Load(); n > 0 {
		r.Errorf("%d connections came to the server", n)
	}
	at = r.route(fmt.Sprintf(", proxy_protocol: { from: [%s] }", r.place.client[0]), backend)
	c, err := r.connectFrom(r.place.client[0], at)
	if err != nil {
		r.Fatal(err)
	}
	if err := c.say(v1(far, front)); err != nil {
		r.Fatal(err)
	}
	r.wantEcho(c, "a sender that is listed")
	// The client it names is none that may send one too.
	if c, err = r.connectFrom(r.place.client[0], at); err != nil {
		r.Fatal(err)
	}
	if err := c.say(v1(far, front) + v1(far, front)); err != nil {
		r.Fatal(err)
	}
	if got := c.all().String(); got != "0 bytes, reset" {
		r.Errorf("with two headers the client sees: %s; want a reset", got)
	}
	if n := r.log.reasons()[engine.ProxyNotAllowed]; n != turnedAwayTries+2 {
		r.Errorf("%d connections ended because of their headers, want %d", n, turnedAwayTries+2)
	}
}

func testProxyRefused(r *rig) {
	at := r.route("", r.serve(echo))
	for _, s := range []string{v1(far, front) + "hello", v2(far, front, ""), v2Raw(0x20, 0, "")} {
		c := r.dial(at)
		if err := c.say(s); err != nil {
			r.Fatal(err)
		}
		if got := c.all().String(); got != "0 bytes, reset" {
			r.Errorf("the client sees: %s; want a reset", got)
		}
		if end := r.endsFor(c.local, engine.ProxyNotAllowed); !strings.Contains(end.Err, "proxy_protocol: required") {
			r.Errorf("the record says %q, and not what to do", end.Err)
		}
	}
	c := r.dial(at)
	if err := c.say("PROXY is not a header here"); err != nil {
		r.Fatal(err)
	}
	if err := c.hear("PROXY is not a header here"); err != nil {
		r.Error(err)
	}
}

func testProxyPass(r *rig) {
	at := r.route(", proxy_protocol: pass", r.serve(echo))
	c := r.dial(at)
	for _, s := range []string{v2(far, front, linkID(7)), "hello"} {
		if err := c.say(s); err != nil {
			r.Fatal(err)
		}
		if err := c.hear(s); err != nil {
			r.Error(err)
		}
	}
	if err := c.bye(); err != nil {
		r.Error(err)
	}
	r.endsFor(c.local, engine.ClosedByClient)
}

func testProxySeveral(r *rig) {
	at := r.route(", proxy_protocol: required", r.serve(echo))
	first := netip.MustParseAddrPort("192.0.2.99:1")
	c := r.dial(at)
	if err := c.say(v2(netip.MustParseAddrPort("192.0.2.1:1"), front, "") + v1(first, front) + v2(far, front, linkID(5)) + "hello"); err != nil {
		r.Fatal(err)
	}
	if err := c.hear("hello"); err != nil {
		r.Fatal(err)
	}
	if all := r.engine.Conns(); len(all) != 1 || all[0].Client != far || all[0].Link != "azure:5" || all[0].Peer != c.local {
		r.Errorf("listed is %+v", all)
	}
	r.wantReset(at, strings.Repeat(v1(far, front), 5), engine.BadProxyHeader)
	// What comes behind a cloud's id is its customer's own word.
	r.wantReset(at, v2(far, front, linkID(5))+v1(first, front), engine.ProxyNotAllowed)
	// A header is not waited for.
	c = r.dial(at)
	if err := c.say(v1(far, front)); err != nil {
		r.Fatal(err)
	}
	r.until("a server is found", func() bool { return r.engine.Status().Routes[0].Endpoints[0].Connects == 2 })
	if err := c.say(v1(first, front)); err != nil {
		r.Fatal(err)
	}
	if got := c.all().String(); got != "0 bytes, reset" {
		r.Errorf("with a header as the first data the client sees: %s; want a reset", got)
	}
}

// testProxyLocal: headers that tell of no client are of probes, as long as there
// is nothing else.
func testProxyLocal(r *rig) {
	greeter := r.serve(func(p *peer) {
		_ = p.say("220 ready")
		echo(p)
	})
	at := r.route(", proxy_protocol: required", greeter)
	most := strings.Repeat("x", 65535)
	locals := []string{v2Raw(0x20, 0, ""), v2Raw(0x20, 0x11, "abc"), v2Raw(0x20, 0, most), v2Raw(0x21, 0, ""), "PROXY UNKNOWN\r\n"}
	for _, header := range append(locals, "") {
		for _, end := range []func(*peer){func(p *peer) { p.Close() }, (*peer).reset} {
			c := r.dial(at)
			if err := c.say(header); err != nil {
				r.Fatal(err)
			}
			r.until("the header is at the engine's side", c.delivered)
			end(c)
		}
	}
	probes := 2*len(locals) + 2
	r.until("all probes are counted", func() bool {
		s := r.engine.Status()
		return s.Routes[0].Counters.Ended[engine.Probe] == uint64(probes) && s.Connections == 0
	})
	if n := len(r.log.all()); n > 0 || greeter.accepted.Load() > 0 {
		r.Errorf("%d records and %d connections to the server, of probes", n, greeter.accepted.Load())
	}
	for _, header := range locals {
		c := r.dial(at)
		if err := c.say(header + "hello"); err != nil {
			r.Fatal(err)
		}
		if err := c.hear("220 ready" + "hello"); err != nil {
			r.Errorf("%.20q: %v", header, err)
		}
		if all := r.engine.Conns(); len(all) != 1 || all[0].Client != c.local {
			r.Errorf("%.20q: listed is %+v, want client %s", header, all, c.local)
		}
		if err := c.bye(); err != nil {
			r.Error(err)
		}
		r.until("its end", func() bool { return len(r.engine.Conns()) == 0 })
	}
	// Who stays is no probe.
	c := r.dial(at)
	began := time.Now()
	if err := c.say(locals[0]); err != nil {
		r.Fatal(err)
	}
	if err := c.hear("220 ready"); err != nil || time.Since(began) < 500*time.Millisecond {
		r.Errorf("a client that says nothing has the greeting after %s: %v", time.Since(began), err)
	}
}

func testProxyCutOff(r *rig) {
	backend := r.serve(echo)
	at := r.route(", proxy_protocol: required", backend)
	for _, s := range []string{"P", v1(far, front)[:20], v2(far, front, "")[:20], v2Raw(0x20, 0, "12345")[:18]} {
		c := r.dial(at)
		if err := c.say(s); err != nil {
			r.Fatal(err)
		}
		c.CloseWrite()
		if got := c.all().String(); got != "0 bytes, reset" {
			r.Errorf("%q and an end: the client sees: %s; want a reset", s, got)
		}
		r.endsFor(c.local, engine.BadProxyHeader)

		c = r.dial(at)
		if err := c.say(s); err != nil {
			r.Fatal(err)
		}
		r.until("it is at the engine's side", c.delivered)
		c.reset()
		r.endsFor(c.local, engine.ResetByClient)
	}
	if n := backend.accepted.Load(); n > 0 {
		r.Errorf("%d of them came to the server", n)
	}
}

// testProxyAllow: `allow` is about the client in the header.
func testProxyAllow(r *rig) {
	at := r.route(", proxy_protocol: required, allow: 192.0.2.0/24", r.serve(echo))
	c := r.dial(at)
	if err := c.say(v1(far, front)); err != nil {
		r.Fatal(err)
	}
	r.wantEcho(c, "a client that may connect")
	other := netip.MustParseAddrPort("192.0.3.7:1")
	c = r.dial(at)
	if err := c.say(v1(other, front) + "hello"); err != nil {
		r.Fatal(err)
	}
	if got := c.all().String(); got != "0 bytes, reset" {
		r.Errorf("the other client sees: %s; want a reset", got)
	}
	r.endsFor(other, engine.NotAllowed)
}

// testProxyBulk: what comes with the header, and much after it, arrives once and
// whole, both ways.
func testProxyBulk(r *rig) {
	backend := r.serve(nil)
	at := r.route(", proxy_protocol: required", backend)
	const n = 20 << 20
	for _, first := range []int{0, 1, 3000, 100_000} {
		c := r.dial(at)
		data := make([]byte, first)
		c.out.Read(data)
		if err := c.say(v2(far, front, linkID(1)) + string(data)); err != nil {
			r.Fatal(err)
		}
		s := r.accept(backend)
		err := together(
			func() error { return wantSent(c.send(n), c) },
			func() error { return wantSent(s.send(n), s) },
			func() error { return s.all().want(first+n, "end") },
			func() error { return c.all().want(n, "end") },
		)
		if err != nil {
			r.Fatalf("%d bytes with the header: %v", first, err)
		}
	}
}

func wantSent(how string, p *peer) error {
	if how != "sent" {
		return fmt.Errorf("sending: %s", how)
	}
	return p.CloseWrite()
}

// testProxySource: it is the real client that keeps its server.
func testProxySource(r *rig) {
	at := r.freePort()
	servers := r.serveNames("abcd")
	r.apply("route: { listen: %q, balance: source, proxy_protocol: required, to: %s }", at, to(servers, "", "", "", ""))
	seen := map[string]int{}
	const clients = 64 // so many that no server is without one
	for i := range clients {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1)
		names := map[string]bool{}
		for range 3 {
			c := r.dial(at)
			if err := c.say(v1(client, front)); err != nil {
				r.Fatal(err)
			}
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err != nil {
				r.Fatal(err)
			}
			names[string(b)] = true
			seen[string(b)]++
			c.Close()
		}
		if len(names) != 1 {
			r.Errorf("client %s came to %v", client, names)
		}
	}
	if len(seen) != 4 {
		r.Errorf("%d clients use %d of 4 servers: %v", clients, len(seen), seen)
	}
}

// testProxyEarlyEnd has a client that says all it has to say at once, and ends.
func testProxyEarlyEnd(r *rig) {
	at := r.route(", proxy_protocol: required", r.serve(echo))
	for _, data := range []string{"hello", "P", "PROXY"} {
		c := r.dial(at)
		if err := c.say(v1(far, front) + data); err != nil {
			r.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			r.Fatal(err)
		}
		b, err := io.ReadAll(c)
		if err != nil || string(b) != data {
			r.Errorf("%q came back as %q, %v", data, b, err)
		}
	}
}
