package foreign

import (
	"strconv"
	"strings"
	"time"

	"midspan/internal/config"
)

// upstream is one `upstream` block.
type upstream struct {
	name    string
	node    *node
	port    string // of servers that name none: http has 80, stream needs one
	read    bool
	balance config.Field[string]
	servers []config.Server
	check   config.Check

	slowStart config.Field[config.OffOr[time.Duration]]
	sticky    config.Field[string] // the name of a cookie
}

// upstreams finds the upstream blocks among ns.
func (x *nginx) upstreams(ns []*node, into map[string]*upstream, port string) {
	for _, n := range ns {
		if n.name() == "upstream" && n.isBlock && into[n.arg(1)] == nil {
			into[n.arg(1)] = &upstream{name: n.arg(1), node: n, port: port}
		}
	}
}

// unusedUpstreams notes those that no route came from.
func (x *nginx) unusedUpstreams(ups map[string]*upstream) {
	for _, u := range ups {
		if !u.read {
			x.noteBlock(u.node.stmt, u.node.inner(), isGone+"no route goes to it")
		}
	}
}

// read evaluates u, once.
func (x *nginx) read(u *upstream) {
	if u.read {
		return
	}
	u.read = true
	x.carry(u.node.stmt)
	for _, n := range u.node.block {
		switch n.name() {
		case "server":
			x.upstreamServer(u, n)
		case "least_conn":
			x.carry(n.stmt)
			u.balance = config.At("leastconn", n.pos)
		case "ip_hash":
			x.carry(n.stmt)
			u.balance = config.At("source", n.pos)
			x.note(n.stmt, "%s is carried over as `balance: source`, which takes the whole address of the client, also of an IPv4 one", n)
		case "sticky":
			x.sticky(u, n)
		case "hash":
			x.hash(u, n)
		case "random", "least_time":
			x.carry(n.stmt)
			u.balance = config.At("leastconn", n.pos)
			x.note(n.stmt, "%s is carried over as `balance: leastconn`, the nearest that midspan has", n)
		default:
			if why, web := webUpstreamNotes.find(n.name()); web && u.port != "" {
				x.because(n.stmt, n.pos, n.String(), why)
				continue
			}
			x.noteBy(upstreamNotes, n)
		}
	}
}

// sticky reads `sticky cookie NAME …`.
func (x *nginx) sticky(u *upstream, n *node) {
	if why := notAHeader(n.arg(2)); n.arg(1) != "cookie" || why != "" || u.port == "" {
		x.noteBy(upstreamNotes, n)
		return
	}
	x.carry(n.stmt)
	u.sticky = config.At(n.arg(2), n.pos)
	x.note(n.stmt, "%s is carried over as `sticky: %s`: the values are midspan's own, and the cookie lasts as long as the browser runs", n, printable(n.arg(2)))
}

func (x *nginx) hash(u *upstream, n *node) {
	switch n.arg(1) {
	case "$remote_addr", "$binary_remote_addr", "${remote_addr}", "${binary_remote_addr}":
		x.carry(n.stmt)
		u.balance = config.At("source", n.pos)
	default:
		x.note(n.stmt, "%s is carried over as `balance: roundrobin`: midspan hashes the client's address only", n)
	}
}

// upstreamServer reads `server ADDRESS [weight=N] …`.
func (x *nginx) upstreamServer(u *upstream, n *node) {
	srv := config.Server{}
	t, why := nginxTarget(n.arg(1), u.port)
	var fails, timeout string
	for _, w := range n.words[min(2, len(n.words)):] {
		name, value, _ := strings.Cut(w.text, "=")
		switch name {
		case "weight":
			if v, ok := x.serverNumber(n, w, value, 1, 256); ok && v != 1 {
				srv.Weight = config.At(v, n.pos)
			}
		case "max_conns":
			if v, ok := x.serverNumber(n, w, value, 0, connsMax); ok && v != 0 {
				srv.MaxConnections = config.At(v, n.pos)
			}
		case "slow_start":
			x.slowStart(u, n, w, value)
		case "max_fails":
			fails = value
		case "fail_timeout":
			timeout = value
		case "backup":
			srv.Backup = config.At(true, n.pos)
		case "down":
			why = "it is `down`"
		case "service":
			why = "midspan does not look up SRV records; write a `server` for each"
		case "resolve":
			x.because(n.stmt, n.pos, "`resolve`", isNone+"midspan looks names up by their TTL")
		default:
			x.note(n.stmt, "%s %s", quote(w.text), nginxServerParam(name))
		}
	}
	if why != "" {
		x.lost(n.stmt, why)
		return
	}
	x.carry(n.stmt)
	srv.Target = config.At(t, n.pos)
	x.passiveCheck(u, n, fails, timeout)
	u.servers = append(u.servers, srv)
}

