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

// nobodyNet is a network that no client is in.
var nobodyNet = netip.MustParsePrefix("255.255.255.255/32")

// rules are the allow and deny that hold for the server, in their order.
func (u *unit) rules() (all []*directive) {
	for _, from := range [][]*directive{u.server.block, u.conf.stream} {
		for _, d := range from {
			if d.name == "allow" || d.name == "deny" {
				all = append(all, d)
			}
		}
		if all != nil {
			return all
		}
	}
	return nil
}

// access leaves allow and deny to the importer, but for two cases: it makes no
// route of a server that nobody may use, and knows no Unix sockets. What is decided
// here is in both cases the same for all clients.
func (r *route) access() {
	for _, d := range r.rules() {
		who, onUnix := d.arg(0), !r.bind.addr.IsValid()
		switch {
		case who == "unix:" && !onUnix, who != "all" && who != "unix:" && onUnix: // of the other kind of socket
		case d.name == "deny" && (who == "all" || onUnix) && len(r.allows) == 0:
			r.lines = slices.DeleteFunc(r.lines, func(l string) bool { return strings.HasPrefix(l, "deny ") })
			r.patch = append(r.patch, func(c *config.Route) { c.Allow = []config.Field[netip.Prefix]{set(nobodyNet)} })
			return
		case onUnix:
			return // allowed
		default:
			r.lines = append(r.lines, d.name+" "+who)
			if d.name == "allow" {
				r.allows = append(r.allows, who)
			}
		}
	}
}

// limits writes limit_conn with a zone of the client's address, which becomes
// per_source. A zone that routes share is one for each of them in midspan, which the tests
// find out.
func (r *route) limits(t *translation) {
	for _, d := range r.all("limit_conn") {
		i := slices.IndexFunc(r.conf.stream, func(z *directive) bool {
			return z.name == "limit_conn_zone" && strings.HasPrefix(z.arg(1), "zone="+d.arg(0)+":")
		})
		if i < 0 || !strings.Contains(r.conf.stream[i].arg(0), "remote_addr") || r.on("limit_conn_dry_run") {
			t.notes = append(t.notes, fmt.Sprintf("not carried over: %s", quoteAll(d)))
			continue
		}
		t.zones[d.arg(0)] = true
		r.lines = append(r.lines, quoteAll(d))
	}
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
