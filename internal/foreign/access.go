package foreign

import (
	"net/netip"
	"slices"
	"strings"

	"midspan/internal/config"
)

// access is an ordered list of who may connect and who may not, worked out to
// the networks of `allow`, which has no exceptions and no order.
type access struct {
	allowed []netip.Prefix
	rest    []netip.Prefix // which no statement has decided on yet
	over    bool           // more than maxNets: it is given up
}

// maxAllow is how many networks a route's `allow` may become. One address that
// is denied makes 32 of all others, or 128.
const maxAllow = 200

// maxNets is how many networks are kept on the way there.
const maxNets = 5000

// everywhere are all addresses.
func everywhere() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

func newAccess() *access { return &access{rest: everywhere()} }

// allow lets nets connect, as far as nothing before has decided.
func (a *access) allow(nets []netip.Prefix) {
	if !a.over {
		a.allowed = append(a.allowed, intersect(a.rest, nets)...)
	}
	a.deny(nets)
}

func (a *access) deny(nets []netip.Prefix) {
	for _, n := range nets {
		if a.over = a.over || len(a.rest)+len(a.allowed) > maxNets; a.over {
			return
		}
		a.rest = without(a.rest, n)
	}
}

// denyOthers denies all but nets.
func (a *access) denyOthers(nets []netip.Prefix) {
	if !a.over {
		a.rest = intersect(a.rest, nets)
	}
}

// result is `allow`, where what nothing decided on may connect; more than
// maxAllow networks are not all there are. all: everybody may.
func (a *access) result() (nets []netip.Prefix, all bool) {
	nets = tidy(append(slices.Clone(a.allowed), a.rest...))
	return nets, slices.Equal(nets, everywhere())
}

func intersect(as, bs []netip.Prefix) (out []netip.Prefix) {
	for _, a := range as {
		for _, b := range bs {
			switch {
			case !a.Overlaps(b):
			case a.Bits() >= b.Bits():
				out = append(out, a)
			default:
				out = append(out, b)
			}
		}
	}
	return out
}

// without is nets less one network, by halves of those around it.
func without(nets []netip.Prefix, less netip.Prefix) (out []netip.Prefix) {
	for _, n := range nets {
		for n.Overlaps(less) && n.Bits() < less.Bits() {
			near, far := halves(n)
			if far.Overlaps(less) {
				near, far = far, near
			}
			out = append(out, far)
			n = near
		}
		if !n.Overlaps(less) {
			out = append(out, n)
		}
	}
	return out
}

// halves are the two networks that p, which is not one address, is made of.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bytes := p.Addr().AsSlice()
	bytes[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	a, _ := netip.AddrFromSlice(bytes)
	return netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(a, p.Bits()+1)
}

// tidy sorts nets and takes out those that lie in another one.
func tidy(nets []netip.Prefix) (out []netip.Prefix) {
	slices.SortFunc(nets, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	for _, n := range nets {
		if len(out) > 0 && out[len(out)-1].Overlaps(n) {
			continue // the wider of two that overlap stands first
		}
		out = append(out, n)
		for len(out) > 1 {
			a, b := out[len(out)-2], out[len(out)-1]
			if a.Bits() == 0 || a.Bits() != b.Bits() {
				break
			}
			around := netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
			if low, high := halves(around); low != a || high != b {
				break
			}
			out = append(out[:len(out)-2], around)
		}
	}
	return out
}

// networks are fields of nets, all from one place.
func networks(nets []netip.Prefix, pos config.Pos) []config.Field[netip.Prefix] {
	out := make([]config.Field[netip.Prefix], len(nets))
	for i, n := range nets {
		out[i] = config.At(n, pos)
	}
	return out
}

// longNetwork writes out the zeros of a network that is written short (10/8).
func longNetwork(s string) string {
	addr, bits, found := strings.Cut(s, "/")
	if strings.Contains(addr, ":") || !found || strings.Trim(addr, "0123456789.") != "" {
		return s
	}
	for strings.Count(addr, ".") < 3 {
		addr += ".0"
	}
	return addr + "/" + bits
}
