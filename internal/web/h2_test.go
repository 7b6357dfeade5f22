package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/config"
	"midspan/internal/plan"
)

// speaks is a set of protocols: HTTP/1 or HTTP/2, without TLS.
func speaks(h2 bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(!h2)
	p.SetUnencryptedHTTP2(h2)
	return p
}

// serverOf starts a server of one protocol.
func serverOf(t *testing.T, h2 bool, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, Protocols: speaks(h2)}
	done := make(chan bool)
	go func() { defer close(done); s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().String()
}

func clientOf(t *testing.T, h2 bool) *http.Client {
	tr := &http.Transport{Protocols: speaks(h2), DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// protocols runs f for all pairs of client's and server's protocols in which
// HTTP/2 has a part.
func protocols(t *testing.T, f func(t *testing.T, client, server bool)) {
	for _, c := range []struct{ client, server bool }{{true, false}, {false, true}, {true, true}} {
		t.Run(fmt.Sprintf("%s to %s", name(c.client), name(c.server)), func(t *testing.T) { f(t, c.client, c.server) })
	}
}

func name(h2 bool) string {
	if h2 {
		return "h2"
	}
	return "h1"
}

// TestH2: requests between protocols, by the same rules and with the same records
// as all.
func TestH2(t *testing.T) {
	protocols(t, func(t *testing.T, client, server bool) {
		addr := serverOf(t, server, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			w.Header().Set("X-Powered-By", "x")
			w.Header().Set("Trailer", "X-Sum")
			fmt.Fprintln(w, r.Proto, r.Method, r.Host, r.RequestURI, string(body), err)
			for _, n := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "Forwarded", "X-A", "X-B", "Te", "Cookie", "User-Agent", "X_forwarded_for", "X_b"} {
				if v := r.Header[n]; len(v) > 0 {
					fmt.Fprintln(w, n, v)
				}
			}
			fmt.Fprint(w, r.Trailer)
			w.Header().Set("X-Sum", "17")
		})
		r := route(addr, addr, addr)
		r.Default, r.Groups = []int{0}, []plan.Group{{Match: "app.example.com", Path: "/api/", Rewrite: "/", Servers: []int{1, 2}}}
		r.HTTP.H2, r.HTTP.Sticky = server, "SRV"
		r.HTTP.SetRequest = []config.Header{{Name: at("X-A"), Value: at("set")}}
		r.HTTP.RemoveRequest, r.HTTP.RemoveResponse = []string{"X-B"}, []string{"X-Powered-By"}
		f := newFront(t, r, addr, addr, addr)
		req, _ := http.NewRequest("POST", "http://"+f.addr+"/api/a%2Fb?c=d;e&f", struct{ io.Reader }{strings.NewReader("hello")})
		req.Host = "app.example.com"
		req.Header = http.Header{"X-A": {"1"}, "X-B": {"2"}, "X-Forwarded-For": {"1.1.1.1"}, "X-Forwarded-Port": {"1"}, "Forwarded": {"for=x"}, "Te": {"trailers"}, "Cookie": {"a=b; c=d"}, "User-Agent": {""}, "X_Forwarded_For": {"1.1.1.1"}, "X_B": {"3"}}
		req.Trailer = http.Header{"X-Up": {"18"}}
		resp, err := clientOf(t, client).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		proto := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}
		want := proto[server] + " POST app.example.com /a%2Fb?c=d;e&f hello <nil>\nX-Forwarded-For [192.0.2.7]\nX-Forwarded-Proto [http]\nX-Forwarded-Host [app.example.com]\nX-A [set]\nTe [trailers]\nCookie [a=b; c=d]\nmap[X-Up:[18]]"
		if string(body) != want || err != nil || resp.Trailer.Get("X-Sum") != "17" || resp.Header.Get("X-Powered-By") != "" || !strings.HasPrefix(resp.Header.Get("Set-Cookie"), "SRV="+cookieValue("web", "s1")+"; ") {
			t.Errorf("%v %v %v\nis    %s\nwants %s", err, resp.Header, resp.Trailer, body, want)
		}
		x := f.recorded(1)[0]
		if string(x.Method) != "POST" || string(x.Host) != "app.example.com" || string(x.Path) != "/api/a%2Fb?c=d;e&f" || x.Protocol != proto[client] || x.Status != 200 || x.Server != "s1" || x.BytesUp != 5 ||
			x.BytesDown != int64(len(body)) || x.Reason != Done || x.Connect <= 0 || x.Wait < x.Connect || x.Duration < x.Wait {
			t.Errorf("%+v", x)
		}
	})
}

