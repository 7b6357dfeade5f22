package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"midspan/internal/engine"
)

// webServer is a server of HTTP/1.1 that says who it is, and its address.
func webServer(t *testing.T, name string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := r.URL.Query().Get("slow"); n != "" {
			d, err := time.ParseDuration(n)
			if err != nil {
				t.Error(err)
			}
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
		}
		body, err := io.ReadAll(r.Body)
		if err == nil {
			_, _ = fmt.Fprintf(w, "%s %s %d %s", name, r.URL.Path, len(body), r.Header.Get("X-Forwarded-For"))
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// get asks for a path and returns the answer's body.
func get(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	r, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", r.StatusCode, b)
}

// httpClientOf is a client whose connections end with the test.
func httpClientOf(t *testing.T, c *tls.Config) *http.Client {
	tr := &http.Transport{TLSClientConfig: c}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// TestHTTPRequests: requests go to the servers in turn, over one connection of
// the client's and one to each server; each has its record, the connection none.
func TestHTTPRequests(t *testing.T) {
	a, b := webServer(t, "a"), webServer(t, "b")
	s := newTheatre(t, fmt.Sprintf("[%s, %s]", a, b), "mode: http")
	c := httpClientOf(t, nil)
	for i := range 6 {
		want := fmt.Sprintf("200 %c /x 0 127.0.0.1", "ab"[i%2])
		if got := get(t, c, "http://"+s.addr+"/x?q"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	conns := s.Conns()
	if len(conns) != 1 || conns[0].Server != b || conns[0].State != "open" || conns[0].BytesDown == 0 {
		t.Errorf("%+v", conns)
	}
	c.CloseIdleConnections()
	for i := range 6 {
		r := s.end(i + 1)
		h := r.HTTP
		if h == nil || h.Method != "GET" || h.Path != "/x?q" || h.Status != 200 || h.Host != s.addr || h.Protocol != "HTTP/1.1" || r.Reason != "" {
			t.Fatalf("%+v, %+v", r, h)
		}
		if first := i < 2; first != (r.Connect > 0) {
			t.Errorf("request %d: connect %s", i, r.Connect)
		}
		if r.BytesDown == 0 || r.Server != []string{a, b}[i%2] || !r.Endpoint.IsValid() || r.End.Before(r.Start) {
			t.Errorf("%+v", r)
		}
	}
	s.settled()
	st := s.Status().Routes[0]
	if st.Counters.Accepted != 1 || st.Counters.Ended[engine.ClosedByClient] != 1 || st.Endpoints[0].Connects != 1 || st.Endpoints[1].Connects != 1 {
		t.Errorf("%+v", st)
	}
	h := st.HTTP
	if h == nil || len(h.Requests) != 1 || h.Requests["200"] != 6 || h.Waited <= 0 {
		t.Fatalf("%+v", h)
	}
	waits := uint64(0)
	for _, n := range h.Waits {
		waits += n
	}
	if waits != 6 {
		t.Errorf("%+v", h)
	}
	if n := len(s.records); n != 6 {
		t.Errorf("%d records", n)
	}
}

// TestHTTPCounters: there are no more series than statuses, and a wait falls in the
// first class that holds it.
func TestHTTPCounters(t *testing.T) {
	all := make([]httpCounters, 2)
	for i, status := range []int{200, 599, 600, 99, 999, 0, -1, 1, 200} {
		all[i%2].count(status, 0)
	}
	for _, wait := range []time.Duration{1, time.Millisecond, time.Millisecond + 1, 10 * time.Second, time.Hour} {
		all[0].count(100, wait)
	}
	h := httpStatus(all)
	if got := fmt.Sprint(h.Requests); got != "map[100:5 200:2 599:1 none:1 other:5]" {
		t.Error(got)
	}
	if got := fmt.Sprint(h.Waits, h.Waited); got != "[2 1 0 0 0 0 0 0 0 0 0 0 1 1] 1h0m10.002000002s" {
		t.Error(got)
	}
	if httpStatus(nil) != nil {
		t.Error("a route of another mode")
	}
}

// settled waits until no connection is left, and checks that none is counted.
func (s *theatre) settled() {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); s.Status().Connections > 0; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("connections are left: %+v", s.Conns())
		}
	}
	for _, r := range s.Status().Routes {
		for _, e := range r.Endpoints {
			if e.Active != 0 || r.Counters.Active != 0 {
				s.t.Errorf("left in the books: %+v", r)
			}
		}
	}
}

// busy waits until the only server has n requests.
func (s *theatre) busy(n int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%d requests are at the server", n), func() bool { return s.Status().Routes[0].Endpoints[0].Active == n })
}

// TestHTTPConnectionWithoutRequest: it has a record of its own, unless it was a
// probe.
func TestHTTPConnectionWithoutRequest(t *testing.T) {
	s := newTheatre(t, webServer(t, "a"), "mode: http, http: {header_timeout: 1s}")
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	eventually(t, "the probe is counted", func() bool { return s.Status().Routes[0].Counters.Ended[engine.Probe] == 1 })
	if s.settled(); len(s.records) != 0 {
		t.Errorf("records %+v", s.records)
	}
	s.refusesNonsense()
}

// refusesNonsense wants a connection that does not speak HTTP to get an answer, and
// to have a record of its own, the first.
func (s *theatre) refusesNonsense() {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "not HTTP\r\n\r\n"); err != nil {
		s.t.Fatal(err)
	}
	if b, err := io.ReadAll(c); !strings.HasPrefix(string(b), "HTTP/1.1 400 ") {
		s.t.Errorf("%q, %v", b, err)
	}
	c.Close()
	if r := s.end(1); r.Reason != engine.BadRequest || r.HTTP == nil || r.HTTP.Status != 400 {
		s.t.Errorf("%+v", r)
	}
}

// TestHTTPFollowsPlan: requests on a connection that lives go where the newest
// plan says.
func TestHTTPFollowsPlan(t *testing.T) {
	a, b := webServer(t, "a"), webServer(t, "b")
	s := newTheatre(t, a, "mode: http")
	c := httpClientOf(t, nil)
	get(t, c, "http://"+s.addr+"/")
	// The client may have its answer before the request is out of the books, and a
	// server that has a request is remembered.
	s.busy(0)
	s.apply(b, "mode: http")
	if got := get(t, c, "http://"+s.addr+"/"); !strings.HasPrefix(got, "200 b") {
		t.Errorf("%q", got)
	}
	s.apply(a, fmt.Sprintf("mode: http, hosts: {%q: {/b/: {to: %q, rewrite: /}}}", "127.0.0.1", b))
	if got := get(t, c, "http://"+s.addr+"/b/c"); !strings.HasPrefix(got, "200 b /c") {
		t.Errorf("%q", got)
	}
	if got := get(t, c, "http://"+s.addr+"/b"); !strings.HasPrefix(got, "200 a /b") {
		t.Errorf("%q", got)
	}
	s.apply(fmt.Sprintf("[%s, %s]", a, b), "mode: http")
	if n := s.Status().Routes[0].Counters.Accepted; n != 1 {
		t.Errorf("%d connections", n)
	}
	// A connection to the server is still used after all that.
	if n := s.Status().Routes[0].Endpoints; n[0].Connects != 1 || n[1].Connects != 1 {
		t.Errorf("%+v", n)
	}
}

// TestHTTPBadServer: a server that does not speak HTTP, and one that says nothing,
// are told apart in the log.
func TestHTTPBadServer(t *testing.T) {
	for says, want := range map[string]engine.Reason{"SSH-2.0-OpenSSH_9.2\r\n\r\n": engine.BadResponse, "": engine.ResponseTimeout} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Read(make([]byte, 1000))
				_, _ = io.WriteString(c, says)
				_, _ = io.Copy(io.Discard, c)
				c.Close()
			}
		}()
		s := newTheatre(t, l.Addr().String(), "mode: http, http: {response_timeout: 3s}")
		got := get(t, httpClientOf(t, nil), "http://"+s.addr+"/")
		status := map[engine.Reason]int{engine.BadResponse: 502, engine.ResponseTimeout: 504}[want]
		if r := s.end(1); r.Reason != want || r.HTTP.Status != status || !strings.HasPrefix(got, fmt.Sprint(status)) {
			t.Errorf("%q: %q, %+v, %+v", says, got, r, r.HTTP)
		}
	}
}

