package enginetest

import (
	"os"
	"testing"

	"midspan/internal/netns"
	"midspan/internal/plan"
)

func TestMain(m *testing.M) {
	os.Exit(netns.Alone(m.Run))
}

// TestNeeds: a case that is named there exists, and something carries it.
func TestNeeds(t *testing.T) {
	exists := map[string]bool{}
	for _, c := range allCases(Loopback()) {
		if exists[c.name] {
			t.Errorf("there are two cases %q", c.name)
		}
		exists[c.name] = true
		if !c.carriedBy(plan.Relay) && !c.carriedBy(plan.NFT) {
			t.Errorf("no engine can pass %q", c.name)
		}
	}
	for name := range needs {
		if !exists[name] {
			t.Errorf("needs speaks of %q, which does not exist", name)
		}
	}
}

// TestCounted: who cannot tell payload from headers is not held to it, and yet to
// the right order of magnitude and direction.
func TestCounted(t *testing.T) {
	const kernel, relay = plan.NFT, plan.Relay
	for _, c := range []struct {
		kind                   plan.Engine
		up, down               uint64
		payloadUp, payloadDown int
		want                   bool
	}{
		{relay, 1000, 0, 1000, 0, true},
		{relay, 1000, 60, 1000, 0, false},
		{kernel, 1212, 164, 1000, 0, true},           // and a handshake
		{kernel, 999, 164, 1000, 0, false},           // less than was sent
		{kernel, 164, 100_212, 100_000, 0, false},    // the wrong direction
		{kernel, 20_000_000, 0, 1_000_000, 0, false}, // of other connections too
		{kernel, 110_000, 110_000, 2000, 2000, true}, // a byte a packet
		{kernel, 265 << 20, 3 << 20, 256 << 20, 0, true},
	} {
		r := &rig{kind: c.kind}
		if got := r.counted(c.up, c.down, c.payloadUp, c.payloadDown); got != c.want {
			t.Errorf("%s: counts %d and %d of %d and %d: %v, want %v", c.kind, c.up, c.down, c.payloadUp, c.payloadDown, got, c.want)
		}
	}
}
