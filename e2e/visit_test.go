package e2e

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// dial is a connection that the test closes at the latest.
func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// visitEcho sends n bytes to an echoing server, ends its flow, and reads to the
// end.
func visitEcho(n int64) func(*testing.T, string) string {
	return func(t *testing.T, addr string) string {
		t.Helper()
		c := dial(t, addr)
		sent := make(chan error, 1)
		go func() {
			_, err := rig.Send(c, 1, n)
			if err == nil {
				err = c.CloseWrite()
			}
			sent <- err
		}()
		wantAll(t, c, n)
		if err := <-sent; err != nil {
			t.Errorf("send %d bytes: %v", n, err)
		}
		return c.LocalAddr().String()
	}
}

// wantAll wants exactly n bytes and then an orderly end; it closes c.
func wantAll(t *testing.T, c net.Conn, n int64) {
	t.Helper()
	defer c.Close()
	if got, err := io.Copy(io.Discard, c); err != nil || got != n {
		t.Errorf("%d bytes came, %v; want %d", got, err, n)
	}
}

// reset closes c with a reset.
func reset(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := c.SetLinger(0); err != nil {
		t.Error(err)
	}
	c.Close()
}

// visitDead wants a reset, which may come so early that the connect fails.
func visitDead(t *testing.T, addr string) string {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: rig.Port(t)}, Timeout: 20 * time.Second}
	c, err := d.Dial("tcp", addr)
	if err == nil {
		defer c.Close()
		wantReset(t, c)
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("connect: %v, want a reset", err)
	}
	return d.LocalAddr.String()
}

// endOf is nil for an orderly end.
func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
