package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"midspan/internal/plan"
)

// The endpoints.
const (
	probeSlot = iota
	adminSlot
	controlSlot
	slots
)

// place is where an endpoint listens: a tcpPlace or a controlPlace. Equal
// places are the same one.
type place interface {
	// listen opens the place. ours are the endpoints that are open now.
	listen(ours [slots]*endpoint) (net.Listener, error)
}

// placesOf is where p has the endpoints; nil where it has none.
func placesOf(p *plan.Plan) [slots]place {
	var at [slots]place
	if !p.Health.Listen.Off() {
		at[probeSlot] = tcpPlace{p.Health.Listen, "health", ":PORT"}
	}
	if !p.Admin.Off() {
		at[adminSlot] = tcpPlace{p.Admin, "admin", "127.0.0.1:PORT"}
	}
	switch p.Control {
	case "off":
	case "":
		at[controlSlot] = controlPlace(DefaultControl())
	default:
		at[controlSlot] = controlPlace(p.Control)
	}
	return at
}

// endpoint is an open place.
type endpoint struct {
	net.Listener
	place  place
	srv    *http.Server
	closed atomic.Bool
}

// at tells whether e is the endpoint that p asks for.
func (e *endpoint) at(p place) bool {
	if e == nil || p == nil {
		return e == nil && p == nil
	}
	if c, ok := e.Listener.(*controlListener); ok && !c.intact() {
		return false
	}
	return e.place == p
}

// Close may be called more than once; http.Server does.
func (e *endpoint) Close() error {
	if e == nil || e.closed.Swap(true) {
		return nil
	}
	return e.Listener.Close()
}

// tcpPlace is a TCP listener of the daemon's own.
type tcpPlace struct {
	plan.Listen
	key, example string // in the file
}

// listen opens p. Where one of ours has the port already, on an address that
// overlaps, the two share it until the old one is closed: between *:9600 and
// 127.0.0.1:9600 there is no moment when nothing listens, and a way back.
func (p tcpPlace) listen(ours [slots]*endpoint) (net.Listener, error) {
	ln, err := p.open(false)
	if !errors.Is(err, unix.EADDRINUSE) {
		return ln, p.explain(err)
	}
	for _, e := range ours {
		if e == nil {
			continue
		}
		if old, ok := e.place.(tcpPlace); ok && old.From == p.From {
			sharePort(e.Listener, true)
			defer sharePort(e.Listener, false)
		}
	}
	ln, err = p.open(true)
	if err != nil {
		return nil, p.explain(err)
	}
	sharePort(ln, false)
	return ln, nil
}

func (p tcpPlace) open(share bool) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		control := c.Control(func(fd uintptr) {
			if share {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			}
			if err == nil && p.Interface != "" {
				err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, p.Interface)
			}
		})
		return errors.Join(control, err)
	}}
	lc.SetMultipathTCP(false)
	return lc.Listen(context.Background(), p.network(), p.address())
}

// network keeps an IPv6 socket from answering IPv4 where the file names an
// IPv6 address, be it [::]; only no address at all means both.
func (p tcpPlace) network() string {
	switch {
	case !p.Addr.IsValid():
		return "tcp"
	case p.Addr.Is4():
		return "tcp4"
	}
	return "tcp6"
}

func (p tcpPlace) address() string {
	if !p.Addr.IsValid() {
		return ":" + strconv.Itoa(int(p.From))
	}
	return netip.AddrPortFrom(p.Addr, p.From).String()
}

// explain says what to do about err.
func (p tcpPlace) explain(err error) error {
	if err == nil {
		return nil
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = errno
	}
	hint := ""
	switch errno {
	case unix.EACCES:
		hint = " (ports below 1024 need CAP_NET_BIND_SERVICE or root)"
	case unix.EADDRNOTAVAIL:
		hint = " (this host does not have the address)"
	case unix.ENODEV:
		hint = " (there is no interface " + p.Interface + ")"
	}
	return fmt.Errorf("%s: cannot listen on %s: %w%s; set `%s: %q`", p.key, p.Listen, err, hint, p.key, p.example)
}

// sharePort lets another socket of this process listen on the port of ln, or no
// more. It takes effect on a socket that listens already: the kernel asks both
// when the other one is bound.
func sharePort(ln net.Listener, on bool) {
	c, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		return // closed
	}
	value := 0
	if on {
		value = 1
	}
	_ = c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, value) })
}
