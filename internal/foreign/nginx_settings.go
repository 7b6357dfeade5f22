package foreign

import (
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	"midspan/internal/config"
)

// nginxSettings are what a server, or a location, takes over from the blocks
// around it.
type nginxSettings struct {
	connect, idle, preread, proxyTimeout config.Field[time.Duration]
	read, header, rest                   config.Field[time.Duration] // http: proxy_read_timeout, client_header_timeout, keepalive_timeout
	keepalive                            config.Keepalive
	sendProxy, sslPreread                bool
	dryRun                               bool
	maxHello                             config.Field[config.Size]
	source                               config.Field[netip.Addr] // proxy_bind
	tries                                config.Field[int]        // proxy_next_upstream_tries
	realHeader                           string                   // http: real_ip_header
	tls                                  nginxTLS
	up                                   nginxProxySSL

	proxied, prereading []*node // what else is about PROXY headers, and ClientHellos, in the block itself

	// Of these, a block that has one has none of those around it.
	realIP, access, limits           inherited
	setHeader, addHeader, hideHeader inherited
}

// inherited are directives that a block takes over as a whole, or not at all.
type inherited struct {
	nodes []*node
	own   bool
}

func (l *inherited) add(n *node) {
	if !l.own {
		*l = inherited{own: true}
	}
	l.nodes = append(l.nodes, n)
}

// inner are c for a block inside.
func (c nginxSettings) inner() nginxSettings {
	for _, l := range []*inherited{&c.realIP, &c.access, &c.limits, &c.setHeader, &c.addHeader, &c.hideHeader, &c.tls.certs, &c.tls.keys} {
		l.own = false
	}
	c.tls.own, c.up.own, c.proxied, c.prereading = nil, nil, nil, nil
	return c
}

// setting carries n over into c if it is one that blocks inherit.
func (x *nginx) setting(c *nginxSettings, n *node) bool {
	lists := map[string]*inherited{
		"set_real_ip_from": &c.realIP, "allow": &c.access, "deny": &c.access, "limit_conn": &c.limits,
		"ssl_certificate": &c.tls.certs, "ssl_certificate_key": &c.tls.keys,
	}
	switch name := n.name(); {
	case lists[name] != nil && len(n.words) > 1:
		lists[name].add(n)
		if strings.HasPrefix(name, "ssl_") {
			c.tls.own = append(c.tls.own, n)
		}
		x.carry(n.stmt)
	case x.tlsSetting(c, n), x.timeSetting(c, n):
	case name == "proxy_socket_keepalive":
		// On is midspan's default; off is too, since it is only nginx's word
		// for the kernel's.
		x.carry(n.stmt)
	case name == "proxy_next_upstream_tries" && len(n.words) == 2:
		x.carry(n.stmt)
		c.tries = config.Field[int]{}
		if v, ok := x.serverNumber(n, n.words[1], n.arg(1), 0, 64); ok && v > 0 { // 0 is no limit
			c.tries = config.At(v, n.pos)
		}
	case name == "proxy_next_upstream" && n.arg(1) == "off":
		x.lost(n.stmt, whyNext)
	case name == "proxy_bind":
		x.proxyBind(c, n)
	case name == "limit_conn_dry_run":
		x.carry(n.stmt)
		c.dryRun = n.arg(1) == "on"
	case name == "resolver":
		x.resolver(n)
	case name == "resolver_timeout":
		var d config.Field[time.Duration]
		if x.time(n, &d) && d.V > 0 && !x.file.DNS.Timeout.Set() {
			x.file.DNS.Timeout = config.At(x.within(d.Pos, d.V, time.Millisecond, time.Hour), d.Pos)
		}
	default:
		return false
	}
	return true
}

