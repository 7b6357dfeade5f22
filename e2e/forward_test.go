package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"midspan/e2e/rig"
)

// TestForward runs one route without a file, in both forms of the command line.
func TestForward(t *testing.T) {
	t.Run("listen and server", func(t *testing.T) {
		server := rig.Serve(t, nil, "127.0.0.2:0", rig.Greet("sql"))
		port := fmt.Sprint(rig.Port(t))
		control := filepath.Join(t.TempDir(), "c.sock")
		p := forward(t, port, server.Addr, "--control", control)
		wantServer(t, "127.0.0.1:"+port, "sql")
		wantServer(t, "[::1]:"+port, "sql")
		if out, text, code := rig.Command(t, "", "status", "--control", control); code != 0 || !strings.Contains(out, server.Addr) {
			t.Errorf("status: exit code %d\n%s%s", code, out, text)
		}
		p.Signal(syscall.SIGTERM) // without a probe nobody has to notice first
		if code := p.Exit(rig.Patience); code != 0 {
			t.Errorf("exit code %d after SIGTERM, want 0", code)
		}
		if n := strings.Count(p.Stdout(), `"event":"end"`); n != 2 {
			t.Errorf("the access log has %d ends, want 2:\n%s", n, p.Stdout())
		}
	})
	t.Run("ip_fwd.sh's flags", func(t *testing.T) {
		server := rig.Serve(t, nil, "127.0.0.2:0", rig.Greet("broker"))
		host, back, err := net.SplitHostPort(server.Addr)
		if err != nil {
			t.Fatal(err)
		}
		port := fmt.Sprint(rig.Port(t))
		p := forward(t, "-i", "lo", "-f", port, "-a", host, "-b", back)
		wantServer(t, "127.0.0.1:"+port, "broker")
		p.Signal(syscall.SIGINT)
		p.Exit(rig.Patience)
	})
	t.Run("two servers, one dead", func(t *testing.T) {
		server := rig.Serve(t, nil, "127.0.0.2:0", rig.Greet("alive"))
		port := fmt.Sprint(rig.Port(t))
		forward(t, port, rig.Addr(t, "127.0.0.3"), server.Addr)
		for range 10 {
			wantServer(t, "127.0.0.1:"+port, "alive")
		}
	})
}

// forward runs `midspan forward` and waits until it does.
func forward(t *testing.T, args ...string) *rig.Proc {
	t.Helper()
	p := rig.Start(t, rig.Spec{Program: rig.Bin(t), Args: append([]string{"forward"}, args...)})
	rig.Until(t, rig.Patience, "it forwards", func() bool { return strings.Contains(p.Stderr(), "msg=forwarding") })
	return p
}