// TestHTTPFails: a server that cannot be reached is passed by, and the client
// told when none is left.
func TestHTTPFails(t *testing.T) {
	dead, good := fmt.Sprintf("127.0.0.1:%d", freePort(t)), webServer(t, "good")
	s := newTheatre(t, fmt.Sprintf("[%s, %s]", dead, good), "mode: http, balance: first")
	c := httpClientOf(t, nil)
	if got := get(t, c, "http://"+s.addr+"/"); !strings.HasPrefix(got, "200 good") {
		t.Errorf("%q", got)
	}
	if r := s.end(1); r.Retries != 1 || r.Server != good {
		t.Errorf("%+v", r)
	}
	if len(s.dials) != 1 || s.dials[0].Err == nil || s.dials[0].Server != dead {
		t.Errorf("%+v", s.dials)
	}
	s.apply(dead, "mode: http")
	if got := get(t, c, "http://"+s.addr+"/"); !strings.HasPrefix(got, "502") {
		t.Errorf("%q", got)
	}
	if r := s.end(2); r.Reason != engine.ConnectFailed || !strings.Contains(r.Err, "connection refused") || r.HTTP.Status != 502 {
		t.Errorf("%+v %+v", r, r.HTTP)
	}
	s.apply("{server: "+good+", max_connections: 1}", "mode: http, connect_timeout: 300ms")
	go func() { _, _ = c.Get("http://" + s.addr + "/?slow=19s") }() // up to the end of the engine
	s.busy(1)
	if got := get(t, c, "http://"+s.addr+"/"); !strings.HasPrefix(got, "503") {
		t.Errorf("%q", got)
	}
}

