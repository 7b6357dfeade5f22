package relay

import (
	"math"
	"net/netip"
	"slices"
	"sync/atomic"

	"midspan/internal/plan"
)

// choice is an endpoint with the settings of its server, and the count of the
// connections on all of the server's endpoints.
type choice struct {
	*endpoint
	server *plan.Server
	load   *atomic.Int64
}

// take counts a connection or an attempt on c, and drop takes it back. It refuses
// if somebody has taken the last place since c was looked at: loops and sessions
// choose at the same time.
func (c *choice) take() bool {
	if n := c.load.Add(1); c.server.MaxConnections > 0 && n > int64(c.server.MaxConnections) {
		c.load.Add(-1)
		return false
	}
	c.active.Add(1)
	return true
}

func (c *choice) drop() {
	c.active.Add(-1)
	c.load.Add(-1)
}

// at is the endpoint's address for a connection that came in on port listen.
func (c *choice) at(listen uint16) netip.AddrPort {
	return netip.AddrPortFrom(c.addr, c.server.PortFor(listen))
}

// full tells whether the server takes no more connections.
func (c *choice) full() bool {
	return c.server.MaxConnections > 0 && c.load.Load() >= int64(c.server.MaxConnections)
}

// picker chooses the endpoint of a connection. All but the turn is fixed when it
// is made; the turn goes on from picker to picker, or each change of any server's
// health would start the round anew.
type picker struct {
	balance plan.Balance
	tiers   [2][]choice // up, with a weight: first the servers, then the backups
	turns   [2][]uint16 // roundrobin: indices into tiers, smoothly interleaved
	turn    *atomic.Uint64
	risenAt atomic.Int64 // when the last slow start ends, Unix nanoseconds; 0: none is on
}

// pickResult says why there is no endpoint.
type pickResult int

const (
	picked     pickResult = iota
	pickedNone            // nothing is up, or all was tried
	pickedFull            // what is up has its max_connections
)

// newPicker chooses among endpoints that are up.
func newPicker(b plan.Balance, up []choice, turn *atomic.Uint64) *picker {
	p := &picker{balance: b, turn: turn}
	for _, c := range up {
		switch {
		case c.server.Weight == 0:
		case c.server.Backup:
			p.tiers[1] = append(p.tiers[1], c)
		default:
			p.tiers[0] = append(p.tiers[0], c)
		}
	}
	for i, tier := range p.tiers {
		if b != plan.RoundRobin || len(tier) == 0 {
			continue
		}
		weights := make([]int, len(tier))
		for j, c := range tier {
			weights[j] = c.server.Weight
		}
		p.turns[i] = interleave(weights)
	}
	p.risenAt.Store(p.ramps())
	return p
}

// interleave is one round of the smooth weighted round robin: index i stands in
// it weights[i]/gcd times, spread as evenly as can be. Each step raises every
// index by its weight and takes the highest, which pays the sum.
func interleave(weights []int) []uint16 {
	divisor, sum := 0, 0
	for _, w := range weights {
		divisor = gcd(divisor, w)
	}
	for _, w := range weights {
		sum += w / divisor
	}
	credit := make([]int, len(weights))
	turns := make([]uint16, 0, sum)
	for range sum {
		best := 0
		for i, w := range weights {
			if credit[i] += w / divisor; credit[i] > credit[best] {
				best = i
			}
		}
		credit[best] -= sum
		turns = append(turns, uint16(best))
	}
	return turns
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// pick is the endpoint for a connection of client, but for those already tried.
// Backups are taken when no server is up, and when all that
// are up have failed this very connection.
func (p *picker) pick(client netip.Addr, tried []*endpoint) (*choice, pickResult) {
	result := pickedNone
	for i, tier := range p.tiers {
		free := func(c *choice) bool {
			if slices.Contains(tried, c.endpoint) {
				return false
			}
			if c.full() {
				result = pickedFull
				return false
			}
			return true
		}
		if c := p.pickFrom(i, tier, client, free); c != nil {
			return c, picked
		}
		if result == pickedFull {
			break // backups are for servers that are down, not for full ones
		}
	}
	return nil, result
}

// take is pick, and counts a connection on what it gives.
func (p *picker) take(client netip.Addr, tried []*endpoint) (*choice, pickResult) {
	c, result := p.pick(client, tried)
	if result == picked && !c.take() {
		return nil, pickedFull
	}
	return c, result
}

func (p *picker) pickFrom(tier int, all []choice, client netip.Addr, free func(*choice) bool) (best *choice) {
	if p.balance == plan.RoundRobin {
		return p.inTurn(tier, all, free)
	}
	first := uint64(0)
	if p.balance == plan.LeastConn { // of equals not always the same
		first = p.turn.Add(1)
	}
	bestScore, now := math.Inf(-1), p.rising()
	for i := range uint64(len(all)) {
		c := &all[(first+i)%uint64(len(all))]
		if !free(c) {
			continue
		}
		if p.balance == plan.First {
			return c
		}
		if s := p.score(c, client, now); s > bestScore {
			best, bestScore = c, s
		}
	}
	return best
}

// inTurn takes the next turn whose endpoint is free.
func (p *picker) inTurn(tier int, all []choice, free func(*choice) bool) *choice {
	turns := p.turns[tier]
	if len(turns) == 0 {
		return nil
	}
	if now := p.rising(); now != 0 {
		if c := p.inRisingTurn(turns, all, now, free); c != nil {
			return c
		}
	}
	start := p.turn.Add(1) - 1
	for i := range uint64(len(turns)) {
		if c := &all[turns[(start+i)%uint64(len(turns))]]; free(c) {
			return c
		}
	}
	return nil
}

// score ranks c for client; the highest wins. now is as rising has it.
func (p *picker) score(c *choice, client netip.Addr, now int64) float64 {
	weight := float64(c.server.Weight)
	if now != 0 {
		weight *= c.rise.share(now)
	}
	if p.balance == plan.LeastConn {
		// The connection itself is counted, so that of two idle servers the
		// heavier one is taken.
		return -(float64(c.active.Load()) + 1) / weight
	}
	// Weighted rendezvous hashing (Schindelhauer and Schomaker, 2005): when an
	// endpoint goes, only its own clients move.
	h := float64(hashPair(client, c.addr, c.server.Name)>>11) / (1 << 53)
	return -weight / math.Log(max(h, math.SmallestNonzeroFloat64))
}

// hashPair hashes a client and an endpoint alike on every machine: two
// forwarders behind one load balancer send a client to the same server.
func hashPair(client, addr netip.Addr, server string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	mix := func(b byte) { h = (h ^ uint64(b)) * 1099511628211 }
	for _, b := range client.As16() {
		mix(b)
	}
	for _, b := range addr.As16() {
		mix(b)
	}
	for i := range len(server) {
		mix(server[i])
	}
	return finish(h) // FNV's high bits are weak on short input
}

// finish mixes bits as MurmurHash3 does at its end.
func finish(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
