package nft

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"midspan/internal/config"
	"midspan/internal/plan"
)

// The mark of a tracked connection (ct mark) says that it is ours and of which
// route. The kernel keeps it for as long as the connection lives, also when this
// process does not.
const (
	markOurs      = 0x6d000000 // "m"
	markOursBits  = 0xff000000
	markRouteBits = 0x00ffff00 // the route's number
	markShift     = 8
	markClientRst = 0x00000001 // the client has reset it
	markServerFin = 0x00000002 // the server was the first to end its side
	markClientFin = 0x00000004 // the client was
	markServerRst = 0x00000008 // the server has reset it
	markBothFin   = 0x00000010 // who was not the first has ended its side too
)

func routeMark(number uint16) uint32 { return markOurs | uint32(number)<<markShift }

func routeOf(mark uint32) uint16 { return uint16(mark & markRouteBits >> markShift) }

// The events of a connection that the kernel is to tell: bits of
// linux/netfilter/nf_conntrack_common.h (IPCT_NEW 0, IPCT_DESTROY 2,
// IPCT_PROTOINFO 5, IPCT_MARK 7). The mark says of a reset also when the kernel
// keeps the state, since its sequence number is not the one it expected.
const (
	eventsAll  = 1<<0 | 1<<2 | 1<<5 | 1<<7
	eventsEnds = 1 << 2
)

// Names in the table. Names of routes are of what nft's names may have.
func chainOf(route string) string         { return "route_" + route }
func limitOf(route string) string         { return "limit_" + route }
func deniedBy(route string) string        { return "denied_" + route }
func fullBy(route string) string          { return "full_" + route }
func withoutServer(route string) string   { return "no_server_" + route }
func allowedBy(f family, r string) string { return fmt.Sprintf("allow_%s_%s", f, r) }
func shiftText(by int) string             { return strings.Replace(strconv.Itoa(by), "-", "down_", 1) }

func shiftOf(route string, by int) string {
	return fmt.Sprintf("shift_%s_%s", shiftText(by), route)
}

func endpointName(r string, a netip.AddrPort) string {
	return fmt.Sprintf("to_%s_%s_%d", r, strings.ReplaceAll(a.Addr().String(), ":", "-"), a.Port())
}

// otherFamily counts, over all routes, clients of an IP version that no server of
// their route has.
const otherFamily = "no_server_of_family"

// part is what a route has in the table.
type part struct {
	route    *plan.Route
	number   uint16
	log      bool
	counters []string
	sets     []*set
	chains   []*chain
	entries  []entry
	counted  map[string]bool
}

// entry leads a listener of the route to its chain.
type entry struct {
	kind int // of dispatches
	text string
	element
}

// table builds rulesets, and keeps what it built for routes that do not change.
type table struct {
	parts map[string]*part // by route
}

// makeRuleset is the table that does what p says. The same plan gives the same
// table. numbers are those of the routes; log says that all of a connection's life
// is to be told, and not its end alone; closed, that packets of a family that are
// none of ours are not forwarded: they were not, before we came.
func (t *table) makeRuleset(p *plan.Plan, numbers map[string]uint16, log bool, closed map[family]bool) *ruleset {
	r := &ruleset{}
	parts := make(map[string]*part, len(p.Routes))
	shared := false
	dispatch := make([]*set, len(dispatches))
	for _, route := range p.Routes {
		x := t.parts[route.Name]
		if x == nil || x.number != numbers[route.Name] || x.log != log || !reflect.DeepEqual(x.route, route) {
			x = &part{route: route, number: numbers[route.Name], log: log, counted: map[string]bool{}}
			x.build()
			x.counted = nil
		}
		x.route = route // the same, but of the plan that stays in memory
		parts[route.Name] = x
		for _, c := range x.counters {
			if c != otherFamily {
				r.counters = append(r.counters, c)
			} else if !shared {
				shared = true
				r.counters = append(r.counters, c)
			}
		}
		r.sets = append(r.sets, x.sets...)
		r.chains = append(r.chains, x.chains...)
		for _, e := range x.entries {
			if dispatch[e.kind] == nil {
				dispatch[e.kind] = dispatches[e.kind].empty()
			}
			dispatch[e.kind].add(e.text, e.element)
		}
	}
	t.parts = parts
	for _, s := range dispatch {
		if s != nil {
			r.sets = append(r.sets, s)
		}
	}
	r.chains = append(r.chains, base(p, numbers, dispatch, closed)...)
	slices.SortStableFunc(r.chains, func(a, b *chain) int { return a.level - b.level })
	return r
}

