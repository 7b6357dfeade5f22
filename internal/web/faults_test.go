package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/plan"
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

// TestTimeouts: heads that do not come, of either side.
func TestTimeouts(t *testing.T) {
	quiet := rawServer(t, func(w *wire) { io.Copy(io.Discard, w.r) })
	ms := func(n int) plan.Duration { return plan.Duration(time.Duration(n) * time.Millisecond) }

	t.Run("slowloris", func(t *testing.T) {
		r := route(quiet)
		r.HTTP.HeaderTimeout = ms(150)
		f := newFront(t, r, quiet)
		start := time.Now()
		w := f.dial()
		stop := make(chan bool)
		defer close(stop)
		go func() {
			w.send("GET / HTTP/1.1\r\n")
			for {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
					w.send("X")
				}
			}
		}()
		head, _ := w.response("GET")
		if d := time.Since(start); !strings.HasPrefix(head, "HTTP/1.1 408 Request Timeout\r\n") || d < 100*time.Millisecond || d > 20*time.Second {
			t.Error(head, d)
		}
		if x := f.recorded(1)[0]; x.Reason != HeadTimeout || x.Status != 408 || x.Duration < 140*time.Millisecond {
			t.Errorf("%+v", x)
		}
	})
	t.Run("nothing is sent", func(t *testing.T) {
		r := route(quiet)
		r.HTTP.HeaderTimeout = ms(50)
		f := newFront(t, r, quiet)
		if rest, err := f.dial().rest(); rest != "" || err != nil || len(f.records) > 0 {
			t.Error(rest, err)
		}
	})
	t.Run("between requests", func(t *testing.T) {
		addr := says(t, lines("HTTP/1.1 200 OK|Content-Length: 0"))
		patiently(t, func(limit time.Duration) (again bool) {
			r := route(addr)
			r.HTTP.KeepaliveTimeout = plan.Duration(limit)
			w := newFront(t, r, addr).dial()
			var before, sent time.Time
			for range 3 { // each begins the time anew
				before, sent = sent, time.Now()
				w.send(get)
				if _, err := w.head(); err != nil {
					if time.Since(before) >= limit {
						return true
					}
					t.Fatalf("closed %s after a request", time.Since(before))
				}
				time.Sleep(limit * 6 / 10)
			}
			if rest, err := w.rest(); rest != "" || err != nil {
				t.Error(rest, err)
			}
			return false
		})
	})
	t.Run("response", func(t *testing.T) {
		r := route(quiet)
		r.HTTP.ResponseTimeout = ms(100)
		f := newFront(t, r, quiet)
		w := f.dial()
		if head, body := w.roundTrip(get); !strings.HasPrefix(head, "HTTP/1.1 504 Gateway Timeout\r\n") || body != "504 Gateway Timeout: response timeout\n" {
			t.Error(head, body)
		}
		if x := f.recorded(1)[0]; x.Reason != Timeout || x.Retries != 0 {
			t.Errorf("%+v", x)
		}
	})
	t.Run("response, on a kept connection", func(t *testing.T) {
		addr := rawServer(t, func(w *wire) {
			w.head()
			w.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			io.Copy(io.Discard, w.r)
		})
		patiently(t, func(limit time.Duration) (again bool) {
			r := route(addr)
			r.HTTP.ResponseTimeout = plan.Duration(limit)
			f := newFront(t, r, addr)
			w := f.dial()
			began := time.Now()
			if head, _ := w.roundTrip(get); strings.HasPrefix(head, "HTTP/1.1 504 ") && time.Since(began) >= limit {
				return true
			}
			time.Sleep(limit * 3 / 2) // the first one's time is over by now
			if head, _ := w.roundTrip(get); !strings.HasPrefix(head, "HTTP/1.1 504 ") {
				t.Error(head)
			}
			if x := f.recorded(2)[1]; x.Reason != Timeout || x.Retries != 0 || x.Connect != 0 {
				t.Errorf("%+v", x)
			}
			return false
		})
	})
	t.Run("response to an upload", func(t *testing.T) {
		r := route(quiet)
		r.HTTP.ResponseTimeout = ms(100)
		f := newFront(t, r, quiet)
		w := f.dial()
		w.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n")
		var last time.Time
		for range 6 { // takes longer than the timeout, which begins after it
			time.Sleep(30 * time.Millisecond)
			last = time.Now()
			w.send("x")
		}
		if head, _ := w.response("POST"); !strings.HasPrefix(head, "HTTP/1.1 504 ") || time.Since(last) < 100*time.Millisecond {
			t.Error(time.Since(last), head)
		}
	})
	t.Run("not of bodies", func(t *testing.T) {
		patiently(t, func(limit time.Duration) (again bool) {
			addr := server(t, func(w http.ResponseWriter, _ *http.Request) {
				for range 5 {
					w.(http.Flusher).Flush()
					time.Sleep(limit / 2)
					fmt.Fprint(w, "x")
				}
			})
			r := route(addr)
			r.HTTP.ResponseTimeout = plan.Duration(limit)
			f := newFront(t, r, addr)
			defer http.DefaultClient.CloseIdleConnections()
			began := time.Now()
			resp, err := http.Get("http://" + f.addr)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			if resp.StatusCode == 504 && time.Since(began) >= limit {
				return true
			}
			if string(b) != "xxxxx" || err != nil {
				t.Error(string(b), err)
			}
			return false
		})
	})
}

// patiently tests a time limit with longer and longer ones, for as long as the machine
// was too slow for what has to happen within it.
func patiently(t *testing.T, test func(limit time.Duration) (again bool)) {
	t.Helper()
	for limit := 100 * time.Millisecond; test(limit); limit *= 2 {
		if limit > 10*time.Second {
			t.Fatal("the machine is too slow")
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
