package web

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUpgrade: after a switch of protocols bytes go both ways, with half-close,
// and those that came early are not lost.
func TestUpgrade(t *testing.T) {
	t.Run("plain", func(t *testing.T) { testUpgrade(t, true) })
	t.Run("as over TLS", func(t *testing.T) { testUpgrade(t, false) })
}

// halfClosing is what crypto/tls offers: no socket in sight, but a half-close.
type halfClosing struct{ c *net.TCPConn }

func (h halfClosing) Read(b []byte) (int, error)         { return h.c.Read(b) }
func (h halfClosing) Write(b []byte) (int, error)        { return h.c.Write(b) }
func (h halfClosing) Close() error                       { return h.c.Close() }
func (h halfClosing) CloseWrite() error                  { return h.c.CloseWrite() }
func (h halfClosing) LocalAddr() net.Addr                { return h.c.LocalAddr() }
func (h halfClosing) RemoteAddr() net.Addr               { return h.c.RemoteAddr() }
func (h halfClosing) SetDeadline(t time.Time) error      { return h.c.SetDeadline(t) }
func (h halfClosing) SetReadDeadline(t time.Time) error  { return h.c.SetReadDeadline(t) }
func (h halfClosing) SetWriteDeadline(t time.Time) error { return h.c.SetWriteDeadline(t) }

func testUpgrade(t *testing.T, plain bool) {
	addr := rawServer(t, func(w *wire) {
		head, err := w.head()
		if err != nil {
			return
		}
		if !strings.Contains(head, "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n") {
			w.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
			return
		}
		w.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nUPGRADE: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nwelcome")
		n, _ := io.Copy(w.TCPConn, w.r) // until the client's half-close
		w.send(fmt.Sprint(" ", n))
	})
	f := newFront(t, route(addr), addr)
	if !plain {
		f.as(func(c net.Conn) (net.Conn, *Client) { return halfClosing{c.(*net.TCPConn)}, &Client{} })
	}
	const ask = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n"
	w := f.dial()
	w.send(ask + "early")
	w.expect("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nwelcomeearly")
	for range 3 {
		w.send("ping")
		w.expect("ping")
	}
	big := strings.Repeat("0123456789abcdef", 1<<20)
	go func() {
		w.send(big)
		w.CloseWrite()
	}()
	w.expect(big)
	if rest, err := w.rest(); rest != " 16777233" || err != nil {
		t.Error(rest, err)
	}
	x := f.recorded(1)[0]
	if x.Status != 101 || x.Reason != Tunnelled || x.BytesUp != 16777233 || x.BytesDown != 16777233+16 || string(x.Path) != "/ws" {
		t.Errorf("%+v", x)
	}

	// With a body, or as h2c, it is an ordinary request.
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 1\r\n\r\nx",
	} {
		if _, body := f.dial().roundTrip(request); body != "no" {
			t.Error(body)
		}
	}
}

// TestTunnelReset: a reset on one leg is a reset on the other.
func TestTunnelReset(t *testing.T) {
	for _, ofClient := range []bool{true, false} {
		got := make(chan error, 1)
		ready := make(chan bool)
		addr := rawServer(t, func(w *wire) {
			w.head()
			w.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
			if !ofClient {
				<-ready
				w.reset()
				return
			}
			_, err := w.r.ReadByte()
			got <- err
		})
		f := newFront(t, route(addr), addr)
		w := f.dial()
		w.send("GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
		if head, err := w.head(); !strings.HasPrefix(head, "HTTP/1.1 101") {
			t.Fatal(head, err)
		}
		why := ServerReset
		if ofClient {
			w.reset()
			if err := <-got; !errors.Is(err, unix.ECONNRESET) {
				t.Error(err)
			}
			why = ClientReset
		} else {
			close(ready)
			if _, err := w.rest(); !errors.Is(err, unix.ECONNRESET) {
				t.Error(err)
			}
		}
		if x := f.recorded(1)[0]; x.Reason != why {
			t.Errorf("%+v", x)
		}
		f.shut()
	}
}
