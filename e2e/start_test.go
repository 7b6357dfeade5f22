package e2e

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// TestPortInUse wants a start to fail with what the reader needs to know, and
// with nothing half done; and a reload likewise.
func TestPortInUse(t *testing.T) {
	held := rig.Addr(t, "127.0.0.1")
	rig.Serve(t, nil, held, rig.Echo)
	echo := rig.Serve(t, nil, "127.0.0.1:0", rig.Echo)
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	holder := fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(comm)), os.Getpid())

	t.Run("start", func(t *testing.T) {
		f := rig.NewFile(t)
		f.Write("routes:\n  ok: { listen: %q, to: %q }\n  taken: { listen: %q, to: %q }\n", rig.Addr(t, "127.0.0.1"), echo.Addr, held, echo.Addr)
		wantNoStart(t, f, "taken", held, holder)
	})
	t.Run("health", func(t *testing.T) {
		f := rig.NewFile(t)
		f.Health = held
		f.Write("routes:\n  ok: { listen: %q, to: %q }\n", rig.Addr(t, "127.0.0.1"), echo.Addr)
		wantNoStart(t, f, "health", held, "in use")
	})
	f := rig.NewFile(t)
	addr := rig.Addr(t, "127.0.0.1")
	f.Write("routes:\n  ok: { listen: %q, to: %q }\n", addr, echo.Addr)
	m := rig.Run(t, f)
	t.Run("second midspan", func(t *testing.T) {
		// Both would set SO_REUSEPORT, and share the port.
		g := rig.NewFile(t)
		g.Write("routes:\n  again: { listen: %q, to: %q }\n", addr, echo.Addr)
		wantNoStart(t, g, "again", addr, fmt.Sprintf("midspan (pid %d)", m.PID()))
	})
	t.Run("second midspan on one control socket", func(t *testing.T) {
		g := rig.NewFile(t)
		g.Control = f.Control
		g.Write("routes:\n  other: { listen: %q, to: %q }\n", rig.Addr(t, "127.0.0.1"), echo.Addr)
		wantNoStart(t, g, f.Control, fmt.Sprintf("(pid %d)", m.PID()))
		m.Control("status") // it is still ours
	})
	t.Run("reload", func(t *testing.T) {
		added := rig.Addr(t, "127.0.0.1")
		f.Write("routes:\n  ok: { listen: %q, to: %q }\n  added: { listen: %q, to: %q }\n  taken: { listen: %q, to: %q }\n",
			addr, echo.Addr, added, echo.Addr, held, echo.Addr)
		_, text, code := rig.Command(t, "", "reload", "--control", f.Control)
		t.Logf("exit code %d:\n%s", code, text)
		wantWords(t, text, "taken", held, holder)
		if code != 1 {
			t.Errorf("exit code %d, want 1", code)
		}
		if rig.Listens(nil, added) {
			t.Errorf("%s, of a reload that failed, is served", added)
		}
		if err := once(addr, 1); err != nil {
			t.Errorf("the route of before the reload: %v", err)
		}
	})
}

// wantNoStart wants `midspan run` to end at once with exit code 2 and an error
// that has words.
func wantNoStart(t *testing.T, f *rig.File, words ...string) {
	t.Helper()
	p := rig.Start(t, rig.Spec{Program: rig.Bin(t), Args: []string{"run", f.Path}})
	code := p.Exit(rig.Patience)
	t.Logf("exit code %d:\n%s", code, p.Stderr())
	if code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	wantWords(t, p.Stderr(), words...)
	if strings.Contains(p.Stderr(), "msg=listening") {
		t.Error("it began to listen")
	}
}

func wantWords(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("the error does not say %q", w)
		}
	}
}

// TestKillAndRestart kills midspan with SIGKILL under load and starts it again at
// once: what the kernel remembers of the old connections must not be in the way.
func TestKillAndRestart(t *testing.T) {
	echo := rig.Serve(t, nil, "127.0.0.1:0", rig.Echo)
	f := rig.NewFile(t)
	addr := rig.Addr(t, "127.0.0.1")
	f.Write("routes:\n  echo: { listen: %q, to: %q }\n", addr, echo.Addr)
	for range 5 {
		m := rig.Run(t, f)
		var conns []net.Conn
		for range 20 {
			conns = append(conns, idle(t, addr))
		}
		if _, err := conns[0].Write(rig.Bytes(1, 1<<20)); err != nil { // nobody reads the echo
			t.Fatal(err)
		}
		m.Signal(syscall.SIGKILL)
		m.Exit(rig.Patience)
		begin := time.Now()
		next := rig.Run(t, f)
		if err := once(addr, 1); err != nil {
			t.Errorf("after the restart: %v", err)
		}
		next.Control("status") // the old socket's file is no hindrance
		t.Logf("served again %s after the kill", time.Since(begin).Round(time.Millisecond))
		next.Kill()
	}
}
