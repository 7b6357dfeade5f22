package web

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestDrain: what waits is closed, what is under way is finished, and says that
// it is the last.
func TestDrain(t *testing.T) {
	hold := make(chan bool)
	addr := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-hold
		}
		fmt.Fprint(w, "ok")
	})
	f := newFront(t, route(addr), addr)
	idle, slow, fresh := f.dial(), f.dial(), f.dial()
	idle.roundTrip(get)
	slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
	waitFor(t, "the slow one", func() bool { return f.servers.all[0].uses.Load() == 1 })
	waitFor(t, "the fresh one", func() bool { return len(f.all()) == 3 })
	f.Drain()
	if rest, err := idle.rest(); rest != "" || err != nil {
		t.Error(rest, err)
	}
	close(hold)
	for _, w := range []*wire{slow, fresh} {
		if w == fresh {
			w.send(get)
		}
		if head, body := w.response("GET"); !strings.Contains(head, "\r\nConnection: close\r\n") || body != "ok" {
			t.Error(head, body)
		}
		if rest, err := w.rest(); rest != "" || err != nil {
			t.Error(rest, err)
		}
	}
}

// TestDrainBegun: a request of which a part is there is under way, on a connection
// that has had others too.
func TestDrainBegun(t *testing.T) {
	addr := server(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	for _, plain := range []bool{true, false} {
		f := newFront(t, route(addr), addr)
		if !plain { // as over TLS
			f.as(func(c net.Conn) (net.Conn, *Client) { return struct{ net.Conn }{c}, &Client{} })
		}
		w := f.dial()
		w.roundTrip(get)
		state := func() int32 { return f.all()[0].state.Load() }
		waitFor(t, "the end of the exchange", func() bool { return state() == waiting })
		w.send(get[:20])
		waitFor(t, "the next request", func() bool { return state() == busy })
		f.Drain()
		time.Sleep(20 * time.Millisecond)
		w.send(get[20:])
		if head, body := w.response("GET"); !strings.Contains(head, "\r\nConnection: close\r\n") || body != "ok" {
			t.Error(head, body)
		}
		f.shut()
	}
}

// hurried is a connection on which something comes just when it is looked at for the
// last time, and the look is late.
type hurried struct {
	net.Conn
	once  *sync.Once
	comes func()
}

func (h hurried) NetConn() net.Conn { return h.Conn }

func (h hurried) SetReadDeadline(t time.Time) error {
	err := h.Conn.SetReadDeadline(t)
	if left := time.Until(t); left > 0 && left <= quietTime {
		h.once.Do(func() { h.comes(); time.Sleep(2 * quietTime) })
	}
	return err
}

// TestDrainLateLook: a request that comes together with the drain is served also
// where the time to look for it is over before the look.
func TestDrainLateLook(t *testing.T) {
	addr := server(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	f := newFront(t, route(addr), addr)
	var w *wire
	f.as(func(c net.Conn) (net.Conn, *Client) {
		return hurried{c, new(sync.Once), func() { w.send(get) }}, &Client{}
	})
	w = f.dial()
	w.roundTrip(get)
	waitFor(t, "the end of the exchange", func() bool { return f.all()[0].state.Load() == waiting })
	f.Drain()
	if head, body := w.response("GET"); !strings.Contains(head, "\r\nConnection: close\r\n") || body != "ok" {
		t.Error(head, body)
	}
}
