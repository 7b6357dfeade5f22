package foreign

import (
	"net/netip"
	"slices"

	"midspan/internal/config"
)

// circles takes out the servers that lead back to their own route, by way of
// listen addresses of the File: midspan refuses those. A route that leads to
// another one stays, as HAProxy may lead a frontend into another.
func (b *builder) circles() {
	by := []arrivals{b.claims.arrivals(), b.udp.arrivals()} // plan does not tell the two apart
	next := map[string][]string{}
	for i := range b.file.Routes {
		r := &b.file.Routes[i]
		for s := range r.Servers() {
			for _, by := range by {
				if to := by.of(r, s.Target.V); to != nil {
					next[r.Name.V] = append(next[r.Name.V], to.route)
				}
			}
		}
	}
	if len(next) == 0 {
		return
	}
	for i := range b.file.Routes {
		r := &b.file.Routes[i]
		n := len(b.notes)
		around := func(s config.Server) bool { return b.around(r, s, by, next) }
		r.To = slices.DeleteFunc(r.To, around)
		for j := range r.Groups {
			r.Groups[j].To = slices.DeleteFunc(r.Groups[j].To, around)
		}
		if len(b.notes) > n && hasServers(r) {
			b.servers(r)
		}
	}
	b.file.Routes = slices.DeleteFunc(b.file.Routes, func(r config.Route) bool {
		if !hasServers(&r) {
			b.notes.Addf(r.Name.Pos, "route %s is not carried over: no server is left that a connection could go to", r.Name.V)
		}
		return !hasServers(&r)
	})
	b.claims, b.udp = claims{}, claims{}
	for _, r := range b.file.Routes {
		for _, l := range r.Listen {
			b.of(&r).claim(&claimed{l.V, r.Name.V, l.Pos.Line})
		}
	}
}

// around tells whether connections from r to s come back to r, and says so.
func (b *builder) around(r *config.Route, s config.Server, by []arrivals, next map[string][]string) bool {
	for _, by := range by {
		to := by.of(r, s.Target.V)
		if to == nil || !reaches(next, to.route, r.Name.V, map[string]bool{}) {
			continue
		}
		b.notes.Addf(s.Target.Pos, "server %s is not carried over: route %s listens there (line %d), and connections would go in a circle; write the servers behind it", s.Target.V, to.route, to.line)
		return true
	}
	return false
}

// reaches tells whether routes lead from one to another.
func reaches(next map[string][]string, from, to string, seen map[string]bool) bool {
	if from == to || seen[from] {
		return from == to
	}
	seen[from] = true
	return slices.ContainsFunc(next[from], func(n string) bool { return reaches(next, n, to, seen) })
}

// arrivals are the claims at which a connection from this machine can arrive,
// by address (none: all) and then by port. Those of one address have no port
// in common.
type arrivals map[netip.Addr][]*claimed

func (c *claims) arrivals() arrivals {
	by := arrivals{}
	for _, l := range c.all {
		if l.Interface == "" || l.Interface == "lo" {
			by[l.Addr] = append(by[l.Addr], l)
		}
	}
	for _, ls := range by {
		slices.SortFunc(ls, func(l, m *claimed) int { return int(l.From) - int(m.From) })
	}
	return by
}

// of is where connections from r to t would arrive by plan's rule, or nil.
func (by arrivals) of(r *config.Route, t config.Target) *claimed {
	a, err := netip.ParseAddr(t.Host)
	if err != nil {
		return nil
	}
	lists := [][]*claimed{by[a]}
	if isLocal(a) {
		lists = append(lists, by[netip.Addr{}])
	}
	for _, ls := range lists {
		for _, from := range r.Listen {
			lo, hi := portsOf(t, from.V)
			i, _ := slices.BinarySearchFunc(ls, lo, func(l *claimed, lo uint16) int { return int(l.To) - int(lo) })
			if i < len(ls) && ls[i].From <= hi {
				return ls[i]
			}
			if t.Port != 0 {
				break
			}
		}
	}
	return nil
}

// portsOf are the ports of t that connections to l go to.
func portsOf(t config.Target, l config.Listen) (lo, hi uint16) {
	if t.Port != 0 {
		return t.Port, t.Port
	}
	return uint16(int(l.From) + t.Shift), uint16(int(l.To) + t.Shift)
}

func isLocal(a netip.Addr) bool { return a.IsLoopback() || a.IsUnspecified() }

// localPorts are the ports of servers on this machine, which midspan's own
// endpoints must not have.
func (b *builder) localPorts() (ports [1 << 16]bool) {
	var change [1<<16 + 1]int // of how many servers have the port, from there on
	for _, r := range b.file.Routes {
		for s := range r.Servers() {
			if a, err := netip.ParseAddr(s.Target.V.Host); err != nil || !isLocal(a) {
				continue
			}
			for _, l := range r.Listen {
				lo, hi := portsOf(s.Target.V, l.V)
				change[lo]++
				change[int(hi)+1]--
			}
		}
	}
	n := 0
	for port := range ports {
		n += change[port]
		ports[port] = n > 0
	}
	return ports
}