// slowStart reads `slow_start=TIME`, which midspan has once for a route.
func (x *nginx) slowStart(u *upstream, n *node, w word, value string) {
	d, ok := nginxTime(value)
	switch {
	case !ok:
		x.note(n.stmt, "%s: %s is not a time", n, quote(w.text))
	case d > 0:
		at := config.At(config.OffOr[time.Duration]{V: x.within(n.pos, d, time.Second, time.Hour)}, n.pos)
		if u.slowStart.Set() && u.slowStart.V != at.V {
			x.note(n.stmt, "%s: %s differs from that of an earlier server: midspan has one `slow_start` for a route, and the first is carried over", n, quote(w.text))
			return
		}
		u.slowStart = at
	}
}

func nginxServerParam(name string) string {
	switch name {
	case "route", "drain":
		return "is not carried over: midspan keeps no sessions"
	}
	return "is not known to this importer and is not carried over"
}

func (x *nginx) serverNumber(n *node, w word, value string, lo, hi int) (int, bool) {
	v, err := strconv.Atoi(value)
	if err != nil || v < lo {
		x.note(n.stmt, "%s: %s is not a number from %d", n, quote(w.text), lo)
		return 0, false
	}
	return x.withinInt(n.pos, v, lo, hi), true
}

// passiveCheck carries over max_fails and fail_timeout, where written: midspan
// counts failed connects in the same way, once for all servers of a route.
func (x *nginx) passiveCheck(u *upstream, n *node, fails, timeout string) {
	c := config.Check{}
	if fails == "0" {
		x.note(n.stmt, "%s: `max_fails=0` is not carried over: midspan always counts failed connects", n)
	} else if fails != "" {
		if v, ok := x.serverNumber(n, word{text: "max_fails=" + fails}, fails, 1, 100); ok {
			c.Fall = config.At(v, n.pos)
		}
	}
	if timeout != "" {
		if d, ok := nginxTime(timeout); ok {
			c.Every = config.At(x.within(n.pos, d, 10*time.Millisecond, time.Hour), n.pos)
		} else {
			x.note(n.stmt, "%s: %s is not a time", n, quote(timeout))
		}
	}
	if len(u.servers) == 0 {
		u.check = c
	} else if !sameCheck(c, u.check) {
		x.note(n.stmt, "%s: max_fails and fail_timeout differ from those of the first server: midspan has one `check` for a route, and the first is carried over", n)
	}
}

// nginxTarget is the address of a server, or why it cannot be one. port is for
// an address without one.
func nginxTarget(addr, port string) (config.Target, string) {
	host, own, found := addr, "", false
	if !strings.HasSuffix(addr, "]") {
		host, own, found = splitPort(addr)
	}
	if found {
		port = own
	}
	switch {
	case addr == "":
		return config.Target{}, "it has no address"
	case strings.HasPrefix(addr, "unix:"):
		return config.Target{}, "midspan connects to TCP addresses"
	case found && (own == "$server_port" || own == "${server_port}"):
		port = "" // the listener's
	case strings.Contains(addr, "$"):
		return config.Target{}, "variables are not evaluated; write a route for each value"
	case port == "":
		return config.Target{}, "it has no port, which nginx refuses as well"
	}
	t, err := target(host, port)
	if err != nil {
		return t, printable(err.Error())
	}
	return t, ""
}
