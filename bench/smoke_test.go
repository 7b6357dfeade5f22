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

// window is what is measured for, in seconds: long enough for something to happen in
// it when all processors are taken by others.
const window = "0.8"

// run makes a tiny run of the program, with samples as its result.
func run(t *testing.T, dir string, samples int, args ...string) *result.Results {
	t.Helper()
	cmd := exec.Command(program(t), append(args, "--rounds", "1", "--seconds", window, "--out", dir)...)
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
	if len(r.Samples) != samples || len(r.Failures) != 0 {
		t.Errorf("%d samples, %v", len(r.Samples), r.Failures)
	}
	return r
}

// TestSmoke makes a whole, tiny run in real namespaces.
func TestSmoke(t *testing.T) {
	dir := t.TempDir()
	r := run(t, dir, 8, "--peers", "direct,iocopy", "--only", "bulk1,mtu8,conn,pp64")
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

// buildMidspan builds the daemon of this checkout.
func buildMidspan(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "midspan")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/midspan")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// TestKernelEngine: midspan forwards in the kernel, one route and many, and is
// given the bytes to check.
func TestKernelEngine(t *testing.T) {
	midspan := buildMidspan(t)
	out, err := exec.Command(program(t), "--check", "--quick", "--midspan", midspan, "--peers", "midspan-nft").CombinedOutput()
	if err != nil || strings.Count(string(out), "are as they were sent") != 2*len(shapes(true)) {
		t.Errorf("%v:\n%s", err, out)
	}
	r := run(t, t.TempDir(), 9, "--midspan", midspan, "--peers", "midspan-nft,iptables", "--only", "conn,idle,conn1000,apply1000")
	for _, s := range r.Samples {
		w, _ := r.Workload(s.Workload)
		if s.Peer != result.MidspanNFT || s.Workload == "idle" { // next to no memory, in either direction
			continue
		}
		for _, m := range w.Metrics {
			if v := s.Values[m.Name]; v <= 0 && !strings.HasPrefix(m.Name, "fwd_") {
				t.Errorf("%s: %s is %v", s.Workload, m.Name, v)
			}
		}
	}
}

// TestEveryMode: names, TLS, HTTP and PROXY headers, through all that have them.
func TestEveryMode(t *testing.T) {
	const modes = "http,http-conn,http-big,sni-bulk,sni-conn,tls-bulk,tls-conn,proxy"
	r := run(t, t.TempDir(), 3+3*8+2, "--midspan", buildMidspan(t), "--peers", "direct,haproxy,nginx-64k,midspan,midspan-tcp", "--only", modes)
	for _, s := range r.Samples {
		w, _ := r.Workload(s.Workload)
		for _, m := range w.Metrics {
			v, ok := s.Values[m.Name]
			if own := strings.HasPrefix(m.Name, "fwd_"); ok == (own && s.Peer == "direct") || ok && v <= 0 {
				t.Errorf("%s, %s: %s is %v (%v)", s.Workload, s.Peer, m.Name, v, ok)
			}
		}
	}
	for peer, words := range map[string][]string{
		"haproxy": {"# sni:", "# http:", "# tls:", "# proxy:", "send-proxy-v2"}, "midspan-tcp": {"# sni:"}, "midspan": {"mode: sni", "mode: http", "tls: server.pem"},
	} {
		p, _ := r.Peer(peer)
		for _, word := range words {
			if !strings.Contains(p.Config, word) {
				t.Errorf("%s ran with no %q:\n%s", peer, word, p.Config)
			}
		}
	}
}

// TestPairs: two peers take turns.
func TestPairs(t *testing.T) {
	out, err := exec.Command(program(t), "--pair", "iocopy,direct", "--only", "pp64", "--rounds", "1", "--seconds", "0.05").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "direct ÷ iocopy") || !strings.Contains(string(out), "rtts_per_s") {
		t.Errorf("%v:\n%s", err, out)
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
	case <-time.After(time.Minute):
		t.Error("something lives on")
	}
}
