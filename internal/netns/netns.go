// Package netns makes network namespaces: other machines, as far as IP can tell.
// It enters and leaves them, and joins them by cables. It is the only package
// that locks OS threads, since a thread is what is in a namespace.
//
// All of it needs CAP_NET_ADMIN and CAP_SYS_ADMIN; Alone gives a test process
// both, in a world of its own.
package netns

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Net is a network namespace. A nil Net is the one that the process is in.
type Net struct{ ns netns.NsHandle }

// New makes a network namespace whose lo is up. It exists until it is closed and
// no process or socket is left in it.
func New() (*Net, error) {
	n := &Net{ns: netns.None()}
	err := pinned(func() error {
		var err error
		if n.ns, err = netns.New(); err != nil { // and enters it
			return err
		}
		return up("lo")
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a network namespace: %w", err), n.Close())
	}
	return n, nil
}

// Close gives up the hold on the namespace.
func (n *Net) Close() error {
	if n == nil || !n.ns.IsOpen() {
		return nil
	}
	return n.ns.Close()
}

// Do runs f in the namespace. Sockets that f makes and processes that it starts
// stay there; goroutines that it starts are not there.
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

// pinned runs f on a thread that comes back to where it was.
func pinned(f func() error) (err error) {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	// Also when f panics, or ends its goroutine as t.Fatal does.
	defer func() {
		back := netns.Set(home)
		if back == nil { // else nobody may get this thread again
			runtime.UnlockOSThread()
		}
		if failed := errors.Join(back, home.Close()); failed != nil {
			err = errors.Join(err, failed)
		}
	}()
	return f()
}

// up sets a link of the calling thread's namespace up.
func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}