// TestHTTPSticky: a client with the cookie stays on its server while that is up.
func TestHTTPSticky(t *testing.T) {
	a, b := webServer(t, "a"), webServer(t, "b")
	s := newTheatre(t, fmt.Sprintf("[%s, %s]", a, b), "mode: http, http: {sticky: SRV}")
	c := httpClientOf(t, nil)
	r, err := c.Get("http://" + s.addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, r.Body)
	r.Body.Close()
	if len(r.Cookies()) != 1 {
		t.Fatalf("%+v", r.Header)
	}
	for range 4 {
		req, err := http.NewRequest("GET", "http://"+s.addr+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.AddCookie(r.Cookies()[0])
		again, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(again.Body)
		again.Body.Close()
		if err != nil || !bytes.HasPrefix(body, []byte("a ")) {
			t.Errorf("%q, %v", body, err)
		}
	}
}

// TestHTTPS: TLS with clients and with servers, with HTTP/1.1.
func TestHTTPS(t *testing.T) {
	a := newAuthority(t)
	pem := a.leaf("s.pem", "127.0.0.1")
	var asked atomic.Value
	back := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Header.Get("X-Forwarded-Proto"))
		body, err := io.ReadAll(r.Body)
		if err == nil {
			_, _ = w.Write(body)
		}
	}))
	back.TLS = &tls.Config{Certificates: []tls.Certificate{a.pair("s.pem")}}
	back.StartTLS()
	defer back.Close()
	s := newTheatre(t, back.Listener.Addr().String(), fmt.Sprintf("mode: http, tls: {cert: %s, alpn: [http/1.1]}, upstream_tls: {ca: %s}", pem, a.file("ca.pem")))
	c := httpClientOf(t, &tls.Config{RootCAs: a.pool()})
	body := bytes.Repeat([]byte("x"), 3<<20)
	for range 3 {
		r, err := c.Post("https://"+s.addr+"/", "text/plain", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	if asked.Load() != "https" {
		t.Errorf("X-Forwarded-Proto %v", asked.Load())
	}
	if e := s.Status().Routes[0].Endpoints[0]; e.Connects != 1 {
		t.Errorf("%+v", e)
	}
	c.CloseIdleConnections()
	s.settled()
}

// TestHTTPEnds: a request that is under way ends at the word of kill, a server
// that is cut off and the engine's end, and has a record that says so.
func TestHTTPEnds(t *testing.T) {
	for _, c := range []struct {
		settings string
		end      func(*theatre)
		want     engine.Reason
	}{
		{"", func(s *theatre) { s.Kill(s.Conns()[0].ID) }, engine.Killed},
		{"", func(s *theatre) { s.Close() }, engine.Stopped},
		{"on_down: cut", func(s *theatre) { s.apply("127.0.0.1:1", "mode: http, on_down: cut") }, engine.ResetByServer},
	} {
		s := newTheatre(t, webServer(t, "a"), "mode: http, "+c.settings)
		r, err := httpClientOf(t, nil).Get("http://" + s.addr + "/?slow=20s")
		if err != nil {
			t.Fatal(err)
		}
		c.end(s)
		if _, err := io.ReadAll(r.Body); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v, want a reset", c.want, err)
		}
		r.Body.Close()
		if x := s.end(1); x.Reason != c.want || x.HTTP == nil {
			t.Errorf("%s: %q, want %s", x.Reason, x.Err, c.want)
		}
	}
}

// TestHTTPDrain: when the route stops listening, or is gone, a request that is
// under way is answered, and connections that wait for one are closed.
func TestHTTPDrain(t *testing.T) {
	a := webServer(t, "a")
	for _, gone := range []bool{true, false} {
		s := newTheatre(t, a, "mode: http")
		waits, busy := httpClientOf(t, nil), httpClientOf(t, nil)
		get(t, waits, "http://"+s.addr+"/")
		s.busy(0)
		answer := make(chan string, 1)
		go func() {
			r, err := busy.Get("http://" + s.addr + "/?slow=500ms")
			if err != nil {
				answer <- err.Error()
				return
			}
			defer r.Body.Close()
			b, err := io.ReadAll(r.Body)
			answer <- fmt.Sprint(string(b), err)
		}()
		s.settledBut(2)
		s.busy(1)
		text := fmt.Sprintf("routes: {r: {listen: %q, to: %s, mode: http}}", s.addr, a)
		if gone {
			text = fmt.Sprintf("routes: {other: {listen: '127.0.0.1:%d', to: '127.0.0.1:1'}}", freePort(t))
		}
		next, err := planFor(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Apply(t.Context(), next.WithoutListeners()); err != nil {
			t.Fatal(err)
		}
		if got := <-answer; !strings.HasPrefix(got, "a / 0 127.0.0.1") || !strings.HasSuffix(got, "<nil>") {
			t.Errorf("%q", got)
		}
		s.settled()
		if gone { // and it may come back
			s.apply(webServer(t, "b"), "mode: http")
			if got := get(t, waits, "http://"+s.addr+"/"); !strings.HasPrefix(got, "200 b") {
				t.Errorf("%q", got)
			}
		}
	}
}
