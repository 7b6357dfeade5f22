package enginetest

import (
	"net"
	"net/netip"

	"midspan/internal/engine"
)

func familyCases() []testCase {
	v4, v6 := loopback(0).Addr(), netip.IPv6Loopback()
	return []testCase{
		{"IPv6 listener and IPv4 server", func(r *rig) { testFamilies(r, v6, v4) }},
		{"IPv4 listener and IPv6 server", func(r *rig) { testFamilies(r, v4, v6) }},
		{"IPv6 on both legs", func(r *rig) { testFamilies(r, v6, v6) }},
		{"IPv4 client of a listener on all addresses", testUnmapped},
		{"a range of ports to the ports beside", testPortRange},
	}
}

func (r *rig) needIPv6() {
	r.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		r.Skipf("this host has no IPv6 on loopback: %v", err)
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
	c := r.dial(loopback(port))
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
	if end.Listener != loopback(port) {
		r.Errorf("the record has listener %s, want %s", end.Listener, loopback(port))
	}
}

func testPortRange(r *rig) {
	const n = 3
	from := r.freePorts(2 * n)
	port := func(i int) netip.AddrPort { return loopback(from.Port() + uint16(i)) }
	for i := range n {
		name := []byte{byte('a' + i)}
		r.serveOn(port(n+i), func(p *peer) {
			p.Write(name)
			echo(p)
		})
	}
	change := r.apply(`route: { listen: "127.0.0.1:%d-%d", to: "127.0.0.1:+%d" }`, from.Port(), from.Port()+n-1, n)
	if len(change.Added) == 0 {
		r.Errorf("Apply says %+v, want what was added", change)
	}
	for i := range n {
		if name, _ := r.who(port(i), ""); name != string(rune('a'+i)) {
			r.Errorf("port %d of the range leads to server %q", i, name)
		}
	}
}
