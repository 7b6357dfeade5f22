package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"midspan/bench/result"
)

// program builds the program under test.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bench")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// TestSmoke makes a whole, tiny run in real namespaces.
func TestSmoke(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(program(t), "--peers", "direct,iocopy", "--only", "bulk1,mtu8,conn,pp64", "--rounds", "1", "--seconds", "0.2", "--out", dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, result.FileJSON))
	if err != nil {
		t.Fatal(err)
	}
	r, err := result.Decode(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Samples) != 8 || len(r.Failures) != 0 {
		t.Errorf("%d samples, %v", len(r.Samples), r.Failures)
	}
	for _, s := range r.Samples {
		w, _ := r.Workload(s.Workload)
		for _, m := range w.Metrics {
			v, ok := s.Values[m.Name]
			if own := strings.HasPrefix(m.Name, "fwd_"); ok == (own && s.Peer == "direct") || ok && v <= 0 {
				t.Errorf("%s, %s: %s is %v (%v)", s.Workload, s.Peer, m.Name, v, ok)
			}
		}
	}
	for _, name := range []string{result.FileMarkdown, result.FileSVG} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestChecked: the bytes are checked, through the kernel and through a proxy.
func TestChecked(t *testing.T) {
	out, err := exec.Command(program(t), "--check", "--quick", "--peers", "direct,iocopy").CombinedOutput()
	if err != nil || strings.Count(string(out), "are as they were sent") != 2*len(shapes(true)) {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestKilled: a program that is killed leaves no process.
func TestKilled(t *testing.T) {
	lives, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer lives.Close()
	cmd := exec.Command(program(t), "--peers", "iocopy", "--only", "pp1", "--seconds", "60", "--out", t.TempDir())
	cmd.Stderr = theirs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	line := make([]byte, 100)
	if n, err := lives.Read(line); err != nil || !strings.Contains(string(line[:n]), "iocopy") {
		t.Errorf("%q, %v", line[:n], err)
	}
	if err := cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	// The inner program has the other end of the pipe as long as it lives, and
	// all others are in its PID namespace.
	ended := make(chan struct{})
	go func() {
		for {
			if _, err := lives.Read(line); err != nil {
				close(ended)
				return
			}
		}
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("something lives on")
	}
}
