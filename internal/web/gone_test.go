package web

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestClientGone: a client that closes or resets in the middle of its request
// leaves the server with a broken one, not a short one.
func TestClientGone(t *testing.T) {
	for name, c := range map[string]struct {
		request string
		reset   bool
		why     Reason
	}{
		"length":        {"Content-Length: 5\r\n\r\nabc", false, ClientClosed},
		"length, reset": {"Content-Length: 5\r\n\r\nabc", true, ClientReset},
		"chunks":        {"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", false, ClientClosed},
		"large":         {"Content-Length: 1000000\r\n\r\nabc", false, ClientClosed},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan string, 1)
			addr := rawServer(t, func(w *wire) {
				w.head()
				w.r.Peek(3)
				got <- ""
				body, _ := w.rest()
				got <- body
			})
			f := newFront(t, route(addr), addr)
			w := f.dial()
			w.send("POST / HTTP/1.1\r\nHost: a\r\n" + c.request)
			<-got
			if c.reset {
				w.reset()
			} else {
				w.Close()
			}
			if body := <-got; !strings.Contains(body, "abc") || strings.HasSuffix(body, "0\r\n\r\n") {
				t.Errorf("%q", body)
			}
			if x := f.recorded(1)[0]; x.Reason != c.why || x.Status != 0 {
				t.Errorf("%+v", x)
			}
		})
	}
}

// TestClientLeaves: the server learns that a client no longer waits for a
// response, in the way in which the client has left.
func TestClientLeaves(t *testing.T) {
	for i := range 4 {
		reset, kept := i%2 == 1, i >= 2
		begun, got := make(chan bool, 1), make(chan error, 1)
		addr := rawServer(t, func(w *wire) {
			w.head()
			if kept {
				w.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				w.head()
			}
			begun <- true
			_, err := w.r.ReadByte()
			got <- err
			w.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		})
		f := newFront(t, route(addr), addr)
		w := f.dial()
		if kept {
			w.roundTrip(get)
		}
		w.send(get)
		if reset {
			<-begun
			w.reset()
			if err := <-got; !errors.Is(err, unix.ECONNRESET) {
				t.Error(err)
			}
			if kept {
				f.recorded(2)
			} else {
				f.recorded(1)
			}
		} else {
			w.CloseWrite() // and reads on, as `nc -N` does
			if err := <-got; err != io.EOF {
				t.Error(err)
			}
			w.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
		f.shut()
	}
}

// TestAbort: the context ends an exchange at once, on both legs.
func TestAbort(t *testing.T) {
	begun, ended := make(chan bool, 1), make(chan error, 1)
	addr := rawServer(t, func(w *wire) {
		w.head()
		begun <- true
		_, err := w.r.ReadByte()
		ended <- err
	})
	f := newFront(t, route(addr), addr)
	ctx, cancel := context.WithCancel(context.Background())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	over := make(chan Reason, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, why := f.Serve(ctx, c, &Client{})
		over <- why
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := newWire(t, c)
	w.send(get)
	<-begun
	cancel()
	if err := <-ended; !errors.Is(err, unix.ECONNRESET) && err != io.EOF {
		t.Error(err)
	}
	if why := <-over; why != Aborted {
		t.Error(why)
	}
	if _, err := w.rest(); !errors.Is(err, unix.ECONNRESET) {
		t.Error(err)
	}
}
