package relay

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/config"
	"midspan/internal/engine"
	"midspan/internal/freeport"
	"midspan/internal/netns"
	"midspan/internal/plan"
)

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// childTarget makes the test binary an engine and nothing else: its memory can
// then be told from that of clients and servers.
const childTarget = "MIDSPAN_TEST_RELAY_TO"

// childSettings are added to the child's route.
const childSettings = "MIDSPAN_TEST_RELAY_SETTINGS"

// childLimit is how many descriptors the child may have.
const childLimit = "MIDSPAN_TEST_RELAY_NOFILE"

func TestMain(m *testing.M) {
	if to := os.Getenv(childTarget); to != "" {
		if err := child(to); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(netns.Alone(m.Run))
}

// child forwards to a target, says where it listens, and ends with its input. For
// each line of that it tidies its memory up, as the daemon does after a reload, and
// says how many objects and bytes it has allocated so far.
func child(to string) error {
	if n, err := strconv.ParseUint(os.Getenv(childLimit), 10, 64); err == nil {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			return err
		}
	}
	port, err := freeport.Find(1)
	if err != nil {
		return err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	e, err := New(Options{})
	if err != nil {
		return err
	}
	defer e.Close()
	p, err := planFor(fmt.Sprintf("routes: {r: {listen: %q, to: %s %s}}", addr, to, os.Getenv(childSettings)))
	if err != nil {
		return err
	}
	if _, err := e.Apply(context.Background(), p); err != nil {
		return err
	}
	fmt.Println(addr)
	var m runtime.MemStats
	for in := bufio.NewScanner(os.Stdin); in.Scan(); fmt.Println(m.Mallocs, m.TotalAlloc) {
		for range 4 {
			debug.FreeOSMemory()
		}
		runtime.ReadMemStats(&m)
	}
	return nil
}

func planFor(text string) (*plan.Plan, error) {
	f, err := config.Parse("test", []byte("health: off\nadmin: off\n"+text))
	if err != nil {
		return nil, err
	}
	p, _, err := plan.New(f)
	if err != nil {
		return nil, err
	}
	return p.With(nil, func(*plan.Route, *plan.Server, netip.Addr) (bool, bool) { return true, false }), nil
}

// startChild starts an engine in a process of its own.
func startChild(t *testing.T, to string) (pid int, addr string) {
	t.Helper()
	pid, addr, _ = startTidyChild(t, to)
	return pid, addr
}

// residentKiB is VmRSS of a process, in KiB.
func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

func openFDs(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestIdleCost: 5,000 connections that have exchanged something and rest cost
// less than 2 KiB of resident memory and two descriptors each.
func TestIdleCost(t *testing.T) {
	const n = 5000
	pid, addr := startChild(t, echoServer(t))
	first := ping(t, addr) // what is set up once is not a connection's cost
	defer first.Close()    // later: its socket would be used again
	rss, fds := residentKiB(t, pid), openFDs(t, pid)
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = ping(t, addr)
		defer conns[i].Close()
	}
	perConn := float64(residentKiB(t, pid)-rss) / n
	if perConn >= 2 && !raceDetector { // which takes memory of its own
		t.Errorf("%.2f KiB of resident memory for each idle connection, want less than 2", perConn)
	}
	if got := openFDs(t, pid) - fds; got != 2*n {
		t.Errorf("%d descriptors for %d idle connections, want two each", got, n)
	}
	t.Logf("%.2f KiB for each of %d idle connections", perConn, n)
	for i, c := range conns {
		if err := exchange(c); err != nil {
			t.Fatalf("connection %d after the rest: %v", i, err)
		}
	}
}

// TestBurstCost: descriptors and pipes that a burst took are given back.
func TestBurstCost(t *testing.T) {
	pid, addr := startChild(t, echoServer(t))
	ping(t, addr).Close()
	before := openFDs(t, pid)
	done := make(chan error)
	for range 64 {
		go func() { done <- bulkEcho(addr, 8<<20) }()
	}
	for range 64 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	eventually(t, "descriptors are given back", func() bool { return openFDs(t, pid)-before <= 2*2*keepPipes*2 })
}

func bulkEcho(addr string, n int64) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(c, zeros{}, n)
		sent <- err
	}()
	if _, err := io.CopyN(io.Discard, c, n); err != nil {
		return err
	}
	return <-sent
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// ping opens a connection and exchanges 64 bytes on it.
func ping(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := exchange(c); err != nil {
		t.Fatal(err)
	}
	return c
}

func exchange(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	msg := []byte(strings.Repeat("x", 64))
	if _, err := c.Write(msg); err != nil {
		return err
	}
	_, err := io.ReadFull(c, msg)
	return err
}

// TestPanicEndsOneConnection: a defect in the handling of one connection ends
// that one, is counted, and leaves the others alone.
func TestPanicEndsOneConnection(t *testing.T) {
	var bad atomic.Value // the client address of the connection with the defect
	bad.Store("")
	e, err := New(Options{Hooks: engine.Hooks{Record: func(r *engine.Record) {
		if r.Reason == "" && r.Client.String() == bad.Load() {
			panic("a defect")
		}
	}}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p, err := planFor(fmt.Sprintf("routes: {r: {listen: %q, to: %q}}", addr, echoServer(t)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	good := ping(t, addr)
	defer good.Close()
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: freePort(t)}
	bad.Store(local.String())
	if c, err := (&net.Dialer{LocalAddr: local}).Dial("tcp", addr); err == nil { // the reset may be as quick as the dial
		defer c.Close()
		if err := exchange(c); err == nil {
			t.Error("the connection with the defect lives on")
		}
	}
	for i := range 50 {
		if err := exchange(good); err != nil {
			t.Fatalf("exchange %d on another connection: %v", i, err)
		}
	}
	s := e.Status()
	if s.Panics != 1 || s.Routes[0].Counters.Ended[engine.Fault] != 1 || s.Connections != 1 {
		t.Errorf("panics %d, ended %v, connections %d; want 1, one fault, 1", s.Panics, s.Routes[0].Counters.Ended, s.Connections)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// given are the ports that tests have got. None is given twice: connections that
// have ended may still have it, and tests that run at once must not meet.
var given struct {
	sync.Mutex
	ports [1 << 16]bool
}

// freePorts is the first of n free ports in a row.
func freePorts(n int) (int, error) {
	given.Lock()
	defer given.Unlock()
	for range 1000 {
		first, err := freeport.Find(n)
		if err != nil {
			return 0, err
		}
		if row := given.ports[first : first+n]; !slices.Contains(row, true) {
			for i := range row {
				row[i] = true
			}
			return first, nil
		}
	}
	return 0, fmt.Errorf("all rows of %d ports were given to a test", n)
}

// TestReasons: the relay's are all that there are.
func TestReasons(t *testing.T) {
	if ours, all := slices.Sorted(slices.Values(reasons[:])), slices.Sorted(slices.Values(engine.Reasons)); !slices.Equal(ours, all) {
		t.Errorf("%q are not %q", ours, all)
	}
}
