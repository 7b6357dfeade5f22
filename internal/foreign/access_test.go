package foreign

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestAccess holds the networks to the rules that they are made of, one by one.
func TestAccess(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	address := func() netip.Addr { // from a small range, or nothing would ever meet
		if random.IntN(4) == 0 {
			return netip.AddrFrom16([16]byte{0xfd, 15: byte(random.IntN(64))})
		}
		return netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(64))})
	}
	type rule struct {
		action string
		net    netip.Prefix
	}
	for range 2000 {
		list := newAccess()
		var rules []rule
		for range random.IntN(6) {
			a := address()
			r := rule{[]string{"allow", "deny", "others"}[random.IntN(3)], netip.PrefixFrom(a, a.BitLen()-random.IntN(6)).Masked()}
			rules = append(rules, r)
			switch nets := []netip.Prefix{r.net}; r.action {
			case "allow":
				list.allow(nets)
			case "deny":
				list.deny(nets)
			default:
				list.denyOthers(nets)
			}
		}
		nets, all := list.result()
		for range 50 {
			a := address()
			want, got := true, all
			for _, r := range rules {
				if in := r.net.Contains(a); in == (r.action != "others") {
					want = r.action == "allow"
					break
				}
			}
			for _, n := range nets {
				got = got || n.Contains(a)
			}
			if got != want {
				t.Fatalf("%s by %v: %t, want %t; %v", a, rules, got, want, nets)
			}
		}
		for i := 1; i < len(nets); i++ {
			if nets[i-1].Overlaps(nets[i]) {
				t.Fatalf("%v: %v overlap", rules, nets)
			}
		}
	}
}

// TestAccessMany: what makes too many networks is given up, and says so.
func TestAccessMany(t *testing.T) {
	list := newAccess()
	for i := range 2000 {
		list.deny([]netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 32)})
	}
	if nets, all := list.result(); all || len(nets) <= maxAllow || len(nets) > 2*maxNets {
		t.Errorf("%d networks, %t", len(nets), all)
	}
}
