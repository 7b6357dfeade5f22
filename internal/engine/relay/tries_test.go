package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"midspan/internal/engine"
)

// TestTries: no more endpoints are tried than the route says, and the record has
// those that were, in their order; with and without TLS to servers.
func TestTries(t *testing.T) {
	a := newAuthority(t)
	a.leaf("good.pem", "127.0.0.1")
	dead := []netip.AddrPort{
		netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", freePort(t))),
		netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", freePort(t))),
	}
	for name, c := range map[string]struct{ good, settings string }{
		"tcp": {echoServer(t), ""},
		"tls": {serveTLS(t, &tls.Config{Certificates: []tls.Certificate{a.pair("good.pem")}}, echoTLS), ", upstream_tls: {ca: " + a.file("ca.pem") + "}"},
	} {
		t.Run(name, func(t *testing.T) {
			to := fmt.Sprintf("[%q, %q, %q]", dead[0], dead[1], c.good)
			s := newTheatre(t, to, "balance: first, tries: 2"+c.settings)
			say := func() error {
				conn, err := net.Dial("tcp", s.addr)
				if err != nil {
					return err // a reset may come that early
				}
				defer conn.Close()
				if _, err := io.WriteString(conn, "x"); err != nil {
					return err // or that early; a read would not be told of it again
				}
				_, err = io.ReadFull(conn, make([]byte, 1))
				return err
			}
			if err := say(); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("with 2 tries: %v, want a reset", err)
			}
			if r := s.end(1); r.Reason != engine.ConnectFailed || r.Retries != 2 || !slices.Equal(r.Tried, dead) {
				t.Errorf("%s after %d, %v", r.Reason, r.Retries, r.Tried)
			}
			s.apply(to, "balance: first, tries: 3"+c.settings)
			if err := say(); err != nil {
				t.Errorf("with 3 tries: %v", err)
			}
			if r := s.end(2); r.Server != c.good || r.Retries != 2 || !slices.Equal(r.Tried, dead) {
				t.Errorf("served by %s after %d, %v", r.Server, r.Retries, r.Tried)
			}
		})
	}
}
