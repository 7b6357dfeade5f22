package resolve

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// wire looks names up in the hosts file and then in DNS.
type wire struct {
	src     *sources
	timeout time.Duration // one try to one server over one protocol
	maxTTL  time.Duration // of an answer that has no TTL
}

// lookup looks one name up. via is the full name that gave the newest good
// answer, if any.
func (w *wire) lookup(ctx context.Context, name, via string) result {
	if addr, err := netip.ParseAddr(name); err == nil {
		return fixed([]netip.Addr{addr}, "", w.maxTTL)
	}
	hosts, conf, _ := w.src.current()
	if addrs := hosts[hostsKey(name)]; len(addrs) > 0 {
		return fixed(addrs, " from "+w.src.hostsFile.path, w.maxTTL)
	}
	list := conf.candidates(name)
	if len(list) == 0 {
		f := family{outcome: noName, err: errors.New("not a valid DNS name")}
		return result{fam: [2]family{f, f}}
	}
	var told result
	for _, full := range list {
		res := w.both(ctx, conf.servers, full)
		res.via = full
		if res.fresh() || !tryNext(res, via) {
			return res
		}
		if res.worst().outcome > told.worst().outcome {
			told = res
		}
	}
	if len(list) > 1 {
		for i := range told.fam {
			told.fam[i].err = fmt.Errorf("%w; asked for %s", told.fam[i].err, strings.Join(list, " "))
		}
	}
	return told
}

// tryNext decides whether the next name of the search list is asked for after
// one that gave no address. It is when the name does not exist or has no address,
// and, as in the C library, when servers refuse to say: without a way to the root
// servers they do so for every name that is not theirs. It is not when no server
// answers at all, nor when the failed one is the name that is known good: a
// hiccup must not send traffic to the hosts of another name.
func tryNext(res result, via string) bool {
	switch {
	case res.via == via && res.worst().outcome.failed():
		return false
	case res.fam[0].outcome == noName || res.fam[1].outcome == noName:
		return true
	}
	return res.worst().outcome != silent
}

// both asks for the A and the AAAA records of a full name at the same time.
func (w *wire) both(ctx context.Context, servers []netip.AddrPort, full string) result {
	var res result
	var wg sync.WaitGroup
	for i, qtype := range [2]uint16{dns.TypeA, dns.TypeAAAA} {
		wg.Go(func() { res.fam[i] = w.family(ctx, servers, full, qtype) })
	}
	wg.Wait()
	return res
}

// family asks for one type of record, and for the target of an alias (CNAME)
// when the server has not followed it.
func (w *wire) family(ctx context.Context, servers []netip.AddrPort, full string, qtype uint16) family {
	name, ttl := full, w.maxTTL
	for hops := 0; ; {
		reply, server, failures := w.ask(ctx, servers, name, qtype)
		if reply == nil {
			return failure(failures)
		}
		x := extract(reply, name, qtype, maxHops-hops)
		ttl = min(ttl, x.ttl)
		hops += x.hops
		where := server.String()
		if x.end != dns.CanonicalName(full) {
			where += " for its alias " + x.end
		}
		switch {
		case len(x.addrs) > 0:
			addrs, cut := tidy(x.addrs)
			return family{addrs: addrs, cut: cut, ttl: ttl}
		case reply.Rcode == dns.RcodeNameError:
			return family{outcome: noName, err: fmt.Errorf("no such name (NXDOMAIN from %s)", where)}
		case x.unusable.IsValid():
			return family{outcome: noAddrs, err: fmt.Errorf("only unusable addresses (%s from %s)", x.unusable, where)}
		case hops > maxHops:
			return family{outcome: refused, err: fmt.Errorf("more than %d aliases in a row, perhaps a loop (from %s)", maxHops, server)}
		case x.end == dns.CanonicalName(name) || hasSOA(reply):
			return family{outcome: noAddrs, err: fmt.Errorf("no address (empty answer from %s)", where)}
		}
		name = x.end
	}
}
