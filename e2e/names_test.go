package e2e

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

const host = "sqlserver1.org.example.com"

// named starts a midspan that asks the name server at dns for its one server,
// and returns where it listens.
func named(t *testing.T, dns string, port int) (*rig.Midspan, string) {
	t.Helper()
	f := rig.NewFile(t)
	addr := rig.Addr(t, "127.0.0.1")
	f.Write("dns: { servers: [%q], min_ttl: 1s, timeout: 2s }\ndefaults: { connect_timeout: 20s }\nroutes:\n  sql: { listen: %q, to: \"%s:%d\" }\n", dns, addr, host, port)
	begin := time.Now()
	m := rig.Run(t, f)
	t.Logf("forwarding after %s", time.Since(begin).Round(time.Millisecond))
	return m, addr
}

// TestStartWithoutDNS starts midspan while names do not resolve. It starts,
// says so, resets who comes, and forwards as soon as there is an answer.
func TestStartWithoutDNS(t *testing.T) {
	for _, c := range []struct {
		name  string
		begin func(t *testing.T, addr string) (mend func())
	}{
		{"nobody there", func(t *testing.T, addr string) func() {
			return func() { answering(t, addr) }
		}},
		{"no answer", func(t *testing.T, addr string) func() {
			silent, err := net.ListenPacket("udp", addr)
			if err != nil {
				t.Fatal(err)
			}
			return func() { silent.Close(); answering(t, addr) }
		}},
		{"server failure", func(t *testing.T, addr string) func() {
			d := answering(t, addr)
			d.Fail(true)
			return func() { d.Fail(false) }
		}},
		{"no such name", func(t *testing.T, addr string) func() {
			d := answering(t, addr)
			d.Set(host)
			return func() { d.Set(host, "127.0.0.2") }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dns := rig.Addr(t, "127.0.0.1")
			mend := c.begin(t, dns)
			port := rig.Port(t)
			rig.Serve(t, nil, fmt.Sprintf("127.0.0.2:%d", port), rig.Greet("sql"))
			m, addr := named(t, dns, port)
			m.AwaitLog("does not resolve", rig.Patience)
			if code := m.Probe(); code != 503 {
				t.Errorf("the probe answers %d while no route has a server, want 503", code)
			}
			begin := time.Now()
			if _, err := talk(nil, addr); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a connection without a server ended with %v, want a reset", err)
			}
			if took := time.Since(begin); took > 10*time.Second { // it would be connect_timeout
				t.Errorf("it took %s to say that there is no server", took)
			}
			mended := time.Now()
			mend()
			rig.Until(t, rig.Patience, "connections are forwarded", func() bool {
				_, err := talk(nil, addr)
				return err == nil
			})
			t.Logf("forwarded %s after DNS was well", time.Since(mended).Round(time.Millisecond))
			rig.Until(t, rig.Patience, "the probe answers 200", func() bool { return m.Probe() == 200 })
		})
	}
}

// answering is a name server that knows host.
func answering(t *testing.T, addr string) *rig.DNS {
	d := rig.StartDNS(t, addr, 1)
	d.Set(host, "127.0.0.2")
	return d
}

// TestDNSChange moves a server to another address; only DNS is told.
func TestDNSChange(t *testing.T) {
	d := answering(t, rig.Addr(t, "127.0.0.1"))
	port := rig.Port(t)
	for _, a := range []string{"127.0.0.2", "127.0.0.3"} {
		rig.Serve(t, nil, fmt.Sprintf("%s:%d", a, port), rig.Greet(a))
	}
	m, addr := named(t, d.Addr, port)
	wantServer(t, addr, "127.0.0.2")
	old, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if _, err := fmt.Fscanf(old, "127.0.0.2\n"); err != nil {
		t.Fatal(err)
	}

	d.Set(host, "127.0.0.3")
	begin := time.Now()
	rig.Until(t, rig.Patience, "new connections go to the new address", func() bool {
		got, err := talk(nil, addr)
		if err != nil {
			t.Fatalf("while the address changes: %v", err)
		}
		return got == "127.0.0.3"
	})
	t.Logf("new connections followed after %s (TTL 1s)", time.Since(begin).Round(time.Millisecond))
	for range 20 {
		wantServer(t, addr, "127.0.0.3")
	}
	if err := exchange(old, 1, 10_000); err != nil {
		t.Errorf("the connection to the old address: %v", err)
	}

	// A failure is no answer: what was last good stays in use.
	asked := d.Asked(host + ".")
	d.Fail(true)
	rig.Until(t, rig.Patience, "the name was asked for again", func() bool { return d.Asked(host+".") >= asked+4 })
	m.AwaitLog("does not resolve", rig.Patience)
	wantServer(t, addr, "127.0.0.3")
	if err := exchange(old, 2, 10_000); err != nil {
		t.Errorf("the connection to the old address: %v", err)
	}
	if status := m.Control("status"); !strings.Contains(status, "server failure") && !strings.Contains(status, "SERVFAIL") {
		t.Errorf("status does not tell that look-ups fail:\n%s", status)
	}

	// Both addresses are used when both are there.
	d.Fail(false)
	d.Set(host, "127.0.0.2", "127.0.0.3")
	seen := map[string]bool{}
	rig.Until(t, rig.Patience, "both addresses are used", func() bool {
		got, err := talk(nil, addr)
		if err != nil {
			t.Fatal(err)
		}
		seen[got] = true
		return len(seen) == 2
	})
}

// TestDNSChangeAfterFailure moves a server whose record lives for long: a connect
// that fails is a reason to ask at once.
func TestDNSChangeAfterFailure(t *testing.T) {
	d := rig.StartDNS(t, rig.Addr(t, "127.0.0.1"), 300)
	d.Set(host, "127.0.0.2")
	port := rig.Port(t)
	old := rig.Serve(t, nil, fmt.Sprintf("127.0.0.2:%d", port), rig.Greet("old"))
	rig.Serve(t, nil, fmt.Sprintf("127.0.0.3:%d", port), rig.Greet("new"))
	_, addr := named(t, d.Addr, port)
	wantServer(t, addr, "old")
	d.Set(host, "127.0.0.3")
	old.Close()
	begin := time.Now()
	rig.Until(t, rig.Patience, "connections go to the new address", func() bool {
		got, err := talk(nil, addr)
		return err == nil && got == "new"
	})
	t.Logf("new connections followed after %s (TTL 300s)", time.Since(begin).Round(time.Millisecond))
}

func wantServer(t *testing.T, addr, want string) {
	t.Helper()
	if got, err := talk(nil, addr); got != want || err != nil {
		t.Errorf("arrived at %q, %v; want %s", got, err, want)
	}
}
