package resolve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	// ednsSize is the largest answer asked for over UDP: what passes every
	// common path without fragments (DNS flag day 2020).
	ednsSize = 1232
	// readSize is the largest taken, for servers that send more all the same.
	readSize = 4096

	// In dns.Header.Bits.
	bitQR = 1 << 15 // a response
	bitTC = 1 << 9  // truncated
)

var errGarbled = errors.New("garbled answer")

// serverFailure is why one server's answer cannot be used.
type serverFailure struct {
	server netip.AddrPort
	reason string
	silent bool // it has not answered at all
}

// ask puts one question to the servers in turn and returns the first reply that
// answers it: an answer, NXDOMAIN or an empty one. Without one, reply is nil.
func (w *wire) ask(ctx context.Context, servers []netip.AddrPort, name string, qtype uint16) (reply *dns.Msg, server netip.AddrPort, failures []serverFailure) {
	for _, server := range servers {
		reply, err := w.exchange(ctx, server, name, qtype)
		if err != nil {
			failures = append(failures, serverFailure{server, reason(err), !errors.Is(err, errGarbled)})
			continue
		}
		if why := unfit(reply); why != "" {
			failures = append(failures, serverFailure{server, why, false})
			continue
		}
		return reply, server, nil
	}
	return nil, netip.AddrPort{}, failures
}

// unfit returns why reply is no answer, and the next server must be asked.
func unfit(reply *dns.Msg) string {
	switch reply.Rcode {
	case dns.RcodeSuccess:
		if isReferral(reply) {
			return "referral instead of an answer"
		}
		return ""
	case dns.RcodeNameError:
		return ""
	}
	if s, ok := dns.RcodeToString[reply.Rcode]; ok {
		return s
	}
	return "rcode " + strconv.Itoa(reply.Rcode)
}

// exchange asks one server: over UDP, over TCP if the answer does not fit, and
// once more without EDNS0 if the server does not know it.
func (w *wire) exchange(ctx context.Context, server netip.AddrPort, name string, qtype uint16) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	q.SetEdns0(ednsSize, false)
	reply, err := w.roundTrip(ctx, "udp", server, q)
	if err == nil && (reply.Rcode == dns.RcodeFormatError || reply.Rcode == dns.RcodeNotImplemented) {
		q.Extra = nil
		q.Id = dns.Id()
		reply, err = w.roundTrip(ctx, "udp", server, q)
	}
	if err == nil && reply.Truncated {
		reply, err = w.roundTrip(ctx, "tcp", server, q)
		if err != nil && !errors.Is(err, errGarbled) {
			err = errors.New("truncated, and over TCP: " + reason(err))
		}
	}
	return reply, err
}

// roundTrip sends q and returns the reply to it. Every question has a socket of
// its own: with a random port, a forger must guess more than the message's id.
func (w *wire) roundTrip(ctx context.Context, network string, server netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	d := net.Dialer{Deadline: time.Now().Add(w.timeout)}
	conn, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(d.Deadline); err != nil {
		return nil, err
	}
	// Close of the resolver, and forgetting the name, must end a read at once.
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	co := &dns.Conn{Conn: conn, UDPSize: readSize}
	if err := co.WriteMsg(q); err != nil {
		return nil, err
	}
	return readReply(co, q, network == "tcp")
}

// readReply reads messages until one is the reply to q. Others are skipped, not
// believed and not fatal: late replies to earlier users of the port, and guesses
// of forgers. A message with the right id that cannot be read ends the try.
func readReply(co *dns.Conn, q *dns.Msg, tcp bool) (*dns.Msg, error) {
	for {
		var head dns.Header
		packet, err := co.ReadMsgHeader(&head)
		if errors.Is(err, dns.ErrShortRead) && !tcp {
			continue
		}
		if err != nil {
			return nil, err
		}
		if head.Id != q.Id || head.Bits&bitQR == 0 {
			continue
		}
		if head.Bits&bitTC != 0 && !tcp {
			// Not read further: it may be cut in the middle of a record.
			return &dns.Msg{MsgHdr: dns.MsgHdr{Truncated: true}}, nil
		}
		reply := new(dns.Msg)
		if err := reply.Unpack(packet); err != nil {
			return nil, errGarbled
		}
		if answers(reply, q) {
			return reply, nil
		}
	}
}

// answers reports whether reply is one to q. A server that could not read the
// question need not repeat it.
func answers(reply, q *dns.Msg) bool {
	if reply.Id != q.Id || !reply.Response || reply.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(reply.Question) == 0 {
		return reply.Rcode != dns.RcodeSuccess && reply.Rcode != dns.RcodeNameError
	}
	got, want := reply.Question[0], q.Question[0]
	return len(reply.Question) == 1 && got.Qtype == want.Qtype && got.Qclass == want.Qclass &&
		dns.CanonicalName(got.Name) == dns.CanonicalName(want.Name)
}

// reason says in few words why a server gave no reply.
func reason(err error) string {
	var timeout interface{ Timeout() bool }
	var errno syscall.Errno
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

// failure is the answer when no server has given one. Servers with the same
// reason are told together: "no answer from 10.0.0.2:53, 10.0.0.3:53 (timeout)".
func failure(failures []serverFailure) family {
	f := family{outcome: silent}
	var groups [][]serverFailure
	for _, s := range failures {
		if !s.silent {
			f.outcome = refused
		}
		i := slices.IndexFunc(groups, func(g []serverFailure) bool {
			return g[0].reason == s.reason && g[0].silent == s.silent
		})
		if i < 0 {
			groups = append(groups, nil)
			i = len(groups) - 1
		}
		groups[i] = append(groups[i], s)
	}
	var parts []string
	for _, g := range groups {
		servers := make([]string, len(g))
		for i, s := range g {
			servers[i] = s.server.String()
		}
		from := strings.Join(servers, ", ")
		if g[0].silent {
			parts = append(parts, fmt.Sprintf("no answer from %s (%s)", from, g[0].reason))
		} else {
			parts = append(parts, fmt.Sprintf("%s from %s", g[0].reason, from))
		}
	}
	f.err = errors.New(strings.Join(parts, "; "))
	return f
}
