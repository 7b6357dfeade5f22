package web

import (
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

// closed is an address where nobody listens.
func closed(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// reset ends a connection with RST.
func (w *wire) reset() {
	w.SetLinger(0)
	w.Close()
}

// TestTruncated: a response that breaks off never looks complete, and a reset is
// passed on as a reset.
func TestTruncated(t *testing.T) {
	for name, c := range map[string]struct {
		in    string
		reset bool
		// what the client gets, and whether it ends with a reset
		want      string
		wantReset bool
		why       Reason
	}{
		"length":             {"HTTP/1.1 200 OK|Content-Length: 5||abc", false, "HTTP/1.1 200 OK|Content-Length: 5||abc", false, ServerClosed},
		"length, reset":      {"HTTP/1.1 200 OK|Content-Length: 5||abc", true, "HTTP/1.1 200 OK|Content-Length: 5||abc", true, ServerReset},
		"chunks":             {"HTTP/1.1 200 OK|Transfer-Encoding: chunked||3\r\nabc\r\n", false, "HTTP/1.1 200 OK|Transfer-Encoding: chunked||3|abc|", false, ServerClosed},
		"chunks, reset":      {"HTTP/1.1 200 OK|Transfer-Encoding: chunked||3\r\nabc\r\n", true, "HTTP/1.1 200 OK|Transfer-Encoding: chunked||3|abc|", true, ServerReset},
		"bad chunk":          {"HTTP/1.1 200 OK|Transfer-Encoding: chunked||3\r\nabc\r\n0\r\n", false, "HTTP/1.1 200 OK|Transfer-Encoding: chunked||3|abc|0|", false, ServerClosed},
		"until close":        {"HTTP/1.1 200 OK||abc", false, "HTTP/1.1 200 OK|Connection: close||abc", false, Done},
		"until close, reset": {"HTTP/1.1 200 OK||abc", true, "HTTP/1.1 200 OK|Connection: close||abc", true, ServerReset},
	} {
		t.Run(name, func(t *testing.T) {
			proceed := make(chan bool)
			addr := rawServer(t, func(w *wire) {
				w.head()
				w.send(lines(c.in))
				<-proceed // the client has what was sent
				if c.reset {
					w.reset()
				}
			})
			f := newFront(t, route(addr), addr)
			w := f.dial()
			w.send(get)
			w.expect(strings.ReplaceAll(c.want, "|", "\r\n"))
			close(proceed)
			rest, err := w.rest()
			if rest != "" || errors.Is(err, unix.ECONNRESET) != c.wantReset {
				t.Errorf("then %q, %v", rest, err)
			}
			if x := f.recorded(1)[0]; x.Reason != c.why || x.Status != 200 {
				t.Errorf("%+v", x)
			}
		})
	}
}

// TestTruncatedOld: a client of HTTP/1.0 takes the end of the connection for the
// end of the body; so where that is missing the connection is reset.
func TestTruncatedOld(t *testing.T) {
	proceed := make(chan bool)
	addr := rawServer(t, func(w *wire) {
		w.head()
		w.send(lines("HTTP/1.1 200 OK|Transfer-Encoding: chunked||3\r\nabc\r\n"))
		<-proceed
	})
	f := newFront(t, route(addr), addr)
	w := f.dial()
	w.send("GET / HTTP/1.0\r\n\r\n")
	w.expect(lines("HTTP/1.1 200 OK|Connection: close||abc"))
	close(proceed)
	if rest, err := w.rest(); rest != "" || !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("then %q, %v", rest, err)
	}
}

// TestBadResponses: what a server must not send is not passed on.
func TestBadResponses(t *testing.T) {
	for in, why := range map[string]Reason{
		"HTTP/1.1 200 OK|Content-Length: 1|Transfer-Encoding: chunked||": BadResponse,
		"HTTP/1.1 200 OK|A: b| c":                                 BadResponse,
		"HTTP/1.1 101 Switching|Upgrade: x|Connection: upgrade||": BadResponse,
		"SSH-2.0-OpenSSH_9.2":                                     BadResponse,
		"HTTP/1.1 200 OK|A: " + strings.Repeat("x", 40<<10):       BadResponse,
		"HTTP/1.1 200 OK|" + strings.Repeat("A: b|", 200):         BadResponse,
		"HTTP/1.1 200 OK\nContent-Length: 1\n\n":                  BadResponse,
		"HTTP/1.1 200 OK|Transfer-Encoding: chunked||zzz":         BadResponse,
	} {
		addr := says(t, lines(in))
		f := newFront(t, route(addr), addr)
		w := f.dial()
		head, body := w.roundTrip(get)
		if !strings.HasPrefix(head, "HTTP/1.1 502 Bad Gateway\r\n") || body != "502 Bad Gateway: bad response\n" {
			t.Errorf("%.60q: %s%s", in, head, body)
		}
		if x := f.recorded(1)[0]; x.Reason != why || x.Err == nil || x.Status != 502 {
			t.Errorf("%+v", x)
		}
		w.Close()
		f.shut()
	}
}

// TestNoAnswer: a new connection that ends without an answer is no reason to send
// the request again.
func TestNoAnswer(t *testing.T) {
	for reset, why := range map[bool]Reason{false: ServerClosed, true: ServerReset} {
		var heads atomic.Int64
		addr := rawServer(t, func(w *wire) {
			w.head()
			heads.Add(1)
			if reset {
				w.reset()
			}
		})
		f := newFront(t, route(addr), addr)
		w := f.dial()
		for i := range 2 { // the client's connection is none the worse for it
			if head, body := w.roundTrip(get); !strings.HasPrefix(head, "HTTP/1.1 502 Bad Gateway\r\n") || body != "502 Bad Gateway: "+string(why)+"\n" || heads.Load() != int64(i+1) {
				t.Error(head, body, heads.Load())
			}
		}
		if x := f.recorded(1)[0]; x.Reason != why || x.Retries != 0 {
			t.Errorf("%+v", x)
		}
		f.shut()
	}
}

// TestRetry: a connect that fails is tried at another server, whatever the
// request; all that fail are an answer.
func TestRetry(t *testing.T) {
	good := echo(t)
	for _, request := range []string{get, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"} {
		f := newFront(t, route("", "", ""), closed(t), closed(t), good)
		w := f.dial()
		if head, _ := w.roundTrip(request); !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") {
			t.Error(head)
		}
		if x := f.recorded(1)[0]; x.Retries != 2 || x.Server != "s2" || x.Err != nil {
			t.Errorf("%+v", x)
		}
		f.shut()
	}
	f := newFront(t, route("", ""), closed(t), closed(t))
	w := f.dial()
	if head, body := w.roundTrip(get); !strings.HasPrefix(head, "HTTP/1.1 502 Bad Gateway\r\n") || body != "502 Bad Gateway: connect failed\n" {
		t.Error(head, body)
	}
	f.servers.none()
	if head, body := w.roundTrip(get); !strings.HasPrefix(head, "HTTP/1.1 503 Service Unavailable\r\n") || body != "503 Service Unavailable: no server up\n" {
		t.Error(head, body)
	}
	x := f.recorded(2)
	if x[0].Reason != ConnectFailed || x[0].Retries != 2 || !errors.Is(x[0].Err, unix.ECONNREFUSED) || x[1].Reason != NoServer || !errors.Is(x[1].Err, errNone) {
		t.Errorf("%+v", x)
	}
}

