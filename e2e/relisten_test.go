package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"midspan/e2e/rig"
)

// TestRelistenUnderLoad changes the name of the route that has a listener, and
// the listener's address to one that covers the old one, while connections are
// made all the time. To who connects it is one listener: none is refused, and
// connections that are established stay. Where the old socket is closed, the
// kernel resets a handshake that is under way on it, as it does for every server.
func TestRelistenUnderLoad(t *testing.T) {
	server := rig.Serve(t, nil, "127.0.0.2:0", rig.Echo)
	f := rig.NewFile(t)
	port := rig.Port(t)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	fillIn := strings.NewReplacer("ADDR", strconv.Quote(addr), "PORT", strconv.Itoa(port), "SERVER", strconv.Quote(server.Addr))
	for _, c := range []struct {
		name, first, second string
		closes              bool
	}{
		{"another name", "one: { listen: ADDR, to: SERVER }", "two: { listen: ADDR, to: SERVER }", false},
		{"all addresses", "one: { listen: ADDR, to: SERVER }", "one: { listen: PORT, to: SERVER }", true},
		{"one more address", "one: { listen: ADDR, to: SERVER }", "one: { listen: [ADDR, \"127.0.0.9:PORT\"], to: SERVER }", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			write := func(route string) { f.Write("routes:\n  %s\n", fillIn.Replace(route)) }
			write(c.first)
			m := rig.Run(t, f)
			load := startPumps(t, addr, 16, 4, c.closes)
			for i := range 20 {
				write([]string{c.second, c.first}[i%2])
				m.Control("reload")
				load.wait(16, 8)
			}
			load.stop()
			t.Logf("20 reloads: %d exchanges on 16 connections, %d new connections, %d failures, %d reset",
				load.exchanges.Load(), load.churned.Load(), load.failed.Load(), load.reset.Load())
			if n := load.reset.Load(); n > 5 {
				t.Errorf("%d connections were reset, which is more than what was under way", n)
			}
			m.Kill()
		})
	}
}
