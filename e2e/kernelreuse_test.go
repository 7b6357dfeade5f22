package e2e

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"midspan/e2e/rig"
)

// TestKernelRefusedBefore: a client that was refused while there was no route comes
// again from the same port, as those do that are behind NAT. What the kernel knows of
// its first try must not lead the second one past the route that is there by then.
func TestKernelRefusedBefore(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	k.greeter("10.79.0.91:9092", "server")
	const other = "  other: { listen: \"%%eth0:9099\", to: \"10.79.0.91:9092\" }\n"
	k.routes(other) // with it connections are tracked
	m := rig.Run(t, k.f)
	if _, err := k.from(40000, front); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("without a route: %v, want refused", err)
	}
	k.routes(other + "  broker: { listen: \"%%eth0:9092\", to: \"10.79.0.91:9092\" }\n")
	m.Control("reload")
	for range 3 {
		if name, err := k.from(40000, front); name != "server" || err != nil {
			t.Errorf("with a route, from the same port: %q, %v", name, err)
		}
	}
}

// from is visit from a port of the client's.
func (k *kernelLab) from(port int, addr string) (name string, err error) {
	d := net.Dialer{
		LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 80, 0, 2), Port: port}, Timeout: 20 * time.Second,
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			fail := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			return errors.Join(fail, err)
		},
	}
	err = k.clients.Do(func() error {
		c, err := d.Dial("tcp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.(*net.TCPConn).SetLinger(0) // or the port would be in TIME_WAIT
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		name, err = greeting(c)
		return err
	})
	return name, err
}
