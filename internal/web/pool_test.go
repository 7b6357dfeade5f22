package web

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"midspan/internal/plan"
)

// TestPrivate: connections to servers are shared but where they tell who the
// client is: by a PROXY header, or since the client has authenticated on it.
func TestPrivate(t *testing.T) {
	number := func(challenge string) string {
		var mu sync.Mutex
		n := 0
		return rawServer(t, func(w *wire) {
			mu.Lock()
			n++
			me := n
			mu.Unlock()
			for {
				if _, err := w.head(); err != nil {
					return
				}
				w.send(fmt.Sprintf("HTTP/1.1 200 OK\r\n%sContent-Length: 1\r\n\r\n%d", challenge, me))
			}
		})
	}
	for name, c := range map[string]struct {
		private               bool
		challenge, credential string
		want                  string // the server's connection, for clients a, b, a, b, and then a new one
	}{
		"shared":       {false, "WWW-Authenticate: Basic realm=x\r\n", "", "11111"},
		"PROXY header": {true, "", "", "12123"},
		"NTLM":         {false, "WWW-Authenticate: NTLM\r\n", "", "12123"},
		"in a list":    {false, "WWW-Authenticate: Basic realm=x, NTLM\r\n", "", "12123"},
		"a second one": {false, "", "Authorization: Basic x\r\nAuthorization: Negotiate\tabc\r\n", "12123"},
		"Kerberos":     {false, "", "Authorization: Negotiate abc\r\n", "12123"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := number(c.challenge)
			r := route(addr)
			if c.private {
				r.SendProxy = plan.SendV2
			}
			f := newFront(t, r, addr)
			a, b := f.dial(), f.dial()
			got := ""
			for i, w := range []*wire{a, b, a, b, f.dial()} {
				_, body := w.roundTrip("GET / HTTP/1.1\r\nHost: a\r\n" + c.credential + "\r\n")
				got += body
				f.recorded(i + 1) // the connection has been given back
			}
			if got != c.want {
				t.Errorf("connections %s, want %s", got, c.want)
			}
		})
	}
}

// TestKeepAlive: how long servers say that they keep a connection.
func TestKeepAlive(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"timeout=5, max=100": 4 * time.Second, "max=1, timeout=1": 500 * time.Millisecond, "timeout=0": 0,
		"timeout=3600": idleServer, "timeout=99999999999999999999": idleServer, "max=5": idleServer, "": idleServer, "timeout=": 0,
	} {
		if got := min(idleServer, keepAliveOf([]byte(in))); got != want {
			t.Errorf("%s: %v, want %v", in, got, want)
		}
	}
	addr := says(t, lines("HTTP/1.1 200 OK|Keep-Alive: timeout=0|Content-Length: 0"))
	for _, own := range []plan.SendProxy{plan.SendNone, plan.SendV2} {
		r := route(addr)
		r.SendProxy = own
		f := newFront(t, r, addr)
		w := f.dial()
		w.roundTrip(get)
		w.roundTrip(get)
		if n := f.servers.all[0].dials.Load(); n != 2 {
			t.Errorf("send_proxy %s: %d connections", own, n)
		}
	}
}

// TestExpire: connections that nobody uses are closed, a client's own too while it is
// there.
func TestExpire(t *testing.T) {
	for _, own := range []bool{false, true} {
		closed := make(chan bool, 1)
		addr := rawServer(t, func(w *wire) {
			w.head()
			w.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			w.head()
			closed <- true
		})
		r := route(addr)
		if own {
			r.SendProxy = plan.SendV2
		}
		f := newFront(t, r, addr)
		f.dial().roundTrip(get)
		f.recorded(1)
		f.pool.expire(time.Now().Add(idleServer / 2))
		if len(f.pool.idle) != 1 {
			t.Error("closed too soon")
		}
		f.pool.expire(time.Now().Add(2 * idleServer))
		select {
		case <-closed:
		case <-time.After(10 * time.Second):
			t.Errorf("own %v: the connection is kept", own)
		}
	}
}

// TestIdle: a connection between two requests holds no buffers.
func TestIdle(t *testing.T) {
	addr := echo(t)
	f := newFront(t, route(addr), addr)
	w := f.dial()
	for range 2 {
		w.roundTrip(get)
		waitFor(t, "the end of the exchange", func() bool { return f.all()[0].state.Load() == waiting })
		c := f.all()[0]
		f.Drain() // ends its goroutine, so that it can be looked at
		w.rest()
		waitFor(t, "its end", func() bool { return len(f.all()) == 0 })
		if c.x != nil {
			t.Error("a buffer is held")
		}
		f.draining.Store(false)
		w = f.dial()
	}
}
