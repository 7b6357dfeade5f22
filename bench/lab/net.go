package lab

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Net is a network namespace: another machine, as far as TCP can tell.
type Net struct{ ns netns.NsHandle }

// newNet makes a network namespace whose lo is up.
func newNet() (*Net, error) {
	n := &Net{ns: netns.None()}
	err := pinned(func() error {
		var err error
		if n.ns, err = netns.New(); err != nil { // and enters it
			return err
		}
		if err := up("lo"); err != nil {
			return err
		}
		return tune()
	})
	if err != nil {
		n.close()
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	return n, nil
}

func (n *Net) close() {
	if n != nil && n.ns.IsOpen() {
		n.ns.Close()
	}
}

// Do runs f in the namespace: sockets that it makes and processes that it
// starts are there. f must not leave its goroutine.
func (n *Net) Do(f func() error) error {
	return pinned(func() error {
		if err := netns.Set(n.ns); err != nil {
			return err
		}
		return f()
	})
}

// Dial connects from the namespace to a literal address.
func (n *Net) Dial(addr string, within time.Duration) (net.Conn, error) {
	var c net.Conn
	err := n.Do(func() error {
		var err error
		c, err = net.DialTimeout("tcp", addr, within)
		return err
	})
	return c, err
}

// pinned runs f on a thread that comes back to where it was. The thread must
// live on: processes that it started die with it (see Proc).
func pinned(f func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	err = f()
	if back := netns.Set(home); back != nil {
		return errors.Join(err, back) // still locked: nobody else may get this thread
	}
	runtime.UnlockOSThread()
	return err
}

// end is one end of a cable.
type end struct {
	net        *Net
	name, addr string // with the prefix length
}

// cable joins two namespaces by a veth pair.
func cable(a, b end) error {
	h, err := netlink.NewHandleAt(a.net.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.name
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: b.name, PeerNamespace: netlink.NsFd(b.net.ns)}); err != nil {
		return fmt.Errorf("veth pair %s, %s: %w", a.name, b.name, err)
	}
	for _, e := range []end{a, b} {
		if err := configure(e); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
}

func configure(e end) error {
	h, err := netlink.NewHandleAt(e.net.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(e.name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(e.addr)
	if err != nil {
		return err
	}
	if err := h.AddrAdd(l, a); err != nil {
		return err
	}
	return h.LinkSetUp(l)
}

// route sends what goes to a network by way of a neighbour.
func route(n *Net, to, via string) error {
	h, err := netlink.NewHandleAt(n.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	dst, err := netlink.ParseIPNet(to)
	if err != nil {
		return err
	}
	return h.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)})
}
