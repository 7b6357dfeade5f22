package foreign

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"midspan/internal/config"
)

// What other chains do to the packets of the routes, looked at when all routes
// are known: SNAT becomes `source`, connlimit max_connections.

// after handles the rules that were put off.
func (p *ipTables) after() {
	settled := map[int]bool{} // routes whose source address is decided: the first rule wins
	for _, r := range p.later {
		switch r.jump {
		case "MASQUERADE":
			p.needless(r.stmt, "midspan masquerades what it forwards")
			for i := range p.file.Routes {
				if all, _ := r.takes(&p.file.Routes[i]); all && len(r.others()) == 0 {
					settled[i] = true
				}
			}
		case "SNAT":
			p.snat(r, settled)
		default:
			p.limit(r)
		}
	}
}

// snat makes the addresses of --to-source the `source` of the routes that the
// rule is for.
func (p *ipTables) snat(r *natRule, settled map[int]bool) {
	addrs, why := r.sources()
	if len(r.others()) > 0 || len(r.allow) > 0 {
		why = "it is for some packets of a route only"
	}
	var routes []int
	touched := false
	for i := range p.file.Routes {
		all, some := r.takes(&p.file.Routes[i])
		if !some || settled[i] {
			continue
		}
		touched = true
		switch {
		case !all:
			why = "it is for some servers of a route only"
		case p.file.Routes[i].Engine.V != engineKernel:
			why = "only a route with engine: nft can choose the address it connects from"
		default:
			routes = append(routes, i)
		}
	}
	switch {
	case !touched:
		p.lost(r.stmt, "it is for no packets of the routes, and stays in force")
		return
	case why != "":
		p.lost(r.stmt, why+"; `source` of a route has the addresses that midspan connects from, without it the interface's")
		return
	}
	p.carry(r.stmt)
	for _, i := range routes {
		settled[i] = true
		for _, a := range addrs {
			p.file.Routes[i].Source = append(p.file.Routes[i].Source, config.At(a, r.pos))
		}
	}
}

// sources are the addresses of --to-source A[-B].
func (r *natRule) sources() (all []netip.Addr, why string) {
	lo, hi, isRange := strings.Cut(r.toSource, "-")
	first, err := netip.ParseAddr(lo)
	last := first
	if isRange && err == nil {
		last, err = netip.ParseAddr(hi)
	}
	if err != nil || first.Zone() != "" || last.Less(first) || first.Is4() != last.Is4() {
		return nil, fmt.Sprintf("%s is not an address or a range of them", quote(r.toSource))
	}
	for a := first; ; a = a.Next() {
		if len(all) == maxRange {
			return nil, fmt.Sprintf("%s has more than %d addresses", quote(r.toSource), maxRange)
		}
		all = append(all, a)
		if a == last {
			return all, ""
		}
	}
}

// others are the conditions that takes does not look at.
func (r *natRule) others() []string {
	return slices.DeleteFunc(slices.Clone(r.widens), func(c string) bool {
		return strings.HasPrefix(c, "-d ") || strings.HasPrefix(c, "--destination ")
	})
}

// connlimit reads a rule that refuses more than so many connections, of all
// clients together and with no other condition.
func (r *natRule) connlimit() (most int, clean bool) {
	together := false // the limit is by client unless the mask says otherwise
	clean = (r.jump == "REJECT" || r.jump == "DROP") && r.why == "" && len(r.allow) == 0
	for _, c := range r.others() {
		option, value, _ := strings.Cut(c, " ")
		switch option {
		case "--connlimit-above":
			most, _ = strconv.Atoi(value)
		case "--connlimit-mask":
			together = value == "0"
		case "--connlimit-saddr", "--connlimit-daddr", "--reject-with":
		default:
			clean = false
		}
	}
	return most, clean && together && most >= 1 && most <= connsMax
}

// limit makes a connlimit of one whole route its max_connections.
func (p *ipTables) limit(r *natRule) {
	const instead = "write max_connections for the route; it is not by client"
	most, clean := r.connlimit()
	route := -1
	for i := range p.file.Routes {
		all, some := r.takes(&p.file.Routes[i])
		if some {
			clean = clean && all && route < 0
			route = i
		}
	}
	switch {
	case route < 0:
		p.needless(r.stmt, whyForward)
	case !clean || p.file.Routes[route].MaxConnections.Set():
		p.because(r.stmt, r.pos, r.String(), isGone+"it stays in force, and counts forwarded connections as before; "+instead)
	default:
		p.carry(r.stmt)
		p.file.Routes[route].MaxConnections = config.At(most, r.pos)
		p.note(r.stmt, "%s is carried over as `max_connections: %d` of route %s: more wait where they were refused; the rule itself stays in force until it is deleted", r.stmt, most, p.file.Routes[route].Name.V)
	}
}

// takes tells whether the rule is for the packets to all servers of a route, and
// whether to some, once their destination has been changed.
func (r *natRule) takes(route *config.Route) (all, some bool) {
	udp := route.Mode.V == modeUDP
	if r.proto != "" && r.proto != "all" && isUDP(r.proto) != udp {
		return false, false
	}
	all = true
	for _, s := range route.To {
		a, err := netip.ParseAddr(s.Target.V.Host)
		if err != nil || (r.dst.IsValid() && !r.dst.Contains(a)) {
			all = false
			continue
		}
		for _, l := range route.Listen {
			lo, hi := portsOf(s.Target.V, l.V)
			covered, touched := r.hasPorts(lo, hi)
			all, some = all && covered, some || touched
		}
	}
	return all && some, some
}

// hasPorts tells whether the rule is for all of the ports, and for some.
func (r *natRule) hasPorts(lo, hi uint16) (all, some bool) {
	if len(r.ports) == 0 {
		return true, true
	}
	for _, ports := range r.ports {
		all = all || (ports.from <= lo && hi <= ports.to)
		some = some || (ports.from <= hi && lo <= ports.to)
	}
	return all, some
}

func isUDP(proto string) bool { return proto == modeUDP || proto == "17" }
