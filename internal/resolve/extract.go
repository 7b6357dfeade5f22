package resolve

import (
	"math"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// maxHops is how many aliases (CNAME) are followed for one question.
const maxHops = 8

// extraction is what one message says of a name.
type extraction struct {
	addrs    []netip.Addr // usable ones, IPv4 never in IPv6 form, in the message's order
	unusable netip.Addr   // one that was left out, if any
	ttl      time.Duration
	hops     int    // aliases followed, one above the limit if there are more
	end      string // where the aliases lead, in canonical form; the name itself if there is none
}

// extract returns the addresses that reply has for name: the records of the type
// asked for at the end of its aliases. Records of other names are not looked at,
// whatever they are. The TTL is the least of all records used; without any it is
// the longest possible.
func extract(reply *dns.Msg, name string, qtype uint16, hops int) extraction {
	x := extraction{end: dns.CanonicalName(name), ttl: math.MaxInt64}
	for {
		x.take(reply.Answer, qtype)
		if len(x.addrs) > 0 || x.unusable.IsValid() {
			return x
		}
		target, ttl, ok := alias(reply.Answer, x.end)
		if !ok {
			return x
		}
		x.hops++
		if x.hops > hops {
			return x
		}
		x.end, x.ttl = target, min(x.ttl, ttl)
	}
}

// take adds the addresses of x.end.
func (x *extraction) take(records []dns.RR, qtype uint16) {
	for _, rr := range records {
		h := rr.Header()
		if h.Rrtype != qtype || h.Class != dns.ClassINET || dns.CanonicalName(h.Name) != x.end {
			continue
		}
		addr := address(rr)
		if !usable(addr) {
			x.unusable = addr
			continue
		}
		x.addrs = append(x.addrs, addr)
		x.ttl = min(x.ttl, seconds(h.Ttl))
	}
}

// address returns the address of an A or AAAA record, the zero Addr if it has
// none: a record may come without data.
func address(rr dns.RR) netip.Addr {
	var ip []byte
	switch rr := rr.(type) {
	case *dns.A:
		ip = rr.A
	case *dns.AAAA:
		ip = rr.AAAA
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

// alias returns the target of the first CNAME record of name.
func alias(records []dns.RR, name string) (target string, ttl time.Duration, ok bool) {
	for _, rr := range records {
		if c, is := rr.(*dns.CNAME); is && c.Hdr.Class == dns.ClassINET &&
			c.Target != "" && dns.CanonicalName(c.Hdr.Name) == name {
			return dns.CanonicalName(c.Target), seconds(c.Hdr.Ttl), true
		}
	}
	return "", 0, false
}

// seconds returns a TTL as a duration. One with the top bit set counts as zero
// (RFC 2181, section 8).
func seconds(ttl uint32) time.Duration {
	if ttl > math.MaxInt32 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

// hasSOA reports that reply ends the matter: a server that adds the start of
// authority says that there is no such record at the end of the aliases, not
// that it did not follow them (RFC 2308, section 2.2).
func hasSOA(reply *dns.Msg) bool { return has[*dns.SOA](reply.Ns) }

// isReferral reports that reply only names other servers: it is from a server
// that does not resolve for us, and says nothing about the name.
func isReferral(reply *dns.Msg) bool {
	return len(reply.Answer) == 0 && !reply.Authoritative && !reply.RecursionAvailable &&
		has[*dns.NS](reply.Ns) && !hasSOA(reply)
}

func has[T dns.RR](records []dns.RR) bool {
	for _, rr := range records {
		if _, ok := rr.(T); ok {
			return true
		}
	}
	return false
}
