package e2e

import (
	"net"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// TestWarmLine: on a line to the servers that takes its time, a connection that
// is there already saves a client one round trip.
func TestWarmLine(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	const (
		delay = 100 * time.Millisecond
		trip  = 2 * delay
	)
	servers := rig.NewNet(t)
	rig.SlowLine(t, rig.End{Name: "line0", Addrs: []string{"10.79.0.1/24"}},
		rig.End{Net: servers, Name: "line1", Addrs: []string{"10.79.0.2/24"}}, delay)
	server := rig.Serve(t, servers, "10.79.0.2:9000", rig.Echo)
	f := rig.NewFile(t)
	cold, warm := rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1")
	f.Write("routes:\n  cold: { listen: %q, to: %q }\n  warm: { listen: %q, to: %q, warm: 4 }\n", cold, server.Addr, warm, server.Addr)
	rig.Run(t, f)

	for range 3 {
		if took := firstExchange(t, cold); took < 2*trip {
			t.Errorf("a handshake and an exchange took %s, less than two round trips of %s: the line is not slow", took, trip)
		}
	}
	rig.Until(t, rig.Patience, "a client gets a connection that is there", func() bool {
		took := firstExchange(t, warm)
		if took < trip {
			t.Fatalf("an exchange took %s, less than a round trip of %s", took, trip)
		}
		return took < trip+trip/2
	})
}

// firstExchange is the time of a connect and an exchange.
func firstExchange(t *testing.T, addr string) time.Duration {
	t.Helper()
	begin := time.Now()
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := rig.Exchange(c, 1, 100); err != nil {
		t.Fatal(err)
	}
	return time.Since(begin)
}
