package rig

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// isolated is set to the test's name in the process that Isolate makes, and
// ownUsers in one that has a user namespace.
const (
	isolated = "MIDSPAN_E2E_ISOLATED"
	ownUsers = "MIDSPAN_E2E_OWN_USERS"
)

// Isolate runs the calling test in a process with its own network and mount
// namespaces (and, for an ordinary user, its own user namespace), so that it may
// bind any port, have any address and lay its own files over /etc. It returns
// true in that process; in the test's first process it waits, reports, and
// returns false, whereupon the test is to return.
//
// Inside, lo is up and /run is empty.
func Isolate(t *testing.T) bool {
	t.Helper()
	if os.Getenv(isolated) == t.Name() {
		if err := furnish(); err != nil {
			t.Fatalf("set up the namespaces: %v", err)
		}
		return true
	}
	var out bytes.Buffer
	cmd, err := startIsolated(t, &out)
	if err != nil {
		Missing(t, "cannot make namespaces as this user: %v (kernel.unprivileged_userns_clone, user.max_user_namespaces, AppArmor?)", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // only when the test is given up; else it has ended
	})
	err = cmd.Wait()
	text, words := splitWords(noise.ReplaceAllString(out.String(), ""))
	if words != "" {
		t.Log("last words of what ran in namespaces of its own:\n" + words)
	}
	t.Log("in namespaces of its own:\n" + strings.TrimSpace(text))
	switch {
	case err != nil:
		t.Errorf("in namespaces of its own: %v", err)
	case strings.Contains(out.String(), "--- SKIP: "+t.Name()+" "):
		t.Skip("skipped there")
	}
	return false
}

// noise are the lines of a verbose test run that say nothing here.
var noise = regexp.MustCompile(`(?m)^(=== (RUN|CONT|NAME|PAUSE) .*|PASS|FAIL)\n`)

// lastWords begins what Proc.end logs.
var lastWords = regexp.MustCompile(`^( +)proc\.go:\d+: std(out|err) of `)

// splitWords takes processes' last words out of a test's log: there are many, and
// what failed is lost among them.
func splitWords(log string) (text, words string) {
	var rest, said strings.Builder
	inside := "\n" // what lines begin with that go on with the last words; none does
	for line := range strings.Lines(log) {
		if m := lastWords.FindStringSubmatch(line); m != nil {
			inside = m[1] + "    "
		} else if !strings.HasPrefix(line, inside) {
			inside = "\n"
			rest.WriteString(line)
			continue
		}
		said.WriteString(line)
	}
	return rest.String(), said.String()
}

// startIsolated tries without a user namespace first when that can work.
func startIsolated(t *testing.T, out *bytes.Buffer) (*exec.Cmd, error) {
	const flags = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS
	if os.Geteuid() == 0 {
		cmd := again(t, out)
		cmd.SysProcAttr.Cloneflags = flags
		if err := cmd.Start(); !errors.Is(err, syscall.EPERM) {
			return cmd, err
		}
	}
	cmd := again(t, out)
	cmd.Env = append(cmd.Env, ownUsers+"=1")
	cmd.SysProcAttr.Cloneflags = flags | syscall.CLONE_NEWUSER
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	return cmd, cmd.Start()
}

// again is this binary, for this test alone.
func again(t *testing.T, out *bytes.Buffer) *exec.Cmd {
	pattern := "^" + regexp.QuoteMeta(t.Name()) + "$"
	if _, sub, ok := strings.Cut(flag.Lookup("test.run").Value.String(), "/"); ok {
		pattern += "/" + sub
	}
	timeout := 10 * time.Minute
	if d, ok := t.Deadline(); ok {
		timeout = max(time.Second, time.Until(d)-5*time.Second)
	}
	tmp := t.TempDir()
	// Servers that give up root must get through.
	if err := os.Chmod(filepath.Dir(tmp), 0o711); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run="+pattern, "-test.timeout="+timeout.String())
	cmd.Env = append(os.Environ(), isolated+"="+t.Name(), "TMPDIR="+tmp)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// furnish makes the new namespaces usable.
func furnish() error {
	// Mounts made here must not show outside.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	return up("lo")
}

// Overlay lays text over an existing file, for processes of this test only. The
// returned function replaces the text.
func Overlay(t *testing.T, path, text string) (rewrite func(text string)) {
	t.Helper()
	if os.Getenv(isolated) == "" {
		t.Fatal("Overlay outside of Isolate would change the machine")
	}
	f, err := os.CreateTemp(t.TempDir(), "overlay")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	rewrite = func(text string) {
		t.Helper()
		if err := os.WriteFile(f.Name(), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rewrite(text)
	if err := os.Chmod(f.Name(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(f.Name(), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mount over %s: %v", path, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) }) // the namespace ends anyway
	return rewrite
}
