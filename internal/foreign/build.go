package foreign

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"midspan/internal/config"
)

// builder puts routes into a File so that the plan can be made: no name twice,
// no listen address twice, no server twice in a route, every port in range.
type builder struct {
	*ledger
	name   string // of the input
	file   config.File
	names  map[string]int // taken names, and how often each was wanted again
	claims                // of TCP
	udp    claims

	wantListens, wantServers, wantRules int
	overflow                            bool
}

// claimed is a listen address and the route that has it.
type claimed struct {
	config.Listen
	route string
	line  int
}

// claims are the listen addresses that routes have, found by port: 10,000
// rules that are each compared with 10,000 others take too long.
type claims struct {
	all    []*claimed
	byPort map[uint16][]*claimed // those of one port
	ranges []*claimed
}

func (c *claims) claim(l *claimed) {
	c.all = append(c.all, l)
	if l.From == l.To {
		if c.byPort == nil {
			c.byPort = map[uint16][]*claimed{}
		}
		c.byPort[l.From] = append(c.byPort[l.From], l)
	} else {
		c.ranges = append(c.ranges, l)
	}
}

// find is the first claim on a port of l for which f holds, or nil.
func (c *claims) find(l config.Listen, f func(l, claim config.Listen) bool) *claimed {
	near := [][]*claimed{c.all}
	if l.From == l.To {
		near = [][]*claimed{c.byPort[l.From], c.ranges}
	}
	for _, list := range near {
		for _, m := range list {
			if f(l, m.Listen) {
				return m
			}
		}
	}
	return nil
}

// taken is the claim that l overlaps, or nil.
func (c *claims) taken(l config.Listen) *claimed { return c.find(l, overlap) }

// of are the claims of the protocol that r is for: TCP and UDP share no ports.
func (b *builder) of(r *config.Route) *claims {
	if r.Mode.V == modeUDP {
		return &b.udp
	}
	return &b.claims
}

func newBuilder(name, what string) *builder {
	b := &builder{ledger: &ledger{}, name: name, names: map[string]int{}}
	b.file.Comment = fmt.Sprintf("Imported from %s (%s).", printable(name), what)
	return b
}

// start is the place of things that no statement of the input wrote.
func (b *builder) start() config.Pos { return config.Pos{File: b.name, Line: 1, Col: 1} }

// route adds r under a name close to r.Name, less what cannot stay. It tells
// whether anything is left of it.
func (b *builder) route(r config.Route) bool {
	pos := r.Name.Pos
	r.Name.V = b.unique(r)
	name := r.Name.V
	r.Comment = printable(r.Comment)
	at := b.of(&r)
	r.Listen = b.listen(&r, at)
	if len(r.Listen) == 0 {
		b.notes.Addf(pos, "%s is gone: no route is made of this, for no listen address is left to it", name)
		return false
	}
	if b.servers(&r); !hasServers(&r) {
		b.notes.Addf(pos, "%s is gone: no route is made of this, for no server is left that a connection could go to", name)
		return false
	}
	b.names[r.Name.V] = 1
	for _, l := range r.Listen {
		at.claim(&claimed{l.V, r.Name.V, l.Pos.Line})
	}
	b.file.Routes = append(b.file.Routes, r)
	return true
}

// room tells whether that many more listen addresses and servers fit in. Ask
// before a route is put together: a backend that many frontends share makes a
// small input large.
func (b *builder) room(listens, servers int) bool {
	b.wantListens += listens
	b.wantServers += servers
	switch {
	case b.overflow:
	case b.wantListens > maxListens:
		b.problem(b.start(), "more than %d listen addresses; split the input", maxListens)
	case b.wantServers > maxServers:
		b.problem(b.start(), "more than %d servers over all routes; split the input", maxServers)
	default:
		return true
	}
	b.overflow = true
	return false
}

// rules tells whether n more rules can be gone through, for one route. Ask
// before: lines that many listen addresses share make a small input large.
func (b *builder) rules(n int) bool {
	b.wantRules += n
	switch {
	case b.overflow:
	case b.wantRules > maxRules || n > maxChoices:
		b.problem(b.start(), "more than %d rules for a route, or %d over all routes; split the input", maxChoices, maxRules)
		b.overflow = true
	default:
		return true
	}
	return false
}

