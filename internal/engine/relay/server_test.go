package relay

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// guests is a server that counts its connections.
type guests struct {
	addr     string
	accepted atomic.Int64
	mu       sync.Mutex
	open     map[net.Conn]bool
}

func newGuests(t *testing.T, serve func(net.Conn)) *guests {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	g := &guests{addr: ln.Addr().String(), open: map[net.Conn]bool{}}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			g.open[c] = true
			g.mu.Unlock()
			g.accepted.Add(1)
			go func() {
				serve(c)
				g.mu.Lock()
				delete(g.open, c)
				g.mu.Unlock()
				c.Close()
			}()
		}
	}()
	return g
}

func (g *guests) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.open)
}

func (g *guests) closeAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.open {
		c.Close()
	}
}

// echo hides the connection from io.Copy, whose splice would take two
// descriptors more.
func echo(c net.Conn) {
	_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 8<<10))
}

// echoServer answers every byte with itself, on loopback.
func echoServer(t *testing.T) string { return newGuests(t, echo).addr }
