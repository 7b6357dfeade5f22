package e2e

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// TestInterface listens on an interface that is not there yet, comes, goes and
// comes again.
func TestInterface(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	clients := rig.NewNet(t)
	server := rig.Serve(t, nil, "127.0.0.1:0", rig.Greet("here"))
	f := rig.NewFile(t)
	f.Write("routes:\n  late: { listen: \"%%eth1:9092\", to: %q }\n", server.Addr)
	m := rig.Run(t, f)
	m.AwaitLog("there is no interface eth1", rig.Patience)
	if code := m.Probe(); code != 503 {
		t.Errorf("the probe answers %d while a route does not listen, want 503", code)
	}
	for _, which := range []string{"first", "second"} {
		plug := rig.Cable(t, rig.End{Name: "eth1", Addrs: []string{"10.81.0.1/24"}},
			rig.End{Net: clients, Name: "cli1", Addrs: []string{"10.81.0.2/24"}})
		served(t, m, clients, which)
		plug.Pull()
		rig.Until(t, rig.Patience, "the probe tells that the interface has gone", func() bool { return m.Probe() == 503 })
	}
}

// served waits until connections through eth1 are served.
func served(t *testing.T, m *rig.Midspan, clients *rig.Net, which string) {
	t.Helper()
	begin := time.Now()
	rig.Until(t, rig.Patience, "connections through the interface are served, for the "+which+" time", func() bool {
		_, err := talk(clients, "10.81.0.1:9092")
		return err == nil && m.Probe() == 200
	})
	t.Logf("served %s after the interface came for the %s time", time.Since(begin).Round(10*time.Millisecond), which)
}

// TestServerVanishes cuts the cable to the servers: no reset, no end, nothing. An
// idle connection is found dead by keepalive, a busy one by user_timeout; their
// clients are told.
func TestServerVanishes(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	servers := rig.NewNet(t)
	cable := rig.Cable(t, rig.End{Name: "srv0", Addrs: []string{"10.79.0.1/24"}},
		rig.End{Net: servers, Name: "srv1", Addrs: []string{"10.79.0.82/24"}})
	server := rig.Serve(t, servers, "10.79.0.82:3306", rig.Echo)
	f := rig.NewFile(t)
	f.Log = "{ format: json, start: false }"
	addr := rig.Addr(t, "127.0.0.1")
	f.Write("routes:\n  db: { listen: %q, to: %q, keepalive: { idle: 1s, interval: 1s, count: 2 }, user_timeout: 3s, connect_timeout: 1s }\n", addr, server.Addr)
	m := rig.Run(t, f)
	quiet, busy := idle(t, addr), idle(t, addr)
	cable.Cut()
	begin := time.Now()
	if _, err := busy.Write(rig.Bytes(1, 1000)); err != nil {
		t.Fatal(err)
	}
	wantReset(t, quiet)
	t.Logf("the idle connection was reset after %s", time.Since(begin).Round(10*time.Millisecond))
	wantReset(t, busy)
	took := time.Since(begin)
	t.Logf("the busy connection was reset after %s", took.Round(10*time.Millisecond))
	if took > rig.Patience {
		t.Errorf("it took %s to find the server gone", took)
	}
	if err := once(addr, 1); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a new connection ended with %v, want a reset", err)
	}
	rig.Until(t, rig.Patience, "the log tells of all three", func() bool { return strings.Count(m.Stdout(), "\n") == 3 })
	for i, r := range parseRecords(t, m.Stdout()) {
		if want := []string{"server lost", "server lost", "connect failed"}[i]; r.Reason != want {
			t.Errorf("logged reason %q, want %q", r.Reason, want)
		}
	}
}

// TestIPv6 has a name with addresses of both families, one of which may be dead.
func TestIPv6(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	servers, clients := rig.NewNet(t), rig.NewNet(t)
	rig.Cable(t, rig.End{Name: "eth0", Addrs: []string{"10.80.0.1/24", "fd80::1/64"}},
		rig.End{Net: clients, Name: "cli0", Addrs: []string{"10.80.0.2/24", "fd80::2/64"}})
	rig.Cable(t, rig.End{Name: "srv0", Addrs: []string{"10.79.0.1/24", "fd79::1/64"}},
		rig.End{Net: servers, Name: "srv1", Addrs: []string{"10.79.0.82/24", "fd79::82/64"}})
	rig.Overlay(t, "/etc/hosts", "10.79.0.82 db.example.com\nfd79::82 db.example.com\n")
	v4 := rig.Serve(t, servers, "10.79.0.82:3306", rig.Greet("v4"))
	rig.Serve(t, servers, "[fd79::82]:3306", rig.Greet("v6"))
	f := rig.NewFile(t)
	f.Write("routes:\n  named: { listen: 3306, to: \"db.example.com:3306\" }\n  literal: { listen: \"[fd80::1]:3307\", to: \"[fd79::82]:3306\" }\n")
	rig.Run(t, f)
	for _, addr := range []string{"10.80.0.1:3306", "[fd80::1]:3306"} {
		seen := map[string]int{}
		for range 10 {
			got, err := talk(clients, addr)
			if err != nil {
				t.Fatalf("%s: %v", addr, err)
			}
			seen[got]++
		}
		if seen["v4"] == 0 || seen["v6"] == 0 {
			t.Errorf("%s: 10 connections went to %v, want both families", addr, seen)
		}
	}
	if got, err := talk(clients, "[fd80::1]:3307"); got != "v6" || err != nil {
		t.Errorf("arrived at %q, %v", got, err)
	}
	v4.Close()
	for range 10 {
		if got, err := talk(clients, "10.80.0.1:3306"); got != "v6" || err != nil {
			t.Errorf("with IPv4 dead: arrived at %q, %v", got, err)
		}
	}
}
