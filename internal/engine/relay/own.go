package relay

import (
	"errors"
	"net"
	"net/netip"
	"slices"
)

// errCircle is why a connect to a listener of ours is not made: the connection
// would come back in, again and again, until nothing is left.
var errCircle = errors.New("this leads back to a listener of the same route")

// ownListeners are the addresses that lead back to the engine.
type ownListeners struct {
	ports map[uint16][]ownListener
	host  map[netip.Addr]bool // addresses of this host
	next  map[*route][]*route // where the servers of a route lead to, of our own
	loops map[*route]bool     // routes that lead back to themselves
}

type ownListener struct {
	addr  netip.Addr // zero: all addresses
	route *route
}

func newOwnListeners(listeners map[address]*listener, routes []*route) *ownListeners {
	o := &ownListeners{map[uint16][]ownListener{}, map[netip.Addr]bool{}, map[*route][]*route{}, map[*route]bool{}}
	ports := map[*route][]uint16{}
	for a, ln := range listeners {
		r := ln.route.Load()
		ports[r] = append(ports[r], a.port)
		if a.dev == "" { // a connection of this host's does not come in on its devices
			o.ports[a.port] = append(o.ports[a.port], ownListener{a.addr, r})
		}
	}
	// Without them, what is on loopback is still found.
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, err := netip.ParsePrefix(a.String()); err == nil {
			o.host[n.Addr().Unmap()] = true
		}
	}
	for _, r := range routes {
		o.next[r] = o.leadsTo(r, ports[r])
	}
	for _, r := range routes {
		o.loops[r] = slices.ContainsFunc(o.next[r], func(n *route) bool { return o.reaches(n, r, map[*route]bool{}) })
	}
	return o
}

// leadsTo are the routes of ours that connections of r go to.
func (o *ownListeners) leadsTo(r *route, ports []uint16) []*route {
	var next []*route
	for _, s := range r.set.Load().Servers {
		for _, e := range s.Endpoints {
			for _, port := range ports {
				if to := o.at(netip.AddrPortFrom(e.Addr, s.PortFor(port))); to != nil {
					next = append(next, to)
				}
				if s.Port != 0 {
					break
				}
			}
		}
	}
	return next
}

func (o *ownListeners) reaches(from, to *route, seen map[*route]bool) bool {
	if from == to || seen[from] {
		return from == to
	}
	seen[from] = true
	return slices.ContainsFunc(o.next[from], func(n *route) bool { return o.reaches(n, to, seen) })
}

// at is the route of ours that a connect to that place would reach, or nil.
func (o *ownListeners) at(to netip.AddrPort) *route {
	a := to.Addr().Unmap() // ::ffff:192.0.2.1 leads where 192.0.2.1 does
	for _, l := range o.ports[to.Port()] {
		everywhere := !l.addr.IsValid() || l.addr.IsUnspecified()
		if l.addr == a || (everywhere && (a.IsLoopback() || a.IsUnspecified() || o.host[a])) {
			return l.route
		}
	}
	return nil
}

// circle tells whether a connect of r to that place would go in a circle.
func (o *ownListeners) circle(r *route, to netip.AddrPort) bool {
	return o.loops[r] && o.at(to) != nil
}
