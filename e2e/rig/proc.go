// Package rig starts, watches and ends what the end-to-end tests need: processes
// of real servers, midspan itself, network namespaces, name servers, and checked
// streams of bytes.
//
// Everything is undone when the test ends; processes end also when the test
// binary is killed.
package rig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Spec says what to start. Only Program is required.
type Spec struct {
	Program string
	Args    []string
	Env     []string // beside the test's own
	Dir     string   // "": the test's own
	Stdin   io.Reader
	Stdout  *os.File            // nil: kept, see Proc.Stdout
	Stderr  *os.File            // nil: kept, see Proc.Stderr
	In      *Net                // nil: the test's own
	User    *syscall.Credential // nil: the test's own
	OwnUser bool                // as an ordinary user of a user namespace of its own
	Hosts   string              // text of an /etc/hosts of its own; it needs Isolate. "": the test's
}

// Proc is a process that a test started.
type Proc struct {
	t        testing.TB
	cmd      *exec.Cmd
	out, err string // files
	done     chan struct{}
}

// Start starts a process that dies with the test, whatever ends that.
func Start(t testing.TB, s Spec) *Proc {
	t.Helper()
	dir := t.TempDir()
	if s.Hosts != "" {
		s = ownHosts(t, s, filepath.Join(dir, "hosts"))
	}
	p := &Proc{t: t, cmd: exec.Command(s.Program, s.Args...), done: make(chan struct{})}
	p.out, p.err = filepath.Join(dir, "stdout"), filepath.Join(dir, "stderr")
	p.cmd.Env = append(os.Environ(), s.Env...)
	p.cmd.Dir = s.Dir
	p.cmd.Stdin = s.Stdin
	// Regular files, so that the process never waits for us to read.
	stdout, stderr := fileOr(s.Stdout, p.out), fileOr(s.Stderr, p.err)
	p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: s.User}
	if s.OwnUser {
		p.cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		p.cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Geteuid(), Size: 1}}
		p.cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getegid(), Size: 1}}
	}
	if err := s.In.Do(p.cmd.Start); err != nil {
		t.Fatalf("start %s: %v", s.Program, err)
	}
	if s.Stdout == nil {
		stdout.Close()
	}
	if s.Stderr == nil {
		stderr.Close()
	}
	go func() {
		_ = p.cmd.Wait() // the exit code is in ProcessState
		close(p.done)
	}()
	t.Cleanup(p.end)
	return p
}

// ownHosts starts the program in a mount namespace with a hosts file of its own;
// the process stays the one that is started.
func ownHosts(t testing.TB, s Spec, file string) Spec {
	t.Helper()
	if err := os.WriteFile(file, []byte(s.Hosts), 0o644); err != nil {
		t.Fatal(err)
	}
	if s.Program == self {
		var err error
		if s.Program, err = os.Executable(); err != nil {
			t.Fatal(err)
		}
	}
	const script = `mount --bind "$0" /etc/hosts && exec "$@"`
	s.Args = append([]string{"--mount", "sh", "-c", script, file, s.Program}, s.Args...)
	s.Program = Need(t, "unshare", "util-linux")
	return s
}

// fileOr is f, or a new file at path.
func fileOr(f *os.File, path string) *os.File {
	if f != nil {
		return f
	}
	f, err := os.Create(path)
	if err != nil {
		panic(err) // the directory was made a moment ago
	}
	return f
}

// end kills what is left and shows its last words if the test failed.
func (p *Proc) end() {
	p.Kill()
	if !p.t.Failed() {
		return
	}
	for _, file := range []string{p.out, p.err} {
		if text := tail(file, 4000); len(text) > 0 {
			p.t.Logf("%s of %s (pid %d):\n%s", filepath.Base(file), filepath.Base(p.cmd.Path), p.PID(), text)
		}
	}
}

func tail(file string, n int) []byte {
	text, err := os.ReadFile(file)
	if err != nil || len(text) <= n {
		return text
	}
	return append([]byte("[…] "), text[len(text)-n:]...)
}

// PID is the process ID.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal.
func (p *Proc) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Errorf("signal %s to %s: %v", s, filepath.Base(p.cmd.Path), err)
	}
}

// Kill ends the process by SIGKILL, if it still runs, and waits for its end.
func (p *Proc) Kill() {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("kill %s: %v", filepath.Base(p.cmd.Path), err)
	}
	<-p.done
}

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Alive tells whether the process runs.
func (p *Proc) Alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Exit waits for the end and returns the exit code, -1 after a signal.
func (p *Proc) Exit(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		p.t.Fatalf("%s (pid %d) has not ended within %s", filepath.Base(p.cmd.Path), p.PID(), within)
		return 0
	}
}

// Stdout is what the process wrote until now.
func (p *Proc) Stdout() string { return read(p.out) }

// Stderr is what the process wrote until now.
func (p *Proc) Stderr() string { return read(p.err) }

func read(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Sprint("[", err, "]")
	}
	return string(bytes.ToValidUTF8(text, []byte("?")))
}
