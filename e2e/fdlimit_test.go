package e2e

import (
	"errors"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// limited is midspan with at most 256 open files.
func limited(t *testing.T, f *rig.File) rig.Spec {
	t.Helper()
	return rig.Spec{Program: "/bin/sh", Args: []string{"-c", `ulimit -n 256 && exec "$0" run "$1"`, rig.Bin(t), f.Path}}
}

// TestFDLimit gives midspan few file descriptors. It says how many connections
// that allows, serves these, lets others wait, and stays manageable.
func TestFDLimit(t *testing.T) {
	echo := rig.Serve(t, nil, "127.0.0.1:0", rig.Echo)
	f := rig.NewFile(t)
	addr := rig.Addr(t, "127.0.0.1")
	f.Write("routes:\n  echo: { listen: %q, to: %q }\n", addr, echo.Addr)
	m := rig.Launch(t, f, limited(t, f))
	said := regexp.MustCompile(`max_connections=(\d+)`).FindStringSubmatch(m.Stderr())
	if said == nil {
		t.Fatalf("it does not say how many connections there may be:\n%s", m.Stderr())
	}
	limit, err := strconv.Atoi(said[1])
	if err != nil || limit < 10 || limit > 128 {
		t.Fatalf("the limit is %s, which 256 descriptors do not allow or do not call for", said[1])
	}
	var first, more []net.Conn
	for range limit {
		first = append(first, idle(t, addr))
	}
	for i := range 150 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatalf("connection %d above the limit: %v", i, err)
		}
		defer c.Close()
		if _, err := c.Write(rig.Bytes(uint64(i), 100)); err != nil {
			t.Fatal(err)
		}
		more = append(more, c)
	}
	wantWaiting(t, more[0])
	if code := m.Probe(); code != 200 {
		t.Errorf("the probe answers %d at the limit", code)
	}
	m.AwaitLog("limit of connections is reached", rig.Patience)
	for i, c := range first {
		if err := exchange(c, uint64(i), 1000); err != nil {
			t.Errorf("connection %d below the limit: %v", i, err)
		}
	}
	// Each that ends makes room for one that waits.
	begin := time.Now()
	for _, c := range first {
		c.Close()
	}
	for i, c := range more {
		wantBack(t, c, uint64(i), 100)
		c.Close()
	}
	t.Logf("limit %d; 150 that waited were served within %s", limit, time.Since(begin).Round(time.Millisecond))
	rig.Until(t, rig.Patience, "all descriptors are given back", func() bool {
		return metrics(t, m)["midspan_connections"] == 0
	})
	if err := once(addr, 1); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// wantWaiting wants c neither answered nor cut.
func wantWaiting(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection above the limit got %d bytes, %v; want it to wait", n, err)
	}
}

// wantBack wants the echo of n bytes.
func wantBack(t *testing.T, c net.Conn, seed uint64, n int64) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(rig.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := rig.Receive(c, n); err != nil {
		t.Errorf("connection %d that waited: %v", seed, err)
	}
}

// TestFDLimitTooLow has more listeners than descriptors.
func TestFDLimitTooLow(t *testing.T) {
	f := rig.NewFile(t)
	first := rig.Ports(t, 300)
	f.Write("routes:\n  many: { listen: \"127.0.0.1:%d-%d\", to: \"127.0.0.2:+0\" }\n", first, first+299)
	p := rig.Start(t, limited(t, f))
	code := p.Exit(rig.Patience)
	t.Logf("exit code %d:\n%s", code, p.Stderr())
	if code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	wantWords(t, p.Stderr(), "open files")
}

// TestFDLimitStalled has as many connections as may be, each with more in
// flight than its client reads. What midspan takes to move bytes fast must not be
// missing when the next connection comes, or the next probe.
func TestFDLimitStalled(t *testing.T) {
	const n = 8 << 20 // more than the sockets' buffers hold
	server := rig.Serve(t, nil, "127.0.0.1:0", func(c *net.TCPConn) {
		_, _ = rig.Send(c, 1, n) // the client counts
	})
	f := rig.NewFile(t)
	addr := rig.Addr(t, "127.0.0.1")
	f.Write("routes:\n  bulk: { listen: %q, to: %q }\n", addr, server.Addr)
	m := rig.Launch(t, f, limited(t, f))
	limit := int(metrics(t, m)["midspan_connections_limit"])
	want, err := rig.Send(io.Discard, 1, n)
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for range limit {
		conns = append(conns, dial(t, addr))
	}
	rig.Until(t, rig.Patience, "all are connected and stalled", func() bool {
		before := metrics(t, m)
		time.Sleep(100 * time.Millisecond)
		now := metrics(t, m)
		const down = `midspan_route_bytes_total{direction="server_to_client",route="bulk"}`
		return server.Conns.Load() >= int64(limit) && now[down] == before[down]
	})
	fds, err := rig.FDs(m.PID())
	t.Logf("%d stalled connections hold %v, %v", limit, fds, err)
	if code := m.Probe(); code != 200 {
		t.Errorf("the probe answers %d", code)
	}
	var all sync.WaitGroup
	for i, c := range conns {
		all.Go(func() {
			_ = c.SetDeadline(time.Now().Add(2 * rig.Patience))
			if got, err := rig.Receive(c, n); err != nil || got != want {
				t.Errorf("connection %d: %v", i, err)
			}
		})
	}
	all.Wait()
}
