package rig

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Server is a TCP server of the test's own.
type Server struct {
	Addr  string
	Conns atomic.Int64 // accepted until now

	l     net.Listener
	mu    sync.Mutex
	open  map[net.Conn]bool
	ended bool
	wg    sync.WaitGroup
}

// Serve handles each connection to addr in a goroutine of its own; in nil is
// the test's own namespace. handle need not close.
func Serve(t testing.TB, in *Net, addr string, handle func(*net.TCPConn)) *Server {
	t.Helper()
	l, err := in.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Addr: l.Addr().String(), l: l, open: map[net.Conn]bool{}}
	s.wg.Go(func() { s.accept(handle) })
	t.Cleanup(s.Close)
	return s
}

func (s *Server) accept(handle func(*net.TCPConn)) {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		s.Conns.Add(1)
		if !s.add(c) {
			c.Close()
			return
		}
		s.wg.Go(func() {
			defer s.remove(c)
			handle(c.(*net.TCPConn))
		})
	}
}

func (s *Server) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = true
	return !s.ended
}

func (s *Server) remove(c net.Conn) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// Refuse closes the listener; connections live on.
func (s *Server) Refuse() { s.l.Close() }

// Close closes the listener and all connections.
func (s *Server) Close() {
	s.l.Close()
	s.mu.Lock()
	s.ended = true
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Echo sends back what comes, until the client has ended.
func Echo(c *net.TCPConn) {
	buf := make([]byte, 32<<10)
	_, _ = io.CopyBuffer(onlyWriter{c}, onlyReader{c}, buf) // the client's end sees errors
}

// onlyWriter hides what would let io.Copy find another way.
type onlyWriter struct{ io.Writer }

// Greet sends text and then echoes: it tells which server it is.
func Greet(text string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		if _, err := io.WriteString(c, text+"\n"); err == nil {
			Echo(c)
		}
	}
}
