package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"midspan/e2e/rig"
)

// TestRelistenUnderLoad changes the address of a listener to one that covers the
// old one, and the name of the route that has it, while connections are made all
// the time. None may be refused or cut: to who connects it is one listener.
func TestRelistenUnderLoad(t *testing.T) {
	server := rig.Serve(t, nil, "127.0.0.2:0", rig.Echo)
	f := rig.NewFile(t)
	port := rig.Port(t)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	fillIn := strings.NewReplacer("ADDR", strconv.Quote(addr), "PORT", strconv.Itoa(port), "SERVER", strconv.Quote(server.Addr))
	for _, c := range []struct{ name, first, second string }{
		{"another name", "one: { listen: ADDR, to: SERVER }", "two: { listen: ADDR, to: SERVER }"},
		{"all addresses", "one: { listen: ADDR, to: SERVER }", "one: { listen: PORT, to: SERVER }"},
		{"one more address", "one: { listen: ADDR, to: SERVER }", "one: { listen: [ADDR, \"127.0.0.9:PORT\"], to: SERVER }"},
	} {
		t.Run(c.name, func(t *testing.T) {
			write := func(route string) { f.Write("routes:\n  %s\n", fillIn.Replace(route)) }
			write(c.first)
			m := rig.Run(t, f)
			load := startPumps(t, addr, 16, 4)
			for i := range 20 {
				write([]string{c.second, c.first}[i%2])
				m.Control("reload")
				load.wait(16, 8)
			}
			load.stop()
			t.Logf("20 reloads: %d exchanges on 16 connections, %d new connections, %d failures",
				load.exchanges.Load(), load.churned.Load(), load.failed.Load())
			m.Kill()
		})
	}
}
