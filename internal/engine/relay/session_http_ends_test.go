package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/internal/engine"
)

// upgrades is a server that upgrades what it is asked, and then does as told.
func upgrades(t *testing.T, then func(net.Conn)) string {
	return newGuests(t, func(c net.Conn) {
		for head := ""; !strings.HasSuffix(head, "\r\n\r\n"); {
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			head += string(b)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		then(c)
	}).addr
}

// upgraded is a connection of a client that has been upgraded.
func (s *theatre) upgraded() *net.TCPConn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"); err != nil {
		s.t.Fatal(err)
	}
	for head := ""; !strings.HasSuffix(head, "\r\n\r\n"); {
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil {
			s.t.Fatalf("%v after %q", err, head)
		}
		head += string(b)
	}
	return c.(*net.TCPConn)
}

// endedBy waits until a connection has ended, and wants that as its reason.
func (s *theatre) endedBy(want engine.Reason) {
	s.t.Helper()
	s.settled()
	if n := s.Status().Routes[0].Counters.Ended; n[want] != 1 {
		s.t.Errorf("ended %v, want %s", n, want)
	}
}

// TestUpgradeEnds: the end of an upgraded connection is named after the side that
// ended first, in its record and in the counters.
func TestUpgradeEnds(t *testing.T) {
	for _, c := range []struct {
		server func(net.Conn)
		client func(*net.TCPConn)
		want   engine.Reason
	}{
		{func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, func(c *net.TCPConn) { c.CloseWrite() }, engine.ClosedByClient},
		{func(c net.Conn) { c.Close() }, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c); c.Close() }, engine.ClosedByServer},
	} {
		s := newTheatre(t, upgrades(t, c.server), "mode: http")
		c.client(s.upgraded())
		if r := s.end(1); r.Reason != c.want {
			t.Errorf("%s, want %s", r.Reason, c.want)
		}
		s.endedBy(c.want)
	}
}

// TestUpgradeFinTimeout: fin_timeout ends an upgraded connection of which one side
// has ended, as it does any other.
func TestUpgradeFinTimeout(t *testing.T) {
	over := make(chan struct{})
	defer close(over)
	s := newTheatre(t, upgrades(t, func(net.Conn) { <-over }), "mode: http, fin_timeout: 100ms")
	c := s.upgraded()
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	s.endedBy(engine.FinTimeout)
}

// TestHTTPServersFull: a request that finds all servers at their max_connections is
// not told that none is up.
func TestHTTPServersFull(t *testing.T) {
	s := newTheatre(t, "{server: "+webServer(t, "a")+", max_connections: 1}", "mode: http, connect_timeout: 100ms")
	first, err := httpClientOf(t, nil).Get("http://" + s.addr + "/?slow=20s")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Body.Close()
	if got := get(t, httpClientOf(t, nil), "http://"+s.addr+"/"); !strings.HasPrefix(got, "503 ") || strings.Contains(got, "no server up") {
		t.Errorf("%q", got)
	}
	if r := s.end(1); r.Reason != engine.ServersFull || r.HTTP.Status != 503 {
		t.Errorf("%s, %+v", r.Reason, r.HTTP)
	}
}

// TestHTTPNoRoute: what no rule fits has a reason of its own, and not that of a name
// in TLS.
func TestHTTPNoRoute(t *testing.T) {
	s := newTheatre(t, "127.0.0.1:1", "mode: http")
	p, err := planFor(fmt.Sprintf("routes: {r: {listen: %q, mode: http, hosts: {a.example: %q}}}", s.addr, webServer(t, "a")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	c := httpClientOf(t, nil)
	c.Transport.(*http.Transport).DisableKeepAlives = true
	if got := get(t, c, "http://"+s.addr+"/"); !strings.HasPrefix(got, "404 ") {
		t.Errorf("%q", got)
	}
	if r := s.end(1); r.Reason != engine.UnknownHost || r.HTTP.Status != 404 {
		t.Errorf("%s, %+v", r.Reason, r.HTTP)
	}
	s.endedBy(engine.UnknownHost)
}

// TestHTTPRefused: a connection that is ended for what it asks is counted for that,
// and has one record, whoever reads the requests.
func TestHTTPRefused(t *testing.T) {
	for _, settings := range []string{"", "http: {protocol: h2}"} {
		s := newTheatre(t, webServer(t, "a"), "mode: http, "+settings)
		s.refusesNonsense()
		s.endedBy(engine.BadRequest)
		s.mu.Lock()
		if n := len(s.records); n != 1 {
			t.Errorf("%s: %d records", settings, n)
		}
		s.mu.Unlock()
	}
}

// TestHTTPTries: a request is tried at no more servers than the route says.
func TestHTTPTries(t *testing.T) {
	dead, good := fmt.Sprintf("127.0.0.1:%d", freePort(t)), webServer(t, "good")
	for tries, want := range map[int]string{1: "502 ", 2: "200 good "} {
		s := newTheatre(t, fmt.Sprintf("[%s, %s]", dead, good), fmt.Sprintf("mode: http, balance: first, tries: %d", tries))
		if got := get(t, httpClientOf(t, nil), "http://"+s.addr+"/"); !strings.HasPrefix(got, want) {
			t.Errorf("tries: %d: %q, want %s", tries, got, want)
		}
		if r := s.end(1); r.Retries != 1 || tries == 1 && r.Reason != engine.ConnectFailed {
			t.Errorf("tries: %d: %d tried in vain, %s", tries, r.Retries, r.Reason)
		}
	}
}

// TestHTTP2Ends: a connection of HTTP/2 has been closed by its client, or by the
// server where it rested too long.
func TestHTTP2Ends(t *testing.T) {
	a := newAuthority(t)
	pem := a.leaf("s.pem", "127.0.0.1")
	for _, c := range []struct {
		settings string
		end      func(*http.Client)
		want     engine.Reason
	}{
		{"", (*http.Client).CloseIdleConnections, engine.ClosedByClient},
		{"http: {keepalive_timeout: 1s}", func(*http.Client) {}, engine.ClosedByServer},
	} {
		s := newTheatre(t, webServer(t, "a"), fmt.Sprintf("mode: http, tls: %s, %s", pem, c.settings))
		client := httpClientOf(t, &tls.Config{RootCAs: a.pool()})
		client.Transport.(*http.Transport).ForceAttemptHTTP2 = true
		if got := get(t, client, "https://"+s.addr+"/"); !strings.HasPrefix(got, "200") {
			t.Fatal(got)
		}
		if r := s.end(1); r.HTTP.Protocol != "HTTP/2.0" {
			t.Fatalf("%+v", r.HTTP)
		}
		c.end(client)
		s.endedBy(c.want)
	}
}