// TestH2Kept: one connection to a server carries many requests.
func TestH2Kept(t *testing.T) {
	protocols(t, func(t *testing.T, client, server bool) {
		addr := serverOf(t, server, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
		r := route(addr)
		r.HTTP.H2 = server
		f := newFront(t, r, addr)
		c := clientOf(t, client)
		for range 10 {
			resp, err := c.Get("http://" + f.addr)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(resp.Body); string(b) != "ok" || err != nil {
				t.Fatal(string(b), err)
			}
		}
		if n := f.servers.all[0].dials.Load(); n != 1 {
			t.Error(n, "connections")
		}
	})
}

// TestH2Failures: what goes wrong is told as with HTTP/1.1.
func TestH2Failures(t *testing.T) {
	protocols(t, func(t *testing.T, client, server bool) {
		hang := make(chan bool)
		addr := serverOf(t, server, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/hang":
				select {
				case <-r.Context().Done():
				case <-hang:
				}
			case "/cut":
				fmt.Fprint(w, "part of it")
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			case "/none":
				panic(http.ErrAbortHandler)
			default:
				fmt.Fprint(w, "ok")
			}
		})
		defer close(hang)
		r := route(addr, addr)
		r.Groups = []plan.Group{{Match: "none"}}
		r.HTTP.H2 = server
		hasty, settings := *r, *r.HTTP // for the one server that never answers
		settings.ResponseTimeout = plan.Duration(200 * time.Millisecond)
		hasty.HTTP = &settings
		dead := closed(t)
		f := newFront(t, r, dead, addr)
		c := clientOf(t, client)
		for i, x := range []struct {
			path, host string
			status     int
			body       string
			why        Reason
			retries    int
		}{
			{"/", "a", 200, "ok", Done, 1},
			{"/hang", "a", 504, "504 Gateway Timeout: response timeout\n", Timeout, 0},
			{"/cut", "a", 200, "part of it", ServerReset, 1},
			{"/", "none", 404, "404 Not Found: no servers for this host and path\n", NoRoute, 0},
		} {
			req, _ := http.NewRequest("GET", "http://"+f.addr+x.path, nil)
			req.Host = x.host
			if f.Update(r, f.servers); x.path == "/hang" {
				f.Update(&hasty, f.servers)
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(i, err)
			}
			body, err := io.ReadAll(resp.Body)
			if resp.StatusCode != x.status || string(body) != x.body || (err != nil) != (x.path == "/cut") {
				t.Errorf("%d: %d %q %v", i, resp.StatusCode, body, err)
			}
			got := f.recorded(i + 1)[i]
			if got.Reason == ServerClosed {
				got.Reason = ServerReset // what HTTP/1.1 has instead of RST_STREAM
			}
			if got.Reason != x.why || got.Status != x.status || got.Retries != x.retries {
				t.Errorf("%d: %+v", i, got)
			}
		}
		f.servers.mu.Lock()
		f.servers.all[1] = f.servers.all[0]
		f.servers.mu.Unlock()
		f.Proxy.h2.close() // so that it has to connect
		if got := statusFrom(t, c, f.addr); got != 502 {
			t.Error(got)
		}
		f.servers.none()
		if got := statusFrom(t, c, f.addr); got != 503 {
			t.Error(got)
		}
	})
}

