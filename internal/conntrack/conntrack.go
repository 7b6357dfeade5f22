// Package conntrack reads, follows and ends the flows of the kernel's connection
// tracking, over netlink sockets of its own (ctnetlink). The kernel's C headers
// in linux/netfilter name the constants: nfnetlink_conntrack.h (CTA_*,
// IPCTNL_*), nf_conntrack_common.h (IPS_*), nf_conntrack_tcp.h (states, flags).
//
// A socket belongs to the network namespace in which Open or Listen was called,
// whatever thread uses it later. CAP_NET_ADMIN there is needed for everything,
// CAP_NET_RAW for Reset too. Only flows of conntrack zone 0 are seen.
package conntrack

import (
	"errors"
	"net/netip"
	"strconv"
	"time"
)

var (
	// ErrNotFound: no flow has that tuple, or it has but another ID.
	ErrNotFound = errors.New("conntrack: no such flow")
	// ErrOverrun: events came faster than they were read, and the kernel
	// dropped some. What is true now can be had from a Dump.
	ErrOverrun = errors.New("conntrack: the kernel dropped events, since they were not read fast enough")
	// ErrInterrupted: the kernel says that the dump is not consistent. All that
	// it sent was passed on; flows may be missing or have come twice.
	ErrInterrupted = errors.New("conntrack: the table was rebuilt during the dump")
)

// Tuple is one direction of a flow. The ports are zero for protocols that have
// none. IPv4 addresses have 4 bytes; link-local IPv6 ones come without a zone.
type Tuple struct {
	Src, Dst netip.AddrPort
	Proto    uint8 // unix.IPPROTO_TCP …
}

// Counter counts one direction. Bytes are those of whole IP packets.
type Counter struct{ Packets, Bytes uint64 }

// Flow is an entry of the table. In an event, the kernel leaves out some fields,
// and they are zero: Event says which.
type Flow struct {
	ID uint32 // CTA_ID: tells a flow from a later one with the same tuple

	// Of a flow with DNAT and SNAT, Orig.Dst is the listener, Reply.Src the
	// server and Reply.Dst our address towards it.
	Orig, Reply Tuple

	Mark   uint32
	Status uint32 // Assured …
	State  State  // of TCP

	// Who sent the first FIN (IP_CT_TCP_FLAG_CLOSE_INIT): the initiator, the
	// responder or, until there is one, neither.
	ClientFin, ServerFin bool

	Timeout     time.Duration // until the kernel forgets it, in whole seconds
	Up, Down    Counter       // zero unless net.netfilter.nf_conntrack_acct is 1
	Start, Stop time.Time     // zero unless net.netfilter.nf_conntrack_timestamp is 1
}

// Bits of Flow.Status: enum ip_conntrack_status.
const (
	SeenReply = 1 << 1  // IPS_SEEN_REPLY: packets went both ways
	Assured   = 1 << 2  // IPS_ASSURED: not the first to go when the table is full
	Confirmed = 1 << 3  // IPS_CONFIRMED: the first packet has left
	SrcNAT    = 1 << 4  // IPS_SRC_NAT
	DstNAT    = 1 << 5  // IPS_DST_NAT
	Dying     = 1 << 9  // IPS_DYING: taken off the table
	Offload   = 1 << 14 // IPS_OFFLOAD: in a flowtable, which keeps State as it was
)

// State is a TCP state, as the tracker sees it from the middle: enum
// tcp_conntrack. Zero is none: another protocol, or not told.
type State uint8

// The tracker is one packet ahead of the ends: Established is reached with the
// handshake's third segment, TimeWait with the ACK of the second FIN.
const (
	SynSent     State = 1 + iota
	SynRecv           // SYN and ACK seen
	Established       //
	FinWait           // one FIN
	CloseWait         // one FIN and its ACK
	LastAck           // two FINs
	TimeWait          // two FINs and the last ACK
	Close             // RST
	SynSent2          // SYNs from both sides
)

// String is the kernel's name of s, as /proc/net/nf_conntrack has it.
func (s State) String() string {
	names := [...]string{"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"}
	if int(s) < len(names) {
		return names[s]
	}
	return "STATE_" + strconv.Itoa(int(s))
}
