package rig

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Net is a network namespace: another machine, as far as TCP can tell.
type Net struct{ ns netns.NsHandle }

// NewNet makes a network namespace whose lo is up. It needs Isolate.
func NewNet(t testing.TB) *Net {
	t.Helper()
	n := &Net{}
	err := pinned(func() error {
		var err error
		if n.ns, err = netns.New(); err != nil { // and enters it
			return err
		}
		return up("lo")
	})
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { n.ns.Close() })
	return n
}

// Do runs f in the namespace: sockets that it makes and processes that it
// starts are there. f must not leave its goroutine. A nil Net is the test's own.
func (n *Net) Do(f func() error) error {
	if n == nil {
		return f()
	}
	return pinned(func() error {
		if err := netns.Set(n.ns); err != nil {
			return err
		}
		return f()
	})
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

// Listen is net.Listen in the namespace.
func (n *Net) Listen(addr string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() error {
		var err error
		l, err = net.Listen("tcp", addr)
		return err
	})
	return l, err
}

// Dial is net.Dial in the namespace, to a literal address.
func (n *Net) Dial(addr string) (net.Conn, error) { return n.DialTimeout("tcp", addr, 0) }

// DialTimeout is net.DialTimeout in the namespace, to a literal address.
func (n *Net) DialTimeout(network, addr string, timeout time.Duration) (net.Conn, error) {
	var c net.Conn
	err := n.Do(func() error {
		var err error
		c, err = net.DialTimeout(network, addr, timeout)
		return err
	})
	return c, err
}

// Run runs a program in the namespace and returns what it wrote to stdout.
func (n *Net) Run(program string, args ...string) (string, error) {
	cmd := exec.Command(program, args...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := n.Do(cmd.Run); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(problems.String()))
	}
	return out.String(), nil
}

// End is one end of a cable.
type End struct {
	Net   *Net // nil: the test's own
	Name  string
	Addrs []string // with prefix lengths
}

// Plugged is a cable that can be cut or pulled out again.
type Plugged struct {
	t    testing.TB
	a, b End
}

// Cable joins two namespaces by a veth pair. It needs Isolate.
func Cable(t testing.TB, a, b End) *Plugged {
	t.Helper()
	if err := cable(a, b); err != nil {
		t.Fatalf("veth pair %s, %s: %v", a.Name, b.Name, err)
	}
	return &Plugged{t, a, b}
}

// Pull removes both ends: there is no such interface any more.
func (p *Plugged) Pull() {
	p.t.Helper()
	p.do("pull", p.a, netlink.LinkDel)
}

// Cut keeps both ends, but nothing arrives any more at either.
func (p *Plugged) Cut() {
	p.t.Helper()
	p.do("cut", p.b, netlink.LinkSetDown)
}

func (p *Plugged) do(what string, e End, f func(netlink.Link) error) {
	p.t.Helper()
	err := e.Net.Do(func() error {
		l, err := netlink.LinkByName(e.Name)
		if err != nil {
			return err
		}
		return f(l)
	})
	if err != nil {
		p.t.Fatalf("%s %s: %v", what, e.Name, err)
	}
}

func cable(a, b End) error {
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	at := func(e End) netns.NsHandle {
		if e.Net == nil {
			return home
		}
		return e.Net.ns
	}
	h, err := netlink.NewHandleAt(at(a))
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Name
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: b.Name, PeerNamespace: netlink.NsFd(at(b))}); err != nil {
		return err
	}
	for _, e := range []End{a, b} {
		if err := configure(at(e), e); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
	}
	return nil
}

func configure(ns netns.NsHandle, e End) error {
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(e.Name)
	if err != nil {
		return err
	}
	for _, s := range e.Addrs {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD // an IPv6 address is of use at once
		if err := h.AddrAdd(l, a); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return h.LinkSetUp(l)
}

// up sets a link of the calling thread's namespace up.
func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}
