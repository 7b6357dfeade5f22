package rig

import (
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
)

// LAN is a network of many machines: a bridge in a namespace of its own.
type LAN struct {
	t      testing.TB
	Net    *Net // the switch; it is at the LAN's first address
	bridge string
	plugs  int
}

// NewLAN makes one whose switch has this address, with its prefix's length. It
// needs Isolate.
func NewLAN(t testing.TB, addr string) *LAN {
	t.Helper()
	l := &LAN{t: t, Net: NewNet(t), bridge: "lan"}
	err := l.Net.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = l.bridge
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
		return configureHere(End{Name: l.bridge, Addrs: []string{addr}})
	})
	if err != nil {
		t.Fatalf("make a bridge: %v", err)
	}
	return l
}

// Plug joins a machine to the LAN.
func (l *LAN) Plug(e End) {
	l.t.Helper()
	l.plugs++
	port := fmt.Sprint("port", l.plugs)
	Cable(l.t, End{Net: l.Net, Name: port}, e)
	err := l.Net.Do(func() error {
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		master, err := netlink.LinkByName(l.bridge)
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(link, master)
	})
	if err != nil {
		l.t.Fatalf("plug %s into the bridge: %v", e.Name, err)
	}
}
