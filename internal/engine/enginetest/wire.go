package enginetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/netns"
)

// peer is one end of a connection under test. What it sends is a stream that
// both ends know, so that each byte that arrives is compared.
type peer struct {
	*net.TCPConn
	r       *rig
	out, in *rand.ChaCha8
	local   netip.AddrPort // known also after Close
}

func (r *rig) newPeer(c *net.TCPConn, client bool) *peer {
	up, down := rand.NewChaCha8([32]byte{'u'}), rand.NewChaCha8([32]byte{'d'})
	p := &peer{TCPConn: c, r: r, out: down, in: up, local: addrPort(c.LocalAddr())}
	if client {
		p.out, p.in = up, down
	}
	c.SetDeadline(r.deadline)
	r.keep(c)
	return p
}

func addrPort(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

// Close is orderly unless there are unread bytes; then the kernel resets.
func (p *peer) Close() error {
	p.r.drop(p.TCPConn)
	return p.TCPConn.Close()
}

// reset ends the connection with a RST.
func (p *peer) reset() {
	p.SetLinger(0)
	p.Close()
}

// delivered tells whether the other end's kernel has all that was written: a reset
// throws away what it has not.
func (p *peer) delivered() bool {
	left := -1
	raw, err := p.SyscallConn()
	if err != nil {
		return false
	}
	if raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) }) != nil || err != nil {
		return false
	}
	return left == 0
}

// send sends n bytes and says how that ended: "sent", or in the words of fate.
func (p *peer) send(n int) string {
	buf := make([]byte, min(n, 64<<10))
	for n > 0 {
		buf = buf[:min(n, len(buf))]
		p.out.Read(buf)
		m, err := p.Write(buf)
		if err != nil {
			return fate(err)
		}
		n -= m
	}
	return "sent"
}

// get reads n bytes; n < 0: all there are.
func (p *peer) get(n int) got {
	buf := make([]byte, 64<<10)
	want := make([]byte, len(buf))
	var g got
	for g.bytes != n {
		part := buf
		if n >= 0 {
			part = buf[:min(len(buf), n-g.bytes)]
		}
		m, err := p.Read(part)
		p.in.Read(want[:m])
		if !bytes.Equal(part[:m], want[:m]) {
			g.end = fmt.Sprintf("WRONG BYTES after %d", g.bytes)
			return g
		}
		g.bytes += m
		if err != nil {
			g.end = fate(err)
			return g
		}
	}
	return g
}

// all reads to the end.
func (p *peer) all() got { return p.get(-1) }

// got is what came: how much, and how it ended if it did.
type got struct {
	bytes int
	end   string
}

func (g got) String() string {
	if g.end == "" {
		return fmt.Sprintf("%d bytes", g.bytes)
	}
	return fmt.Sprintf("%d bytes, %s", g.bytes, g.end)
}

// want is an error unless n bytes came and then end.
func (g got) want(n int, end string) error {
	if g.bytes != n || g.end != end {
		return fmt.Errorf("there came %s; want %d bytes, %s", g, n, end)
	}
	return nil
}

// some is for transfers that are cut at no certain place.
func (g got) some() string { return "some, " + g.end }

// fate is an error of a socket in the words of this suite. The kernel says EPIPE
// to whoever writes after the reset was seen.
func fate(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, io.EOF):
		return "end"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case timedOut(err):
		return "NOTHING until the deadline"
	}
	return err.Error()
}

func timedOut(err error) bool {
	var late net.Error
	return errors.As(err, &late) && late.Timeout()
}

// connect is dial with an error, for workers.
func (r *rig) connect(to netip.AddrPort) (*peer, error) { return r.connectFrom(netip.Addr{}, to) }

// connectFrom is connect from one of the addresses that clients have.
func (r *rig) connectFrom(from netip.Addr, to netip.AddrPort) (*peer, error) {
	began := time.Now()
	c, err := dialIn(r.place.clients, from, to, r.deadline)
	if err != nil {
		return nil, err
	}
	p := r.newPeer(c, true)
	r.log.newest(p.local, began)
	return p, nil
}

func (r *rig) dial(to netip.AddrPort) *peer {
	r.Helper()
	p, err := r.connect(to)
	if err != nil {
		r.Fatal(err)
	}
	return p
}

// server accepts connections and gives each connection to handle, in a goroutine
// of its own, or, without one, to whoever asks next for it.
type server struct {
	addr     netip.AddrPort
	accepted atomic.Int64
	conns    chan *peer
	l        net.Listener
}

func (r *rig) serve(handle func(*peer)) *server {
	r.Helper()
	return r.serveOn(r.serverAt(0), handle)
}

// serveOn is serve at one of the addresses that servers have.
func (r *rig) serveOn(at netip.AddrPort, handle func(*peer)) *server {
	r.Helper()
	return r.serveIn(r.place.servers, at, handle)
}

// serveBeside is a server where the engine is, at one of its addresses.
func (r *rig) serveBeside(at netip.AddrPort, handle func(*peer)) *server {
	r.Helper()
	return r.serveIn(nil, at, handle)
}

func (r *rig) serveIn(n *netns.Net, at netip.AddrPort, handle func(*peer)) *server {
	r.Helper()
	l, err := listenIn(n, at)
	if err != nil {
		r.Fatal(err)
	}
	s := &server{addr: addrPort(l.Addr()), conns: make(chan *peer, 1000), l: l}
	r.keep(l)
	r.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			p := r.newPeer(c.(*net.TCPConn), false)
			if handle == nil {
				s.conns <- p
				continue
			}
			r.wg.Go(func() {
				defer p.Close()
				handle(p)
			})
		}
	})
	return s
}

// accept is the server's end of a connection that a client has made.
func (r *rig) accept(s *server) *peer {
	r.Helper()
	select {
	case p := <-s.conns:
		return p
	case <-time.After(patience):
		r.Fatalf("no connection came to server %s", s.addr)
		return nil
	}
}

// pair is both ends of one new connection, made by way of at.
func (r *rig) pair(at netip.AddrPort, s *server) (client, srv *peer) {
	r.Helper()
	return r.dial(at), r.accept(s)
}

// direct is both ends of a connection that the engine has no part in. It starts
// where the engine is: clients need not reach servers in any other way.
func (r *rig) direct(s *server) (client, srv *peer) {
	r.Helper()
	c, err := dialIn(nil, netip.Addr{}, s.addr, r.deadline)
	if err != nil {
		r.Fatal(err)
	}
	return r.newPeer(c, true), r.accept(s)
}

// echo is a handler that sends back all that it gets.
func echo(p *peer) {
	buf := make([]byte, 64<<10)
	for {
		n, err := p.Read(buf)
		if n > 0 {
			if _, err := p.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// ping sends payload to an echo and wants it back.
func (p *peer) ping(payload []byte) error {
	sent := make(chan error, 1)
	go func() {
		_, err := p.Write(payload)
		sent <- err
	}()
	back := make([]byte, len(payload))
	_, err := io.ReadFull(p, back)
	if err == nil && !bytes.Equal(back, payload) {
		err = errors.New("other bytes came back")
	}
	return errors.Join(err, <-sent)
}

// bye ends a connection to an echo in an orderly way.
func (p *peer) bye() error {
	defer p.Close()
	if err := p.CloseWrite(); err != nil {
		return err
	}
	if n, err := io.Copy(io.Discard, p); n > 0 || err != nil {
		return fmt.Errorf("at the end %d bytes more, and error %v", n, err)
	}
	return nil
}
