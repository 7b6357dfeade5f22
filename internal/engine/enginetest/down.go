package enginetest

import (
	"fmt"
	"net/netip"

	"midspan/internal/engine"
)

func downCases(p *Place) []testCase {
	return []testCase{
		{"on_down: cut", func(r *rig) { testCut(r, p.listen[0], p.server[0]) }},
		{"on_down: cut, IPv6", func(r *rig) {
			r.needIPv6()
			testCut(r, p.listen6, p.server6)
		}},
	}
}

// testCut has a server go down, and one go from the plan, beside a route that
// lets its connections alone.
func testCut(r *rig, listen, server netip.Addr) {
	a, b := r.serveOn(netip.AddrPortFrom(server, 0), nil), r.serveOn(netip.AddrPortFrom(server, 0), nil)
	at := netip.AddrPortFrom(listen, r.freePort().Port())
	other := netip.AddrPortFrom(listen, r.freePort().Port())
	routes := func(servers string) string {
		return fmt.Sprintf("cut: { listen: %q, balance: first, on_down: cut, to: [%s] }\nkeep: { listen: %q, to: %q }", at, servers, other, a.addr)
	}
	both := fmt.Sprintf("%q, %q", a.addr, b.addr)
	r.apply("%s", routes(both))
	first, firstServer := r.pair(at, a)
	kept, keptServer := r.pair(other, a)

	r.down[a.addr.String()] = true
	r.apply("%s", routes(both))
	r.wantCut(first, firstServer)
	second, secondServer := r.pair(at, b)

	delete(r.down, a.addr.String())
	r.apply("%s", routes(both))
	second.send(1)
	if g := secondServer.get(1); g != (got{1, ""}) {
		r.Errorf("a connection to a server that was never down: %s", g)
	}
	r.apply("%s", routes(fmt.Sprintf("%q", a.addr)))
	r.wantCut(second, secondServer)

	kept.send(1)
	if g := keptServer.get(1); g != (got{1, ""}) {
		r.Errorf("a connection of a route without on_down: cut: %s", g)
	}
	third, thirdServer := r.pair(at, a)
	third.send(1)
	if g := thirdServer.get(1); g != (got{1, ""}) {
		r.Errorf("a new connection to the server that was down: %s", g)
	}
}

func (r *rig) wantCut(client, server *peer) {
	r.Helper()
	for who, p := range map[string]*peer{"client": client, "server": server} {
		if g := p.all(); g != (got{0, "reset"}) {
			r.Errorf("the %s of a connection to a server that is down sees: %s; want a reset", who, g)
		}
	}
	r.endsFor(client.local, engine.ServerDown)
}
