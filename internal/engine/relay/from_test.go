package relay

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
)

// TestConnectFrom: servers are connected to from the route's addresses, in turn, by
// loops and by sessions; an address of the other family is passed over.
func TestConnectFrom(t *testing.T) {
	a := newAuthority(t)
	a.leaf("good.pem", "127.0.0.1")
	tellTLS := func(c net.Conn) {
		_, _ = io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
		_ = c.Close()
	}
	for name, c := range map[string]struct{ to, settings string }{
		"tcp": {newGuests(t, tellTLS).addr, ""},
		"tls": {
			serveTLS(t, &tls.Config{Certificates: []tls.Certificate{a.pair("good.pem")}}, func(c *tls.Conn) { tellTLS(c) }),
			", upstream_tls: {ca: " + a.file("ca.pem") + "}",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTheatre(t, fmt.Sprintf("%q", c.to), "source: [127.0.0.2, \"::2\", 127.0.0.3]"+c.settings)
			var from []string
			for range 6 {
				conn, err := net.Dial("tcp", s.addr)
				if err != nil {
					t.Fatal(err)
				}
				text, err := io.ReadAll(conn)
				if err != nil {
					t.Error(err)
				}
				from = append(from, string(text))
				_ = conn.Close()
			}
			slices.Sort(from)
			if got := slices.Compact(slices.Clone(from)); !slices.Equal(got, []string{"127.0.0.2", "127.0.0.3"}) || len(from) != 6 {
				t.Errorf("from %v", from)
			}
			s.apply(fmt.Sprintf("%q", c.to), "source: 192.0.2.77"+c.settings)
			conn, err := net.Dial("tcp", s.addr)
			if err == nil {
				_, err = io.ReadAll(conn)
				_ = conn.Close()
			}
			if err == nil {
				t.Error("connected from an address that this machine does not have")
			}
		})
	}
}
