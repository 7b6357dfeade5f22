package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"midspan/internal/engine"
	"midspan/internal/proxyproto"
)

// TestHeaderThenTLS: a PROXY header in front of a client's TLS is understood, and
// goes on in front of the TLS with the server.
func TestHeaderThenTLS(t *testing.T) {
	a := newAuthority(t)
	pem := a.leaf("s.pem", "127.0.0.1")
	headers := make(chan proxyproto.Header, 1)
	to := newGuests(t, func(raw net.Conn) {
		b := make([]byte, proxyproto.MaxSize)
		n := 0
		for {
			m, err := raw.Read(b[n : n+1]) // not beyond the header
			if err != nil {
				t.Error(err)
				return
			}
			n += m
			if size, _, err := proxyproto.Scan(b[:n]); err != nil {
				t.Error(err)
				return
			} else if size > 0 && size <= n {
				break
			}
		}
		h, err := proxyproto.Parse(b[:n])
		if err != nil {
			t.Error(err)
		}
		headers <- h
		conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{a.pair("s.pem")}})
		echo(conn)
	}).addr
	s := newTheatre(t, to, fmt.Sprintf("proxy_protocol: required, send_proxy: v2, tls: %s, upstream_tls: {ca: %s}", pem, a.file("ca.pem")))
	raw, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := io.WriteString(raw, linkHeader(7)); err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, &tls.Config{RootCAs: a.pool(), ServerName: "127.0.0.1"})
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	h := <-headers
	conn := s.Conns()[0]
	if h.Source != conn.Client || h.Link != conn.Link || conn.Link == "" || conn.Peer.String() != raw.LocalAddr().String() {
		t.Errorf("the server was told %+v; the connection is %+v", h, conn)
	}
}

// TestHeaderRefused: a header where none is expected is told from what else a
// client may say that is wrong.
func TestHeaderRefused(t *testing.T) {
	a := newAuthority(t)
	pem := a.leaf("s.pem", "127.0.0.1")
	back := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{a.pair("s.pem")}}, echoTLS)
	for _, settings := range []string{"tls: " + pem, "upstream_tls: {ca: " + a.file("ca.pem") + "}", "mode: http"} {
		for _, header := range []string{linkHeader(7), "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"} {
			s := newTheatre(t, back, settings)
			c, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, header+"and more"); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: %q, %v; want a reset", settings, got, err)
			}
			if r := s.end(1); r.Reason != engine.ProxyNotAllowed || !strings.Contains(r.Err, "write proxy_protocol: required") || r.HTTP != nil {
				t.Errorf("%s: %s, %q", settings, r.Reason, r.Err)
			}
		}
	}
}
