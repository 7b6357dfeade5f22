package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// term is a part of a rule: as nft writes it, and as the kernel runs it. Both
// are made in one place, so that what is printed is what is in force.
type term struct {
	text  string
	exprs []any // expr.Any, or masq
	set   *set  // an anonymous set that comes with the term
}

// masq is the masquerade expression with a range of ports and in random order:
// expr.Masq has either.
type masq struct{ min, max uint32 } // registers

// Registers. The kernel has 16 of 4 bytes each; reg1 is the first four of them,
// and reg32(n) is the one numbered n (linux/netfilter/nf_tables.h).
const reg1 = unix.NFT_REG_1

func reg32(n int) uint32 { return uint32(unix.NFT_REG32_00 + n) }

// native is a number as the kernel keeps it in a register.
func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func compare(op expr.CmpOp, data []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: reg1, Data: data}
}

func mask(and, xor []byte) expr.Any {
	return &expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: uint32(len(and)), Mask: and, Xor: xor}
}

func toRegister(reg uint32, data []byte) expr.Any { return &expr.Immediate{Register: reg, Data: data} }

// rule is terms, one after the other: what does not match ends it.
type rule []term

func (r rule) String() string {
	var parts []string
	for _, t := range r {
		if t.text != "" {
			parts = append(parts, t.text)
		}
	}
	return strings.Join(parts, " ")
}

func isProto(proto uint8) []any {
	return []any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1}, compare(expr.CmpOpEq, []byte{proto})}
}

func matchProto(proto uint8) term {
	return term{text: "meta l4proto " + protoName(proto), exprs: isProto(proto)}
}

func protoName(proto uint8) string {
	if proto == unix.IPPROTO_UDP {
		return "udp"
	}
	return "tcp"
}

func matchFamily(f family) term {
	return term{
		text:  "meta nfproto " + f.String(),
		exprs: []any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1}, compare(expr.CmpOpEq, []byte{byte(f)})},
	}
}

// The flags of a TCP segment (RFC 9293 section 3.1), one byte at offset 13.
const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

func tcpFlags(mask byte) []any { return append(isProto(unix.IPPROTO_TCP), loadFlags(mask)...) }

func loadFlags(mask byte) []any {
	return []any{
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 1, Mask: []byte{mask}, Xor: []byte{0}},
	}
}

// notOpening matches TCP segments that do not open a connection.
func notOpening() term {
	return term{
		text:  "tcp flags & (fin | syn | rst | ack) != syn",
		exprs: append(tcpFlags(flagFIN|flagSYN|flagRST|flagACK), compare(expr.CmpOpNeq, []byte{flagSYN})),
	}
}

// anyFlag matches TCP segments with one of the flags.
func anyFlag(text string, flags byte) term {
	return term{text: "tcp flags & (" + text + ") != 0", exprs: append(tcpFlags(flags), compare(expr.CmpOpNeq, []byte{0}))}
}

// firstOrLast matches segments that begin or end a connection, and some datagrams
// for which that means nothing. It is the one look that every packet costs, and so
// does without asking for the protocol.
func firstOrLast() term {
	const flags = flagFIN | flagSYN | flagRST
	return term{text: fmt.Sprintf("@th,104,8 & 0x%x != 0x0", flags), exprs: append(loadFlags(flags), compare(expr.CmpOpNeq, []byte{0}))}
}

func verdict(kind expr.VerdictKind, chain string) term {
	text := map[expr.VerdictKind]string{
		expr.VerdictReturn: "return", expr.VerdictGoto: "goto ", expr.VerdictJump: "jump ", expr.VerdictDrop: "drop",
	}[kind]
	return term{text: text + chain, exprs: []any{&expr.Verdict{Kind: kind, Chain: chain}}}
}

// toThisHost matches packets whose destination is an address of this host
// (RTN_LOCAL, linux/rtnetlink.h).
func toThisHost() term {
	return term{text: "fib daddr type local", exprs: []any{
		&expr.Fib{Register: reg1, FlagDADDR: true, ResultADDRTYPE: true},
		compare(expr.CmpOpEq, native(unix.RTN_LOCAL)),
	}}
}

