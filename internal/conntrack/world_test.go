package conntrack

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestMain: the test binary is also the client and the server of TestReset, in
// namespaces of theirs.
func TestMain(m *testing.M) {
	if os.Getenv(asPeer) != "" {
		if err := peer(); err != nil {
			fmt.Fprintln(os.Stderr, "peer:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const isolated = "MIDSPAN_TEST_CONNTRACK_NETNS"

// alone runs the calling test or benchmark again in a process in a network
// namespace of its own, as its root, and returns false; there it returns true.
func alone(tb testing.TB) bool {
	tb.Helper()
	if os.Getenv(isolated) != "" {
		l, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			tb.Fatal(err)
		}
		sysctl(tb, "net/netfilter/nf_conntrack_acct", "1")
		sysctl(tb, "net/netfilter/nf_conntrack_timestamp", "1")
		return true
	}
	args := []string{"-test.run=^" + tb.Name() + "$", "-test.v", "-test.timeout=60s"}
	if _, ok := tb.(*testing.B); ok {
		args = []string{"-test.run=^$", "-test.bench=^" + tb.Name() + "$", "-test.benchmem"}
	}
	cmd := namespaced(args, isolated+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Errorf("%v\n%s", err, out)
	} else {
		tb.Logf("%s", out)
	}
	return false
}

// namespaced is this binary again, in a new network namespace.
func namespaced(args []string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	// A race-enabled binary sleeps a second at its end, for reports.
	cmd.Env = append(os.Environ(), append(env, "GORACE=atexit_sleep_ms=10 halt_on_error=1")...)
	a := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	cmd.SysProcAttr = a
	return cmd
}

func sysctl(tb testing.TB, name, value string) {
	tb.Helper()
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		tb.Fatal(err)
	}
}

func nft(tb testing.TB, rules string) {
	tb.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdin = strings.NewReader(rules)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		tb.Fatalf("nft: %v\n%s", err, out.String())
	}
}

func open(tb testing.TB) *Conn {
	tb.Helper()
	c, err := Open()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

func listen(tb testing.TB, address string) *net.TCPListener {
	tb.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// pair is a connection through address, which leads to l.
func pair(tb testing.TB, address string, l *net.TCPListener) (client, server *net.TCPConn) {
	tb.Helper()
	c, err := net.DialTimeout("tcp", address, 30*time.Second)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := l.AcceptTCP()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s
}

// within waits until cond is true.
func within(tb testing.TB, d time.Duration, what string, cond func() bool) {
	tb.Helper()
	for end := time.Now().Add(d); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not within %v: %s", d, what)
		}
	}
}
