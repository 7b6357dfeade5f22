package e2e

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"midspan/e2e/rig"
)

// blackHole is an address that answers no connect, as behind a firewall that
// drops: its accept queue is full, and nobody takes anything from it.
func blackHole(t *testing.T, host [4]byte) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	port := rig.Port(t)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: host, Port: port}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.AddrFrom4(host), uint16(port)).String()
	for range 10 {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatalf("%s still accepts connections", addr)
	return ""
}

// TestBlackHole has a server that does not answer at all. The first connections
// wait a second for it and go to the other one; later ones do not wait. Without
// another one, the client is told after connect_timeout.
func TestBlackHole(t *testing.T) {
	hole := blackHole(t, [4]byte{127, 0, 0, 4})
	alive := rig.Serve(t, nil, "127.0.0.2:0", rig.Echo)
	f := rig.NewFile(t)
	two, one := rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1")
	// A client that waited for the one that does not answer would wait for all of this.
	f.Write("defaults: { connect_timeout: 15s }\nroutes:\n  two: { listen: %q, to: [%q, %q] }\n  one: { listen: %q, to: %q, connect_timeout: 1s }\n", two, hole, alive.Addr, one, hole)
	m := rig.Run(t, f)

	const visits = 20
	var slowest, later time.Duration // later: the second half, together
	for i := range visits {
		begin := time.Now()
		if err := once(two, uint64(i)); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		took := time.Since(begin)
		if slowest = max(slowest, took); i >= visits/2 {
			later += took
		}
	}
	t.Logf("two servers: the slowest of %d connections took %s, the last %d together %s", visits, slowest.Round(time.Millisecond), visits/2, later.Round(time.Millisecond))
	if slowest > 8*time.Second {
		t.Errorf("a connection took %s although one server was well", slowest)
	}
	// Every second one would wait for a second.
	if later > visits/4*time.Second {
		t.Errorf("the last %d of %d connections still took %s together", visits/2, visits, later)
	}

	begin := time.Now()
	err := once(one, 1)
	took := time.Since(begin)
	t.Logf("no server: %v after %s", err, took.Round(time.Millisecond))
	if !errors.Is(err, syscall.ECONNRESET) || took < 900*time.Millisecond || took > 10*time.Second {
		t.Errorf("ended with %v after %s, want a reset after 1s", err, took)
	}
	m.Control("status")
}