// unique is r's wanted name in the form that the file allows; if that is
// taken, with the port, and then with a number.
func (b *builder) unique(r config.Route) string {
	const most = 63
	name := strings.Map(func(c rune) rune {
		if c < 0x80 && (isAlnum(byte(c)) || strings.ContainsRune("._-", c)) {
			return c
		}
		return '-'
	}, r.Name.V)
	name = strings.TrimLeft(name, "._-")
	name = name[:min(len(name), most)]
	port := ""
	if len(r.Listen) > 0 {
		port = strconv.Itoa(int(r.Listen[0].V.From))
	}
	if name == "" {
		name = "port-" + port
	}
	if b.names[name] == 0 {
		return name
	}
	withPort := name[:min(len(name), most-len(port)-1)] + "-" + port
	for {
		candidate := withPort
		if n := b.names[withPort]; n > 0 {
			b.names[withPort]++
			suffix := "-" + strconv.Itoa(n+1)
			candidate = withPort[:min(len(withPort), most-len(suffix))] + suffix
		}
		if b.names[candidate] == 0 {
			return candidate
		}
	}
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// listen is r's listen addresses without those that another one covers and
// those that another route has.
func (b *builder) listen(r *config.Route, at *claims) []config.Field[config.Listen] {
	var out []config.Field[config.Listen]
	for _, l := range r.Listen {
		if m := at.taken(l.V); m != nil {
			b.notes.Addf(l.Pos, "listen address %s is not carried over: route %s has %s (line %d), and in midspan an address belongs to one route", l.V, m.route, m.Listen, m.line)
			continue
		}
		out = b.admit(out, l)
	}
	return out
}

// admit adds l to the listen addresses of one route.
func (b *builder) admit(ls []config.Field[config.Listen], l config.Field[config.Listen]) []config.Field[config.Listen] {
	covered := 0
	for _, m := range ls {
		switch {
		case covers(m.V, l.V):
			return ls
		case covers(l.V, m.V):
			covered++
		case overlap(l.V, m.V):
			b.notes.Addf(l.Pos, "listen address %s is not carried over: it overlaps %s of the same route", l.V, m.V)
			return ls
		}
	}
	if covered > 0 {
		ls = slices.DeleteFunc(ls, func(m config.Field[config.Listen]) bool { return covers(l.V, m.V) })
	}
	return append(ls, l)
}

// overlap is plan's rule: one socket of l and one of m would want the same
// port of the same address.
func overlap(l, m config.Listen) bool {
	return l.From <= m.To && m.From <= l.To &&
		(l.Interface == "" || m.Interface == "" || l.Interface == m.Interface) &&
		(anyAddr(l.Addr, m.Addr) || anyAddr(m.Addr, l.Addr) || l.Addr == m.Addr)
}

// covers tells whether every connection that m accepts is one that l accepts.
func covers(l, m config.Listen) bool {
	return l.From <= m.From && m.To <= l.To &&
		(l.Interface == "" || l.Interface == m.Interface) &&
		(anyAddr(l.Addr, m.Addr) || l.Addr == m.Addr)
}

// anyAddr tells whether a stands for all addresses, b's among them.
func anyAddr(a, b netip.Addr) bool {
	return !a.IsValid() || (b.IsValid() && a.IsUnspecified() && a.Is4() == b.Is4())
}

// merge adds up the weights of two servers at one place, which midspan has
// once in a route.
func (b *builder) merge(first *config.Server, again config.Server) {
	sum := min(256, first.Weight.Or(1)+again.Weight.Or(1))
	if first.Backup.V != again.Backup.V {
		b.notes.Addf(again.Target.Pos, "server %s stands twice in the route, once as a backup; the first is carried over", again.Target.V)
		return
	}
	b.notes.Addf(again.Target.Pos, "server %s stands twice in the route; the first is carried over with the weight of both, %d", again.Target.V, sum)
	first.Weight = config.At(sum, again.Target.Pos)
}

// outOfRange finds a listen address for which t would need a port that does
// not exist.
func outOfRange(t config.Target, listens []config.Field[config.Listen]) (l config.Listen, port int, found bool) {
	if t.Port != 0 {
		return l, 0, false
	}
	for _, f := range listens {
		if lo := int(f.V.From) + t.Shift; lo < 1 {
			return f.V, lo, true
		}
		if hi := int(f.V.To) + t.Shift; hi > 65535 {
			return f.V, hi, true
		}
	}
	return l, 0, false
}