// base are the chains that hang in the kernel.
func base(p *plan.Plan, numbers map[string]uint16, dispatch []*set, closed map[family]bool) []*chain {
	pre := &chain{name: "prerouting", level: levelBase, hook: hookPrerouting}
	// Only what opens a connection may be led anywhere. A segment of one that is
	// not tracked (any more) goes to this host's own TCP, which resets it.
	pre.add(notOpening(), verdict(expr.VerdictReturn, ""))
	out := &chain{name: "output", level: levelBase, hook: hookOutput}
	out.rules = slices.Clone(pre.rules)
	for i, d := range dispatches {
		s := dispatch[i]
		if s == nil {
			continue
		}
		pre.rules = append(pre.rules, d.rule(s))
		if !d.iface {
			for _, f := range families {
				if d.family == 0 || d.family == f {
					out.rules = append(out.rules, append(rule{notLoopback(f)}, d.rule(s)...))
				}
			}
		}
	}
	edges := &chain{name: "edges"}
	const nobody = markOursBits | markServerFin | markClientFin
	edges.add(anyFlag("rst", flagRST), from(client), marked(markOurs, markOursBits), addMark(markClientRst))
	edges.add(anyFlag("rst", flagRST), from(server), marked(markOurs, markOursBits), addMark(markServerRst))
	edges.add(anyFlag("fin", flagFIN), from(client), marked(markOurs|markServerFin, markOursBits|markServerFin), addMark(markBothFin))
	edges.add(anyFlag("fin", flagFIN), from(server), marked(markOurs|markClientFin, markOursBits|markClientFin), addMark(markBothFin))
	edges.add(anyFlag("fin", flagFIN), from(client), marked(markOurs, nobody), addMark(markClientFin))
	edges.add(anyFlag("fin", flagFIN), from(server), marked(markOurs, nobody), addMark(markServerFin))
	edges.add(anyFlag("syn", flagSYN), marked(markOurs, markOursBits), clampMSS())
	fwd := &chain{name: "forward", level: levelBase, hook: hookForward}
	fwd.add(firstOrLast(), verdict(expr.VerdictJump, edges.name))
	post := &chain{name: "postrouting", level: levelBase, hook: hookPostrouting}
	protos := map[uint8]bool{}
	for _, r := range p.Routes {
		source(post, r, numbers[r.Name], p.NFT.Ports)
		protos[protoOf(r)] = true
	}
	for _, proto := range slices.Sorted(maps.Keys(protos)) {
		post.add(matchProto(proto), marked(markOurs, markOursBits), masquerade(p.NFT.Ports.From, p.NFT.Ports.To))
	}
	for _, f := range families {
		if closed[f] {
			// Chains for NAT see the first packet of a flow only, until one gets through.
			post.add(matchFamily(f), cameIn(), notMarked(markOurs, markOursBits), verdict(expr.VerdictDrop, ""))
		}
	}
	return []*chain{edges, pre, out, fwd, post}
}

// source has a route's connections come from the addresses that it names, in
// turn.
func source(post *chain, r *plan.Route, number uint16, ports config.Ports) {
	for _, f := range families {
		var pool []netip.Addr
		for _, a := range r.Source {
			if familyOf(a) == f {
				pool = append(pool, a)
			}
		}
		for i, a := range pool {
			terms := []term{matchFamily(f), matchProto(protoOf(r)), marked(routeMark(number), markOursBits|markRouteBits)}
			if rest := len(pool) - i; rest > 1 {
				terms = append(terms, share(1, rest))
			}
			post.add(append(terms, snat(a, ports.From, ports.To))...)
		}
	}
}

