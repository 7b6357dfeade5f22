package host

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// Extensions of iptables that stand in rules of nftables as they are
// (iptables-nft translates some matches, and some targets not at all).

// matchXT decides a match of iptables.
func (p packet) matchXT(m *expr.Match) truth {
	switch info := m.Info.(type) {
	case *xt.Tcp:
		t := p.portsXT(unix.IPPROTO_TCP, info.SrcPorts, info.DstPorts, info.InvFlags&xt.TcpInvSrcPorts != 0, info.InvFlags&xt.TcpInvDestPorts != 0)
		if info.FlagsMask != 0 || info.Option != 0 {
			t = min(t, maybe)
		}
		return t
	case *xt.Udp:
		return p.portsXT(unix.IPPROTO_UDP, info.SrcPorts, info.DstPorts, info.InvFlags&xt.UdpInvSrcPorts != 0, info.InvFlags&xt.UdpInvDestPorts != 0)
	case *xt.ConntrackMtinfo1:
		return p.conntrackXT(info.ConntrackMtinfoBase, uint16(info.StateMask), uint16(info.StatusMask))
	case *xt.ConntrackMtinfo2:
		return p.conntrackXT(info.ConntrackMtinfoBase, info.StateMask, info.StatusMask)
	case *xt.ConntrackMtinfo3:
		return p.conntrackXT(info.ConntrackMtinfoBase, info.StateMask, info.StatusMask)
	case *xt.Comment:
		return yes
	case *xt.Unknown:
		if m.Name == "multiport" && m.Rev == 1 {
			return p.multiportXT(*info)
		}
	}
	return maybe
}

func (p packet) portsXT(l4 byte, src, dst [2]uint16, notSrc, notDst bool) truth {
	if p.l4 != l4 {
		return no
	}
	s, d := (span{}).meets(src[0], src[1]), p.ports.meets(dst[0], dst[1])
	if notSrc {
		s = s.not()
	}
	if notDst {
		d = d.not()
	}
	return min(s, d)
}

// conntrackXT follows conntrack_mt in net/netfilter/xt_conntrack.c. The low bits
// of the state mask are those of nftables.
func (p packet) conntrackXT(base xt.ConntrackMtinfoBase, state, status uint16) truth {
	const stateDNAT = 1 << 7 // XT_CONNTRACK_STATE_DNAT, linux/netfilter/xt_conntrack.h
	t, rest := yes, xt.ConntrackFlags(base.MatchFlags)
	for _, f := range []struct {
		flag xt.ConntrackFlags
		mask uint16
		bit  uint16
	}{
		{xt.ConntrackState, state, stateDNAT},
		{xt.ConntrackStatus, status, dstNAT},
	} {
		if rest&f.flag == 0 {
			continue
		}
		rest &^= f.flag
		got := maybe
		switch {
		case p.dnat && f.mask&f.bit != 0, f.flag == xt.ConntrackState && f.mask&uint16(p.state) != 0:
			got = yes
		case f.flag == xt.ConntrackState && p.state != 0 && f.mask < 1<<6:
			got = no
		}
		if xt.ConntrackFlags(base.InvertFlags)&f.flag != 0 {
			got = got.not()
		}
		t = min(t, got)
	}
	// How the state is written, not a condition.
	if rest &^= xt.ConntrackStateAlias; rest != 0 {
		t = min(t, maybe)
	}
	return t
}

// multiportXT reads struct xt_multiport_v1 of linux/netfilter/xt_multiport.h:
// flags, count, 15 ports in host byte order, 15 marks of "the next one ends
// this range", invert.
func (p packet) multiportXT(info []byte) truth {
	const ports, marks, size, destination = 2, 32, 48, 1
	if len(info) < size || info[0] != destination || info[1] > 15 {
		return maybe
	}
	t := no
	for i := 0; i < int(info[1]); i++ {
		from := binary.NativeEndian.Uint16(info[ports+2*i:])
		to := from
		if info[marks+i] != 0 && i < 14 {
			i++
			to = binary.NativeEndian.Uint16(info[ports+2*i:])
		}
		t = max(t, p.ports.meets(from, to))
	}
	if info[size-1] != 0 {
		t = t.not()
	}
	return t
}

// targetXT is what a target of iptables does, and where a DNAT leads to.
func targetXT(e *expr.Target) (what action, to string) {
	switch e.Name {
	case "DNAT":
		return dnat, natRangeXT(e.Info)
	case "REDIRECT":
		return dnat, "this host" + natRangeXT(e.Info)
	case "MASQUERADE":
		return masquerade, ""
	case "NOTRACK":
		return notrack, ""
	case "CT":
		// struct xt_ct_target_info begins with flags, XT_CT_NOTRACK is the first.
		if b, ok := e.Info.(*xt.Unknown); ok && len(*b) >= 2 && binary.NativeEndian.Uint16(*b)&1 != 0 {
			return notrack, ""
		}
	case "REJECT":
		return drop, ""
	}
	return nothing, ""
}

func natRangeXT(info xt.InfoAny) string {
	switch r := info.(type) {
	case *xt.NatIPv4MultiRangeCompat:
		if len(*r) == 1 {
			n := (*r)[0]
			return natRange(n.Flags, n.MinIP, n.MaxIP, n.MinPort, n.MaxPort)
		}
	case *xt.NatRange:
		return natRange(r.Flags, r.MinIP, r.MaxIP, r.MinPort, r.MaxPort)
	case *xt.NatRange2:
		return natRange(r.Flags, r.MinIP, r.MaxIP, r.MinPort, r.MaxPort)
	}
	return ""
}

// natRange writes a range as iptables takes it: 10.0.0.1-10.0.0.9:1433-1440.
func natRange(flags uint, minIP, maxIP net.IP, minPort, maxPort uint16) string {
	text := ""
	ports := xt.NatRangeFlags(flags)&xt.NatRangeProtoSpecified != 0
	if xt.NatRangeFlags(flags)&xt.NatRangeMapIPs != 0 {
		low, _ := netip.AddrFromSlice(minIP)
		high, _ := netip.AddrFromSlice(maxIP)
		text = low.String()
		if high != low {
			text += "-" + high.String()
		}
		if ports && low.Is6() {
			text = "[" + text + "]"
		}
	}
	if ports {
		text += ":" + strconv.Itoa(int(minPort))
		if maxPort != minPort {
			text += "-" + strconv.Itoa(int(maxPort))
		}
	}
	return text
}
