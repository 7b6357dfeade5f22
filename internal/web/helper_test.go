package web

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"midspan/internal/plan"
)

// endpoint is an address that is dialled, or whatever dial does.
type endpoint struct {
	name  string
	addr  netip.AddrPort
	dial  func(context.Context) (net.Conn, error)
	uses  atomic.Int64 // now
	dials atomic.Int64
}

func (e *endpoint) Server() string       { return e.name }
func (e *endpoint) Addr() netip.AddrPort { return e.addr }
func (e *endpoint) Done()                { e.uses.Add(-1) }

func (e *endpoint) Connect(ctx context.Context, _ *Client) (net.Conn, error) {
	e.dials.Add(1)
	if e.dial != nil {
		return e.dial(ctx)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", e.addr.String())
}

// servers chooses in turn, among those of the group that were not tried.
type servers struct {
	mu    sync.Mutex
	all   []*endpoint
	route *plan.Route
	turn  int
}

var errNone = errors.New("no server is up")

func (s *servers) Pick(_ *Client, group int, prefer string, tried []Endpoint) (Endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.route.Default
	if group >= 0 {
		set = s.route.Groups[group].Servers
	}
	var can []*endpoint
	for _, i := range set {
		if e := s.all[i]; !slices.Contains(tried, Endpoint(e)) {
			if e.name == prefer {
				e.uses.Add(1)
				return e, nil
			}
			can = append(can, e)
		}
	}
	if len(can) == 0 {
		return nil, errNone
	}
	e := can[0]
	if len(tried) == 0 {
		e = can[s.turn%len(can)]
		s.turn++
	}
	e.uses.Add(1)
	return e, nil
}

// none takes all servers away.
func (s *servers) none() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all, s.route = nil, route()
}

// front is a Proxy behind a listener.
type front struct {
	*Proxy
	t       *testing.T
	addr    string
	servers *servers
	listen  net.Listener
	serving sync.WaitGroup

	mu      sync.Mutex
	client  func(net.Conn) (net.Conn, *Client)
	records []Exchange
	ends    []Reason
}

// route is a route to servers at those addresses, each named s0, s1, ….
func route(addrs ...string) *plan.Route {
	r := &plan.Route{Name: "web", Mode: plan.ModeHTTP, SendProxy: plan.SendNone, HTTP: &plan.HTTP{
		Forwarded: plan.ForwardedReplace, HeaderTimeout: plan.Duration(10 * time.Second), KeepaliveTimeout: plan.Duration(75 * time.Second), MaxHeader: 32 << 10,
	}}
	for i := range addrs {
		r.Servers = append(r.Servers, &plan.Server{Name: fmt.Sprintf("s%d", i)})
		r.Default = append(r.Default, i)
	}
	return r
}

func newFront(t *testing.T, r *plan.Route, addrs ...string) *front {
	t.Helper()
	noLeaks(t)
	f := &front{t: t, servers: &servers{route: r}}
	for i, a := range addrs {
		f.servers.all = append(f.servers.all, &endpoint{name: r.Servers[i].Name, addr: netip.MustParseAddrPort(a)})
	}
	f.client = func(c net.Conn) (net.Conn, *Client) {
		return c, &Client{Addr: netip.MustParseAddrPort("192.0.2.7:4711")}
	}
	f.Proxy = New(r, f.servers, Options{Record: f.record})
	var err error
	if f.listen, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	f.addr = f.listen.Addr().String()
	f.serving.Go(f.accept)
	t.Cleanup(f.shut)
	return f
}

func (f *front) accept() {
	for {
		c, err := f.listen.Accept()
		if err != nil {
			return
		}
		f.serving.Go(func() {
			f.mu.Lock()
			client := f.client
			f.mu.Unlock()
			nc, from := client(c)
			_, why := f.Serve(context.Background(), nc, from)
			f.mu.Lock()
			f.ends = append(f.ends, why)
			f.mu.Unlock()
		})
	}
}

// as says what a connection is served as.
func (f *front) as(client func(net.Conn) (net.Conn, *Client)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.client = client
}

// shut ends the front. Every use of a server must have ended.
func (f *front) shut() {
	f.listen.Close()
	f.Close()
	f.serving.Wait()
	for _, e := range f.servers.all {
		if n := e.uses.Load(); n != 0 {
			f.t.Errorf("%s is used %d times at the end", e.name, n)
		}
	}
}

func (f *front) record(x *Exchange) {
	y := *x
	y.Method, y.Host, y.Path = slices.Clone(x.Method), slices.Clone(x.Host), slices.Clone(x.Path)
	f.mu.Lock()
	f.records = append(f.records, y)
	f.mu.Unlock()
}

// recorded waits for n records in all and returns them.
func (f *front) recorded(n int) []Exchange {
	f.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		all := slices.Clone(f.records)
		f.mu.Unlock()
		if len(all) >= n {
			return all
		}
		if time.Now().After(end) {
			f.t.Fatalf("%d records, want %d: %+v", len(all), n, all)
		}
	}
}

// idleAlive is how many connections to servers are kept that could be used again.
func (f *front) idleAlive() (n int) {
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	for _, all := range f.pool.idle {
		for _, up := range all {
			if up.alive() {
				n++
			}
		}
	}
	return n
}

// noLeaks fails the test if at its end there are more goroutines than before.
func noLeaks(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for end := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				buf := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			}
		}
	})
}

// server starts a net/http server and returns its address.
func server(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// rawServer starts a server that does as it is told, once for each connection.
func rawServer(t *testing.T, serve func(*wire)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				serve(newWire(t, c))
			})
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return l.Addr().String()
}

// says is a server that answers every request without a body with that text.
func says(t *testing.T, text string) string {
	return rawServer(t, func(w *wire) {
		for {
			if _, err := w.head(); err != nil {
				return
			}
			w.send(text)
		}
	})
}

// wire is one end of a connection, spoken by hand.
type wire struct {
	*net.TCPConn
	t *testing.T
	r *bufio.Reader
}

func newWire(t *testing.T, c net.Conn) *wire {
	c.SetDeadline(time.Now().Add(60 * time.Second))
	return &wire{c.(*net.TCPConn), t, bufio.NewReader(c)}
}

func (f *front) dial() *wire {
	f.t.Helper()
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	return newWire(f.t, c)
}

func (w *wire) send(text string) { io.WriteString(w.TCPConn, text) }

// head reads up to and with an empty line.
func (w *wire) head() (string, error) {
	text := ""
	for {
		line, err := w.r.ReadString('\n')
		if text += line; err != nil || line == "\r\n" {
			return text, err
		}
	}
}

// expect reads that many bytes and compares.
func (w *wire) expect(text string) {
	w.t.Helper()
	b := make([]byte, len(text))
	n, err := io.ReadFull(w.r, b)
	if string(b[:n]) != text {
		w.t.Fatalf("got %q (%v), want %q", b[:n], err, text)
	}
}

// rest reads until the end.
func (w *wire) rest() (string, error) {
	b, err := io.ReadAll(w.r)
	return string(b), err
}

// lines is a text with | for the end of a line, and the empty line that ends a
// head; what follows || is the body.
func lines(text string) string {
	head, body, has := strings.Cut(text, "||")
	head = strings.ReplaceAll(head, "|", "\r\n") + "\r\n\r\n"
	if has {
		head += body
	}
	return head
}
