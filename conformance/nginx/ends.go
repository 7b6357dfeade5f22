package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// ends are the sockets of the front's own, at either end of midspan's routes:
// the servers that answer for `return`, and bridges to Unix sockets, since
// midspan has TCP only. They belong to one configuration.
type ends struct {
	front     *front
	prefix    string
	temp      string // a folder for plain keys
	passwords map[string][]string
	next      uint16 // port of the next inner address

	closers []func() error
	wg      sync.WaitGroup
}

func newEnds(f *front) (*ends, error) {
	temp, err := os.MkdirTemp("", "front-")
	if err != nil {
		return nil, err
	}
	return &ends{front: f, prefix: f.options.prefix, temp: temp, passwords: f.passwords, next: f.inner}, nil
}

// path is name as nginx takes it.
func (e *ends) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(e.prefix, name)
}

// inner is a loopback address that no test uses, for routes behind routes: the
// process's number makes it this process's.
func (e *ends) inner() netip.AddrPort {
	e.next++
	pid := os.Getpid()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(64 + pid>>16&63), byte(pid >> 8), byte(pid)}), e.next)
}

// firstInner is below the ports that the kernel gives out, and above those of
// the tests.
const firstInner = 20000

// address is where the route of b listens: b's own, or an inner one that the
// bridge of a Unix socket leads to.
func (e *ends) address(b *bind) netip.AddrPort {
	if b.addr.IsValid() {
		return b.addr
	}
	to := e.inner()
	e.front.bridges[b.unix] = to // opened once the routes are there
	return to
}

// reach is the address of a server as midspan can have it; for a Unix socket
// that of a bridge.
func (e *ends) reach(addr string) (string, error) {
	path, isUnix := strings.CutPrefix(addr, "unix:")
	if !isUnix {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return "", fmt.Errorf("no port in upstream %q", addr)
		}
		return addr, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	e.serve(l, func(c *net.TCPConn) {
		to, err := net.Dial("unix", path)
		if err != nil {
			_ = c.SetLinger(0) // a reset: the server is not there
			_ = c.Close()
			return
		}
		join(c, to.(*net.UnixConn))
	})
	return l.Addr().String(), nil
}

// answer is the address of a server that answers for u's `return`.
func (e *ends) answer(u *unit) (netip.AddrPort, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	e.serve(l, func(c *net.TCPConn) { e.front.answer(u, c) })
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}

// serve gives each connection of l to handle, on a goroutine of its own.
func (e *ends) serve(l net.Listener, handle func(*net.TCPConn)) {
	e.closers = append(e.closers, l.Close)
	e.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.wg.Go(func() { handle(c.(*net.TCPConn)) })
		}
	})
}

// listenUnix opens the sockets at path, and leads each connection to a route.
func (e *ends) listenUnix(path string, to netip.AddrPort) error {
	_ = os.Remove(path) // of an earlier run, as nginx does
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	e.closers = append(e.closers, l.Close)
	e.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.wg.Go(func() {
				dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(unixPeer, 0))}
				s, err := dialer.Dial("tcp", to.String())
				if err != nil {
					_ = c.Close()
					return
				}
				join(s.(*net.TCPConn), c.(*net.UnixConn))
			})
		}
	})
	return nil
}

// half is a connection of which one direction can be ended.
type half interface {
	net.Conn
	CloseWrite() error
}

// join copies between a and b until both directions have ended.
func join(a, b half) {
	var wg sync.WaitGroup
	pipe := func(to, from half) {
		if _, err := io.Copy(to, from); err != nil {
			// An error ends both directions; a clean end only its own.
			_ = a.Close()
			_ = b.Close()
			return
		}
		_ = to.CloseWrite()
	}
	wg.Go(func() { pipe(a, b) })
	wg.Go(func() { pipe(b, a) })
	wg.Wait()
	_ = a.Close()
	_ = b.Close()
}

// close stops listening. Connections go on.
func (e *ends) close() {
	for _, c := range e.closers {
		_ = c()
	}
	_ = os.RemoveAll(e.temp)
}