// TestStale: a kept connection that the server closes while a request is on its
// way costs nothing where the request may be repeated; any other is not sent
// twice.
func TestStale(t *testing.T) {
	for _, c := range []struct {
		request string
		status  string
		heads   int64
	}{
		{get, "200", 3},
		{"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", "200", 3},
		{"POST / HTTP/1.1\r\nHost: a\r\n\r\n", "502", 2},
		{"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", "502", 2},
	} {
		for _, reset := range []bool{false, true} {
			var heads atomic.Int64
			addr := rawServer(t, func(w *wire) { // answers once, and at the second request ends
				w.head()
				heads.Add(1)
				w.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				if _, err := w.head(); err == nil {
					heads.Add(1)
				}
				if reset {
					w.reset()
				}
			})
			f := newFront(t, route(addr), addr)
			w := f.dial()
			w.roundTrip(get)
			if head, _ := w.roundTrip(c.request); !strings.HasPrefix(head, "HTTP/1.1 "+c.status) || heads.Load() != c.heads {
				t.Errorf("%s: %d heads: %s", c.request, heads.Load(), head)
			}
			if x := f.recorded(2)[1]; x.Retries != int(c.heads-2) {
				t.Errorf("%+v", x)
			}
			f.shut()
		}
	}
}

// TestClosedWhileIdle: a kept connection that the server has closed is noticed,
// and no request of whatever kind is lost on it.
func TestClosedWhileIdle(t *testing.T) {
	ended := make(chan bool, 100)
	addr := rawServer(t, func(w *wire) {
		w.head()
		w.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		w.Close()
		ended <- true
	})
	f := newFront(t, route(addr), addr)
	w := f.dial()
	for range 50 {
		if head, _ := w.roundTrip("POST / HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") {
			t.Fatal(head)
		}
		<-ended
		waitFor(t, "the end of the kept connection", func() bool {
			f.pool.mu.Lock()
			defer f.pool.mu.Unlock()
			for _, all := range f.pool.idle {
				for _, up := range all {
					return !up.alive()
				}
			}
			return false
		})
	}
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain for ", what)
		}
	}
}

