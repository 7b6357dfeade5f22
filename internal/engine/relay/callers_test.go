package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// unspecLink is a PROXY header that tells of no addresses, but of Azure link id 1.
const unspecLink = "\r\n\r\n\x00\r\nQUIT\n\x21\x00\x00\x08\xee\x00\x05\x01\x01\x00\x00\x00"

// TestNoHeaderBehindLink: what a customer of the cloud says behind the private
// endpoint's header is no header, whatever address it has given itself.
func TestNoHeaderBehindLink(t *testing.T) {
	e, addr := engineFor(t, Options{}, "", "proxy_protocol: {from: [127.0.0.1, 192.0.2.0/24]}, to: "+echoServer(t))
	for i, second := range []string{"PROXY TCP4 203.0.113.9 198.51.100.9 40000 1433\r\n", linkHeader(2)} {
		c := dialTo(t, addr)
		if _, err := io.WriteString(c, linkHeader(1)+second+"hello"); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); len(b) > 0 || err == nil {
			t.Errorf("%q, %v; want a reset", b, err)
		}
		if n := e.Status().Routes[0].Counters.Ended[engine.ProxyNotAllowed]; n != uint64(i+1) {
			t.Errorf("%d were refused, want %d", n, i+1)
		}
	}
}

// TestQuietConsumer: who is known by an id alone waits for a server that speaks
// first like anybody else.
func TestQuietConsumer(t *testing.T) {
	server := newGuests(t, func(c net.Conn) { _, _ = io.WriteString(c, "ready") })
	_, addr := engineFor(t, Options{}, "consumers: {one: {link_id: 1, routes: [r]}}", "proxy_protocol: required, to: "+server.addr)
	c := dialTo(t, addr)
	if _, err := io.WriteString(c, unspecLink); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); string(b) != "ready" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// TestNoRefundForRequests: a connection of mode http whose requests had servers
// keeps its token, whatever its last words are.
func TestNoRefundForRequests(t *testing.T) {
	for name, last := range map[string]string{
		"half a head":  "GET / HTTP/1.1\r\n",
		"unknown host": "GET / HTTP/1.1\r\nHost: b.test\r\nConnection: close\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLimited(t, "rate: 1/h, when_full: reset")
			p, err := planFor(fmt.Sprintf("routes: {r: {listen: %q, mode: http, hosts: {a.test: %q}, rate: 1/h, when_full: reset, http: {header_timeout: 1s}}}", l.addr, webServer(t, "a")))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.e.Apply(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			c := dialTo(t, l.addr)
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"+last); err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(c)
			if !strings.HasPrefix(string(b), "HTTP/1.1 200 ") {
				t.Fatalf("%q, %v", b, err)
			}
			c.Close()
			eventually(t, "it has ended", func() bool { return l.e.Status().Connections == 0 })
			if c, err = net.Dial("tcp", l.addr); err != nil {
				return // reset by now
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"); err != nil {
				return // reset by now; the kernel tells of that once
			}
			if b, err := io.ReadAll(c); len(b) > 0 || err == nil {
				t.Errorf("a second connection: %q, %v; want a reset", b, err)
			}
		})
	}
}

// TestWaitingForServerIsCheap: what a client has sent costs its size, and not a
// buffer, while no server answers.
func TestWaitingForServerIsCheap(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	silent := fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
	dialTo(t, silent) // its queue is full with that one
	e, addr := engineFor(t, Options{Loops: 1}, "", "proxy_protocol: required, connect_timeout: 5m, to: "+silent)
	const n = 400
	before := heapNow()
	for range n {
		if _, err := io.WriteString(dialTo(t, addr), linkHeader(1)+"hello"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all wait for the server", func() bool {
		waiting := 0
		for _, c := range e.Conns() {
			if c.State == "connecting" {
				waiting++
			}
		}
		return waiting >= n-2
	})
	if each := (heapNow() - before) / n; each > 8<<10 { // the client's end included
		t.Errorf("a connection that waits costs %d bytes", each)
	}
}

// TestLastResortOfOthers: a server that is down, and that one set has nothing
// better than, gets no connections of a set that has.
func TestLastResortOfOthers(t *testing.T) {
	down, up := newGuests(t, echo), newGuests(t, echo)
	e, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p, err := planFor(fmt.Sprintf("consumers: {one: {from: 127.0.0.2, routes: [r]}, rest: {from: 127.0.0.1, routes: [r]}}\n"+
		"routes: {r: {listen: %q, to: {one: %q, default: [%q, %q]}}}", addr, down.addr, down.addr, up.addr))
	if err != nil {
		t.Fatal(err)
	}
	p = p.With(nil, func(_ *plan.Route, s *plan.Server, _ netip.Addr) (isUp, lastResort bool) {
		return true, s.Name == down.addr
	})
	if _, err := e.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	for i, from := range []string{"127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2"} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}
		c, err := d.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if n := down.accepted.Load(); n != int64(i/4) {
			t.Errorf("after %d connections the server that is down has had %d, want %d", i+1, n, i/4)
		}
	}
}

// TestManyStreams: however many servers one client's requests need at once, there
// are descriptors left for others, and no server is thought to be down.
func TestManyStreams(t *testing.T) {
	var asked atomic.Int64
	server := newGuests(t, func(c net.Conn) {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			asked.Add(1)
		}
		_, _ = io.Copy(io.Discard, c)
	})
	s := newTheatre(t, server.addr, "mode: http")
	s.room.Store(40)
	c := &http.Client{Transport: &http.Transport{Protocols: new(http.Protocols)}, Timeout: 20 * time.Second}
	c.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var failed atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+"/", nil)
			if err != nil {
				t.Error(err)
				return
			}
			if a, err := c.Do(r); err == nil {
				a.Body.Close()
				failed.Add(1)
			}
		})
	}
	eventually(t, "what is above the bound has failed", func() bool { return failed.Load() == 30 })
	// Not just connected: a connection whose request ends before it was sent is
	// kept for another one.
	eventually(t, "what is within the bound has reached the server", func() bool { return asked.Load() == 20 })
	if n := server.accepted.Load(); n != 20 {
		t.Errorf("%d connections to the server, want 20", n)
	}
	if ep := s.Status().Routes[0].Endpoints[0]; ep.Failures != 0 {
		t.Errorf("%d failures are the server's", ep.Failures)
	}
	cancel()
	wg.Wait()
	eventually(t, "none is counted", func() bool {
		c.CloseIdleConnections() // it may find out only now that it is idle
		return s.servers.Load() == 0 && s.Status().Connections == 0
	})
}
