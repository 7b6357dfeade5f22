package host

import (
	"bytes"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// truth is whether a rule holds for all packets that a packet stands for, for
// none, or perhaps for some.
type truth int8

const (
	no truth = iota
	maybe
	yes
)

func is(b bool) truth {
	if b {
		return yes
	}
	return no
}

func (t truth) not() truth { return yes - t }

// packet stands for all packets that agree in what is known here.
type packet struct {
	family byte // unix.NFPROTO_IPV4 or _IPV6
	l4     byte
	daddr  netip.Addr // zero: any
	iface  string     // where it came in; "": any but lo
	ports  span       // destination
	orig   span       // destination port of the connection's first packet
	state  uint32     // of the connection, expr.CtStateBit…; 0: not tracked yet
	dnat   bool       // the connection went through DNAT
}

// span is a range of ports; zero: any.
type span struct{ from, to uint16 }

// meets tells whether a port of s lies within from and to.
func (s span) meets(from, to uint16) truth {
	switch {
	case s == span{}:
		if from == 0 && to == 0xffff {
			return yes
		}
		return maybe
	case s.from >= from && s.to <= to:
		return yes
	case s.to < from || s.from > to:
		return no
	}
	return maybe
}

// value is what is known of a field: bytes as in the kernel's registers.
type value struct {
	low, high []byte // ends of a range, in network byte order; equal: exactly
	unknown   []byte // bits of low that may be set or not; nil: none
	notLo     bool   // nothing, but that it is not the loopback interface
	len       int    // of the field, when nothing is known
}

func exactly(b []byte) value { return value{low: b, high: b, len: len(b)} }

func (v value) known() bool { return v.low != nil }

func (v value) exact() bool { return v.known() && v.unknown == nil && bytes.Equal(v.low, v.high) }

func (s span) value() value {
	if (s == span{}) {
		return value{len: 2}
	}
	return value{low: binaryutil.BigEndian.PutUint16(s.from), high: binaryutil.BigEndian.PutUint16(s.to), len: 2}
}

// equals compares with data, or with its beginning where data is shorter, as
// for the name of an interface that ends in "*".
func (v value) equals(data []byte) truth {
	if v.notLo {
		if v.len == 4 {
			return min(maybe, is(!bytes.Equal(data, loopback())))
		}
		return min(maybe, is(!bytes.Equal(bytes.TrimRight(data, "\x00"), []byte("lo"))))
	}
	return v.within(data, data)
}

func (v value) within(from, to []byte) truth {
	n := len(from)
	if !v.known() || n > len(v.low) || n != len(to) {
		return maybe
	}
	if v.unknown != nil {
		if !bytes.Equal(from, to) {
			return maybe
		}
		for i := range n {
			if (v.low[i]^from[i])&^v.unknown[i] != 0 {
				return no
			}
		}
		return maybe
	}
	low, high := v.low[:n], v.high[:n]
	switch {
	case bytes.Compare(low, from) >= 0 && bytes.Compare(high, to) <= 0:
		return yes
	case bytes.Compare(high, from) < 0 || bytes.Compare(low, to) > 0:
		return no
	}
	return maybe
}

func (v value) compare(op expr.CmpOp, data []byte) truth {
	lowest, highest := make([]byte, len(data)), bytes.Repeat([]byte{0xff}, len(data))
	switch op {
	case expr.CmpOpEq:
		return v.equals(data)
	case expr.CmpOpNeq:
		return v.equals(data).not()
	case expr.CmpOpLte:
		return v.within(lowest, data)
	case expr.CmpOpGt:
		return v.within(lowest, data).not()
	case expr.CmpOpGte:
		return v.within(data, highest)
	case expr.CmpOpLt:
		return v.within(data, highest).not()
	}
	return maybe
}

// masked is v & mask ^ xor.
func (v value) masked(mask, xor []byte) value {
	if !v.known() || len(mask) != len(v.low) || len(xor) != len(mask) || !bytes.Equal(v.low, v.high) {
		return value{len: len(mask)}
	}
	low := make([]byte, len(mask))
	var unknown []byte
	if v.unknown != nil {
		unknown = make([]byte, len(mask))
	}
	for i := range mask {
		low[i] = v.low[i]&mask[i] ^ xor[i]
		if unknown != nil {
			unknown[i] = v.unknown[i] & mask[i]
		}
	}
	if !slices.ContainsFunc(unknown, func(b byte) bool { return b != 0 }) {
		unknown = nil
	}
	return value{low: low, high: low, unknown: unknown, len: len(low)}
}

// meta is a field of expr.Meta.
func (p packet) meta(key expr.MetaKey) value {
	switch key {
	case expr.MetaKeyNFPROTO:
		return exactly([]byte{p.family})
	case expr.MetaKeyL4PROTO:
		return exactly([]byte{p.l4})
	case expr.MetaKeyIIFNAME:
		if p.iface == "" {
			return value{notLo: true, len: unix.IFNAMSIZ}
		}
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, p.iface)
		return exactly(name)
	case expr.MetaKeyIIF:
		if i, err := net.InterfaceByName(p.iface); p.iface != "" && err == nil {
			return exactly(binaryutil.NativeEndian.PutUint32(uint32(i.Index)))
		}
		return value{notLo: p.iface == "", len: 4}
	case expr.MetaKeyOIFNAME:
		return value{len: unix.IFNAMSIZ}
	}
	return value{len: 4}
}

// loopback is the number of lo, the same in every namespace.
func loopback() []byte { return binaryutil.NativeEndian.PutUint32(1) }

// payload is a field of a header.
func (p packet) payload(e *expr.Payload) value {
	unknown := value{len: int(e.Len)}
	switch {
	case e.Base == expr.PayloadBaseTransportHeader && e.Offset == 2 && e.Len == 2:
		return p.ports.value()
	case e.Base != expr.PayloadBaseNetworkHeader:
		return unknown
	}
	daddr, proto := uint32(16), uint32(9) // IPv4
	if p.family == unix.NFPROTO_IPV6 {
		daddr, proto = 24, 6
	}
	switch {
	case e.Offset == proto && e.Len == 1:
		return exactly([]byte{p.l4})
	case e.Offset == daddr && p.daddr.IsValid() && int(e.Len) <= len(p.daddr.AsSlice()):
		return exactly(p.daddr.AsSlice()[:e.Len])
	}
	return unknown
}

// dstNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const dstNAT = 1 << 5

// ct is a field of expr.Ct.
func (p packet) ct(e *expr.Ct) value {
	switch {
	case e.Key == expr.CtKeySTATE && p.state != 0:
		return exactly(binaryutil.NativeEndian.PutUint32(p.state))
	case e.Key == expr.CtKeySTATUS && p.dnat:
		v := exactly(binaryutil.NativeEndian.PutUint32(dstNAT))
		v.unknown = binaryutil.NativeEndian.PutUint32(^uint32(dstNAT))
		return v
	case e.Key == expr.CtKeyPROTODST && e.Direction == 0: // original
		return p.orig.value()
	case e.Key == expr.CtKeyPROTODST, e.Key == expr.CtKeyPROTOSRC:
		return value{len: 2}
	case (e.Key == expr.CtKeySRC || e.Key == expr.CtKeyDST) && p.family == unix.NFPROTO_IPV6:
		return value{len: 16}
	}
	return value{len: 4}
}
