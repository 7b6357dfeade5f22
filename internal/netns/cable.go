package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// End is one end of a cable: an interface.
type End struct {
	Net   *Net
	Name  string
	Addrs []netip.Prefix // addresses with the length of their network; the first of a family is the default to send from
}

// upWithin is how long a cable may take to carry packets. The kernel looks at
// new links once a second.
const upWithin = 10 * time.Second

// Cable joins two namespaces by a veth pair. Once Cable returns no packet is lost.
func Cable(a, b End) error {
	if err := plug(a, b); err != nil {
		return fmt.Errorf("cable %s to %s: %w", a.Name, b.Name, err)
	}
	for _, e := range []End{a, b} {
		if err := e.Net.Do(e.configure); err != nil {
			return fmt.Errorf("interface %s: %w", e.Name, err)
		}
	}
	for _, e := range []End{a, b} {
		if err := e.Net.Do(e.untilUp); err != nil {
			return fmt.Errorf("interface %s: %w", e.Name, err)
		}
	}
	return nil
}

// plug makes the pair.
func plug(a, b End) error {
	var there netns.NsHandle
	err := b.Net.Do(func() (err error) {
		there, err = netns.Get()
		return err
	})
	if err != nil {
		return err
	}
	defer there.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Name
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: b.Name, PeerNamespace: netlink.NsFd(there)}
	return a.Net.Do(func() error { return netlink.LinkAdd(pair) })
}

// configure sets up the calling thread's end.
func (e End) configure() error {
	l, err := netlink.LinkByName(e.Name)
	if err != nil {
		return err
	}
	// Without duplicate address detection IPv6 addresses are of use soon; also the
	// link-local one, with which a router asks for its neighbours.
	err = os.WriteFile("/proc/sys/net/ipv6/conf/"+e.Name+"/accept_dad", []byte("0"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // then there is no IPv6
		return err
	}
	for _, a := range e.Addrs {
		// For "at once", ours need the flag as well.
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	return netlink.LinkSetUp(l)
}

// untilUp waits until the calling thread's end takes packets: while there is no
// word of the other end it drops them all.
func (e End) untilUp() error {
	for give := time.Now().Add(upWithin); time.Now().Before(give); time.Sleep(time.Millisecond) {
		l, err := netlink.LinkByName(e.Name)
		if err != nil || l.Attrs().OperState == netlink.OperUp {
			return err
		}
	}
	return fmt.Errorf("not up after %s", upWithin)
}

// Unplug takes the cable away, both ends of it. The end of a namespace does so
// too, but some time later.
func (e End) Unplug() error {
	err := e.Net.Do(func() error {
		l, err := netlink.LinkByName(e.Name)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	if err != nil {
		return fmt.Errorf("interface %s: %w", e.Name, err)
	}
	return nil
}

// Route makes the namespace reach a network by way of a neighbour.
func (n *Net) Route(to netip.Prefix, via netip.Addr) error {
	err := n.Do(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(to.Masked()), Gw: via.AsSlice()})
	})
	if err != nil {
		return fmt.Errorf("route to %s by way of %s: %w", to, via, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
