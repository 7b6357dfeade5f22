package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// HAProxy starts one at addr that forwards TCP to a server.
func HAProxy(t testing.TB, addr, to string) *Proc {
	t.Helper()
	return HAProxyWith(t, addr, fmt.Sprintf("listen peer\n  bind %s\n  server s %s\n", addr, to))
}

// HAProxyWith starts one with these sections, of which one listens on addr.
func HAProxyWith(t testing.TB, addr, sections string) *Proc {
	t.Helper()
	program := Need(t, "haproxy", "haproxy")
	conf := filepath.Join(t.TempDir(), "haproxy.cfg")
	text := "defaults\n  mode tcp\n  timeout connect 3s\n  timeout client 1m\n  timeout server 1m\n" + sections
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p := Start(t, Spec{Program: program, Args: []string{"-db", "-f", conf}})
	Until(t, Patience, "haproxy listens on "+addr, func() bool {
		if !p.Alive() {
			t.Fatalf("haproxy has ended: %s", p.Stderr())
		}
		return Listens(nil, addr)
	})
	return p
}
