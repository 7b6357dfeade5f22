package relay

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/engine"
)

// through is a connection through an engine: both ends, and the engine.
func through(t *testing.T, settings string) (client, server *net.TCPConn, e *Engine) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	if e, err = New(Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p, err := planFor(fmt.Sprintf("routes: {r: {listen: %q, to: %q %s}}", addr, ln.Addr(), settings))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []net.Conn{c, s} {
		t.Cleanup(func() { end.Close() })
		if err := end.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return c.(*net.TCPConn), s.(*net.TCPConn), e
}

// TestUrgentData: urgent data neither ends a stream nor stalls it, wherever it
// stands; it arrives in its place, as ordinary data. Splice stops at it and
// returns 0, which is also how it tells the end of a file.
func TestUrgentData(t *testing.T) {
	for _, c := range []struct{ before, after int64 }{{6, 5}, {1000, 100_000}, {8 << 20, 100_000}, {8 << 20, 8 << 20}} {
		for range 3 {
			client, server, _ := through(t, "")
			go func() {
				_, err1 := io.CopyN(client, zeros{}, c.before)
				err2 := urgent(client)
				_, err3 := io.CopyN(client, zeros{}, c.after)
				if err1 != nil || err2 != nil || err3 != nil || client.CloseWrite() != nil {
					client.Close() // the count below tells
				}
			}()
			n, err := io.Copy(io.Discard, server)
			if want := c.before + 1 + c.after; n != want || err != nil {
				t.Errorf("%d bytes, an urgent one, %d: %d arrived, %v", c.before, c.after, n, err)
			}
		}
	}
}

func urgent(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil)
		return sent != unix.EAGAIN
	})
	if err != nil {
		return err
	}
	return sent
}

// TestResetAfterHalfClose: a side that has ended its flow and is then reset is
// noticed although nobody sends.
func TestResetAfterHalfClose(t *testing.T) {
	for _, byClient := range []bool{true, false} {
		client, server, e := through(t, "")
		one, other := client, server
		if !byClient {
			one, other = server, client
		}
		if err := one.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := other.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("%d bytes, %v; want the end of the flow", n, err)
		}
		if err := one.SetLinger(0); err != nil {
			t.Fatal(err)
		}
		one.Close()
		eventually(t, "the reset is noticed", func() bool { return e.Status().Connections == 0 })
		// It is passed on a moment after it is in the books. A leg that was only
		// closed would not get into that state by itself.
		eventually(t, "the other side is reset", func() bool { return tcpState(t, other) == tcpClose })
		if _, err := other.Write([]byte("x")); err == nil {
			t.Errorf("by client %v: the other side is not reset", byClient)
		}
		ended := e.Status().Routes[0].Counters.Ended
		if ended[engine.ResetByClient]+ended[engine.ResetByServer] != 1 {
			t.Errorf("by client %v: ended %v", byClient, ended)
		}
	}
}

const tcpClose = 7 // TCP_CLOSE (net/tcp_states.h)

func tcpState(t *testing.T, c *net.TCPConn) (state uint8) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Error(err)
			return
		}
		state = info.State
	}); err != nil {
		t.Fatal(err)
	}
	return state
}

// TestOwnListener: a connect that would come back in is not made.
func TestOwnListener(t *testing.T) {
	e, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	port := freePort(t)
	// The plan refuses what it can see; a name can still come to this.
	p, err := planFor(fmt.Sprintf("routes: {r: {listen: %d, to: '127.0.0.1:1'}}", port))
	if err != nil {
		t.Fatal(err)
	}
	p.Routes[0].Servers[0].Port = uint16(port)
	if _, err := e.Apply(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		defer c.Close()
		_, _ = io.Copy(io.Discard, c) // until the reset
	}
	s := e.Status().Routes[0]
	if s.Counters.Accepted != 1 || s.Counters.Ended[engine.ConnectFailed] != 1 || s.Endpoints[0].LastError != errCircle.Error() {
		t.Errorf("%d accepted, ended %v, %q", s.Counters.Accepted, s.Counters.Ended, s.Endpoints[0].LastError)
	}
}

// TestPendingThenTaken: a listener that waited for the host and then cannot be
// opened goes on waiting; what else changes comes into force.
func TestPendingThenTaken(t *testing.T) {
	e, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p, err := planFor("routes: {r: {listen: 203.0.113.7:5000, to: '10.0.0.1:1'}}")
	if err != nil {
		t.Fatal(err)
	}
	if change, err := e.Apply(context.Background(), p); err != nil || len(change.Pending) != 1 {
		t.Skipf("this host takes any address for its own: %+v, %v", change, err)
	}
	// The host now has the address: stood in for by one that it always has.
	e.pending[0].Listen = taken.Addr().String()
	if p, err = planFor(fmt.Sprintf("routes: {r: {listen: %q, to: '10.0.0.1:1'}}", taken.Addr())); err != nil {
		t.Fatal(err)
	}
	if change, err := e.Apply(context.Background(), p); err != nil || len(change.Pending) != 1 {
		t.Errorf("%+v, %v; want it to wait on", change, err)
	}
}