// notLoopback matches packets to other addresses than 127.0.0.0/8 or ::1: the
// kernel forwards none that come from there.
func notLoopback(f family) term {
	if f == ipv4 {
		return term{text: "ip daddr != 127.0.0.0/8", exprs: append(matchFamily(f).exprs,
			&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 1},
			compare(expr.CmpOpNeq, []byte{127}))}
	}
	return term{text: "ip6 daddr != ::1", exprs: append(matchFamily(f).exprs,
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16},
		compare(expr.CmpOpNeq, netip.IPv6Loopback().AsSlice()))}
}

func countIn(counter string) term {
	return term{text: "counter name " + quoted(counter), exprs: []any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter}}}
}

func quoted(s string) string { return `"` + s + `"` }

// limit matches when the rule has n connections already.
func limit(n int) term {
	return term{text: fmt.Sprintf("ct count over %d", n), exprs: []any{&expr.Connlimit{Count: uint32(n), Flags: expr.NFT_CONNLIMIT_F_INV}}}
}

func setMark(mark uint32) term {
	return term{text: fmt.Sprintf("ct mark set 0x%08x", mark), exprs: []any{
		toRegister(reg1, native(mark)),
		&expr.Ct{Key: expr.CtKeyMARK, Register: reg1, SourceRegister: true},
	}}
}

// marked matches flows whose mark has value in the bits of of.
func marked(value, of uint32) term {
	return term{text: fmt.Sprintf("ct mark & 0x%08x == 0x%08x", of, value), exprs: []any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: reg1},
		mask(native(of), native(0)),
		compare(expr.CmpOpEq, native(value)),
	}}
}

func notMarked(value, of uint32) term {
	t := marked(value, of)
	t.text = strings.Replace(t.text, "==", "!=", 1)
	t.exprs[len(t.exprs)-1] = compare(expr.CmpOpNeq, native(value))
	return t
}

// cameIn matches packets that are not this host's own.
func cameIn() term {
	return term{text: "iif != 0", exprs: []any{&expr.Meta{Key: expr.MetaKeyIIF, Register: reg1}, compare(expr.CmpOpNeq, native(0))}}
}

func addMark(bit uint32) term {
	return term{text: fmt.Sprintf("ct mark set ct mark | 0x%08x", bit), exprs: []any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: reg1},
		mask(native(^bit), native(bit)),
		&expr.Ct{Key: expr.CtKeyMARK, Register: reg1, SourceRegister: true},
	}}
}

// direction is who sent a packet of a connection (IP_CT_DIR_*).
type direction byte

const (
	client direction = iota
	server
)

func from(d direction) term {
	text := [...]string{"original", "reply"}[d]
	return term{text: "ct direction " + text, exprs: []any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg1}, compare(expr.CmpOpEq, []byte{byte(d)}),
	}}
}

// tell limits the events that the kernel makes of a flow (IPCT_* are the bits,
// linux/netfilter/nf_conntrack_common.h). It is a number in the text, since nft
// does not read all of the words that it writes.
func tell(bits uint32) term {
	return term{text: fmt.Sprintf("ct event set 0x%x", bits), exprs: []any{
		toRegister(reg1, native(bits)),
		&expr.Ct{Key: expr.CtKeyEVENTMASK, Register: reg1, SourceRegister: true},
	}}
}

// clampMSS sets the segment size of a SYN to what the path can carry.
func clampMSS() term {
	const optionMSS = 2 // RFC 9293 section 3.1
	return term{text: "tcp option maxseg size set rt mtu", exprs: []any{
		&expr.Rt{Register: reg1, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: reg1, DestRegister: reg1, Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: reg1, Type: optionMSS, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
	}}
}

// refuse answers that nothing is there.
func refuse(proto uint8) []term {
	if proto == unix.IPPROTO_TCP {
		return []term{matchProto(proto), {text: "reject with tcp reset", exprs: []any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}}
	}
	return []term{matchProto(proto), {text: "reject with icmpx port-unreachable", exprs: []any{
		&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH},
	}}}
}

