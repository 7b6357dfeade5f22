package enginetest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"midspan/internal/netns"
)

// Place is where clients, the engine and servers are, and what their addresses
// are there. The engine is always in the network namespace of the process.
type Place struct {
	clients, servers       *netns.Net   // nil: with the engine
	client, listen, server []netip.Addr // IPv4; the engine listens on the first of listen unless a case is about another
	listen6, server6       netip.Addr
}

const (
	manyClients = 64 // for balance source
	fewServers  = 4  // addresses for the names of one server
)

// Loopback has everything on 127.0.0.0/8 and ::1 of one machine.
func Loopback() *Place {
	return &Place{
		client: row("127.0.0.2", manyClients), listen: row("127.0.0.1", 2), server: row("127.0.0.1", fewServers),
		listen6: netip.IPv6Loopback(), server6: netip.IPv6Loopback(),
	}
}

// Machines has clients and servers on a machine of their own each, with a cable
// to the engine's and no route beyond it: what is forwarded arrives, and is
// answered, only if it comes from the engine's address. It needs netns.Alone.
func Machines(t *testing.T) *Place {
	t.Helper()
	p := &Place{
		client: row("10.79.0.10", manyClients), listen: row("10.79.0.1", 2), server: row("10.79.1.2", fewServers),
		listen6: netip.MustParseAddr("fd79::1"), server6: netip.MustParseAddr("fd79:0:0:1::2"),
	}
	p.clients = machine(t, "clients", append(p.listen, p.listen6), append(p.client, p.listen6.Next()))
	p.servers = machine(t, "servers", append(row("10.79.1.1", 1), p.server6.Prev()), append(p.server, p.server6))
	return p
}

// machine is a new one, with a cable to the engine's. It is named after what
// is there; ours are the addresses of the engine's end.
func machine(t *testing.T, name string, ours, its []netip.Addr) *netns.Net {
	t.Helper()
	n, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	here := netns.End{Name: name, Addrs: networks(ours)}
	if err := netns.Cable(here, netns.End{Net: n, Name: "engine", Addrs: networks(its)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := here.Unplug(); err != nil { // else the next place could not have its addresses
			t.Error(err)
		}
	})
	return n
}

// row is n addresses from first on.
func row(first string, n int) []netip.Addr {
	all := []netip.Addr{netip.MustParseAddr(first)}
	for len(all) < n {
		all = append(all, all[len(all)-1].Next())
	}
	return all
}

// networks gives each address the usual length of its network.
func networks(addrs []netip.Addr) (all []netip.Prefix) {
	for _, a := range addrs {
		bits := 24
		if a.Is6() {
			bits = 64
		}
		all = append(all, netip.PrefixFrom(a, bits))
	}
	return all
}

// listenIn is a listener of this process in a namespace.
func listenIn(n *netns.Net, at netip.AddrPort) (l net.Listener, err error) {
	// A listener of Go's accepts MPTCP unless told otherwise.
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false)
	err = n.Do(func() error {
		l, err = lc.Listen(context.Background(), "tcp", at.String())
		return err
	})
	return l, err
}

// dialIn makes a connection from a namespace, and from an address there if one
// is given. To a literal address Dial makes its socket on the calling thread.
func dialIn(n *netns.Net, from netip.Addr, to netip.AddrPort, deadline time.Time) (c *net.TCPConn, err error) {
	d := &net.Dialer{Deadline: deadline, KeepAlive: -1}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	err = n.Do(func() error {
		conn, err := d.Dial("tcp", to.String())
		if err == nil {
			c = conn.(*net.TCPConn)
		}
		return err
	})
	return c, err
}

// vacant tells whether nothing listens on a port in a namespace.
func vacant(n *netns.Net, port int) bool {
	err := n.Do(func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err == nil {
			l.Close()
		}
		return err
	})
	return err == nil
}
