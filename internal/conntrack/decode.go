package conntrack

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// sizeofNfgenmsg is that of struct nfgenmsg, which follows the netlink header.
const sizeofNfgenmsg = 4

var errMalformed = errors.New("conntrack: malformed message from the kernel")

// decode sets f to the flow that a message tells of; b begins after the netlink
// header. What the message does not say is zero. known is false for flows that
// are none of ours: those of other zones, whose tuples may be the same as ours.
func (f *Flow) decode(b []byte) (known bool, err error) {
	*f = Flow{}
	if len(b) < sizeofNfgenmsg {
		return false, errMalformed
	}
	var zone uint16
	var bad bool
	a := tlv{rest: b[sizeofNfgenmsg:], bad: &bad}
	for a.next() {
		switch a.kind {
		case ctaTupleOrig:
			zone |= f.Orig.decode(a.in())
		case ctaTupleReply:
			zone |= f.Reply.decode(a.in())
		case ctaZone:
			zone |= a.uint16()
		case ctaID:
			f.ID = a.uint32()
		case ctaMark:
			f.Mark = a.uint32()
		case ctaStatus:
			f.Status = a.uint32()
		case ctaTimeout:
			f.Timeout = time.Duration(a.uint32()) * time.Second
		case ctaProtoinfo:
			f.protoinfo(a.in())
		case ctaCountersOrig:
			f.Up.decode(a.in())
		case ctaCountersReply:
			f.Down.decode(a.in())
		case ctaTimestamp:
			f.timestamp(a.in())
		}
	}
	if bad || !f.Orig.whole() || !f.Reply.whole() {
		return false, errMalformed
	}
	return zone == 0, nil
}

// whole reports whether t has two addresses, of one family.
func (t *Tuple) whole() bool {
	src, dst := t.Src.Addr(), t.Dst.Addr()
	return src.IsValid() && dst.IsValid() && src.BitLen() == dst.BitLen()
}

func (t *Tuple) decode(a tlv) (zone uint16) {
	var src, dst netip.Addr
	var sport, dport uint16
	for a.next() {
		switch a.kind {
		case ctaTupleZone:
			zone = a.uint16()
		case ctaTupleIP:
			for ip := a.in(); ip.next(); {
				switch ip.kind {
				case ctaIPv4Src:
					src = ip.addr(4)
				case ctaIPv4Dst:
					dst = ip.addr(4)
				case ctaIPv6Src:
					src = ip.addr(16)
				case ctaIPv6Dst:
					dst = ip.addr(16)
				}
			}
		case ctaTupleProto:
			for p := a.in(); p.next(); {
				switch p.kind {
				case ctaProtoNum:
					t.Proto = p.uint8()
				case ctaProtoSrcPort:
					sport = p.uint16()
				case ctaProtoDstPort:
					dport = p.uint16()
				}
			}
		}
	}
	t.Src, t.Dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return zone
}

func (f *Flow) protoinfo(a tlv) {
	for a.next() {
		if a.kind != ctaProtoinfoTCP {
			continue
		}
		for p := a.in(); p.next(); {
			switch p.kind {
			case ctaProtoinfoTCPState:
				f.State = State(p.uint8())
			case ctaProtoinfoTCPFlagsOriginal: // struct nf_ct_tcp_flags: flags, mask
				f.ClientFin = p.uint16()>>8&tcpFlagCloseInit != 0
			case ctaProtoinfoTCPFlagsReply:
				f.ServerFin = p.uint16()>>8&tcpFlagCloseInit != 0
			}
		}
	}
}

func (c *Counter) decode(a tlv) {
	for a.next() {
		switch a.kind {
		case ctaCountersPackets:
			c.Packets = a.uint64()
		case ctaCountersBytes:
			c.Bytes = a.uint64()
		}
	}
}

func (f *Flow) timestamp(a tlv) {
	for a.next() {
		switch a.kind { // nanoseconds since 1970
		case ctaTimestampStart:
			f.Start = time.Unix(0, int64(a.uint64()))
		case ctaTimestampStop:
			f.Stop = time.Unix(0, int64(a.uint64()))
		}
	}
}

// message is one of those that a read from a socket brings.
type message struct {
	kind, flags uint16
	seq         uint32
	body        []byte // after struct nlmsghdr
}

// cut takes the first message off b.
func cut(b []byte) (m message, rest []byte, err error) {
	if len(b) < unix.SizeofNlMsghdr {
		return m, nil, errMalformed
	}
	n := int(native.Uint32(b))
	if n < unix.SizeofNlMsghdr || n > len(b) {
		return m, nil, errMalformed
	}
	m = message{kind: native.Uint16(b[4:]), flags: native.Uint16(b[6:]), seq: native.Uint32(b[8:]), body: b[unix.SizeofNlMsghdr:n]}
	return m, b[min(align(n), len(b)):], nil
}

// errno is the error that an NLMSG_ERROR or NLMSG_DONE carries: nil for none.
func (m *message) errno() error {
	if len(m.body) < 4 {
		return errMalformed
	}
	switch e := unix.Errno(-int32(native.Uint32(m.body))); e {
	case 0:
		return nil
	case unix.ENOENT:
		return ErrNotFound
	default:
		return e
	}
}
