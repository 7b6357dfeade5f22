package relay

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// single is an engine of one loop that forwards to a server.
func single(t *testing.T, to string) (l *loop, addr string) {
	t.Helper()
	e, err := New(Options{Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	addr = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p, err := planFor(fmt.Sprintf("routes: {r: {listen: %q, to: %q, keepalive: 77s}}", addr, to))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	return e.loops[0], addr
}

// spares are the loop's spare sockets once it has no connections.
func spares(t *testing.T, l *loop) (list []spare) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if l.e.active.Load() == 0 {
			l.call(func() { list = append(list, l.spares...) })
			return list
		}
		if time.Now().After(deadline) {
			t.Fatal("connections do not end")
		}
	}
}

// TestSpares: the socket of a short connection that the client ended is used
// again, with its options, and not kept for long.
func TestSpares(t *testing.T) {
	l, addr := single(t, echoServer(t))
	var fd int32
	last := time.Now()
	for i, slow := 0, 0; i < 20; i++ {
		ping(t, addr).Close()
		list := spares(t, l)
		late := time.Since(last) > spareLife/2
		if last = time.Now(); late { // they may not be kept for so long
			if slow++; slow == 100 {
				t.Fatal("this machine is too slow to tell")
			}
			i = -1
			continue
		}
		if len(list) != 1 {
			t.Fatalf("%d spare sockets after %d connections, want 1", len(list), i+1)
		}
		if i > 0 && list[0].fd != fd {
			t.Errorf("connection %d has a new socket", i+1)
		}
		fd = list[0].fd
	}
	for _, option := range []struct{ level, number, want int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 77},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
	} {
		if got, err := unix.GetsockoptInt(int(fd), option.level, option.number); err != nil || got != option.want {
			t.Errorf("option %d is %d, %v; want %d", option.number, got, err, option.want)
		}
	}
	time.Sleep(spareLife)
	eventually(t, "no spare sockets are kept, nor counted", func() bool { return len(spares(t, l)) == 0 && l.e.extra.Load() == 0 })
}

// TestNoSpares: a socket whose connection may still mean something to the server,
// or has grown large buffers, is closed.
func TestNoSpares(t *testing.T) {
	send := func(n int) func(*net.TCPConn) {
		return func(c *net.TCPConn) {
			_, _ = c.Write(make([]byte, n))
			_, _ = io.Copy(io.Discard, c)
		}
	}
	for name, test := range map[string]struct {
		server func(*net.TCPConn)
		client func(*net.TCPConn)
		want   int
	}{
		"the client ends first": {send(100), func(c *net.TCPConn) { _, _ = io.ReadFull(c, make([]byte, 100)) }, 1},
		"the server ends first": {func(*net.TCPConn) {}, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }, 0},
		"the server resets": {
			func(c *net.TCPConn) { _, _ = io.ReadFull(c, make([]byte, 1)); _ = c.SetLinger(0) },
			func(c *net.TCPConn) { _, _ = c.Write([]byte("x")); _, _ = io.Copy(io.Discard, c) },
			0,
		},
		"the client resets": {send(100), func(c *net.TCPConn) { _, _ = io.ReadFull(c, make([]byte, 100)); _ = c.SetLinger(0) }, 0},
		"much was moved":    {send(recycleBelow), func(c *net.TCPConn) { _, _ = io.ReadFull(c, make([]byte, recycleBelow)) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuests(t, func(c net.Conn) { test.server(c.(*net.TCPConn)) })
			l, addr := single(t, g.addr)
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			test.client(c.(*net.TCPConn))
			c.Close()
			if list := spares(t, l); len(list) != test.want {
				t.Errorf("%d spare sockets, want %d", len(list), test.want)
			}
		})
	}
}
