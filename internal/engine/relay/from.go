package relay

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// from is the address to connect to a server from; invalid: the kernel picks it.
// Those of plan.Route.Source that are of the server's family are taken in turn,
// over all loops.
func (s *settings) from(to netip.Addr) netip.Addr {
	if len(s.Source) == 0 {
		return netip.Addr{}
	}
	turn, n := s.owner.turnFrom.Add(1), uint32(len(s.Source))
	for i := range n {
		if a := s.Source[(turn+i)%n]; a.Is4() == to.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// leavePort has a later bind leave the port to the connect: the kernel then takes
// one that is free for that server, and not one that is free for all of them.
func leavePort(fd int) { setsockopt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) }

// bindTo gives a socket its address.
func bindTo(fd int32, a netip.Addr) unix.Errno {
	leavePort(int(fd))
	return withAddress(unix.SYS_BIND, fd, netip.AddrPortFrom(a, 0))
}
