package relay

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// engineFor applies a plan with route r, to which settings and servers are added,
// and returns the engine and where it listens. The text may have a line of
// consumers in front.
func engineFor(t *testing.T, o Options, top, route string) (*Engine, string) {
	t.Helper()
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p, err := planFor(fmt.Sprintf("%s\nroutes: {r: {listen: %q, %s}}", top, addr, route))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	return e, addr
}

func dialTo(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// certificate is a server's for some names.
func certificate(t *testing.T, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// helloServer echoes over TLS, as the names given.
func helloServer(t *testing.T, names ...string) string {
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t, names...)}}
	return newGuests(t, func(c net.Conn) {
		s := tls.Server(c, config)
		defer s.Close()
		echo(s)
	}).addr
}

// cutConn sends the first bytes of a stream cut in two, each part by itself.
type cutConn struct {
	net.Conn
	at int
}

func (c *cutConn) Write(b []byte) (int, error) {
	if c.at == 0 || c.at >= len(b) {
		return c.Conn.Write(b)
	}
	n, err := c.Conn.Write(b[:c.at])
	if err != nil {
		return n, err
	}
	time.Sleep(time.Millisecond)
	m, err := c.Conn.Write(b[c.at:])
	c.at = 0
	return n + m, err
}

// TestHandshakes: real handshakes, with hellos that are cut at every position,
// come to the server of their name.
func TestHandshakes(t *testing.T) {
	const names = 3
	var to []string
	for i := range names {
		name := fmt.Sprintf("s%d.example.com", i)
		to = append(to, fmt.Sprintf("%s: %q", name, helloServer(t, name)))
	}
	e, addr := engineFor(t, Options{}, "", "mode: sni, to: {"+strings.Join(to, ", ")+"}")
	total := 10_000
	if testing.Short() || raceDetector {
		total = 400
	}
	var next atomic.Int64
	var failed sync.Map
	var workers sync.WaitGroup
	for range 32 {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < total; i = int(next.Add(1)) - 1 {
				if err := handshake(addr, fmt.Sprintf("s%d.example.com", i%names), i); err != nil {
					failed.Store(i, err)
				}
			}
		})
	}
	workers.Wait()
	failed.Range(func(i, err any) bool {
		t.Errorf("handshake %d: %v", i, err)
		return true
	})
	if s := e.Status(); s.Panics > 0 || s.Routes[0].Counters.Accepted != uint64(total) {
		t.Errorf("%+v", s.Routes[0].Counters)
	}
}

// handshake makes the i-th connection, its hello cut after another byte than the
// one before. Every fourth hello is long, with a post-quantum key share.
func handshake(addr, name string, i int) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	config := &tls.Config{ServerName: name, InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}}
	length := 280 // roughly: what is beyond is not cut
	if i%4 == 0 {
		config.CurvePreferences, length = nil, 1600
	}
	s := tls.Client(&cutConn{c, i / 4 % length}, config)
	if _, err := s.Write([]byte("hello")); err != nil {
		return err
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(s, b); err != nil || string(b) != "hello" {
		return fmt.Errorf("%q came back, %v", b, err)
	}
	if got := s.ConnectionState().PeerCertificates[0].DNSNames; !slices.Equal(got, []string{name}) {
		return fmt.Errorf("the server is %s, want %s", got, name)
	}
	return nil
}

// TestNetConn: a connection through the relay is one by the rules of Go's own
// suite, whatever was read of it before.
func TestNetConn(t *testing.T) {
	hello := clientHello("a.example.com")
	const header = "PROXY TCP4 192.0.2.7 198.51.100.9 40000 1433\r\n"
	for name, tt := range map[string]struct{ settings, first, arrives string }{
		"tcp":   {"to: %q", "", ""},
		"sni":   {"mode: sni, to: {default: %q, a.example.com: %[1]q}", hello, hello},
		"PROXY": {"proxy_protocol: required, to: %q", header, ""},
		"sent":  {"send_proxy: v1, proxy_protocol: required, to: %q", header, header},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			_, addr := engineFor(t, Options{}, "", fmt.Sprintf(tt.settings, ln.Addr()))
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					return nil, nil, nil, err
				}
				if _, err := io.WriteString(c, tt.first); err != nil {
					return nil, nil, nil, err
				}
				s, err := ln.Accept()
				if err != nil {
					return nil, nil, nil, err
				}
				stop := func() {
					c.Close()
					s.Close()
				}
				b := make([]byte, len(tt.arrives))
				if _, err := io.ReadFull(s, b); err != nil || string(b) != tt.arrives {
					return nil, nil, nil, fmt.Errorf("%q arrives, %v", b, err)
				}
				return c, s, stop, nil
			})
		})
	}
}

