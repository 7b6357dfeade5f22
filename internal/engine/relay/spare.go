package relay

import (
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// spare is a socket whose connection is over in every respect, for the next
// connection to the same address: to make a socket anew, set its options and
// drop it costs a good part of a short connection.
//
// To the same address only, because the kernel goes on with the sequence numbers
// of the former connection: another server is not to know them (RFC 6528).
type spare struct {
	fd      int32
	to      netip.AddrPort
	options sockOptions
}

const (
	// keepSpares bounds what a loop keeps.
	keepSpares = 32
	// spareLife is how long spares are kept while none is put or taken.
	spareLife = time.Second
	// recycleBelow is how much a connection may have moved each way: the kernel
	// does not shrink the buffers that it made larger for much.
	recycleBelow = 64 << 10
)

// recycle makes the server's leg of p, whose flows have both ended, a spare. It
// tells whether it has; else the leg is to be closed.
func (l *loop) recycle(p *pair) bool {
	s := &p.server
	// The client ended first, so the server has answered our end with its own:
	// with our end acknowledged nothing of the connection is left, and to give
	// its socket up takes nothing from the server.
	if p.endedBy != closedByClient || len(p.set.Source) > 0 || p.client.moved|s.moved >= recycleBelow || s.urgent || s.failed || unsent(s.fd) > 0 {
		return false
	}
	if len(l.spares) == keepSpares || !l.e.takeFDs(1) {
		return false
	}
	if disconnect(s.fd) != 0 {
		l.e.giveFDs(1)
		return false
	}
	l.spares = append(l.spares, spare{s.fd, p.to.at(p.listener.port), p.set.options})
	l.spareUsed = l.now
	s.fd = -1
	return true
}

// spare takes one out; -1: there is none for that address.
func (l *loop) spare(to netip.AddrPort, o sockOptions) int32 {
	for i := len(l.spares) - 1; i >= 0; i-- {
		if s := l.spares[i]; s.to == to && s.options == o {
			l.spares = slices.Delete(l.spares, i, i+1)
			l.spareUsed = l.now
			l.e.giveFDs(1)
			return s.fd
		}
	}
	return -1
}

// dropSpares closes them all.
func (l *loop) dropSpares() {
	for _, s := range l.spares {
		closeFD(s.fd)
	}
	l.e.giveFDs(len(l.spares))
	l.spares = l.spares[:0]
}

// disconnect makes a TCP socket as good as new, with its options: connect(2) to
// AF_UNSPEC.
func disconnect(fd int32) unix.Errno {
	sa := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, e := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	return e
}
