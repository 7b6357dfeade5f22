package relay

import (
	"context"
	"fmt"
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

// TestConnThroughTLS: two routes, one that puts TLS on and one that takes it off,
// are together as good as a wire.
func TestConnThroughTLS(t *testing.T) {
	a := newAuthority(t)
	pem := a.leaf("s.pem", "127.0.0.1")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	e, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	on, off := freePort(t), freePort(t)
	p, err := planFor(fmt.Sprintf(`routes:
  on: {listen: '127.0.0.1:%d', to: '127.0.0.1:%d', upstream_tls: {ca: %s}}
  off: {listen: '127.0.0.1:%d', to: %s, tls: %s}`, on, off, a.file("ca.pem"), off, ln.Addr(), pem))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		if c1, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", on)); err != nil {
			return nil, nil, nil, err
		}
		if c2, err = ln.Accept(); err != nil {
			c1.Close()
			return nil, nil, nil, err
		}
		return c1, c2, func() {
			c1.Close()
			c2.Close()
		}, nil
	})
}
