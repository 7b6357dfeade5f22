package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// answerTime is how long the tracker keeps what the segments of a Reset begin,
// when no answer comes: by itself it would be nf_conntrack_tcp_timeout_established.
const answerTime = 10 * time.Second

// Reset ends a TCP connection that this machine forwards with both DNAT and SNAT
// (Orig.Dst and Reply.Dst are its own addresses), so that both ends see a reset.
// It returns ErrNotFound when there is no such flow any more; other errors can
// mean that one end was not told. It does not wait for the ends.
//
// The flow is deleted, and each end gets ACKs that seem to come from the other
// one, but lie outside the window. To that an end must answer with an ACK
// that has its real numbers (RFC 9293, 3.10.7.4). The answer belongs to no flow,
// so it reaches this machine's own TCP, which has no such connection and replies
// with an RST that fits exactly. The same happens to whatever else the ends
// send. So no sequence number need be known.
//
// This needs:
//   - NAT rules that begin flows with a SYN only, or the answer is forwarded
//     again;
//   - no rules for what this machine itself sends from Orig.Dst to Orig.Src and
//     from Reply.Dst to Reply.Src, such as a masquerade that also applies there;
//   - nf_conntrack_tcp_loose=1, the default, where input or output has "ct state
//     invalid drop", or input accepts but the established;
//   - no firewall at an end, or on the way to it, that drops all that is out of
//     the window. The tracker of Linux calls overly old segments invalid until
//     6.0, and no longer does since, so "ct state invalid drop" there is in the
//     way of an older one only.
//
// Linux answers one such ACK in tcp_invalid_ratelimit (500 ms) for each
// connection, and not one in tcp_challenge_ack_limit, since it is a duplicate
// ACK. An end that was not reached, because of this or a lost packet, has no
// flow any more: it is reset when it next sends, by data or keepalive.
// Connections that are still being opened start anew with the next SYN.
func (c *Conn) Reset(f *Flow) error {
	if f.Orig.Proto != unix.IPPROTO_TCP || !f.Orig.whole() || !f.Reply.whole() {
		return fmt.Errorf("conntrack: reset: %v is not a TCP flow", f.Orig)
	}
	if err := c.raw.ready(f.Orig.Src.Addr()); err != nil {
		return fmt.Errorf("conntrack: reset: %w", err)
	}
	if err := c.Delete(f); err != nil {
		return err
	}
	// As each end knows the other one.
	return errors.Join(
		c.provoke(Tuple{Src: f.Orig.Dst, Dst: f.Orig.Src, Proto: unix.IPPROTO_TCP}),
		c.provoke(Tuple{Src: f.Reply.Dst, Dst: f.Reply.Src, Proto: unix.IPPROTO_TCP}))
}

// provoke makes the end t.Dst answer to t.Src.
func (c *Conn) provoke(t Tuple) error {
	const half = 1 << 31
	seq, ack := rand.Uint32(), rand.Uint32()
	// Of two numbers that are half the space apart, one is behind what the end
	// expects, and one ahead; the window has less than 2^30. A tracker on the
	// way lets the segment pass in which both are behind.
	var failed error
	sent := 0
	for _, n := range [][2]uint32{{seq, ack}, {seq ^ half, ack}, {seq, ack ^ half}, {seq ^ half, ack ^ half}} {
		// While the end goes on sending, the tracker can drop one (EPERM): two
		// packets want to be the first of the same flow. The end's is answered
		// with a reset, too.
		if err := c.raw.send(t, segment(t, n[0], n[1])); err != nil {
			failed = err
		} else {
			sent++
		}
	}
	if sent == 0 {
		return fmt.Errorf("conntrack: reset %v: %w", t.Dst, failed)
	}
	// Not found if the tracker took no note of the segments: all the better.
	if err := c.expire(&Flow{Orig: t}, answerTime); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

const (
	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20
	hops       = 64
)

// segment is an IP packet with a TCP segment that is but an ACK. The kernel
// fills in what is zero in the IPv4 header.
func segment(t Tuple, seq, ack uint32) []byte {
	src, dst := t.Src.Addr().AsSlice(), t.Dst.Addr().AsSlice()
	be := binary.BigEndian
	tcp := be.AppendUint16(nil, t.Src.Port())
	tcp = be.AppendUint16(tcp, t.Dst.Port())
	tcp = be.AppendUint32(tcp, seq)
	tcp = be.AppendUint32(tcp, ack)
	const flagACK = 0x10
	tcp = append(tcp, tcpHeader/4<<4, flagACK, 0xff, 0xff, 0, 0, 0, 0) // window, checksum, urgent
	// The pseudo header of both families sums up to this (RFC 9293, 3.1; RFC
	// 8200, 8.1): addresses, length and protocol.
	be.PutUint16(tcp[16:], checksum(uint32(len(tcp)+unix.IPPROTO_TCP), src, dst, tcp))

	if t.Dst.Addr().Is4() {
		const version, dontFragment = 4<<4 | ipv4Header/4, 0x40
		ip := []byte{version, 0, 0, ipv4Header + tcpHeader, 0, 0, dontFragment, 0, hops, unix.IPPROTO_TCP, 0, 0}
		return append(append(append(ip, src...), dst...), tcp...)
	}
	ip := []byte{6 << 4, 0, 0, 0, 0, tcpHeader, unix.IPPROTO_TCP, hops}
	return append(append(append(ip, src...), dst...), tcp...)
}

// checksum is that of RFC 1071; all parts have even lengths.
func checksum(sum uint32, parts ...[]byte) uint16 {
	for _, p := range parts {
		for ; len(p) > 1; p = p[2:] {
			sum += uint32(binary.BigEndian.Uint16(p))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// raw has a socket of each family. They are of IPPROTO_RAW, to which the caller
// gives the IP header: of IPPROTO_TCP, they would get a copy of every segment
// that this machine receives. They are opened with the rest, to be in the same
// network namespace; an error only concerns Reset.
type raw struct {
	mu       sync.Mutex
	fd4, fd6 int // -1: none
	err4     error
	err6     error
}

func (r *raw) open() {
	r.fd4, r.err4 = rawSocket(unix.AF_INET)
	r.fd6, r.err6 = rawSocket(unix.AF_INET6)
}

func rawSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	return fd, os.NewSyscallError("raw socket", err)
}

func (r *raw) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs error
	for _, fd := range []int{r.fd4, r.fd6} {
		if fd >= 0 {
			errs = errors.Join(errs, os.NewSyscallError("close", unix.Close(fd)))
		}
	}
	r.fd4, r.fd6, r.err4, r.err6 = -1, -1, net.ErrClosed, net.ErrClosed
	return errs
}

func (r *raw) ready(ip netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ip.Is4() {
		return r.err4
	}
	return r.err6
}

func (r *raw) send(t Tuple, packet []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ip := t.Dst.Addr(); ip.Is4() {
		return os.NewSyscallError("sendto", unix.Sendto(r.fd4, packet, 0, &unix.SockaddrInet4{Addr: ip.As4()}))
	}
	return os.NewSyscallError("sendto", unix.Sendto(r.fd6, packet, 0, &unix.SockaddrInet6{Addr: t.Dst.Addr().As16()}))
}
