package resolve

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const (
	maxAddrs = 64 // kept of one name

	backoffMin = time.Second
	backoffMax = 30 * time.Second
	spreadMax  = 5 * time.Second
)

// outcome is how the question for one family of addresses ended. The order
// matters: of two errors, the one with the higher outcome is told.
type outcome int

const (
	gotAddrs outcome = iota // at least one usable address
	noName                  // a server says that there is no such name
	noAddrs                 // a server says that the name has no address of this family, or only unusable ones
	refused                 // all servers failed, and at least one said so itself
	silent                  // no server answered
)

// failed reports that no server has answered the question. The last known good
// addresses then hold; any other outcome is a server's word.
func (o outcome) failed() bool { return o >= refused }

// family is the answer for one family of addresses.
type family struct {
	outcome outcome
	addrs   []netip.Addr // sorted, at most maxAddrs; none unless outcome is gotAddrs
	cut     bool         // there were more than maxAddrs
	ttl     time.Duration
	err     error // nil if outcome is gotAddrs
}

// result is one look-up: for A, then for AAAA records.
type result struct {
	fam [2]family
	via string // the full name that was asked with success; empty if not from DNS
}

func (r result) fresh() bool {
	return r.fam[0].outcome == gotAddrs || r.fam[1].outcome == gotAddrs
}

// worst is the family whose error tells most.
func (r result) worst() family {
	if r.fam[1].outcome > r.fam[0].outcome {
		return r.fam[1]
	}
	return r.fam[0]
}

type limits struct{ minTTL, maxTTL time.Duration }

// clamp returns ttl within the limits.
func (l limits) clamp(ttl time.Duration) time.Duration {
	return min(max(ttl, l.minTTL), l.maxTTL)
}

// state is what is known of one name.
type state struct {
	name   string
	kept   [2][]netip.Addr // last known good, by family
	via    string          // result.via of the newest good answer
	fails  int             // consecutive look-ups in which something failed
	cut    bool            // there were more addresses than are kept
	answer Answer
}

// after returns the state after one more look-up. u in [0,1) is the jitter.
func (s state) after(res result, now time.Time, lim limits, u float64) state {
	kept, err := merge(s.kept, res.fam)
	if err != nil {
		err = fmt.Errorf("%s: %w", s.name, err)
	}
	s.answer.Err = err
	if res.fresh() {
		s.kept, s.via = kept, res.via
		s.answer.Addrs, s.cut = tidy(slices.Concat(kept[0], kept[1]))
		s.cut = s.cut || res.fam[0].cut || res.fam[1].cut
	}
	if err == nil {
		s.answer.Since = now
	}
	if err == nil && !res.worst().outcome.failed() {
		s.fails = 0
	} else {
		s.fails++
	}
	s.answer.Next = now.Add(pauseAfter(res, s.fails, lim, u))
	return s
}

// merge returns the addresses to use, by family, and the error to tell. A result
// without any address changes nothing: neither "no such name" nor an empty answer
// may empty the pool. With addresses in one family, the word of a server that the
// other has none is believed, but a failure of the other leaves its old ones.
// Such a failure is an error only if there are old ones, which are stale now; a
// network that drops all AAAA questions would have every name in error.
func merge(old [2][]netip.Addr, got [2]family) (kept [2][]netip.Addr, err error) {
	res := result{fam: got}
	if !res.fresh() {
		return old, res.worst().err
	}
	for i, f := range got {
		switch {
		case f.outcome == gotAddrs:
			kept[i] = f.addrs
		case f.outcome.failed() && len(old[i]) > 0:
			kept[i] = old[i]
			err = fmt.Errorf("%s: %w", [2]string{"A", "AAAA"}[i], f.err)
		}
	}
	return kept, err
}

// pauseAfter returns how long to wait before the next look-up: the TTL if all
// went well, the back-off if all failed, the shorter of the two if one family
// failed.
func pauseAfter(res result, fails int, lim limits, u float64) time.Duration {
	pause := backoffMax
	if fails > 0 {
		pause = backoff(fails, u)
	}
	if !res.fresh() {
		return pause
	}
	ttl := lim.maxTTL
	for _, f := range res.fam {
		if f.outcome == gotAddrs {
			ttl = min(ttl, f.ttl)
		}
	}
	due := spread(lim.clamp(ttl), u)
	if fails > 0 {
		return min(due, pause)
	}
	return due
}

// backoff returns the pause after the n-th consecutive failure, n from 1: 1s
// doubling to 30s, less up to a quarter so that names do not go in step.
func backoff(n int, u float64) time.Duration {
	d := backoffMax
	if n < 6 { // 1s<<5 is above backoffMax
		d = backoffMin << max(n-1, 0)
	}
	return d - time.Duration(u*float64(d)/4)
}

// spread puts a look-up off by up to a tenth of ttl, so that names with equal
// TTLs are not asked in one burst. Never before the TTL's end: a caching server
// would answer with the rest of it, and be asked twice.
func spread(ttl time.Duration, u float64) time.Duration {
	return ttl + time.Duration(u*float64(min(ttl/10, spreadMax)))
}

// tidy returns addrs sorted and without duplicates, in place, and the lowest
// maxAddrs if there are more. Which ones are kept must not depend on the order
// of an answer, or the pool would change with each.
func tidy(addrs []netip.Addr) (kept []netip.Addr, cut bool) {
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	if len(addrs) > maxAddrs {
		return slices.Clone(addrs[:maxAddrs]), true
	}
	return addrs, false
}

// usable reports whether a TCP connection to addr can have a meaning. Filters
// and sinkholes answer 0.0.0.0, which Linux would connect to itself.
func usable(addr netip.Addr) bool {
	return addr.IsValid() && !addr.IsUnspecified() && !addr.IsMulticast() &&
		addr != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// fixed is the result for addresses that are known without a server: an address
// in text form, or an entry of the hosts file. from ends the error, if any.
func fixed(addrs []netip.Addr, from string, ttl time.Duration) result {
	var res result
	for _, addr := range addrs {
		addr = addr.Unmap()
		i := 0
		if addr.Is6() {
			i = 1
		}
		if usable(addr) {
			res.fam[i].addrs = append(res.fam[i].addrs, addr)
		}
	}
	for i := range res.fam {
		f := &res.fam[i]
		f.addrs, f.cut = tidy(f.addrs)
		f.ttl = ttl
		if len(f.addrs) == 0 {
			f.outcome = noAddrs
			f.err = fmt.Errorf("only unusable addresses (%s%s)", addrs[0], from)
		}
	}
	return res
}