// clientHello is the first record of a client of Go's.
func clientHello(name string) string {
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		_ = tls.Client(near, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake() // nobody answers
		near.Close()
	}()
	b := make([]byte, 1<<14)
	n, _ := far.Read(b)
	return string(b[:n])
}

// linkHeader is a PROXY header with an Azure link id.
func linkHeader(id byte) string {
	return "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x14\xc0\x00\x02\x07\xc6\x33\x64\x09\x9c\x40\x05\x99\xee\x00\x05\x01" + string([]byte{id}) + "\x00\x00\x00"
}

// TestRefusalsAreLogged: a line says who was refused and why, and a flood of them
// is one line.
func TestRefusalsAreLogged(t *testing.T) {
	var log lockedBuffer
	var records atomic.Int64
	o := Options{
		Log:   slog.New(slog.NewTextHandler(&log, nil)),
		Hooks: engine.Hooks{Record: func(*engine.Record) { records.Add(1) }},
	}
	_, addr := engineFor(t, o, "consumers: {one: {link_id: 1}}", fmt.Sprintf("proxy_protocol: required, to: %q", echoServer(t)))
	say := func(s string) {
		c := dialTo(t, addr)
		if _, err := io.WriteString(c, s); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("%q: %d bytes, %v; want a reset", s, n, err)
		}
	}
	began := time.Now()
	for range 20 {
		say(linkHeader(99))
	}
	most := 1 + int(time.Since(began)/tellEvery) // 1, unless the machine is slow
	say("GET / HTTP/1.1\r\n")
	if n := records.Load(); n != 21 {
		t.Errorf("%d records, want 21", n)
	}
	text := log.String()
	for _, want := range []string{`reason="unknown consumer"`, "link=azure:99", "client=192.0.2.7:40000", "peer=127.0.0.1:", "route=r", `reason="bad PROXY header"`, "GET / HTTP/1.1"} {
		if n := strings.Count(text, want); n > most && want != "route=r" || n == 0 {
			t.Errorf("%q stands %d times in\n%s", want, n, text)
		}
	}
}

