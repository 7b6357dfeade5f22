package enginetest

import (
	"fmt"
	"net/netip"

	"midspan/internal/engine"
)

func allowCases(p *Place) []testCase {
	return []testCase{
		{"allow", func(r *rig) { testAllow(r, p.listen[0], p.server[0]) }},
		{"allow, IPv6", func(r *rig) {
			r.needIPv6()
			testAllow(r, p.listen6, p.server6)
		}},
		{"allow one of two clients", testAllowOne},
	}
}

// elsewhere are networks that no client is in (RFC 5737 and RFC 3849: for
// documentation), of both families.
const elsewhere = "203.0.113.0/24, \"2001:db8::/32\""

// testAllow shuts a client out that has a connection already.
func testAllow(r *rig, listen, server netip.Addr) {
	backend := r.serveOn(netip.AddrPortFrom(server, 0), echo)
	at := netip.AddrPortFrom(listen, r.freePort().Port())
	route := fmt.Sprintf("route: { listen: %q, to: %q, allow: ", at, backend.addr)
	r.apply("%s", route+"[0.0.0.0/0, \"::/0\"] }")
	old := r.dial(at)
	r.wantEcho(old, "a client, when all may connect")

	r.apply("%s", route+fmt.Sprintf("[%s, %q] }", elsewhere, old.local.Addr()))
	r.wantEcho(r.dial(at), "a client that is named")

	r.apply("%s", route+"["+elsewhere+"] }")
	before := backend.accepted.Load()
	r.wantTurnedAway(at, engine.NotAllowed)
	r.until("those turned away are in Status", func() bool {
		return r.engine.Status().Routes[0].Counters.Ended[engine.NotAllowed] == turnedAwayTries
	})
	if n := backend.accepted.Load() - before; n > 0 {
		r.Errorf("%d connections of clients that may not connect came to the server", n)
	}
	r.wantEcho(old, "a connection from before")
}

// testAllowOne has a listener on all addresses, where the relay sees IPv4 clients
// as IPv6 ones.
func testAllowOne(r *rig) {
	backend := r.serve(echo)
	in, out := r.place.client[0], r.place.client[1]
	at := r.freePort()
	r.apply("route: { listen: %d, to: %q, allow: %q }", at.Port(), backend.addr, in)
	c, err := r.connectFrom(in, at)
	if err != nil {
		r.Fatal(err)
	}
	r.wantEcho(c, "the client that may connect")
	how := ""
	if c, err := r.connectFrom(out, at); err != nil {
		how = fate(err)
	} else {
		how = c.all().String()
	}
	if !r.turnedAway(how) {
		r.Errorf("the other client sees: %s; want it turned away", how)
	}
}
