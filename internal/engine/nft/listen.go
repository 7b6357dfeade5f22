package nft

import (
	"fmt"
	"hash/fnv"
	"maps"
	"net"
	"net/netip"
	"slices"

	"midspan/internal/engine"
	"midspan/internal/host"
	"midspan/internal/plan"
)

// number gives every route a number for the mark of its connections. A route
// keeps the one it has, and what it had is not given to another one soon: its
// connections may live. A new one gets it from its name.
func number(p *plan.Plan, old map[string]uint16) (map[string]uint16, error) {
	const most = 1 << 15
	if len(p.Routes) > most {
		return nil, fmt.Errorf("%d routes of engine nft are more than the %d that connections can be told apart by", len(p.Routes), most)
	}
	next := maps.Clone(old)
	if next == nil || len(old)+len(p.Routes) > most { // enough is remembered of what is gone
		next = map[string]uint16{}
		for _, r := range p.Routes {
			if n, has := old[r.Name]; has {
				next[r.Name] = n
			}
		}
	}
	taken := map[uint16]bool{0: true}
	for _, n := range next {
		taken[n] = true
	}
	for _, r := range p.Routes {
		if _, has := next[r.Name]; has {
			continue
		}
		h := fnv.New32a()
		h.Write([]byte(r.Name))
		n := uint16(h.Sum32()>>16) ^ uint16(h.Sum32())
		for taken[n] {
			n++
		}
		next[r.Name], taken[n] = n, true
	}
	return next, nil
}

// place is a listener as users see it.
type place struct {
	route  string
	mode   plan.Mode
	listen plan.Listen
}

func (p place) String() string { return p.route + " " + p.listen.String() }

func listenersOf(p *plan.Plan) map[place]bool {
	all := map[place]bool{}
	if p != nil {
		for _, r := range p.Routes {
			for _, l := range r.Listen {
				all[place{r.Name, r.Mode, l}] = true
			}
		}
	}
	return all
}

func compareListeners(old, next map[place]bool) (c engine.Change) {
	for p := range next {
		if !old[p] {
			c.Added = append(c.Added, p.String())
		}
	}
	for p := range old {
		if !next[p] {
			c.Removed = append(c.Removed, p.String())
		}
	}
	slices.Sort(c.Added)
	slices.Sort(c.Removed)
	return c
}

// available is p with only those listeners that this host can have now. Another
// process that listens on one of the ports is an error: NAT would take its
// connections away.
func (e *Engine) available(p *plan.Plan, had map[place]bool) (*plan.Plan, []engine.Pending, error) {
	ready := *p
	ready.Routes = nil
	var pending []engine.Pending
	var holders func(string, netip.AddrPort) host.Holder
	own := ownAddresses()
	ports := map[place]bool{} // that are ours, whichever route has them
	for p := range had {
		ports[place{"", p.mode, p.listen}] = true
	}
	for _, r := range p.Routes {
		route := *r
		route.Listen = nil
		for _, l := range r.Listen {
			if why := absent(l, own); why != "" && !e.early {
				pending = append(pending, engine.Pending{Route: r.Name, Listen: l.String(), Why: why})
				continue
			}
			if !ports[place{"", r.Mode, l}] && !e.ours(r.Mode, l) {
				if holders == nil {
					var err error
					if holders, err = host.Holders(); err != nil {
						return nil, nil, err
					}
				}
				if err := heldBy(holders, r, l); err != nil {
					return nil, nil, err
				}
			}
			route.Listen = append(route.Listen, l)
		}
		ready.Routes = append(ready.Routes, &route)
	}
	return &ready, pending, nil
}

// heldBy is an error when another process listens on the port of l. Sockets of
// UDP clients look like listeners, so of a range nothing can be said.
func heldBy(holders func(string, netip.AddrPort) host.Holder, r *plan.Route, l plan.Listen) error {
	if r.Mode == plan.UDP && l.From != l.To {
		return nil
	}
	for port := int(l.From); port <= int(l.To); port++ {
		at := netip.AddrPortFrom(l.Addr, uint16(port))
		if h := holders(string(r.Mode), at); h != (host.Holder{}) {
			return fmt.Errorf("route %q: listen %s: address already in use by %s; NAT would take its connections away: stop it, or choose another port", r.Name, l, h)
		}
	}
	return nil
}

// ownAddresses are those of this host's interfaces.
func ownAddresses() map[netip.Addr]bool {
	own := map[netip.Addr]bool{}
	all, _ := net.InterfaceAddrs() // none: then the listeners wait
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				own[ip.Unmap()] = true
			}
		}
	}
	return own
}

// absent is why the listener must wait for the host; "": it need not.
func absent(l plan.Listen, own map[netip.Addr]bool) string {
	if l.Interface != "" {
		if _, err := net.InterfaceByName(l.Interface); err != nil {
			return "there is no interface " + l.Interface
		}
	}
	if l.Addr.IsValid() && !l.Addr.IsUnspecified() && !own[l.Addr] {
		return fmt.Sprintf("this host does not have the address %s", l.Addr)
	}
	return ""
}

func hostListeners(p *plan.Plan) (all []host.Listener) {
	for _, x := range slices.SortedFunc(maps.Keys(listenersOf(p)), func(a, b place) int { return int(a.listen.From) - int(b.listen.From) }) {
		all = append(all, host.Listener{Proto: string(x.mode), Addr: x.listen.Addr, Interface: x.listen.Interface, From: x.listen.From, To: x.listen.To})
	}
	return all
}
