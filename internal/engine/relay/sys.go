package relay

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below never block, so they go to the kernel without telling the Go
// scheduler, which would cost more than the call itself.

func read(fd int32, p []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return int(n), e
}

// receive is read for sockets: it skips what the kernel does for files.
func receive(fd int32, p []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

// peek is how a receive would end: with EAGAIN, nothing has come, not even the
// end. Another error is taken from the socket.
func peek(fd int32) unix.Errno {
	var b [1]byte
	_, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), 1, unix.MSG_DONTWAIT|unix.MSG_PEEK, 0, 0)
	return e
}

// write never raises SIGPIPE: Go ignores it on all descriptors above 2.
func write(fd int32, p []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

// splice moves up to n bytes without blocking on the pipe; sockets are
// non-blocking by themselves.
func splice(from, to int32, n int) (int, unix.Errno) {
	moved, _, e := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return int(moved), e
}

func closeFD(fd int32) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func shutdownWrite(fd int32) { unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0) }

// resetOnClose makes close(2) send a reset.
func resetOnClose(fd int32) {
	l := unix.Linger{Onoff: 1}
	unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&l)), unix.SizeofLinger, 0)
}

func setsockopt(fd, level, name, value int) {
	v := int32(value)
	unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&v)), 4, 0)
}

// socketError is SO_ERROR: how a connect ended.
func socketError(fd int32) unix.Errno {
	var v int32
	size := uint32(4)
	if _, _, e := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ERROR, uintptr(unsafe.Pointer(&v)), uintptr(unsafe.Pointer(&size)), 0); e != 0 {
		return e
	}
	return unix.Errno(v)
}

// unsent is SIOCOUTQ: bytes written that the peer has not acknowledged.
func unsent(fd int32) int {
	var v int32
	if _, _, e := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&v))); e != 0 {
		return 0
	}
	return int(v)
}

func accept(fd int) (int32, netip.AddrPort, unix.Errno) {
	var sa unix.RawSockaddrInet6 // large enough for both families
	size := uint32(unsafe.Sizeof(sa))
	n, _, e := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if e != 0 {
		return -1, netip.AddrPort{}, e
	}
	return int32(n), fromRaw(&sa), 0
}

// localAddr is the address of fd's own end.
func localAddr(fd int32) netip.AddrPort {
	var sa unix.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(sa))
	if _, _, e := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size))); e != 0 {
		return netip.AddrPort{}
	}
	return fromRaw(&sa)
}

// fromRaw reads an address of either family; the port stands in both at the
// same place.
func fromRaw(sa *unix.RawSockaddrInet6) netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	if sa.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), port)
}

// hostPort is a netip.AddrPort in half its space, without a zone. The zero
// value is none.
type hostPort struct {
	addr [16]byte // IPv4 mapped into IPv6
	port uint16
}

func compact(a netip.AddrPort) hostPort { return hostPort{a.Addr().As16(), a.Port()} }

func (h hostPort) full() netip.AddrPort {
	if h == (hostPort{}) {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(netip.AddrFrom16(h.addr).Unmap(), h.port)
}

// connect starts a connect of a non-blocking socket.
func connect(fd int32, to netip.AddrPort) (e unix.Errno) {
	e = withAddress(unix.SYS_CONNECT, fd, to)
	if e == unix.EINPROGRESS {
		return 0
	}
	return e
}

// withAddress is connect(2) or bind(2).
func withAddress(call uintptr, fd int32, at netip.AddrPort) (e unix.Errno) {
	if a := at.Addr(); a.Is4() {
		sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.As4()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], at.Port())
		_, _, e = unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	} else {
		sa := unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: a.As16()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], at.Port())
		_, _, e = unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	}
	return e
}

// isShortage tells errors of this machine from errors of the server.
func isShortage(err error) bool {
	switch err {
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EADDRNOTAVAIL, unix.EAGAIN:
		return true
	}
	return false
}
