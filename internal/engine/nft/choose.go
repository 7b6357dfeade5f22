package nft

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"midspan/internal/plan"
)

// choice is an endpoint that gets new connections.
type choice struct {
	addr   netip.AddrPort // port 0: that of the listener
	shift  int
	weight int
}

// chain is the name of the chain that leads there.
func (c choice) chain(r *plan.Route) string {
	name := endpointName(r.Name, c.addr)
	if c.shift != 0 {
		name += "_" + shiftText(c.shift)
	}
	return name
}

// choices are the endpoints of a family that get new connections: those that
// are up, and backups when none else is.
func choices(r *plan.Route, f family) []choice {
	for _, backup := range []bool{false, true} {
		var all []choice
		for _, s := range r.Servers {
			if s.Backup != backup || s.Weight == 0 {
				continue
			}
			for _, e := range s.Endpoints {
				if e.Up && familyOf(e.Addr) == f {
					all = append(all, choice{netip.AddrPortFrom(e.Addr, s.Port), s.Shift, s.Weight})
				}
			}
		}
		if len(all) > 0 {
			if r.Balance == plan.First {
				all = all[:1]
			}
			return all
		}
	}
	return nil
}

// servers adds the rules that choose an endpoint, and one that refuses where
// there is none.
func (x *part) servers(c *chain, r *plan.Route, proto uint8) {
	for _, s := range r.Servers {
		for _, e := range s.Endpoints {
			x.count(endpointName(r.Name, netip.AddrPortFrom(e.Addr, s.Port)))
		}
	}
	came := listensTo(r)
	refused := withoutServer(r.Name)
	x.count(refused) // always: a counter that goes would come back at 0
	without := false
	for _, f := range came {
		all := choices(r, f)
		if len(all) == 0 {
			without = true
			continue
		}
		refused = otherFamily
		if r.Balance == plan.Source && len(all) > 1 {
			x.bySource(c, r, f, all, proto)
		} else {
			x.inTurn(c, r, f, all, proto, len(came) > 1)
		}
	}
	if without {
		x.count(refused)
		c.add(append([]term{countIn(refused)}, refuse(proto)...)...)
	}
}

// listensTo are the families in which connections can come.
func listensTo(r *plan.Route) []family {
	for _, l := range r.Listen {
		if !l.Addr.IsValid() {
			return slices.Clone(families)
		}
	}
	return slices.DeleteFunc(slices.Clone(families), func(f family) bool {
		return !slices.ContainsFunc(r.Listen, func(l plan.Listen) bool { return familyOf(l.Addr) == f })
	})
}

// inTurn gives each endpoint its share of the connections: the first takes its
// part of all, the second its part of what is left, and so on.
func (x *part) inTurn(c *chain, r *plan.Route, f family, all []choice, proto uint8, both bool) {
	divisor, rest := 0, 0
	for _, e := range all {
		divisor = gcd(e.weight, divisor)
	}
	for _, e := range all {
		rest += e.weight / divisor
	}
	for _, e := range all {
		var terms []term
		if both {
			terms = append(terms, matchFamily(f))
		}
		if n := e.weight / divisor; n < rest {
			terms = append(terms, share(n, rest))
		}
		c.add(append(terms, x.lead(r, e, proto)...)...)
		rest -= e.weight / divisor
	}
}

// lead counts a connection and leads it to an endpoint.
func (x *part) lead(r *plan.Route, e choice, proto uint8) []term {
	shift := ""
	if e.shift != 0 {
		shift = shiftOf(r.Name, e.shift)
		if !slices.ContainsFunc(x.sets, func(s *set) bool { return s.name == shift }) {
			x.sets = append(x.sets, shifts(shift, r, e.shift))
		}
	}
	return []term{countIn(endpointName(r.Name, e.addr)), dnat(e.addr, proto, shift)}
}

// shifts is the map from the ports of a route to those of a server beside them.
func shifts(name string, r *plan.Route, by int) *set {
	s := &set{name: name, key: []datatype{typeService}, data: &typeService}
	for _, l := range r.Listen {
		for p := int(l.From); p <= int(l.To); p++ {
			to := uint16(p + by)
			s.add(fmt.Sprint(p), element{key: binary.BigEndian.AppendUint16(nil, uint16(p)), value: binary.BigEndian.AppendUint16(nil, to), text: fmt.Sprint(to)})
		}
	}
	return s
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// buckets is how many parts the clients of a route with `balance: source` are in.
const buckets = 256

// bySource gives every bucket of clients to the endpoint that scores highest for
// it (rendezvous hashing), so that a change of endpoints moves only the clients
// that it must.
func (x *part) bySource(c *chain, r *plan.Route, f family, all []choice, proto uint8) {
	vmap := &set{key: []datatype{typeInteger}, data: &typeVerdict}
	for i := range buckets {
		best := slices.MaxFunc(all, func(x, y choice) int { return cmp.Compare(score(i, x), score(i, y)) })
		to := best.chain(r)
		vmap.add(fmt.Sprint(i), element{key: native(uint32(i)), chain: to, text: "goto " + to})
	}
	for _, e := range all {
		to := &chain{name: e.chain(r)}
		if slices.ContainsFunc(x.chains, func(c *chain) bool { return c.name == to.name }) {
			continue // the same address behind two names
		}
		to.add(x.lead(r, e, proto)...)
		x.chains = append(x.chains, to)
	}
	c.add(bySource(f, hashSeed, vmap))
}

// hashSeed is fixed, so that clients stay where they are when the daemon starts
// anew, and on every machine alike.
const hashSeed = 0x6d696473

// score is rendezvous hashing with weights: -weight / ln(h), h in (0, 1), here as
// the highest of as many draws as the weight has.
func score(bucket int, c choice) uint64 {
	best := uint64(0)
	for draw := range c.weight {
		h := fnv.New64a()
		fmt.Fprintf(h, "%s %d %d", c.addr, bucket, draw)
		best = max(best, mix(h.Sum64()))
	}
	return best
}

// mix spreads FNV's result over all bits (the finalizer of MurmurHash3).
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