func statusFrom(t *testing.T, c *http.Client, addr string) int {
	t.Helper()
	resp, err := c.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// TestH2Duplex: both bodies stream at the same time, as gRPC does it.
func TestH2Duplex(t *testing.T) {
	addr := serverOf(t, true, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.(http.Flusher).Flush()
		b := make([]byte, 1)
		for {
			if _, err := io.ReadFull(r.Body, b); err != nil {
				break
			}
			w.Write(bytes.ToUpper(b))
			w.(http.Flusher).Flush()
		}
		w.Header().Set("Grpc-Status", "0")
	})
	r := route(addr)
	r.HTTP.H2 = true
	f := newFront(t, r, addr)
	body, in := io.Pipe()
	req, _ := http.NewRequest("POST", "http://"+f.addr, body)
	req.Header.Set("TE", "trailers")
	resp, err := clientOf(t, true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	for _, c := range "hello" {
		fmt.Fprint(in, string(c))
		if _, err := io.ReadFull(resp.Body, b); string(b) != strings.ToUpper(string(c)) || err != nil {
			t.Fatal(string(b), err)
		}
	}
	in.Close()
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Error(rest, err, resp.Trailer)
	}
}

// TestH2Leaves: a client that gives a request up is noticed by the server.
func TestH2Leaves(t *testing.T) {
	protocols(t, func(t *testing.T, client, server bool) {
		begun, gone := make(chan bool, 1), make(chan bool, 1)
		addr := serverOf(t, server, func(_ http.ResponseWriter, r *http.Request) {
			begun <- true
			<-r.Context().Done()
			gone <- true
		})
		r := route(addr)
		r.HTTP.H2 = server
		f := newFront(t, r, addr)
		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-begun; cancel() }()
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+f.addr, nil)
		if _, err := clientOf(t, client).Do(req); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		<-gone
		if x := f.recorded(1)[0]; x.Reason != ClientReset || x.Status != 0 {
			t.Errorf("%+v", x)
		}
	})
}

// TestH2Drain: requests under way end, and no further connection stays.
func TestH2Drain(t *testing.T) {
	begun, hold := make(chan bool), make(chan bool)
	addr := serverOf(t, false, func(w http.ResponseWriter, _ *http.Request) {
		begun <- true
		<-hold
		fmt.Fprint(w, "ok")
	})
	f := newFront(t, route(addr), addr)
	type result struct {
		body string
		err  error
	}
	got := make(chan result, 1)
	c := clientOf(t, true)
	go func() {
		resp, err := c.Get("http://" + f.addr)
		if err != nil {
			got <- result{"", err}
			return
		}
		b, err := io.ReadAll(resp.Body)
		got <- result{string(b), err}
	}()
	<-begun
	f.Drain()
	close(hold)
	if r := <-got; r.body != "ok" || r.err != nil {
		t.Error(r)
	}
	waitFor(t, "the connection's end", func() bool { return len(f.all()) == 0 })
}

// TestH2Private: a connection to a server that tells who the client is is never
// another client's.
func TestH2Private(t *testing.T) {
	addr := serverOf(t, true, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) })
	r := route(addr)
	r.HTTP.H2, r.SendProxy = true, plan.SendV2
	f := newFront(t, r, addr)
	from := map[string]bool{}
	a, b := clientOf(t, true), clientOf(t, true)
	for _, c := range []*http.Client{a, b, a, b} {
		resp, err := c.Get("http://" + f.addr)
		if err != nil {
			t.Fatal(err)
		}
		peer, _ := io.ReadAll(resp.Body)
		from[string(peer)] = true
	}
	if n := f.servers.all[0].dials.Load(); n != 2 || len(from) != 2 {
		t.Error(n, "connections", from)
	}
}