// build makes the route's chain, with what leads to it and what it needs.
func (x *part) build() {
	r := x.route
	proto := protoOf(r)
	head := &chain{name: chainOf(r.Name), level: levelRoute, comment: numberComment(x.number)}
	x.allow(head, r, proto)
	if r.MaxConnections > 0 {
		// The limit counts in its rule; so it has a chain of its own, that is not
		// written anew when anything else changes.
		only := &chain{name: limitOf(r.Name)}
		if r.WhenFull == plan.Reset {
			x.count(fullBy(r.Name))
			only.add(append([]term{limit(r.MaxConnections), countIn(fullBy(r.Name))}, refuse(proto)...)...)
		} else {
			// Without an answer the client tries again by itself: that is its place in
			// the queue.
			only.add(limit(r.MaxConnections), verdict(expr.VerdictDrop, ""))
		}
		x.chains = append(x.chains, only)
		head.add(verdict(expr.VerdictJump, only.name))
	}
	x.count(chainOf(r.Name))
	events := tell(eventsEnds)
	if x.log {
		events = tell(eventsAll)
	}
	head.add(countIn(chainOf(r.Name)), setMark(routeMark(x.number)), events)
	x.servers(head, r, proto)
	x.chains = append(x.chains, head)
	for _, l := range r.Listen {
		x.listen(l, proto, head.name)
	}
}

func protoOf(r *plan.Route) uint8 {
	if r.Mode == plan.UDP {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// allow refuses clients from elsewhere.
func (x *part) allow(c *chain, r *plan.Route, proto uint8) {
	if len(r.Allow) == 0 {
		return
	}
	x.count(deniedBy(r.Name))
	for _, f := range families {
		s := networks(f, r.Allow)
		terms := []term{matchFamily(f)}
		if len(s.elements) > 0 {
			s.name = allowedBy(f, r.Name)
			x.sets = append(x.sets, s)
			terms = []term{notFrom(f, s.name)}
		}
		c.add(append(append(terms, countIn(deniedBy(r.Name))), refuse(proto)...)...)
	}
}

// networks is the set of the prefixes of a family.
func networks(f family, prefixes []netip.Prefix) *set {
	s := &set{key: []datatype{typeAddr(f)}, interval: true}
	type span struct{ from, to netip.Addr }
	var spans []span
	for _, p := range prefixes {
		if familyOf(p.Addr()) == f {
			spans = append(spans, span{p.Addr(), last(p)})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })
	// The kernel takes no overlaps.
	for i := 0; i < len(spans); {
		m := spans[i]
		for i++; i < len(spans) && (!m.to.Next().IsValid() || spans[i].from.Compare(m.to.Next()) <= 0); i++ {
			if m.to.Less(spans[i].to) {
				m.to = spans[i].to
			}
		}
		text := m.from.String() + "-" + m.to.String()
		for bits := range m.from.BitLen() + 1 {
			if p := netip.PrefixFrom(m.from, bits); p.Masked() == p && last(p) == m.to {
				text = p.String()
				break
			}
		}
		s.add(text, element{key: m.from.AsSlice(), end: m.to.AsSlice()})
	}
	return s
}

// last is the highest address of a network.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// count adds a counter, once.
func (x *part) count(name string) {
	if !x.counted[name] {
		x.counted[name] = true
		x.counters = append(x.counters, name)
	}
}

// numberComment stands at a route's chain, for the next process and for people.
func numberComment(number uint16) string { return fmt.Sprintf("ct mark 0x%08x", routeMark(number)) }

// numberIn reads it back.
func numberIn(comment string) (uint16, bool) {
	var mark uint32
	if _, err := fmt.Sscanf(comment, "ct mark 0x%08x", &mark); err != nil || mark&markOursBits != markOurs {
		return 0, false
	}
	return routeOf(mark), true
}
