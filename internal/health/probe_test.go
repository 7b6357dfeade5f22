package health

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"midspan/internal/plan"
)

// serve gives every connection to a listener on loopback to handle, and returns
// its address.
func serve(t *testing.T, handle func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return addr(l.Addr().String())
}

// refusing is an address that nobody listens on.
func refusing(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return addr(l.Addr().String())
}

func answer(text string) func(net.Conn) {
	return func(c net.Conn) {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 4096)
		c.Read(buf)
		io.WriteString(c, text)
	}
}

func hang(c net.Conn) {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.Copy(io.Discard, c)
}

func reset(c net.Conn) {
	answer("")(c)
	c.(*net.TCPConn).SetLinger(0)
}

func drip(text string) func(net.Conn) {
	return func(c net.Conn) {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		for _, b := range []byte(text) {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	}
}

// patient is for servers that end a connection late on a busy machine; they see a
// reset where a test does not wait for them.
const patient = 3 * time.Second

func probeOnce(a netip.AddrPort, c plan.Check, timeout time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return (&wire{dial: new(net.Dialer).DialContext, linger: patient}).probe(ctx, Target{Addr: a, Check: c, Host: "web.example"})
}

func TestWireHTTP(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for _, c := range []struct {
		name   string
		handle func(net.Conn)
		want   string // of the error; "": passes
	}{
		{"200", answer(ok), ""},
		{"204", answer("HTTP/1.1 204 No Content\r\n\r\n"), ""},
		{"302 is not followed", answer("HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n"), ""},
		{"HTTP/1.0", answer("HTTP/1.0 200 OK\r\n\r\nok"), ""},
		{"early hints first", answer("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok), ""},
		{"nothing but hints", answer(strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 9)), "http: the answer is not HTTP"},
		{"404", answer("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "http: status 404"},
		{"503", answer("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nsorry"), "http: status 503"},
		{"a body without end", answer("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 1<<20)), ""},
		{"a header without end", answer("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), "http: the answer is cut short"},
		{"garbage", answer("SSH-2.0-OpenSSH_9.6\r\n\x00\xff\r\n\r\n"), "http: the answer is not HTTP"},
		{"closes after the request", answer(""), "http: closed without an answer"},
		{"closes in the header", answer("HTTP/1.1 200 OK\r\nContent-"), "http: the answer is cut short"},
		{"resets", reset, "http: connection reset by peer"},
		{"accepts and never answers", hang, "http: no answer in "},
		{"drips its header", drip(ok), "http: no answer in "},
		{"drips its body", func(c net.Conn) { answer("HTTP/1.1 200 OK\r\n\r\n")(c); drip("a page of many words")(c) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			check := plan.Check{Kind: plan.CheckHTTP, Path: "/healthz"}
			patience := 7 * time.Second // less than servers have that hang or drip
			if strings.HasPrefix(c.want, "http: no answer in ") {
				patience = 700 * time.Millisecond
			}
			_, err := probeOnce(serve(t, c.handle), check, patience)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("failed: %v", err)
			case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
				t.Errorf("error is %v, want %s", err, c.want)
			}
		})
	}
}

func TestWireHTTPRequest(t *testing.T) {
	got := make(chan *http.Request, 2)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r }))
	defer server.Close()
	at := addr(server.Listener.Addr().String())
	for _, c := range []struct {
		check plan.Check
		at    netip.AddrPort
		host  string
	}{
		{plan.Check{Kind: plan.CheckHTTP, Path: "/healthz?full=1"}, at, "web.example"},
		{plan.Check{Kind: plan.CheckHTTP, Path: "/healthz?full=1", Host: "other.example"}, at, "other.example"},
		{plan.Check{Kind: plan.CheckHTTP, Path: "/healthz?full=1", Port: at.Port()}, netip.AddrPortFrom(at.Addr(), 1), "web.example"},
	} {
		latency, err := probeOnce(c.at, c.check, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if latency <= 0 {
			t.Errorf("latency is %s", latency)
		}
		r := <-got
		if r.Method != "GET" || r.RequestURI != "/healthz?full=1" || r.Host != c.host || r.UserAgent() != "midspan-check" || !r.Close {
			t.Errorf("request is %s %s, Host %s, User-Agent %s, Connection close: %t", r.Method, r.RequestURI, r.Host, r.UserAgent(), r.Close)
		}
	}
}

func TestHostHeader(t *testing.T) {
	for _, c := range []struct {
		target Target
		want   string
	}{
		{Target{Addr: addr("10.0.0.5:80")}, "10.0.0.5"},
		{Target{Addr: addr("[fd00::5]:80")}, "[fd00::5]"},
		{Target{Addr: addr("10.0.0.5:80"), Host: "web"}, "web"},
		{Target{Addr: addr("[fd00::5]:80"), Host: "fd00::5"}, "[fd00::5]"},
		{Target{Addr: addr("10.0.0.5:80"), Host: "web", Check: plan.Check{Host: "x.example:81"}}, "x.example:81"},
	} {
		if got := hostHeader(c.target); got != c.want {
			t.Errorf("Host for %+v is %s, want %s", c.target, got, c.want)
		}
	}
}

func TestWireTCP(t *testing.T) {
	for _, c := range []struct {
		name   string
		handle func(net.Conn)
	}{
		{"waits for the client", hang},
		{"closes at once", func(net.Conn) {}},
		{"sends garbage", answer("\x00\xff\x00\xff")},
		{"drips", drip("220 mail.example\r\n")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if _, err := probeOnce(serve(t, c.handle), plan.Check{Kind: plan.CheckTCP}, 7*time.Second); err != nil {
				t.Errorf("failed: %v", err)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		_, err := probeOnce(refusing(t), plan.Check{Kind: plan.CheckTCP}, 20*time.Second)
		if err == nil || err.Error() != "connect: connection refused" {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("no answer to the connect", func(t *testing.T) {
		dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
			<-ctx.Done()
			return nil, &net.OpError{Op: "dial", Net: network, Err: os.ErrDeadlineExceeded}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := (&wire{dial: dial}).probe(ctx, tested)
		if err == nil || !strings.HasPrefix(err.Error(), "connect: no answer in ") {
			t.Errorf("error is %v", err)
		}
	})
}

// A server that greets its clients, as MySQL and mail servers do, must see an
// orderly end and not a reset: MySQL blocks a host after 100 connections that
// ended otherwise.
func TestWireIsPolite(t *testing.T) {
	ended := make(chan error, 1)
	greet := func(c net.Conn) {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(c, "5.7.44 greetings\n"); err != nil {
			ended <- err
			return
		}
		time.Sleep(20 * time.Millisecond) // a reset would arrive now
		_, err := io.Copy(io.Discard, c)
		ended <- err
	}
	for _, kind := range []plan.CheckKind{plan.CheckTCP, plan.CheckHTTP} {
		probeOnce(serve(t, greet), plan.Check{Kind: kind, Path: "/"}, 9*time.Second)
		if err := <-ended; err != nil {
			t.Errorf("%s: the server sees %v", kind, err)
		}
	}
	page := func(c net.Conn) {
		answer("HTTP/1.1 503 Service Unavailable\r\n\r\n" + strings.Repeat("sorry ", 2000))(c)
		c.(*net.TCPConn).CloseWrite()
		_, err := io.Copy(io.Discard, c)
		ended <- err
	}
	probeOnce(serve(t, page), plan.Check{Kind: plan.CheckHTTP, Path: "/"}, 9*time.Second)
	if err := <-ended; err != nil {
		t.Errorf("after a page: the server sees %v", err)
	}
}

// The whole monitor on real sockets, against servers that do their worst.
func TestMonitorOnTheWire(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	quick := func(k plan.CheckKind) plan.Check {
		return plan.Check{
			Kind: k, Path: "/", Every: plan.Duration(50 * time.Millisecond), Timeout: plan.Duration(time.Minute), Rise: 2, Fall: 2,
		}
	}
	good := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer good.Close()
	up := Target{Addr: addr(good.Listener.Addr().String()), Check: quick(plan.CheckHTTP)}
	refused := Target{Addr: refusing(t), Check: quick(plan.CheckTCP)}
	garbage := Target{Addr: serve(t, answer("garbage\n\n")), Check: quick(plan.CheckHTTP)}
	hung := []Target{
		{Addr: serve(t, hang), Check: quick(plan.CheckHTTP)},
		{Addr: serve(t, drip("HTTP/1.1 200 OK")), Check: quick(plan.CheckHTTP)},
	}
	goroutines = max(goroutines, runtime.NumGoroutine())

	changed := make(chan struct{}, 100)
	m := New(Options{OnChange: func() { changed <- struct{}{} }})
	m.Watch(append(hung, up, refused, garbage))
	late := time.After(30 * time.Second)
	for m.Up(refused) || m.Up(garbage) || !checked(m, up) {
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond):
		case <-late:
			t.Fatalf("state is %+v", m.State())
		}
	}
	if !m.Up(up) || !m.Up(hung[0]) {
		t.Error("a server that passed, or has not been heard of yet, is down")
	}
	began := time.Now()
	m.Close()
	if d := time.Since(began); d > 9*time.Second {
		t.Errorf("Close took %s with tests under way that have a minute", d)
	}
	good.Close()
	for deadline := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > goroutines; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), goroutines, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

func checked(m *Monitor, t Target) bool {
	for _, s := range m.State() {
		if s.Target == t.Key() {
			return s.Checked
		}
	}
	return false
}

func TestConnectWords(t *testing.T) {
	for _, c := range []struct{ err, want string }{
		{"connect timeout", "connect timeout"},
		{"no answer in 3s", "connect: no answer in 3s"},
	} {
		if got := connectWords(fmt.Errorf("%s", c.err)); got != c.want {
			t.Errorf("%q becomes %q, want %q", c.err, got, c.want)
		}
	}
	if got := connectWords(errRefused); got != "connect: connection refused" {
		t.Errorf("a refused connect is %q", got)
	}
}
