package enginetest

import (
	"net/netip"

	"midspan/internal/engine"
)

func familyCases(p *Place) []testCase {
	v4, v6 := p.server[0], p.server6
	from4, from6 := p.listen[0], p.listen6
	return []testCase{
		{"IPv6 listener and IPv4 server", func(r *rig) { testFamilies(r, from6, v4) }},
		{"IPv4 listener and IPv6 server", func(r *rig) { testFamilies(r, from4, v6) }},
		{"IPv6 on both legs", func(r *rig) { testFamilies(r, from6, v6) }},
		{"IPv4 client of a listener on all addresses", testUnmapped},
		{"a range of ports to the ports beside", testPortRange},
	}
}

func (r *rig) needIPv6() {
	r.Helper()
	l, err := listenIn(nil, netip.AddrPortFrom(r.place.listen6, 0))
	if err != nil {
		r.Skipf("this host has no IPv6: %v", err)
	}
	l.Close()
}

func testFamilies(r *rig, listen, server netip.Addr) {
	r.needIPv6()
	backend := r.serveOn(netip.AddrPortFrom(server, 0), echo)
	at := netip.AddrPortFrom(listen, r.freePort().Port())
	r.apply("route: { listen: %q, to: %q }", at, backend.addr)
	c := r.dial(at)
	if err := c.ping([]byte("hello")); err != nil {
		r.Fatal(err)
	}
	if err := c.bye(); err != nil {
		r.Fatal(err)
	}
	end := r.endsFor(c.local, engine.ClosedByClient)
	if end.Listener != at || end.Endpoint != backend.addr {
		r.Errorf("the record has listener %s and endpoint %s, want %s and %s", end.Listener, end.Endpoint, at, backend.addr)
	}
}

// testUnmapped is about ::ffff:127.0.0.1, by which a dual-stack socket knows its
// IPv4 clients; nobody writes a rule or searches a log for that.
func testUnmapped(r *rig) {
	backend := r.serve(echo)
	port := r.freePort().Port()
	r.apply("route: { listen: %d, to: %q }", port, backend.addr)
	c := r.dial(r.at(port))
	if err := c.ping([]byte("hello")); err != nil {
		r.Fatal(err)
	}
	live := r.engine.Conns()
	if len(live) != 1 || live[0].Client != c.local {
		r.Errorf("Conns has %+v, want client %s", live, c.local)
	}
	if err := c.bye(); err != nil {
		r.Fatal(err)
	}
	end := r.endsFor(c.local, engine.ClosedByClient)
	if end.Listener != r.at(port) {
		r.Errorf("the record has listener %s, want %s", end.Listener, r.at(port))
	}
}

func testPortRange(r *rig) {
	const n = 3
	from := r.freePorts(2 * n)
	for i := range n {
		name := []byte{byte('a' + i)}
		r.serveOn(r.serverAt(from.Port()+uint16(n+i)), func(p *peer) {
			p.Write(name)
			echo(p)
		})
	}
	change := r.apply(`route: { listen: "%s-%d", to: "%s:+%d" }`, from, from.Port()+n-1, r.place.server[0], n)
	if len(change.Added) == 0 {
		r.Errorf("Apply says %+v, want what was added", change)
	}
	for i := range n {
		if name, _ := r.who(r.at(from.Port() + uint16(i))); name != string(rune('a'+i)) {
			r.Errorf("port %d of the range leads to server %q", i, name)
		}
	}
}
