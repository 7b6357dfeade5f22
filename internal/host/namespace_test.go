package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// inNamespace runs the calling test once more in a process with a network
// namespace of its own, where it is root, and returns true there. Root makes it
// directly, others within a user namespace.
func inNamespace(t *testing.T) bool {
	t.Helper()
	flags := uintptr(syscall.CLONE_NEWNET)
	if os.Getuid() != 0 {
		flags |= syscall.CLONE_NEWUSER
	}
	return reexec(t, flags)
}

const inside = "MIDSPAN_HOST_TEST"

func reexec(t *testing.T, flags uintptr) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), inside+"="+t.Name(), "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if flags&syscall.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in the namespace: %v\n%s", err, out)
	}
	return false
}

// run is a command line in the test's namespace. The programs are needed: a
// host without them has not tested anything.
func run(t *testing.T, line string) string {
	t.Helper()
	name, _, _ := strings.Cut(line, " ")
	path, err := exec.LookPath(name)
	if err != nil {
		path = filepath.Join("/usr/sbin", name)
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("%s is not installed: apt-get install iptables nftables", name)
		}
	}
	out, err := exec.Command("/bin/sh", "-c", filepath.Dir(path)+"/"+line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// write puts a file with its directories below dir.
func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}
