package relay

import (
	"net/netip"
	"testing"
)

// TestKafkaOwnMapped: an address of this host is one in its long form too.
func TestKafkaOwnMapped(t *testing.T) {
	mine := netip.MustParseAddr("10.9.9.9")
	r := &route{}
	o := &ownListeners{ports: map[uint16][]ownListener{1: {{route: r}}, 2: {{mine, r}}}, host: map[netip.Addr]bool{mine: true}}
	for to, want := range map[string]*route{
		"10.9.9.9:1": r, "[::ffff:10.9.9.9]:1": r, "[::ffff:10.9.9.9]:2": r, "[::ffff:0.0.0.0]:1": r,
		"[::ffff:10.9.9.8]:1": nil, "[::ffff:10.9.9.9]:3": nil,
	} {
		if got := o.at(netip.MustParseAddrPort(to)); got != want {
			t.Errorf("a connect to %s leads to %p, want %p", to, got, want)
		}
	}
}
