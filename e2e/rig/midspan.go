package rig

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Bin is the binary under test.
func Bin(t testing.TB) string {
	t.Helper()
	path := os.Getenv("MIDSPAN_BIN")
	if path == "" {
		path = "../bin/midspan"
		if !exists(path) { // a package further down
			path = "../../bin/midspan"
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; run make build, or set MIDSPAN_BIN", err)
	}
	return path
}

// File is a midspan.yaml whose endpoints are the test's own.
type File struct {
	t       testing.TB
	Path    string
	Health  string // address of the probe
	Admin   string // address of status and metrics
	Control string // path of the control socket; "": the default
	Log     string // value of the key log
}

// NewFile makes one with no access log.
func NewFile(t testing.TB) *File {
	t.Helper()
	dir := t.TempDir()
	return &File{
		t: t, Path: filepath.Join(dir, "midspan.yaml"), Control: filepath.Join(dir, "control.sock"),
		Health: Addr(t, "127.0.0.1"), Admin: Addr(t, "127.0.0.1"), Log: "off",
	}
}

// Write replaces the file, at once: the endpoints, then body.
func (f *File) Write(format string, args ...any) {
	f.t.Helper()
	head := fmt.Sprintf("health: %q\nadmin: %q\ncontrol: %q\nlog: %s\n", f.Health, f.Admin, f.Control, f.Log)
	next := f.Path + ".next"
	err := os.WriteFile(next, fmt.Appendf([]byte(head), format, args...), 0o644)
	if err := errors.Join(err, os.Rename(next, f.Path)); err != nil {
		f.t.Fatal(err)
	}
}

// Midspan is a running daemon.
type Midspan struct {
	*Proc
	file *File
}

// ready is what the daemon says when it forwards.
const ready = "msg=forwarding"

// Run starts `midspan run` and waits until it forwards.
func Run(t testing.TB, f *File) *Midspan {
	t.Helper()
	return Launch(t, f, Spec{Program: Bin(t), Args: []string{"run", f.Path}})
}

// Launch starts a daemon in another way.
func Launch(t testing.TB, f *File, s Spec) *Midspan {
	t.Helper()
	m := &Midspan{Proc: Start(t, s), file: f}
	if s.Stderr == nil {
		m.AwaitLog(ready, Patience)
	}
	return m
}

// AwaitLog waits until the daemon's messages have text.
func (m *Midspan) AwaitLog(text string, within time.Duration) {
	m.t.Helper()
	Until(m.t, within, "midspan says "+text, func() bool {
		if !m.Alive() {
			m.t.Fatalf("midspan has ended with code %d:\n%s", m.cmd.ProcessState.ExitCode(), m.Stderr())
		}
		return strings.Contains(m.Stderr(), text)
	})
}

// Says is how many of the daemon's messages have text.
func (m *Midspan) Says(text string) int { return strings.Count(m.Stderr(), text) }

// Control runs `midspan ARGS` for this daemon, and fails the test when that
// fails.
func (m *Midspan) Control(args ...string) string {
	m.t.Helper()
	if m.file.Control != "" {
		args = append(args, "--control", m.file.Control)
	}
	out, stderr, code := Command(m.t, "", args...)
	if code != 0 {
		m.t.Fatalf("midspan %s: exit code %d: %s", strings.Join(args, " "), code, stderr)
	}
	return out
}

// Command runs midspan to its end, with input, and returns its exit code.
func Command(t testing.TB, input string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(Bin(t), args...)
	var out, err bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &err
	if err := cmd.Start(); err != nil {
		t.Fatalf("midspan %s: %v", strings.Join(args, " "), err)
	}
	timer := time.AfterFunc(2*Patience, func() { _ = cmd.Process.Kill() })
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatalf("midspan %s: %v", strings.Join(args, " "), err)
	}
	if !timer.Stop() {
		t.Fatalf("midspan %s has not ended within %s:\n%s%s", strings.Join(args, " "), 2*Patience, out.String(), err.String())
	}
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// Probe asks as a load balancer does; 0 is no answer.
func (m *Midspan) Probe() int { return Probe(m.file.Health) }

// glance bounds one question of many, which is asked again.
const glance = 10 * time.Second

// Probe asks addr as a load balancer does; 0 is no answer.
func Probe(addr string) int {
	client := http.Client{Timeout: glance, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + addr + "/")
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}
