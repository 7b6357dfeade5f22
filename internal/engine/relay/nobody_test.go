package relay

import (
	"net/netip"
	"testing"

	"midspan/internal/plan"
)

// TestNobody: who is refused reads what was looked for, and not what was not.
func TestNobody(t *testing.T) {
	client := netip.MustParseAddr("10.0.0.5")
	ids := &consumers{byLink: map[string]*consumer{"azure:1": {}}}
	for _, c := range []struct {
		consumers *consumers
		mode      plan.ProxyMode
		link      string
		want      string
	}{
		{ids, plan.ProxyRequired, "azure:99", "no consumer has the id azure:99"},
		{ids, plan.ProxyRequired, "", "the PROXY header has no id, and no consumer has the address 10.0.0.5"},
		{&consumers{}, plan.ProxyRequired, "azure:99", "no consumer has the address 10.0.0.5"},
		{ids, "", "", "no consumer has the address 10.0.0.5"},
	} {
		s := &settings{Route: &plan.Route{Proxy: plan.Proxy{Mode: c.mode}}, consumers: c.consumers}
		if got := s.nobody(c.link, client); got != c.want {
			t.Errorf("%s, %q: %q, want %q", c.mode, c.link, got, c.want)
		}
	}
}
