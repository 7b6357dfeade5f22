package web

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"midspan/internal/plan"
)

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
