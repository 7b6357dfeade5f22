package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"midspan/internal/config"
)

// unixPeer is who clients on Unix sockets are to midspan: the front's bridge
// connects from this address. Nothing else uses it.
var unixPeer = netip.MustParseAddr("127.255.0.1")

// everybody and nobodyNet are all addresses and none.
var (
	everybody = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	nobodyNet = netip.MustParsePrefix("255.255.255.255/32")
)

// access writes allow and deny as midspan's `allow`, which has no order: the
// networks that the first matching rule of nginx's allows.
func (r *route) access() {
	var rules []*directive
	for _, from := range [][]*directive{r.server.block, r.conf.stream} {
		for _, d := range from {
			if d.name == "allow" || d.name == "deny" {
				rules = append(rules, d)
			}
		}
		if rules != nil {
			break
		}
	}
	if rules == nil {
		return
	}
	var allowed []netip.Prefix
	left := slices.Clone(everybody)
	if !r.bind.addr.IsValid() {
		left = []netip.Prefix{netip.PrefixFrom(unixPeer, 32)}
	}
	for _, d := range rules {
		for _, net := range r.networks(d) {
			var hit []netip.Prefix
			hit, left = cut(left, net)
			if d.name == "allow" {
				allowed = append(allowed, hit...)
			}
		}
	}
	if allowed = append(allowed, left...); len(allowed) == 0 {
		allowed = []netip.Prefix{nobodyNet}
	}
	r.patch = append(r.patch, func(c *config.Route) {
		c.Allow = nil
		for _, p := range allowed {
			c.Allow = append(c.Allow, set(p))
		}
	})
}

// networks are those of a rule on this kind of socket.
func (r *route) networks(d *directive) []netip.Prefix {
	onUnix := !r.bind.addr.IsValid()
	switch text := d.arg(0); {
	case text == "all":
		return everybody
	case text == "unix:" && onUnix:
		return []netip.Prefix{netip.PrefixFrom(unixPeer, 32)}
	case text == "unix:" || onUnix:
		return nil
	default:
		net, err := prefix(text)
		if err != nil {
			return nil
		}
		return []netip.Prefix{net}
	}
}

// cut splits nets into what lies inside net, and the rest.
func cut(nets []netip.Prefix, net netip.Prefix) (inside, outside []netip.Prefix) {
	for _, n := range nets {
		switch {
		case !n.Overlaps(net):
			outside = append(outside, n)
		case net.Bits() <= n.Bits():
			inside = append(inside, n)
		default:
			a, b := halves(n)
			in, out := cut([]netip.Prefix{a, b}, net)
			inside, outside = append(inside, in...), append(outside, out...)
		}
	}
	return inside, outside
}

// bytesOf is a size of nginx's: 42, 16k, 1m; 0: it is none.
func bytesOf(text string) int {
	unit := 1
	if n, is := strings.CutSuffix(strings.ToLower(text), "k"); is {
		text, unit = n, 1<<10
	} else if n, is := strings.CutSuffix(strings.ToLower(text), "m"); is {
		text, unit = n, 1<<20
	}
	n, _ := strconv.Atoi(text)
	return n * unit
}

// timeOf is a time of nginx's: without a unit, seconds.
func timeOf(text string) (time.Duration, error) {
	if strings.Trim(text, "0123456789") == "" {
		text += "s"
	}
	return time.ParseDuration(text)
}

// halves are the two networks that p is made of.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits() + 1
	bytes := p.Addr().AsSlice()
	bytes[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	upper, _ := netip.AddrFromSlice(bytes)
	return netip.PrefixFrom(p.Addr(), bits), netip.PrefixFrom(upper, bits)
}

// limits writes limit_conn as per_source: the nearest that midspan has to a zone
// with the client's address as its key. A zone that routes share is one for
// each of them in midspan, which the tests find out.
func (r *route) limits(t *translation) {
	for _, d := range r.all("limit_conn") {
		i := slices.IndexFunc(r.conf.stream, func(z *directive) bool {
			return z.name == "limit_conn_zone" && strings.HasPrefix(z.arg(1), "zone="+d.arg(0)+":")
		})
		n, err := strconv.Atoi(d.arg(1))
		if i < 0 || err != nil || !strings.Contains(r.conf.stream[i].arg(0), "remote_addr") || r.on("limit_conn_dry_run") {
			t.notes = append(t.notes, fmt.Sprintf("not carried over: %s", quoteAll(d)))
			continue
		}
		r.patch = append(r.patch, func(c *config.Route) { c.PerSource.MaxConnections = set(n) })
	}
}
