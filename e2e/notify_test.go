package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// TestServiceManager plays systemd: it is told of the start, of a reload, and of
// the end before connections notice it.
func TestServiceManager(t *testing.T) {
	dir, err := os.MkdirTemp("", "notify") // a socket's path has 107 characters at the most
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	next := func(want ...string) {
		t.Helper()
		if err := socket.SetReadDeadline(time.Now().Add(rig.Patience)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatalf("waiting for %s: %v", want, err)
		}
		for _, w := range want {
			if !strings.Contains(string(buf[:n]), w) {
				t.Errorf("told %q, want %s", buf[:n], want)
			}
		}
	}
	f, addr := echoFile(t, "off")
	m := rig.Launch(t, f, rig.Spec{
		Program: rig.Bin(t), Args: []string{"run", f.Path},
		Env: []string{"NOTIFY_SOCKET=" + socket.LocalAddr().String()},
	})
	next("READY=1")
	m.Signal(syscall.SIGHUP)
	next("RELOADING=1", "MONOTONIC_USEC=")
	next("READY=1")
	idle(t, addr)
	m.Signal(syscall.SIGTERM)
	next("STOPPING=1")
	if !m.Alive() {
		t.Error("it ended although a connection was open")
	}
}
