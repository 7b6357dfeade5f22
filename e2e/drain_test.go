package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// The moments of a drain.
const (
	sigterm   = "SIGTERM is sent"
	probeOK   = "the probe answers 200"
	probe503  = "the probe answers 503"
	accepted  = "a new connection is served"
	refused   = "a new connection is refused"
	cut       = "a new connection is reset"
	finished  = "the transfer is complete"
	exited    = "midspan has ended"
	detection = 2 * time.Second
)

// drainRoutes is a file with a route for transfers and one that echoes.
func drainRoutes(t *testing.T, drain string) (m *rig.Midspan, f *rig.File, bulkAddr, echoAddr string) {
	t.Helper()
	f = rig.NewFile(t)
	bulkAddr, echoAddr = rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1")
	f.Write("drain: %s\nroutes:\n  bulk: { listen: %q, to: %q }\n  echo: { listen: %q, to: %q }\n", drain,
		bulkAddr, rig.Serve(t, nil, "127.0.0.1:0", bulk).Addr, echoAddr, rig.Serve(t, nil, "127.0.0.1:0", rig.Echo).Addr)
	return rig.Run(t, f), f, bulkAddr, echoAddr
}

// TestDrain ends midspan in the middle of a transfer.
func TestDrain(t *testing.T) {
	m, f, bulkAddr, echoAddr := drainRoutes(t, fmt.Sprintf("{ detection: %s, timeout: 2m }", detection))
	want := wantDown()
	l := newTimeline()
	watching := make(chan struct{})
	var watchers sync.WaitGroup
	watchers.Go(func() { watchProbe(l, f.Health, watching) })
	watchers.Go(func() { watchListener(t, l, echoAddr, watching) })
	rig.Until(t, rig.Patience, "both are watched", func() bool { return l.has(probeOK) && l.has(accepted) })

	c, err := net.Dial("tcp", bulkAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "down %d\n", gib); err != nil {
		t.Fatal(err)
	}
	r := &paced{r: c, rate: gib / (detection + 5*time.Second).Seconds(), begin: time.Now()}
	r.at(64<<20, func() {
		l.note(sigterm, time.Now())
		m.Signal(syscall.SIGTERM)
	})
	got, err := rig.Receive(r, gib)
	l.note(finished, time.Now())
	if err != nil {
		t.Errorf("the transfer was cut: %v", err)
	} else if got != want {
		t.Error("the transfer arrived changed")
	}
	c.Close()
	code := m.Exit(rig.Patience)
	l.note(exited, time.Now())
	close(watching)
	watchers.Wait()
	t.Logf("1 GiB in %s:\n%s", r.took().Round(time.Millisecond), l)
	if code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	l.wantOrder(t, probeOK, sigterm, probe503, refused, finished, exited)
	if l.last[probeOK] > l.first[probe503] {
		t.Error("the probe answered 200 after 503")
	}
	// What the load balancer still sends until it has counted its failed probes
	// is served.
	open := l.first[refused] - l.first[sigterm]
	if open < detection || open > detection+15*time.Second { // and before the end of the transfer, see above
		t.Errorf("listeners were open for %s, want %s", open, detection)
	}
	// The kernel resets a handshake that is under way as the listener closes.
	if l.has(cut) && (l.first[cut] != l.last[cut] || l.last[accepted] > l.first[cut]) {
		t.Error("new connections were reset")
	}
	if l.last[accepted] > l.first[refused] {
		t.Error("a new connection was served after one was refused")
	}
	if l.last[accepted] < l.first[probe503] {
		t.Error("no new connection was served while the probe said 503")
	}
}

// watchProbe notes what the probe answers.
func watchProbe(l *timeline, addr string, done <-chan struct{}) {
	for {
		switch rig.Probe(addr) {
		case 200:
			l.note(probeOK, time.Now())
		case 503:
			l.note(probe503, time.Now())
		}
		select {
		case <-done:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// watchListener notes what becomes of new connections.
func watchListener(t *testing.T, l *timeline, addr string, done <-chan struct{}) {
	for {
		err := once(addr, 3)
		at := time.Now()
		switch {
		case err == nil:
			l.note(accepted, at)
		case errors.Is(err, syscall.ECONNREFUSED):
			l.note(refused, at)
		case errors.Is(err, syscall.ECONNRESET):
			l.note(cut, at)
		default:
			t.Errorf("a new connection was neither served nor refused: %v", err)
		}
		select {
		case <-done:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestDrainSecondSignal sends SIGTERM twice: the second one means now.
func TestDrainSecondSignal(t *testing.T) {
	m, _, _, echoAddr := drainRoutes(t, "{ detection: 30s, timeout: 10m }")
	c := idle(t, echoAddr)
	m.Signal(syscall.SIGTERM)
	rig.Until(t, rig.Patience, "the probe answers 503", func() bool { return m.Probe() == 503 })
	if err := rig.Exchange(c, 1, 100); err != nil {
		t.Errorf("the connection was cut by the first SIGTERM: %v", err)
	}
	begin := time.Now()
	m.Signal(syscall.SIGTERM)
	code := m.Exit(rig.Patience)
	t.Logf("ended %s after the second SIGTERM, exit code %d", time.Since(begin).Round(time.Millisecond), code)
	wantReset(t, c)
}

// TestDrainTimeout leaves a connection open for longer than it gets.
func TestDrainTimeout(t *testing.T) {
	m, _, _, echoAddr := drainRoutes(t, "{ detection: 500ms, timeout: 1s }")
	c := idle(t, echoAddr)
	begin := time.Now()
	m.Signal(syscall.SIGTERM)
	wantReset(t, c)
	took := time.Since(begin)
	if took < 1500*time.Millisecond || took > 20*time.Second {
		t.Errorf("the connection was reset after %s, want 1.5s", took)
	}
	if code := m.Exit(rig.Patience); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	t.Logf("reset after %s", took.Round(time.Millisecond))
}

// idle is a connection to an echoing server that has worked once.
func idle(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := exchange(c, 1, 100); err != nil {
		t.Fatal(err)
	}
	return c
}

// wantReset wants c reset, not ended: an end would pass for a complete answer.
func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(rig.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v, want a reset", err)
	}
}
