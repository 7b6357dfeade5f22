package relay

import (
	"errors"
	"net"
	"net/netip"
)

// errCircle is why a connect to a listener of ours is not made: the connection
// would come back in, again and again, until nothing is left.
var errCircle = errors.New("this is a listener of this midspan itself")

// ownListeners are the addresses that lead back to the engine.
type ownListeners struct {
	ports map[uint16][]netip.Addr // by port where the engine listens; zero: on all addresses
	host  map[netip.Addr]bool     // addresses of this host
}

func newOwnListeners(listeners map[address]*listener) *ownListeners {
	o := &ownListeners{map[uint16][]netip.Addr{}, map[netip.Addr]bool{}}
	for a := range listeners {
		if a.dev == "" { // a connection of this host's does not come in on its devices
			o.ports[a.port] = append(o.ports[a.port], a.addr)
		}
	}
	// Without them, what is on loopback is still found.
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, err := netip.ParsePrefix(a.String()); err == nil {
			o.host[n.Addr().Unmap()] = true
		}
	}
	return o
}

// has tells whether a connect to that place would come back to the engine.
func (o *ownListeners) has(to netip.AddrPort) bool {
	a := to.Addr()
	for _, l := range o.ports[to.Port()] {
		everywhere := !l.IsValid() || l.IsUnspecified()
		if l == a || (everywhere && (a.IsLoopback() || a.IsUnspecified() || o.host[a])) {
			return true
		}
	}
	return false
}