// TestALPN: what was agreed on in TLS decides, and the proxy knows that there is
// TLS.
func TestALPN(t *testing.T) {
	addr := serverOf(t, false, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Forwarded-Proto"))
	})
	r := route(addr, addr)
	r.HTTP.Sticky = "S"
	f := newFront(t, r, addr, addr)
	f.as(func(c net.Conn) (net.Conn, *Client) { return wrapped{c}, &Client{TLS: true, ALPN: "h2"} })
	resp, err := clientOf(t, true).Get("http://" + f.addr)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(resp.Body); string(b) != "https" || !strings.HasSuffix(resp.Header.Get("Set-Cookie"), "; Secure") || resp.ProtoMajor != 2 {
		t.Error(string(b), resp.Header)
	}
}

// TestPrefaceInPieces: HTTP/2 is known by its preface, however that is cut.
func TestPrefaceInPieces(t *testing.T) {
	addr := serverOf(t, false, func(http.ResponseWriter, *http.Request) {})
	f := newFront(t, route(addr), addr)
	w := f.dial()
	for _, c := range []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00") {
		w.Write([]byte{c})
	}
	head := make([]byte, 9)
	if _, err := io.ReadFull(w.r, head); err != nil || head[3] != 4 { // SETTINGS
		t.Error(head, err)
	}
}

// TestH2Refused: what HTTP/1.1 would refuse is refused here too.
func TestH2Refused(t *testing.T) {
	f := newFront(t, route("127.0.0.1:1"), "127.0.0.1:1")
	c := clientOf(t, true)
	for path, status := range map[string]int{"/a%23": 502, "*": 400, "/a?b c": 400, "/a?b HTTP/1.0": 400, "/a b": 400, "/a#b": 400} {
		req, _ := http.NewRequest("GET", "http://"+f.addr, nil)
		req.URL.Opaque = path
		resp, err := c.Do(req)
		if err != nil || resp.StatusCode != status {
			t.Error(path, resp, err)
		}
	}
	req, _ := http.NewRequest("CONNECT", "http://"+f.addr, nil)
	if resp, err := c.Do(req); err != nil || resp.StatusCode != 501 {
		t.Error(resp, err)
	}
}

// TestH2Path: a server gets the path that its rules were looked up by, byte by
// byte.
func TestH2Path(t *testing.T) {
	addr := rawServer(t, func(w *wire) {
		for {
			head, err := w.head()
			if err != nil {
				return
			}
			line, _, _ := strings.Cut(head, "\r\n")
			w.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(line), line))
		}
	})
	f := newFront(t, route(addr), addr)
	c := clientOf(t, true)
	for _, path := range []string{"/", "/a%2Fb", "/a\"b%2F..%2fc", "/\xc3\xa4%2f", "/a/../b//c/.", "/a?", "/?b=%2f&c=\"%41", "/a|b%2F[c]", "/%61%7E~"} {
		r, _ := http.NewRequest("GET", "http://"+f.addr, nil)
		r.URL.Opaque = path
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); string(body) != "GET "+path+" HTTP/1.1" {
			t.Errorf("%q became %q", path, body)
		}
	}
	for path, want := range map[string]string{"//b/c": "//b/c", "//b%2fc": "//b%2fc", "//\"%2f": ""} {
		got := ""
		if u := urlOf(path); u != nil {
			got = u.RequestURI()
		}
		if got != want {
			t.Errorf("%q became %q", path, got)
		}
	}
}

// TestH2TruncatedOld: see TestTruncatedOld; here net/http is in between.
func TestH2TruncatedOld(t *testing.T) {
	proceed := make(chan bool)
	addr := serverOf(t, true, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "abc")
		w.(http.Flusher).Flush()
		<-proceed
		panic(http.ErrAbortHandler)
	})
	r := route(addr)
	r.HTTP.H2 = true
	f := newFront(t, r, addr)
	w := f.dial()
	w.send("GET / HTTP/1.0\r\n\r\n")
	if _, err := w.head(); err != nil {
		t.Fatal(err)
	}
	w.expect("abc")
	close(proceed)
	if rest, err := w.rest(); rest != "" || !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("then %q, %v", rest, err)
	}
}

