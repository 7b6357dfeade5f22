package netns_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"midspan/internal/netns"
)

func TestMain(m *testing.M) {
	os.Exit(netns.Alone(m.Run))
}

func newNet(t *testing.T) *netns.Net {
	t.Helper()
	n, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

// interfaces are those of a namespace, in order.
func interfaces(t *testing.T, n *netns.Net) string {
	t.Helper()
	var names []string
	err := n.Do(func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			names = append(names, i.Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// meet has from connect to a listener at addr in to.
func meet(t *testing.T, from, to *netns.Net, addr string) {
	t.Helper()
	var l net.Listener
	err := to.Do(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(addr, "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = from.Do(func() error {
		c, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		t.Error(err)
	}
}

// TestAlone: the process has a network of its own, and root's powers over it.
func TestAlone(t *testing.T) {
	if got := interfaces(t, nil); got != "lo" {
		t.Errorf("the process has interfaces %s, want lo", got)
	}
	meet(t, nil, nil, "127.0.0.1")
	meet(t, nil, nil, "::1")
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir("/sys/class/net"); err != nil || len(entries) != 1 {
		t.Errorf("/sys/class/net has %v, %v; want lo", entries, err)
	}
}

// TestAloneFails: the exit code, the output and the arguments go through.
func TestAloneFails(t *testing.T) {
	if os.Getenv("MIDSPAN_NETNS_FAIL") != "" {
		t.Fatal("as it should")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestAloneFails$")
	cmd.Env = append(os.Environ(), "MIDSPAN_NETNS_ALONE=", "MIDSPAN_NETNS_FAIL=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || strings.Count(string(out), "as it should") != 1 {
		t.Errorf("a test that fails: %v\n%s", err, out)
	}
}

// TestRoute: two machines reach each other by way of a third, and only so.
func TestRoute(t *testing.T) {
	a, b, router := newNet(t), newNet(t), newNet(t)
	for _, c := range [][2]netns.End{
		{{a, "out", prefixes("10.1.0.2/24", "fd01::2/64")}, {router, "a", prefixes("10.1.0.1/24", "fd01::1/64")}},
		{{b, "out", prefixes("10.2.0.2/24", "fd02::2/64")}, {router, "b", prefixes("10.2.0.1/24", "fd02::1/64")}},
	} {
		if err := netns.Cable(c[0], c[1]); err != nil {
			t.Fatal(err)
		}
	}
	if got := interfaces(t, router); got != "a b lo" {
		t.Errorf("the router has interfaces %s", got)
	}
	err := a.Do(func() error {
		_, err := net.DialTimeout("tcp", "10.2.0.2:1", time.Second)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("without a route: %v", err)
	}
	for _, r := range []struct {
		at      *netns.Net
		to, via string
	}{
		{a, "10.2.0.0/24", "10.1.0.1"},
		{a, "fd02::/64", "fd01::1"},
		{b, "10.1.0.0/24", "10.2.0.1"},
		{b, "fd01::/64", "fd02::1"},
	} {
		if err := r.at.Route(netip.MustParsePrefix(r.to), netip.MustParseAddr(r.via)); err != nil {
			t.Fatal(err)
		}
	}
	err = router.Do(func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	meet(t, a, b, "10.2.0.2")
	meet(t, a, b, "fd02::2")
}

// TestCableToProcess: a nil Net is the process's own, at either end.
func TestCableToProcess(t *testing.T) {
	n := newNet(t)
	here := netns.End{Name: "here", Addrs: prefixes("10.3.0.1/24")}
	if err := netns.Cable(here, netns.End{Net: n, Name: "there", Addrs: prefixes("10.3.0.2/24")}); err != nil {
		t.Fatal(err)
	}
	meet(t, nil, n, "10.3.0.2")
	meet(t, n, nil, "10.3.0.1")
	if err := netns.Cable(here, netns.End{Net: n, Name: "other"}); err == nil {
		t.Error("a second interface of the same name")
	}
	if err := here.Unplug(); err != nil {
		t.Error(err)
	}
	if ours, its := interfaces(t, nil), interfaces(t, n); ours != "lo" || its != "lo" {
		t.Errorf("without the cable there are interfaces %s and %s", ours, its)
	}
}

// TestDoComesBack: whatever becomes of what ran in a namespace, its thread is
// where it was. Each goroutine gets to see many threads.
func TestDoComesBack(t *testing.T) {
	n := newNet(t)
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	here := func() string {
		link, _ := os.Readlink("/proc/thread-self/ns/net")
		return link
	}
	done := make(chan string)
	for range 100 {
		go func() {
			if err := n.Do(func() error {
				if here() == home {
					return errors.New("it is not there")
				}
				return io.EOF
			}); err != io.EOF {
				done <- err.Error()
				return
			}
			func() {
				defer func() { _ = recover() }()
				_ = n.Do(func() error { panic("in the namespace") })
			}()
			done <- here()
		}()
	}
	for range 100 {
		if got := <-done; got != home {
			t.Errorf("after Do: %s, want %s", got, home)
		}
	}
}