// proxyBind reads `proxy_bind ADDRESS`.
func (x *nginx) proxyBind(c *nginxSettings, n *node) {
	a, err := netip.ParseAddr(n.arg(1))
	switch {
	case n.arg(1) == "off":
		c.source = config.Field[netip.Addr]{}
	case err != nil || a.Zone() != "" || a.IsUnspecified() || len(n.words) > 2:
		x.lost(n.stmt, "`source` of a route is one of this machine's addresses, and servers see it as the client's; `send_proxy` tells them the client's own")
		return
	default:
		c.source = config.At(a.Unmap(), n.pos)
	}
	x.carry(n.stmt)
}

// timeSetting is setting for times.
func (x *nginx) timeSetting(c *nginxSettings, n *node) bool {
	switch n.name() {
	case "proxy_connect_timeout":
		if x.time(n, &c.connect) {
			x.note(n.stmt, "%s is for each attempt in nginx; midspan's connect_timeout is for all attempts of a connection together", n)
		}
	case "proxy_timeout":
		x.time(n, &c.idle)
	case "preread_timeout":
		if x.time(n, &c.preread) {
			c.prereading = append(c.prereading, n)
		}
	case "proxy_protocol_timeout":
		if x.time(n, &c.proxyTimeout) {
			c.proxied = append(c.proxied, n)
		}
	default:
		return false
	}
	return true
}

// streamSetting is setting for what only a stream block has.
func (x *nginx) streamSetting(c *nginxSettings, n *node) bool {
	switch n.name() {
	case "proxy_protocol":
		c.sendProxy = n.arg(1) == "on"
	case "ssl_preread":
		c.sslPreread = n.arg(1) == "on"
		c.prereading = append(c.prereading, n)
	case "preread_buffer_size":
		size, ok := nginxSize(n.arg(1))
		if !ok {
			x.lost(n.stmt, "`max_hello` is in KiB, 1 to 64")
			return true
		}
		c.maxHello = config.At(size, n.pos)
		c.prereading = append(c.prereading, n)
	default:
		return x.setting(c, n)
	}
	x.carry(n.stmt)
	return true
}