// share matches n of every of packets, in turn.
func share(n, of int) term {
	exprs := []any{&expr.Numgen{Register: reg1, Modulus: uint32(of), Type: unix.NFT_NG_INCREMENTAL}}
	if n == 1 {
		return term{text: fmt.Sprintf("numgen inc mod %d 0", of), exprs: append(exprs, compare(expr.CmpOpEq, native(0)))}
	}
	// The kernel compares bytes, so a number must have its highest first.
	return term{text: fmt.Sprintf("numgen inc mod %d < %d", of, n), exprs: append(exprs,
		&expr.Byteorder{SourceRegister: reg1, DestRegister: reg1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		compare(expr.CmpOpLt, binary.BigEndian.AppendUint32(nil, uint32(n))))}
}

// notFrom matches clients outside a set of networks.
func notFrom(f family, set string) term {
	offset, size := uint32(12), uint32(4)
	if f == ipv6 {
		offset, size = 8, 16
	}
	return term{text: fmt.Sprintf("%s saddr != @%s", f.header(), set), exprs: append(matchFamily(f).exprs,
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Lookup{SourceRegister: reg1, SetName: set, Invert: true})}
}

// bySource goes where the hash of the client's address leads.
func bySource(f family, seed uint32, vmap *set) term {
	offset, size := uint32(12), uint32(4)
	if f == ipv6 {
		offset, size = 8, 16
	}
	return term{
		text: fmt.Sprintf("jhash %s saddr mod %d seed 0x%x vmap %s", f.header(), len(vmap.elements), seed, vmap.inline()),
		set:  vmap,
		exprs: append(matchFamily(f).exprs,
			// The hash reads from the second register and writes to the first.
			&expr.Payload{DestRegister: unix.NFT_REG_2, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
			&expr.Hash{SourceRegister: unix.NFT_REG_2, DestRegister: reg1, Length: size, Modulus: uint32(len(vmap.elements)), Seed: seed, Type: expr.HashTypeJenkins},
			&expr.Lookup{SourceRegister: reg1, IsDestRegSet: true}),
	}
}

// dnat leads a connection to an endpoint. Port 0 keeps the port it came in on;
// shift, if set, is a map from that to the endpoint's.
func dnat(to netip.AddrPort, proto uint8, shift string) term {
	f := familyOf(to.Addr())
	exprs := append(isProto(proto), toRegister(reg1, to.Addr().AsSlice()))
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f), RegAddrMin: reg1}
	text := to.Addr().String()
	if f == ipv6 && (to.Port() != 0 || shift != "") {
		text = "[" + text + "]"
	}
	switch {
	case shift != "":
		exprs = append(exprs,
			&expr.Payload{DestRegister: unix.NFT_REG_2, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Lookup{SourceRegister: unix.NFT_REG_2, DestRegister: unix.NFT_REG_2, IsDestRegSet: true, SetName: shift})
		nat.RegProtoMin = unix.NFT_REG_2
		text += ":" + protoName(proto) + " dport map @" + shift
	case to.Port() != 0:
		exprs = append(exprs, toRegister(unix.NFT_REG_2, binary.BigEndian.AppendUint16(nil, to.Port())))
		nat.RegProtoMin = unix.NFT_REG_2
		text += fmt.Sprintf(":%d", to.Port())
	}
	return term{text: fmt.Sprintf("meta l4proto %s dnat %s to %s", protoName(proto), f.header(), text), exprs: append(exprs, nat)}
}

// masquerade gives a connection the address of the interface it leaves by, and a
// random port of the range.
func masquerade(from, to uint16) term {
	return term{
		text: fmt.Sprintf("masquerade to :%d-%d fully-random", from, to),
		exprs: []any{
			toRegister(reg1, binary.BigEndian.AppendUint16(nil, from)),
			toRegister(unix.NFT_REG_2, binary.BigEndian.AppendUint16(nil, to)),
			masq{reg1, unix.NFT_REG_2},
		},
	}
}

// snat gives a connection the address itself, and a random port of the range.
func snat(addr netip.Addr, from, to uint16) term {
	f := familyOf(addr)
	text := addr.String()
	if f == ipv6 {
		text = "[" + text + "]"
	}
	return term{
		text: fmt.Sprintf("snat %s to %s:%d-%d fully-random", f.header(), text, from, to),
		exprs: []any{
			toRegister(reg1, addr.AsSlice()),
			toRegister(unix.NFT_REG_2, binary.BigEndian.AppendUint16(nil, from)),
			toRegister(unix.NFT_REG_3, binary.BigEndian.AppendUint16(nil, to)),
			&expr.NAT{
				Type: expr.NATTypeSourceNAT, Family: uint32(f), RegAddrMin: reg1,
				RegProtoMin: unix.NFT_REG_2, RegProtoMax: unix.NFT_REG_3, FullyRandom: true,
			},
		},
	}
}
