package conntrack

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// enum cntl_msg_types, under NFNL_SUBSYS_CTNETLINK.
const (
	msgNew      = unix.NFNL_SUBSYS_CTNETLINK << 8   // IPCTNL_MSG_CT_NEW
	msgGet      = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	msgDelete   = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE
	msgGetStats = unix.NFNL_SUBSYS_CTNETLINK<<8 | 5 // IPCTNL_MSG_CT_GET_STATS
)

const (
	// enum ctattr_type
	ctaTupleOrig     = 1
	ctaTupleReply    = 2
	ctaStatus        = 3
	ctaProtoinfo     = 4
	ctaTimeout       = 7
	ctaMark          = 8
	ctaCountersOrig  = 9
	ctaCountersReply = 10
	ctaID            = 12
	ctaZone          = 18
	ctaTimestamp     = 20
	ctaMarkMask      = 21

	// enum ctattr_tuple
	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaTupleZone  = 3

	// enum ctattr_ip
	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	// enum ctattr_l4proto
	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	// enum ctattr_protoinfo and ctattr_protoinfo_tcp
	ctaProtoinfoTCP              = 1
	ctaProtoinfoTCPState         = 1
	ctaProtoinfoTCPFlagsOriginal = 4
	ctaProtoinfoTCPFlagsReply    = 5

	// enum ctattr_counters and ctattr_tstamp
	ctaCountersPackets = 1
	ctaCountersBytes   = 2
	ctaTimestampStart  = 1
	ctaTimestampStop   = 2

	// enum ctattr_stats_global
	ctaStatsGlobalEntries    = 1
	ctaStatsGlobalMaxEntries = 2
)

// tcpFlagCloseInit is IP_CT_TCP_FLAG_CLOSE_INIT: this side sent the first FIN.
const tcpFlagCloseInit = 0x04

// tlv is a reader of netlink attributes: a length and a kind in the host's
// order, then the value, all aligned to 4 bytes. Values are in network order.
type tlv struct {
	kind  uint16
	value []byte
	rest  []byte
	bad   *bool // a length does not fit, or a value has the wrong size: of all that is nested, too
}

func (a *tlv) next() bool {
	if *a.bad || len(a.rest) == 0 {
		return false
	}
	if len(a.rest) < unix.SizeofNlAttr {
		*a.bad = true
		return false
	}
	n := int(native.Uint16(a.rest))
	if n < unix.SizeofNlAttr || n > len(a.rest) {
		*a.bad = true
		return false
	}
	a.kind = native.Uint16(a.rest[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	a.value = a.rest[unix.SizeofNlAttr:n]
	a.rest = a.rest[min(align(n), len(a.rest)):]
	return true
}

// in reads what is nested in the value. (A function to call back would make
// every reader escape to the heap.)
func (a *tlv) in() tlv { return tlv{rest: a.value, bad: a.bad} }

func (a *tlv) sized(n int) []byte {
	if len(a.value) != n {
		*a.bad = true
		return nil
	}
	return a.value
}

func (a *tlv) uint8() (v uint8) {
	if b := a.sized(1); b != nil {
		v = b[0]
	}
	return v
}

func (a *tlv) uint16() (v uint16) {
	if b := a.sized(2); b != nil {
		v = binary.BigEndian.Uint16(b)
	}
	return v
}

func (a *tlv) uint32() (v uint32) {
	if b := a.sized(4); b != nil {
		v = binary.BigEndian.Uint32(b)
	}
	return v
}

func (a *tlv) uint64() (v uint64) {
	if b := a.sized(8); b != nil {
		v = binary.BigEndian.Uint64(b)
	}
	return v
}

func (a *tlv) addr(n int) (ip netip.Addr) {
	if b := a.sized(n); b != nil {
		ip, _ = netip.AddrFromSlice(b)
	}
	return ip
}

func align(n int) int { return (n + 3) &^ 3 }
