package relay

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"midspan/internal/host"
	"midspan/internal/plan"
)

// address is where a socket listens.
type address struct {
	addr netip.Addr // zero: all, IPv4 and IPv6
	dev  string     // interface; "": any
	port uint16
}

func (a address) String() string {
	host := "*"
	if a.addr.IsValid() {
		host = a.addr.String()
	}
	if a.dev != "" {
		if a.addr.Is6() {
			host = "[" + host + "]"
		}
		return strings.TrimPrefix(host, "*") + "%" + a.dev + ":" + strconv.Itoa(int(a.port))
	}
	return net.JoinHostPort(host, strconv.Itoa(int(a.port)))
}

func (a address) compare(b address) int {
	if c := cmp.Compare(a.port, b.port); c != 0 {
		return c
	}
	return cmp.Compare(a.String(), b.String())
}

// listener is an address with one socket for each loop.
type listener struct {
	address
	options sockOptions // of the sockets; accepted ones inherit them
	fds     []int
	ifindex int // of dev, when it was opened
	route   atomic.Pointer[route]
}

// notYet is a listener that cannot be opened until the host changes.
type notYet struct{ error }

// listen opens a over n sockets. ours says that this process listens on the
// port already (on another address that is about to be closed, perhaps), so
// that finding it in use proves nothing.
func listen(a address, n int, o sockOptions, ours bool) (*listener, error) {
	index := 0
	if a.dev != "" {
		if index = ifindex(a.dev); index == 0 {
			return nil, notYet{fmt.Errorf("there is no interface %s", a.dev)}
		}
	}
	ln := &listener{address: a, options: o, ifindex: index}
	for i := range n {
		// SO_REUSEPORT would let us share the port with any other process of
		// this user that set it too, such as a second midspan. So the first
		// socket listens without it, before others may join.
		alone := i == 0 && !ours
		fd, err := bound(a, !alone)
		if err == nil {
			ln.fds = append(ln.fds, fd)
			o.apply(fd)
			err = unix.Listen(fd, backlog)
			if alone {
				setsockopt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			}
		}
		if err != nil {
			ln.closeSockets()
			return nil, explain(err, a)
		}
	}
	return ln, nil
}

// ifindex is the kernel's number of an interface; 0: there is none.
func ifindex(name string) int {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return 0
	}
	return i.Index
}

// backlog is cut to net.core.somaxconn by the kernel.
const backlog = 65535

// bound is a new socket bound to a. All addresses means IPv6 with IPv4 mapped
// into it, or IPv4 alone where the host has no IPv6.
func bound(a address, reusePort bool) (int, error) {
	if a.addr.IsValid() {
		return bind(a, a.addr, reusePort)
	}
	fd, err := bind(a, netip.IPv6Unspecified(), reusePort)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
		return bind(a, netip.IPv4Unspecified(), reusePort)
	}
	return fd, err
}

func bind(a address, addr netip.Addr, reusePort bool) (int, error) {
	fd, err := unix.Socket(family(addr), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	fail := func(err error) (int, error) {
		unix.Close(fd)
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fail(err)
	}
	if reusePort {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return fail(err)
		}
	}
	if addr.Is6() {
		only := 1
		if !a.addr.IsValid() {
			only = 0
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return fail(err)
		}
	}
	if a.dev != "" {
		if err := unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, a.dev); err != nil {
			return fail(err)
		}
	}
	if err := unix.Bind(fd, sockaddr(addr, a.port)); err != nil {
		return fail(err)
	}
	return fd, nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: int(port), Addr: a.As16()}
}

// holders tells who has a port that is in use. It looks once, when first asked:
// of a thousand ports, all may be.
type holders struct {
	find func(proto string, a netip.AddrPort) host.Holder
}

func (h *holders) of(a address) string {
	if h.find == nil {
		find, err := host.Holders()
		if err != nil {
			return ""
		}
		h.find = find
	}
	if who := h.find("tcp", netip.AddrPortFrom(a.addr, a.port)); who != (host.Holder{}) {
		return fmt.Sprintf(": %s has it", who)
	}
	return "; no listener has it, so it may be the local port of a connection: keep it free with net.ipv4.ip_local_reserved_ports"
}

// explain adds to err what to do about it; see holders for ports in use.
func explain(err error, a address) error {
	switch {
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: ports below 1024 need CAP_NET_BIND_SERVICE (or root)", err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return notYet{fmt.Errorf("this host does not have the address %s", a.addr)}
	case errors.Is(err, unix.ENODEV):
		return notYet{fmt.Errorf("there is no interface %s", a.dev)}
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("%w: raise the limit of open files (LimitNOFILE=, ulimit -n)", err)
	}
	return err
}

func (ln *listener) setOptions(o sockOptions) {
	ln.options = o
	for _, fd := range ln.fds {
		o.apply(fd)
	}
}

func (ln *listener) closeSockets() {
	for _, fd := range ln.fds {
		unix.Close(fd)
	}
}

// sockOptions are the TCP options of both legs.
type sockOptions struct {
	keepalive             bool
	idle, interval, count int // seconds, seconds, probes
	userTimeout           int // milliseconds; 0: the kernel's
}

func optionsOf(r *plan.Route) sockOptions {
	return sockOptions{
		keepalive:   !r.Keepalive.Off,
		idle:        int(r.Keepalive.Idle.D().Seconds()),
		interval:    int(r.Keepalive.Interval.D().Seconds()),
		count:       r.Keepalive.Count,
		userTimeout: int(r.UserTimeout.D().Milliseconds()),
	}
}

// apply sets the options on a TCP socket. The kernel refuses none of the
// values that config lets through.
func (o sockOptions) apply(fd int) {
	set := func(level, name, value int) { setsockopt(fd, level, name, value) }
	set(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	set(unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	if !o.keepalive {
		set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0)
	} else {
		set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, o.idle)
		set(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, o.interval)
		set(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, o.count)
	}
	set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, o.userTimeout)
}
