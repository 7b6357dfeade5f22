package main

import (
	"net/netip"
	"strings"
)

// geo is `geo [$ADDRESS] $VARIABLE { … }`.
type geo struct {
	source string // "": the client's address
	ranges bool
	def    string
	nets   map[netip.Prefix]string
	spans  []span // with `ranges`; of two that overlap the later one holds
}

type span struct {
	from, to netip.Addr
	value    string
	deleted  bool
}

// noAddress is what nginx takes for an address that is none.
var noAddress = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func newGeo(r *reader, d *directive) (*geo, error) {
	if err := mustArgs(d, 1); err != nil {
		return nil, err
	}
	g := &geo{nets: map[netip.Prefix]string{}}
	if len(d.args) > 1 {
		g.source = d.arg(0)
	}
	return g, g.read(d.block)
}

func (g *geo) read(ds []*directive) error {
	for _, e := range ds {
		switch {
		case e.name == "ranges" && len(e.args) == 0:
			g.ranges = true
		case len(e.args) != 1:
			return e.errorf("invalid number of the geo parameters")
		case e.name == "default":
			g.def = e.arg(0)
		case e.name == "delete" && g.ranges:
			if err := g.span(e, e.arg(0), "", true); err != nil {
				return err
			}
		case e.name == "delete":
			net, err := prefix(e.arg(0))
			if err != nil {
				return e.errorf("invalid network %q", e.arg(0))
			}
			delete(g.nets, net)
		case g.ranges:
			if err := g.span(e, e.name, e.arg(0), false); err != nil {
				return err
			}
		default:
			net, err := prefix(e.name)
			if err != nil {
				return e.errorf("invalid network %q", e.name)
			}
			g.nets[net] = e.arg(0)
		}
	}
	return nil
}

func (g *geo) span(e *directive, text, value string, deleted bool) error {
	from, to, found := strings.Cut(text, "-")
	a, err := netip.ParseAddr(from)
	b, err2 := netip.ParseAddr(to)
	if !found || err != nil || err2 != nil || b.Less(a) {
		return e.errorf("invalid range %q", text)
	}
	g.spans = append(g.spans, span{a, b, value, deleted})
	return nil
}

// prefix reads a network, or an address as the network of itself.
func prefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err
}

func (g *geo) value(get lookup) (string, bool) {
	var text string
	known := true
	if g.source == "" {
		text, known = get("remote_addr")
	} else {
		text, known = expand(g.source, get)
	}
	if !known {
		// What is the same for all addresses is known all the same.
		return g.def, len(g.nets)+len(g.spans) == 0
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		a = noAddress
	}
	return expand(g.of(a.Unmap()), get)
}

func (g *geo) of(a netip.Addr) string {
	for i := len(g.spans) - 1; i >= 0; i-- {
		if s := g.spans[i]; s.from.Compare(a) <= 0 && a.Compare(s.to) <= 0 {
			if s.deleted {
				return g.def
			}
			return s.value
		}
	}
	for bits := a.BitLen(); bits >= 0; bits-- {
		if p, err := a.Prefix(bits); err == nil {
			if v, found := g.nets[p]; found {
				return v
			}
		}
	}
	return g.def
}