// TestWaitingIsCheap: a client that is slow with its opening keeps no buffer.
func TestWaitingIsCheap(t *testing.T) {
	e, addr := engineFor(t, Options{Loops: 1}, "", fmt.Sprintf("mode: sni, sni: {timeout: 60s}, proxy_protocol: {timeout: 60s}, to: {a.example: %q}", echoServer(t)))
	const n = 400
	before := heapNow()
	for i := range n {
		c := dialTo(t, addr)
		if _, err := io.WriteString(c, linkHeader(1)[:20+i%10]); err != nil {
			t.Fatal(err)
		}
	}
	for e.Status().Connections < n {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	if all := e.Conns(); len(all) != n || all[0].State != "opening" {
		t.Fatalf("%d connections, the first %+v", len(all), all[0])
	}
	if each := (heapNow() - before) / n; each > 8<<10 { // the client's end included
		t.Errorf("a connection that waits costs %d bytes", each)
	}
}

func heapNow() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestGreeting: a server gets one header in front of all else, on a connection
// that was warm, and on a socket that another client has used.
func TestGreeting(t *testing.T) {
	for _, settings := range []string{"warm: 2, send_proxy: v1", "send_proxy: v1"} {
		t.Run(settings, func(t *testing.T) {
			_, addr := engineFor(t, Options{Loops: 1}, "", fmt.Sprintf("%s, to: %q", settings, echoServer(t)))
			for range 20 {
				c := dialTo(t, addr)
				local := c.LocalAddr().(*net.TCPAddr)
				_, port, _ := net.SplitHostPort(addr)
				want := fmt.Sprintf("PROXY TCP4 127.0.0.1 127.0.0.1 %d %s\r\nhello", local.Port, port)
				if _, err := io.WriteString(c, "hello"); err != nil {
					t.Fatal(err)
				}
				if err := c.(*net.TCPConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(c); err != nil || string(b) != want {
					t.Fatalf("the server got %q, %v; want %q", b, err, want)
				}
			}
		})
	}
}

// TestGreetingWithData: what is there of the client's goes out with the header, and
// it alone is counted.
func TestGreetingWithData(t *testing.T) {
	const header = "PROXY TCP4 10.0.0.2 10.0.0.1 4000 80\r\n"
	for name, size := range map[string]int{"none": 0, "little": 100, "as much as is read at once": bufferSize} {
		t.Run(name, func(t *testing.T) {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fds[0])
			defer unix.Close(fds[1])
			l := &loop{scratch: make([]byte, bufferSize)}
			p := &pair{
				set:        &settings{Route: &plan.Route{SendProxy: plan.SendV1}, owner: &route{shards: make([]counters, 1)}},
				listener:   &listener{address: address{addr: netip.MustParseAddr("10.0.0.1"), port: 80}},
				clientAddr: compact(netip.MustParseAddrPort("10.0.0.2:4000")),
				server:     side{fd: int32(fds[0])},
			}
			data := strings.Repeat("x", size)
			if size > 0 {
				p.client.held = l.buffer([]byte(data))
			}
			l.greet(p)
			got := make([]byte, 2*bufferSize)
			n, err := unix.Read(fds[1], got)
			first := min(size, bufferSize-len(header))
			if err != nil || string(got[:n]) != header+data[:first] {
				t.Fatalf("%d bytes, %v; want the header and %d", n, err, first)
			}
			left := 0
			if p.client.held != nil {
				left = len(p.client.held.rest)
			}
			if moved := p.route().shards[0].up.Load(); left != size-first || moved != uint64(first) || p.client.moved != moved {
				t.Errorf("%d bytes in hand, %d moved; want %d and %d", left, moved, size-first, first)
			}
			if (p.client.held == nil) != (left == 0) {
				t.Error("a buffer with nothing in it")
			}
		})
	}
}

// TestGreetingThatBlocks: what of a header a socket does not take comes first,
// when it does.
func TestGreetingThatBlocks(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	full := make([]byte, 1<<20)
	for e := unix.Errno(0); e == 0; {
		_, e = write(int32(fds[0]), full)
	}
	l := &loop{scratch: make([]byte, bufferSize)}
	p := &pair{
		set:        &settings{Route: &plan.Route{SendProxy: plan.SendV1}},
		listener:   &listener{address: address{addr: netip.MustParseAddr("10.0.0.1"), port: 80}},
		clientAddr: compact(netip.MustParseAddrPort("10.0.0.2:4000")),
		server:     side{fd: int32(fds[0])},
	}
	const header = "PROXY TCP4 10.0.0.2 10.0.0.1 4000 80\r\n"
	l.greet(p)
	if p.client.held == nil || string(p.client.held.rest) != header {
		t.Fatalf("nothing in hand: %+v", p.client.held)
	}
	p.client.held = l.buffer([]byte("data"))
	if l.greet(p); string(p.client.held.rest) != header+"data" {
		t.Errorf("in hand is %q", p.client.held.rest)
	}
}

// TestGroups: the exact name comes before the longest pattern, and that before "*".
func TestGroups(t *testing.T) {
	groups := []plan.Group{{Match: "a.b"}, {Match: "*.b"}, {Match: "*.a.b"}, {Match: "b"}, {Match: "*.x.a.b"}, {Match: "*"}}
	for i := range groups {
		groups[i].Servers = []int{i}
	}
	servers := make([]*plan.Server, len(groups))
	var up []choice
	for i := range servers {
		servers[i] = &plan.Server{Name: fmt.Sprint(i), Weight: 1}
		up = append(up, choice{&endpoint{}, servers[i], new(atomic.Int64)})
	}
	s := &settings{Route: &plan.Route{Mode: plan.ModeSNI, Groups: groups, Servers: servers, Balance: plan.First}}
	s.setGroups(&route{}, up)
	for name, want := range map[string]int{
		"a.b": 0, "b": 3, "c.b": 1, "c.a.b": 2, "x.a.b": 2, "y.x.a.b": 4, "ab": 5, "xb": 5, ".b": 5, "c": 5, "b.c": 5, "": -1,
	} {
		got := -1
		if p := s.group(name); p != nil {
			c, _ := p.pick(netip.Addr{}, nil)
			got = slices.Index(servers, c.server)
		}
		if got != want {
			t.Errorf("%q: group %d, want %d", name, got, want)
		}
	}
}
