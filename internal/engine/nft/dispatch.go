package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"midspan/internal/plan"
)

// dispatch is how connections find the chain of their route: a map from protocol
// and port, and for some listeners also interface and address. A look-up costs
// the same for one route and for a thousand.
type dispatch struct {
	iface  bool
	family family // 0: any
	addr   bool   // there is an address in the key, and not any of this host's
	ranges bool   // of ports
}

// dispatches are all kinds, in the order in which they are looked up. Listeners
// do not overlap, so the order decides nothing; there are maps only for kinds
// that are in use.
var dispatches = func() (all []dispatch) {
	for _, iface := range []bool{false, true} {
		for _, d := range []dispatch{{}, {family: ipv4}, {family: ipv6}, {family: ipv4, addr: true}, {family: ipv6, addr: true}} {
			for _, ranges := range []bool{false, true} {
				all = append(all, dispatch{iface, d.family, d.addr, ranges})
			}
		}
	}
	return all
}()

// name is that of the map: ports, ports4, interface_addresses6_ranges and so on.
func (d dispatch) name() string {
	name := "ports"
	if d.addr {
		name = "addresses"
	}
	if d.iface {
		name = "interface_" + name
	}
	switch d.family {
	case ipv4:
		name += "4"
	case ipv6:
		name += "6"
	}
	if d.ranges {
		name += "_ranges"
	}
	return name
}

// kindOf is the kind of a listener.
func kindOf(l plan.Listen) dispatch {
	d := dispatch{iface: l.Interface != "", ranges: l.From != l.To}
	if l.Addr.IsValid() {
		d.family, d.addr = familyOf(l.Addr), !l.Addr.IsUnspecified()
	}
	return d
}

// listen leads a listener to a chain.
func (x *part) listen(l plan.Listen, proto uint8, to string) {
	d := kindOf(l)
	text, key, end := d.key(l, proto)
	x.entries = append(x.entries, entry{slices.Index(dispatches, d), text, element{key: key, end: end, chain: to, text: "goto " + to}})
}

func (d dispatch) empty() *set {
	s := &set{name: d.name(), data: &typeVerdict, interval: d.ranges}
	if d.iface {
		s.key = append(s.key, typeIface)
	}
	if d.addr {
		s.key = append(s.key, typeAddr(d.family))
	}
	s.key = append(s.key, typeProto, typeService)
	return s
}

func (d dispatch) key(l plan.Listen, proto uint8) (text string, key, end []byte) {
	if d.iface {
		text += quoted(l.Interface) + " . "
		key = append(key, iface16(l.Interface)...)
	}
	if d.addr {
		text += l.Addr.String() + " . "
		key = append(key, l.Addr.AsSlice()...)
	}
	text += fmt.Sprintf("%s . %d", protoName(proto), l.From)
	key = append(key, proto8(proto)...)
	if d.ranges {
		text += fmt.Sprintf("-%d", l.To)
		end = append(append([]byte(nil), key...), port16(l.To)...)
	}
	return text, append(key, port16(l.From)...), end
}

// rule looks a packet up in s.
func (d dispatch) rule(s *set) rule {
	var r rule
	var exprs []any
	text, next := "", 0 // the next register, in units of four bytes
	part := func(name string, size int, load func(reg uint32) any) {
		text += name + " . "
		exprs = append(exprs, load(reg32(next)))
		next += padded(size) / registerSize
	}
	switch {
	case d.addr:
		exprs = matchFamily(d.family).exprs
	case d.family != 0:
		r = append(r, matchFamily(d.family), toThisHost())
	default:
		r = append(r, toThisHost())
	}
	if d.iface {
		part("iifname", typeIface.size, func(reg uint32) any { return &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg} })
	}
	if d.addr {
		offset := map[family]uint32{ipv4: 16, ipv6: 24}[d.family]
		size := typeAddr(d.family).size
		part(d.family.header()+" daddr", size, func(reg uint32) any {
			return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(size)}
		})
	}
	part("meta l4proto", typeProto.size, func(reg uint32) any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg} })
	part("th dport", typeService.size, func(reg uint32) any {
		return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
	})
	exprs = append(exprs, &expr.Lookup{SourceRegister: reg32(0), IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT, SetName: s.name})
	return append(r, term{text: text[:len(text)-len(" . ")] + " vmap @" + s.name, exprs: exprs})
}