// TestH2Later: a route whose servers are spoken to in another protocol from now on
// keeps its clients.
func TestH2Later(t *testing.T) {
	proto := func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto, r.URL.Path) }
	one, two := serverOf(t, false, proto), serverOf(t, true, proto)
	f := newFront(t, route(one), one)
	w := f.dial()
	ask := func(path, want string) {
		t.Helper()
		if head, body := w.roundTrip("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n"); body != want {
			t.Errorf("%s%s", head, body)
		}
	}
	ask("/1", "HTTP/1.1/1")
	r := route(two)
	r.HTTP.H2 = true
	f.Update(r, &servers{route: r, all: []*endpoint{{name: "s0", addr: netip.MustParseAddrPort(two)}}})
	ask("/2", "HTTP/2.0/2")
	ask("/3", "HTTP/2.0/3")
	f.recorded(3)
}

// TestH2Strict: clients of HTTP/1.1 are heard as strictly where net/http serves
// them, and what follows a request that is refused is none.
func TestH2Strict(t *testing.T) {
	for in, good := range map[string]bool{
		"POST / HTTP/1.1|Host: a|Content-Length: 3||abc":                                     true,
		"POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked||3\r\nabc\r\n0\r\nA: b\r\n\r\n":  true,
		"POST / HTTP/1.1|Host: a|Content-Length: 4|Transfer-Encoding: chunked||0\r\n\r\n":    false,
		"POST / HTTP/1.1|Host: a|Content-Length: 4|Content-Length: 5||abcd":                  false,
		"GET / HTTP/1.1|Host: a|A: b\nContent-Length: 0":                                     false,
		"GET / HTTP/1.1|Host: a|A: b|\tc":                                                    false,
		"GET / HTTP/1.1|Host: a|Host: a":                                                     false,
		"GET http://b/ HTTP/1.1|Host: a":                                                     false,
		"POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked||1;a\nb\r\nx\r\n0\r\n\r\n":       false,
		"POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked||1 \nx\r\n0\r\n\r\n":             false,
		"POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked||0\r\nContent-Length: 4\r\n\r\n": false,
	} {
		in := lines(in)
		for _, step := range []int{1, 5, len(in)} {
			var next atomic.Bool
			addr := serverOf(t, true, func(_ http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				if r.URL.Path == "/next" {
					next.Store(true)
				}
			})
			r := route(addr)
			r.HTTP.H2 = true
			f := newFront(t, r, addr)
			w := f.dial()
			w.roundTrip(get)
			for at := 0; at < len(in); at += step {
				w.send(in[at:min(at+step, len(in))])
			}
			w.send("GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			rest, _ := w.rest()
			if n := strings.Count(rest, "HTTP/1.1 200 OK\r\n"); next.Load() != good || good && n != 2 || !good && n != 0 {
				t.Errorf("%q in pieces of %d: %s", in, step, rest)
			}
			if x := f.recorded(2)[1]; good != (x.Reason == Done) {
				t.Errorf("%q: %+v", in, x)
			}
		}
	}
}

// TestH2HeadTooLarge: a head above the limit gets an answer; one with a field of
// more than twice the limit is the end of the connection, to which net/http has no
// other way.
func TestH2HeadTooLarge(t *testing.T) {
	addr := serverOf(t, false, func(http.ResponseWriter, *http.Request) {})
	r := route(addr)
	r.HTTP.MaxHeader = 1 << 10
	f := newFront(t, r, addr)
	for size, want := range map[int]int{500: 200, 900: 200, 1024: 431, 2000: 431, 3000: 0, 40 << 10: 0} {
		req, _ := http.NewRequest("GET", "http://"+f.addr, nil)
		req.Header.Set("X-A", strings.Repeat("\\", size))
		resp, err := clientOf(t, true).Do(req)
		if want == 0 && err == nil || want > 0 && (err != nil || resp.StatusCode != want) {
			t.Error(size, resp, err)
		}
	}
}
