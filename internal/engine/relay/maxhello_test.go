package relay

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"midspan/internal/engine"
)

// TestMaxHello: a ClientHello that is not complete after max_hello bytes is not
// waited for.
func TestMaxHello(t *testing.T) {
	s := newTheatre(t, "{a.test: \"127.0.0.1:1\"}", "mode: sni, sni: {max_hello: 1KiB}")
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// A record of 4 KiB with the head of a ClientHello that fills it.
	if _, err := io.WriteString(c, "\x16\x03\x01\x10\x00\x01\x00\x0f\xfc\x03\x03"+strings.Repeat("x", 1100)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	if r := s.end(1); r.Reason != engine.TLSFailed {
		t.Errorf("%+v", r)
	}
}
