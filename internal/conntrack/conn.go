package conntrack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// bufferSize is more than the kernel puts into one datagram: 32 KiB
// (netlink_recvmsg, netlink_dump).
const bufferSize = 64 << 10

// Conn asks the kernel about its flows. It is safe for concurrent use. Dump has
// a socket of its own, so that the others need not wait for it.
type Conn struct {
	dump, ask socket
	raw       raw
}

// Open opens the sockets, in the network namespace of the calling thread.
func Open() (*Conn, error) {
	c := &Conn{}
	for _, s := range []*socket{&c.dump, &c.ask} {
		s.fd = -1
	}
	c.raw.open()
	for _, s := range []*socket{&c.dump, &c.ask} {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("conntrack: netlink socket: %w", err)
		}
		s.fd, s.in = fd, make([]byte, bufferSize)
	}
	return c, nil
}

// Close waits for calls in progress; all later ones return net.ErrClosed.
func (c *Conn) Close() error {
	return errors.Join(c.dump.close(), c.ask.close(), c.raw.close())
}

// Dump calls f for every flow with Mark&mask == mark, of all protocols, IPv4 and
// IPv6; the kernel leaves the others out. The Flow is reused: f copies what it
// keeps. f may call any method but Dump and Close.
//
// The table moves meanwhile: a flow that lives throughout is seen once, and may
// in rare cases be missed or seen twice; one that comes or goes is seen or not.
func (c *Conn) Dump(mark, mask uint32, f func(*Flow)) error {
	c.dump.mu.Lock()
	defer c.dump.mu.Unlock()
	q := c.dump.begin(msgGet, unix.NLM_F_DUMP, unix.AF_UNSPEC)
	if mask != 0 {
		q = q.uint32(ctaMark, mark).uint32(ctaMarkMask, mask)
	}
	var flow Flow
	interrupted := false
	err := c.dump.roundTrip(q, func(m *message) error {
		interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
		if m.kind != msgNew {
			return nil
		}
		known, err := flow.decode(m.body)
		// A kernel without marks ignores the filter.
		if known && flow.Mark&mask == mark {
			f(&flow)
		}
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("conntrack: dump: %w", err)
	case interrupted:
		return ErrInterrupted
	}
	return nil
}

// Get returns the flow whose Orig is t, or ErrNotFound.
func (c *Conn) Get(t Tuple) (Flow, error) {
	if !t.whole() {
		return Flow{}, fmt.Errorf("conntrack: get: %v is not a tuple", t)
	}
	c.ask.mu.Lock()
	defer c.ask.mu.Unlock()
	var flow Flow
	found := false
	q := c.ask.begin(msgGet, unix.NLM_F_ACK, family(t.Src.Addr())).tuple(ctaTupleOrig, t)
	err := c.ask.roundTrip(q, func(m *message) error {
		if m.kind != msgNew {
			return nil
		}
		known, err := flow.decode(m.body)
		found = known && flow.Orig == t // the kernel finds it by Reply too
		return err
	})
	switch {
	case err == nil && found:
		return flow, nil
	case err == nil, errors.Is(err, ErrNotFound):
		return Flow{}, ErrNotFound
	}
	return Flow{}, fmt.Errorf("conntrack: get: %w", err)
}

// Delete makes the kernel forget the flow with f's Orig and, unless that is 0,
// ID. The ends are told nothing: what they send next has no NAT any more.
func (c *Conn) Delete(f *Flow) error {
	return c.change(msgDelete, f, func(q request) request { return q })
}

// expire changes the time until the flow is forgotten, if nothing comes.
func (c *Conn) expire(f *Flow, after time.Duration) error {
	return c.change(msgNew, f, func(q request) request {
		return q.uint32(ctaTimeout, uint32(after/time.Second))
	})
}

func (c *Conn) change(kind uint16, f *Flow, more func(request) request) error {
	if !f.Orig.whole() {
		return fmt.Errorf("conntrack: change: %v is not a tuple", f.Orig)
	}
	c.ask.mu.Lock()
	defer c.ask.mu.Unlock()
	q := c.ask.begin(kind, unix.NLM_F_ACK, family(f.Orig.Src.Addr())).tuple(ctaTupleOrig, f.Orig)
	if f.ID != 0 {
		q = q.uint32(ctaID, f.ID)
	}
	err := c.ask.roundTrip(more(q), func(*message) error { return nil })
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("conntrack: change %v: %w", f.Orig, err)
	}
	return err
}

// Count is the number of entries of this namespace's table and the most that it
// may have (net.netfilter.nf_conntrack_max). Packets of new flows are dropped
// when it is full.
func (c *Conn) Count() (entries, limit int, err error) {
	c.ask.mu.Lock()
	defer c.ask.mu.Unlock()
	err = c.ask.roundTrip(c.ask.begin(msgGetStats, unix.NLM_F_ACK, unix.AF_UNSPEC), func(m *message) error {
		if m.kind != msgGetStats || len(m.body) < sizeofNfgenmsg {
			return nil
		}
		var bad bool
		a := tlv{rest: m.body[sizeofNfgenmsg:], bad: &bad}
		for a.next() {
			switch a.kind {
			case ctaStatsGlobalEntries:
				entries = int(a.uint32())
			case ctaStatsGlobalMaxEntries:
				limit = int(a.uint32())
			}
		}
		if bad {
			return errMalformed
		}
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("conntrack: count: %w", err)
	}
	return entries, limit, nil
}

// socket is a netlink socket for requests, one at a time.
type socket struct {
	mu      sync.Mutex // held from begin until roundTrip is back
	fd      int        // -1: closed
	seq     uint32
	in, out []byte
}

func (s *socket) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return nil
	}
	fd := s.fd
	s.fd = -1
	return os.NewSyscallError("close", unix.Close(fd))
}

func (s *socket) begin(kind, flags uint16, family uint8) request {
	s.seq++
	return ask(s.out, kind, flags, s.seq, family)
}

// roundTrip sends q and passes the answers to f, until the kernel's
// acknowledgement, the end of a dump or an error, also one of f.
func (s *socket) roundTrip(q request, f func(*message) error) error {
	if s.fd < 0 {
		return net.ErrClosed
	}
	s.out = q.finish()
	if _, err := unix.Write(s.fd, s.out); err != nil {
		return os.NewSyscallError("write", err)
	}
	var m message
	var failed error // in f: what is to come must be read all the same
	for {
		n, err := unix.Read(s.fd, s.in)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		for b := s.in[:n]; len(b) > 0; {
			if m, b, err = cut(b); err != nil {
				return err
			}
			switch {
			case m.seq != s.seq: // the rest of an answer that an error cut short
			case m.kind == unix.NLMSG_ERROR, m.kind == unix.NLMSG_DONE:
				return errors.Join(failed, m.errno())
			case failed == nil:
				failed = f(&m)
			}
		}
	}
}
