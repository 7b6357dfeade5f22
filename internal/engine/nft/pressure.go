package nft

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"time"

	"midspan/internal/conntrack"
)

// Shares of what there is at which a warning is due, and how long until the next.
const (
	nearlyFull = 0.8
	warnEvery  = time.Minute
)

// pressure warns before the connection table or the source ports run out: then
// the kernel drops packets without a word.
func (e *Engine) pressure() {
	if !e.gauge.due() {
		return
	}
	e.gauge.read(e.kernel) // a recent copy, should somebody delete them
	t := tracking()
	if t != nil && t.Max > 0 {
		e.near("the kernel's connection table", t.Entries, t.Max, "raise net.netfilter.nf_conntrack_max")
	}
	used := map[netip.AddrPort]int{}
	max := map[netip.AddrPort]int{}
	e.mu.Lock()
	if e.plan != nil {
		for _, r := range e.plan.Routes {
			for _, s := range r.Servers {
				for _, x := range s.Endpoints {
					max[netip.AddrPortFrom(x.Addr, s.Port)] = e.sourcePorts(r, x.Addr)
				}
			}
		}
	}
	e.mu.Unlock()
	least := math.MaxInt
	for _, n := range max {
		least = min(least, n)
	}
	// To read the table takes time; where it is small nothing can be used up.
	if len(max) == 0 || t != nil && float64(t.Entries) < nearlyFull*float64(least) {
		return
	}
	_ = e.flows.Dump(markOurs, markOursBits, func(f *conntrack.Flow) { used[f.Reply.Src]++ }) // next time, then
	for addr, n := range used {
		limit, exact := max[addr]
		if !exact {
			limit = max[anyPort(addr)]
		}
		if limit > 0 {
			e.near(fmt.Sprintf("source ports to %s", addr), n, limit, "give the route more addresses (source: [..]), or nft: { ports: .. } a wider range")
		}
	}
}

// near warns when a share is used up, and says how long the rest will last.
func (e *Engine) near(what string, used, limit int, remedy string) {
	left, warn := e.gauge.forecast(what, used, limit)
	if !warn {
		return
	}
	text := fmt.Sprintf("%s: %d of %d in use", what, used, limit)
	switch {
	case used >= limit:
		text += "; new connections get no answer"
	case left > 0:
		text += fmt.Sprintf("; full in about %s at this rate", left.Round(time.Second))
	}
	e.log.Warn(text, "remedy", remedy)
}

// level is what a gauge last showed.
type level struct {
	used   int
	at     time.Time
	warned time.Time
}

// pressureEvery is how often the gauges are read.
const pressureEvery = 5 * time.Second

// due tells whether it is time to look.
func (g *gauge) due() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.looked) < pressureEvery {
		return false
	}
	g.looked = time.Now()
	maps.DeleteFunc(g.levels, func(_ string, l level) bool { return time.Since(l.at) > warnEvery })
	return true
}

// forecast is how long until all is used, from the rate since the last look, and
// whether a warning is due. 0: not in sight.
func (g *gauge) forecast(what string, used, limit int) (left time.Duration, warn bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	last := g.levels[what]
	if grown := used - last.used; grown > 0 && !last.at.IsZero() {
		left = time.Duration(float64(now.Sub(last.at)) * float64(limit-used) / float64(grown))
	}
	full := used >= limit && last.used < limit // which is news, however new the last warning
	warn = float64(used) >= nearlyFull*float64(limit) && (full || now.Sub(last.warned) >= warnEvery)
	if warn {
		last.warned = now
	}
	if g.levels == nil {
		g.levels = map[string]level{}
	}
	g.levels[what] = level{used, now, last.warned}
	return left, warn
}
