package e2e

import (
	"bufio"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// visits makes n connections that all must be served.
func visits(t *testing.T, addr string, n int) {
	t.Helper()
	begin := time.Now()
	for i := range n {
		if err := once(addr, uint64(i)); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	t.Logf("%d connections in %s", n, time.Since(begin).Round(time.Millisecond))
}

func echoFile(t *testing.T, log string) (f *rig.File, addr string) {
	t.Helper()
	echo := rig.Serve(t, nil, "127.0.0.1:0", rig.Echo)
	f = rig.NewFile(t)
	f.Log = log
	addr = rig.Addr(t, "127.0.0.1")
	f.Write("drain: { detection: 100ms, timeout: 10s }\nroutes:\n  echo: { listen: %q, to: %q }\n", addr, echo.Addr)
	return f, addr
}

// TestLogDiskFull writes the access log to a full disk: it is said and counted,
// and connections do not notice.
func TestLogDiskFull(t *testing.T) {
	f, addr := echoFile(t, "{ format: json, to: /dev/full }")
	m := rig.Run(t, f)
	visits(t, addr, 500)
	m.AwaitLog("cannot write the access log", rig.Patience)
	rig.Until(t, rig.Patience, "lost records are counted", func() bool {
		return metrics(t, m)["midspan_log_records_dropped_total"] == 1000
	})
	m.Signal(syscall.SIGTERM)
	if code := m.Exit(rig.Patience); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestStalledLog gives midspan a standard output that nobody reads. A pipe
// holds 64 KiB, the log of some 200 connections.
func TestStalledLog(t *testing.T) {
	f, addr := echoFile(t, "json")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	m := rig.Launch(t, f, rig.Spec{Program: rig.Bin(t), Args: []string{"run", f.Path}, Stdout: w})
	w.Close()
	visits(t, addr, 2000)
	m.AwaitLog("cannot write the access log", rig.Patience)
	m.Control("reload") // it does not hold up anything else either
	m.Signal(syscall.SIGTERM)
	if code := m.Exit(rig.Patience); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestStalledStderr gives midspan a standard error that is read until it runs,
// and then by nobody: a full journal must not stop traffic.
func TestStalledStderr(t *testing.T) {
	echo := rig.Serve(t, nil, "127.0.0.1:0", rig.Echo)
	f := rig.NewFile(t)
	addr := rig.Addr(t, "127.0.0.1")
	f.Write("max_connections: 8\nroutes:\n  echo: { listen: %q, to: %q }\n", addr, echo.Addr)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	m := rig.Launch(t, f, rig.Spec{Program: rig.Bin(t), Args: []string{"run", f.Path}, Stderr: w})
	lines := bufio.NewScanner(r)
	for lines.Scan() && !strings.Contains(lines.Text(), "msg=forwarding") {
	}
	fill(t, w)

	var conns []net.Conn
	for range 8 {
		conns = append(conns, idle(t, addr))
	}
	extra := dial(t, addr) // one above the limit is something to tell
	defer extra.Close()
	wantWaiting(t, extra)
	for round := range 20 {
		for i, c := range conns {
			if err := exchange(c, uint64(round), 1000); err != nil {
				t.Fatalf("connection %d, round %d, with nobody to read what midspan tells: %v", i, round, err)
			}
		}
	}
	if code := m.Probe(); code != 200 {
		t.Errorf("the probe answers %d", code)
	}
}

// fill writes to a pipe until it takes no more. (A non-blocking write would
// make the other process's end non-blocking as well.)
func fill(t *testing.T, w *os.File) {
	t.Helper()
	written := make(chan bool, 1<<16)
	go func() {
		defer w.Close()
		for {
			if _, err := w.Write([]byte("x")); err != nil {
				return // the test is over: nobody can read it any more
			}
			written <- true
		}
	}()
	for {
		select {
		case <-written:
		case <-time.After(300 * time.Millisecond):
			return
		}
	}
}

// TestReaderGone closes the reading ends of standard output and error, as a log
// collector that crashes does. That must not take midspan with it.
func TestReaderGone(t *testing.T) {
	f, addr := echoFile(t, "json")
	outRead, outWrite, errOut := os.Pipe()
	errRead, errWrite, errErr := os.Pipe()
	if err := errors.Join(errOut, errErr); err != nil {
		t.Fatal(err)
	}
	m := rig.Launch(t, f, rig.Spec{Program: rig.Bin(t), Args: []string{"run", f.Path}, Stdout: outWrite, Stderr: errWrite})
	outWrite.Close()
	errWrite.Close()
	for lines := bufio.NewScanner(errRead); lines.Scan() && !strings.Contains(lines.Text(), "msg=forwarding"); {
	}
	outRead.Close()
	errRead.Close()
	c := idle(t, addr)
	visits(t, addr, 50)
	m.Control("reload") // is logged
	m.Signal(syscall.SIGHUP)
	visits(t, addr, 50)
	if err := exchange(c, 1, 1000); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
	m.Control("status")
}