// TestBadRequestsAnswered: a refusal is an answer that arrives, whatever else the
// client is sending, and nothing of the request gets to a server.
func TestBadRequestsAnswered(t *testing.T) {
	addr := echo(t)
	f := newFront(t, route(addr), addr)
	for in, status := range map[string]string{
		"GET / HTTP/1.1\r\n\r\n":      "400 Bad Request",
		"GET / HTTP/1.1\nHost: a\n\n": "400 Bad Request",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": "400 Bad Request",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n":                         "400 Bad Request",
		"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 64<<10):                                 "431 Request Header Fields Too Large",
		"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 33<<10) + "\r\n\r\n":                    "431 Request Header Fields Too Large",
		"GET / HTTP/3.0\r\nHost: a\r\n\r\n":                                                              "505 HTTP Version Not Supported",
		"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n":                                                      "501 Not Implemented",
		"\x16\x03\x01\x02\x00\x01\x00\n":                                                                 "400 Bad Request",
	} {
		w := f.dial()
		go func() {
			w.send(in)
			w.send(strings.Repeat("and more of it", 10<<10))
			w.CloseWrite()
		}()
		head, _ := w.head()
		if !strings.HasPrefix(head, "HTTP/1.1 "+status+"\r\n") || !strings.Contains(head, "\r\nConnection: close\r\n") {
			t.Errorf("%.60q: %s", in, head)
		}
		if _, err := w.rest(); err != nil {
			t.Errorf("%.60q: %v", in, err)
		}
	}
	for _, x := range f.recorded(9) {
		if x.Reason != BadRequest || x.Err == nil || x.BytesUp != 0 {
			t.Errorf("%+v", x)
		}
	}
	if n := f.servers.all[0].dials.Load(); n > 1 { // for the bad chunk
		t.Error(n, "connections to the server")
	}
}

// TestBadChunkLater: a bad chunk in a body that is under way breaks the request
// off, so that the server cannot take it for complete.
func TestBadChunkLater(t *testing.T) {
	got := make(chan string, 1)
	addr := rawServer(t, func(w *wire) {
		w.head()
		body, _ := w.rest()
		got <- body
	})
	f := newFront(t, route(addr), addr)
	w := f.dial()
	w.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	waitFor(t, "the server", func() bool { return f.servers.all[0].dials.Load() > 0 })
	w.send("0\n\n")
	if head, body := w.response("POST"); !strings.HasPrefix(head, "HTTP/1.1 400 Bad Request\r\n") || body != "400 Bad Request: malformed chunk\n" {
		t.Error(head, body)
	}
	if body := <-got; strings.Contains(body, "0\r\n") || strings.Contains(body, "\n\n") {
		t.Errorf("the server got %q", body)
	}
}