// nginxSize reads a number of bytes (16384, 16k) that `max_hello` can be.
func nginxSize(s string) (config.Size, bool) {
	factor := 1
	if number, is := strings.CutSuffix(strings.ToLower(s), "k"); is {
		s, factor = number, 1<<10
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 64<<10 || n*factor > 64<<10 || n*factor%(1<<10) != 0 {
		return 0, false
	}
	return config.Size(n * factor), true
}

// settings are c as a route has them.
func (x *nginx) settings(c nginxSettings) config.Settings {
	s := config.Settings{Keepalive: c.keepalive, Tries: c.tries}
	if c.source.Set() {
		s.Source = append(s.Source, c.source)
	}
	if c.connect.V > 0 {
		s.ConnectTimeout = config.At(x.within(c.connect.Pos, c.connect.V, time.Millisecond, time.Hour), c.connect.Pos)
	}
	if c.idle.Set() {
		v := config.OffOr[time.Duration]{Off: c.idle.V == 0}
		if !v.Off {
			v.V = x.within(c.idle.Pos, c.idle.V, time.Second, 30*24*time.Hour)
		}
		s.IdleTimeout = config.At(v, c.idle.Pos)
	}
	return s
}

// proxied is how a listener with `proxy_protocol` reads headers.
func (x *nginx) proxied(c nginxSettings, l listenAt) config.Proxy {
	p := config.Proxy{Mode: config.At(proxyRequired, l.Pos)}
	if c.proxyTimeout.V > 0 {
		p.Timeout = config.At(x.within(c.proxyTimeout.Pos, c.proxyTimeout.V, time.Millisecond, time.Hour), c.proxyTimeout.Pos)
	}
	for _, n := range c.realIP.nodes {
		if net, ok := network(n.arg(1)); ok {
			p.From = append(p.From, config.At(net, n.pos))
		} else {
			x.lost(n.stmt, quote(n.arg(1))+" is not a network; midspan knows senders of PROXY headers by their addresses")
		}
	}
	if len(p.From) > 0 {
		x.note(l.node.stmt, "%s: midspan resets who is none of `set_real_ip_from`; nginx reads a header of theirs too, and does not use it", l.node)
	} else {
		x.note(l.node.stmt, "%s: whoever connects can say in the header who the client is, which midspan believes (nginx, without `set_real_ip_from`, does not); write `proxy_protocol: { from: [NETWORK] }`", l.node)
	}
	return p
}

// access is `allow` as c has it. none: nobody may connect.
func (x *nginx) access(c nginxSettings, pos config.Pos) (allow []config.Field[netip.Prefix], none bool) {
	list := newAccess()
	for _, n := range c.access.nodes {
		nets := everywhere()
		switch net, ok := network(n.arg(1)); {
		case ok:
			nets = []netip.Prefix{net}
		case n.arg(1) == "unix:":
			continue // midspan has no Unix sockets
		case n.arg(1) != "all":
			x.because(n.stmt, n.pos, n.String(), whyNginxAccess)
			continue
		}
		if n.name() == "allow" {
			list.allow(nets)
		} else {
			list.deny(nets)
		}
	}
	nets, all := list.result()
	switch {
	case all:
		return nil, false
	case len(nets) > maxAllow:
		x.notes.Addf(pos, "%s`allow` and `deny` are not carried over: they make more than %d networks; %s", openMark, maxAllow, whereSource)
		return nil, false
	}
	return networks(nets, pos), len(nets) == 0
}

// connLimits carries over `limit_conn ZONE N`.
func (x *nginx) connLimits(c nginxSettings, s *config.Settings) {
	for _, n := range c.limits.nodes {
		z := x.zones[n.arg(1)]
		limit, err := strconv.Atoi(n.arg(2))
		switch {
		case c.dryRun:
			x.needless(n.stmt, "limit_conn_dry_run only logs")
			continue
		case z == nil || err != nil || limit < 1:
			x.lost(n.stmt, "its zone is not one of a client's address; write `max_connections` or `per_source` for the route")
			continue
		}
		at := config.At(x.withinInt(n.pos, limit, 1, connsMax), n.pos)
		if !z.perSource {
			s.MaxConnections, s.WhenFull = at, config.At("reset", n.pos)
			continue
		}
		s.PerSource.MaxConnections = at
		if z.users > 1 && z.shared {
			x.note(n.stmt, "%s: nginx counts a client's connections of all servers with that zone together, midspan for each route", n)
		}
	}
}

// zone is a limit_conn_zone.
type zone struct {
	perSource bool // by the client's address; else one for a server
	shared    bool // the key says nothing about the server
	users     int
}

// readZones finds the zones among ns whose key midspan can count by, and how many use each.
func (x *nginx) readZones(ns []*node) {
	for _, n := range ns {
		if n.name() != "limit_conn_zone" {
			continue
		}
		key := strings.NewReplacer("{", "", "}", "").Replace(n.arg(1))
		rest := strings.NewReplacer("$binary_remote_addr", "", "$remote_addr", "").Replace(key)
		server := strings.NewReplacer("$server_port", "", "$server_name", "", "$server_addr", "").Replace(rest)
		name, _, _ := strings.Cut(strings.TrimPrefix(n.arg(2), "zone="), ":")
		if server != "" || key == "" {
			x.lost(n.stmt, "midspan counts connections of a client's address, or of a route")
			continue
		}
		x.carry(n.stmt)
		x.zones[name] = &zone{perSource: rest != key, shared: rest == ""}
	}
	x.countZones(ns)
}

func (x *nginx) countZones(ns []*node) {
	for _, n := range ns {
		if z := x.zones[n.arg(1)]; z != nil && n.name() == "limit_conn" {
			z.users++
		}
		x.countZones(n.block)
	}
}

// pathOf is a file as nginx looks it up: from the directory of the main file.
func (x *nginx) pathOf(name string) string {
	if dir := path.Dir(x.name); !path.IsAbs(name) && dir != "." {
		return path.Join(dir, name)
	}
	return name
}
