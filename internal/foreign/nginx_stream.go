package foreign

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"midspan/internal/config"
)

// streamBlock makes routes of the servers of a stream block.
func (x *nginx) streamBlock(ns []*node) {
	var around nginxSettings
	x.upstreams(ns, x.stream, "")
	x.readZones(ns)
	for _, n := range ns {
		switch {
		case n.name() == "upstream" && n.isBlock, n.name() == "server" && n.isBlock:
		case n.name() == "limit_conn_zone": // read
		case n.name() == "map" && n.isBlock && len(n.words) == 3:
			x.maps[n.arg(2)] = n
		case x.streamSetting(&around, n):
		default:
			x.noteBy(streamNotes, n)
		}
	}
	for _, n := range ns {
		if n.name() == "server" && n.isBlock {
			x.streamServer(n, around)
		}
	}
	x.unusedUpstreams(x.stream)
	for _, m := range x.maps {
		if !m.carried {
			x.noteBlock(m.stmt, m.inner(), whyVariable)
		}
	}
}

// streamServer makes routes of a server of a stream block: one for the listen
// addresses of each kind (plain, TLS, with PROXY headers, UDP).
func (x *nginx) streamServer(n *node, around nginxSettings) {
	i := slices.IndexFunc(n.block, func(m *node) bool { return m.name() == "proxy_pass" })
	if i < 0 {
		x.noteBlock(n.stmt, n.inner(), isGone+"it has no `proxy_pass`")
		return
	}
	pass, c := n.block[i], around.inner()
	var written []*node
	for _, m := range n.block {
		switch {
		case m == pass:
		case m.name() == "listen":
			written = append(written, m)
		case x.streamSetting(&c, m):
		default:
			x.noteBy(streamNotes, m)
		}
	}
	var at []listenAt
	for _, m := range written {
		at = append(at, x.listen(m, &c, "")...)
	}
	x.carry(n.stmt)
	r, ok := x.routeTo(n, pass, &c)
	if !ok {
		return
	}
	if !x.streamSettings(n, c, &r) {
		return
	}
	added := false
	for _, group := range sameKind(at) {
		added = x.streamRoute(n, c, r, group) || added
	}
	x.withoutEffect(c, r, pass, at)
	if len(at) == 0 {
		x.route(r) // which says that there is none
	}
	if added {
		x.aboutDefaults(c, n.pos)
	}
}

// streamSettings fills in what the server says beside its upstream. false:
// nobody may connect.
func (x *nginx) streamSettings(n *node, c nginxSettings, r *config.Route) bool {
	own := r.Settings // of the upstream
	r.Settings = x.settings(c)
	r.Balance, r.Check, r.SlowStart = own.Balance, own.Check, own.SlowStart
	if c.sendProxy {
		r.SendProxy = config.At("v1", n.pos)
	}
	x.connLimits(c, &r.Settings)
	var none bool
	if r.Allow, none = x.access(c, n.pos); none {
		x.note(n.stmt, "no route is made of this: `allow` and `deny` refuse every connection")
	}
	return !none
}

// withoutEffect notes what no listen address, or no server, of a server makes
// use of.
func (x *nginx) withoutEffect(c nginxSettings, r config.Route, pass *node, at []listenAt) {
	has := func(f func(l listenAt) bool) bool { return slices.ContainsFunc(at, f) }
	if !has(func(l listenAt) bool { return l.ssl }) {
		for _, n := range c.tls.own {
			x.needless(n.stmt, "it has no effect without `listen … ssl`")
		}
	}
	if !c.up.on.V {
		for _, n := range c.up.own {
			x.needless(n.stmt, "it has no effect without `proxy_ssl on`")
		}
	}
	if !has(func(l listenAt) bool { return l.proxy }) {
		own := c.proxied
		if c.realIP.own {
			own = append(slices.Clone(own), c.realIP.nodes...)
		}
		for _, n := range own {
			x.needless(n.stmt, "it has no effect without `listen … proxy_protocol`")
		}
	}
	if r.Mode.V != modeSNI && !strings.HasPrefix(pass.arg(1), "$") {
		for _, n := range c.prereading {
			x.needless(n.stmt, "no server is chosen by the name that a TLS client asks for")
		}
	}
}

// streamRoute makes the route for listen addresses of one kind.
func (x *nginx) streamRoute(n *node, c nginxSettings, r config.Route, at []listenAt) bool {
	r.Listen = nil
	for _, l := range at {
		r.Listen = append(r.Listen, l.Field)
	}
	first := at[0]
	if first.udp {
		return x.datagrams(n, r)
	}
	if first.ssl {
		if r.Mode.V == modeSNI {
			x.lost(first.node.stmt, "the server name is read where TLS is not decrypted")
			return false
		}
		t, why := x.clientTLS(c)
		if why != "" {
			x.lost(first.node.stmt, why)
			return false
		}
		r.TLS = t
	}
	if first.proxy {
		r.Proxy = x.proxied(c, first)
	}
	return x.room(len(r.Listen), countServers(&r)) && x.route(r)
}

// listenAt is a listen address of nginx's.
type listenAt struct {
	config.Field[config.Listen]
	node            *node
	ssl, proxy, udp bool
	def             bool // default_server
}

// sameKind are listen addresses in groups that a route can have together.
func sameKind(at []listenAt) (groups [][]listenAt) {
	for _, l := range at {
		i := slices.IndexFunc(groups, func(g []listenAt) bool { return g[0].ssl == l.ssl && g[0].proxy == l.proxy && g[0].udp == l.udp })
		if i < 0 {
			groups = append(groups, nil)
			i = len(groups) - 1
		}
		groups[i] = append(groups[i], l)
	}
	return groups
}

// datagrams makes a route of the `listen … udp` of a server, which the kernel
// carries, without what it cannot.
func (x *nginx) datagrams(n *node, r config.Route) bool {
	sni := r.Mode.V == modeSNI
	r.Mode, r.Engine = config.At(modeUDP, n.pos), config.At(engineKernel, n.pos)
	if why := notInKernel(&r); why != "" {
		x.note(n.stmt, "`listen … udp` is not carried over: %s, and %s", whyNoUDP, why)
		return false
	}
	// A connect, a check and a keepalive are TCP's.
	r.ConnectTimeout, r.Tries, r.Keepalive, r.Check = config.Field[time.Duration]{}, config.Field[int]{}, config.Keepalive{}, config.Check{}
	if r.SendProxy.Set() || r.UpstreamTLS.On.V || r.SlowStart.Set() || r.PerSource != (config.Limits{}) || r.MaxConnections.Set() || sni {
		x.note(n.stmt, "`listen … udp`: what is for connections (`proxy_protocol`, `proxy_ssl`, `ssl_preread`, `slow_start`, `limit_conn`) is not carried over")
	}
	r.SendProxy, r.UpstreamTLS, r.SlowStart = config.Field[string]{}, config.UpstreamTLS{}, config.Field[config.OffOr[time.Duration]]{}
	r.PerSource, r.MaxConnections, r.WhenFull = config.Limits{}, config.Field[int]{}, config.Field[string]{}
	r.Groups, r.SNI = nil, config.SNI{}
	if r.Balance.V == "leastconn" {
		r.Balance = config.Field[string]{}
		x.note(n.stmt, "`listen … udp` has `balance: roundrobin`: the kernel does not choose by the number of connections")
	}
	r.To = slices.Clone(r.To)
	for i := range r.To {
		if m := &r.To[i].MaxConnections; m.Set() {
			x.note(n.stmt, "`listen … udp`: max_conns of %s is not carried over: the kernel does not pass a full server by", r.To[i].Target.V)
			*m = config.Field[int]{}
		}
	}
	return x.room(len(r.Listen), len(r.To)) && x.route(r)
}

// routeTo is a route to what a proxy_pass names: an upstream, a server, or a
// variable that is chosen by server name.
func (x *nginx) routeTo(n, pass *node, c *nginxSettings) (config.Route, bool) {
	r := config.Route{Comment: fmt.Sprintf("%s:%d: server", n.pos.File, n.pos.Line)}
	if strings.HasPrefix(pass.arg(1), "$") {
		return r, x.byName(&r, n, pass, c)
	}
	to, why := x.servers(pass.arg(1), x.stream, "", pass.pos)
	if why != "" {
		x.lost(pass.stmt, why)
		return r, false
	}
	x.carry(pass.stmt)
	r.To = to.servers
	x.firstOf(&r, to, n, c, pass.arg(1))
	return r, true
}

// firstOf gives r what it has once from the first of its sets of servers.
func (x *nginx) firstOf(r *config.Route, to passed, n *node, c *nginxSettings, written string) {
	r.Name = config.At(to.name, n.pos)
	if u := to.up; u != nil {
		r.Comment += fmt.Sprintf(", %s: upstream %s", placeFrom(n.pos, u.node.pos), u.name)
		r.Balance, r.Check, r.SlowStart = u.balance, u.check, u.slowStart
	}
	upstream := ""
	if to.up != nil {
		upstream = to.up.name
	}
	r.UpstreamTLS = x.serverTLS(c.up, c.up.on.V, upstream, written, n.pos)
}

// passed is what requests or connections are passed on to.
type passed struct {
	servers []config.Server
	up      *upstream // nil: one server
	name    string    // for a route
}

// servers are those that a word stands for: an upstream, or HOST:PORT. port is
// for a host without one.
func (x *nginx) servers(to string, ups map[string]*upstream, port string, pos config.Pos) (p passed, why string) {
	if u := ups[to]; u != nil {
		x.read(u)
		return passed{u.servers, u, u.name}, ""
	}
	t, why := nginxTarget(to, port)
	if why != "" {
		return p, why
	}
	return passed{[]config.Server{{Target: config.At(t, pos)}}, nil, hostName(t)}, ""
}

// placeFrom is pos, short where it is in the same file as from.
func placeFrom(from, pos config.Pos) string {
	if from.File == pos.File {
		return fmt.Sprintf("line %d", pos.Line)
	}
	return fmt.Sprintf("%s:%d", pos.File, pos.Line)
}

// listen reads `listen ADDRESS [parameters]`; port is for an address without
// one, as http has it. A listener that cannot be carried over is noted and left
// out.
func (x *nginx) listen(n *node, c *nginxSettings, port string) []listenAt {
	l, err := nginxListen(n.arg(1), port)
	if err != nil {
		x.lost(n.stmt, printable(err.Error()))
		return nil
	}
	out := listenAt{node: n}
	for _, w := range n.words[2:] { // nginxListen has seen the address
		name, value, _ := strings.Cut(w.text, "=")
		switch why, known := listenParams[name]; {
		case name == "quic":
			x.lost(n.stmt, "midspan forwards TCP and UDP")
			return nil
		case name == modeUDP:
			out.udp = true
		case name == "ssl":
			out.ssl = true
		case name == "proxy_protocol":
			out.proxy = true
		case name == "default_server" || name == "default":
			out.def = true
		case name == "so_keepalive":
			x.soKeepalive(n, value, c)
		case name == "http2" && port != "":
			// midspan speaks it with clients by itself, over TLS.
		case known:
			x.because(n.stmt, n.pos, quote(w.text), why)
		default:
			x.note(n.stmt, "%s is not known to this importer and is not carried over", quote(w.text))
		}
	}
	if out.udp && (port != "" || out.ssl || out.proxy) {
		x.lost(n.stmt, "midspan forwards UDP as it is")
		return nil
	}
	x.carry(n.stmt)
	out.Field = config.At(l, n.pos)
	return []listenAt{out}
}

// listenParams are the parameters of `listen` that are only noted.
var listenParams = map[string]string{
	"backlog":       isNone + "midspan asks for the longest listen queue that the kernel allows",
	"bind":          isNone + "midspan binds each address",
	"reuseport":     isNone + "midspan does so by itself",
	"http2":         isNone + "bytes are forwarded as they are",
	"ipv6only":      isGone + "whether an IPv6 address also takes IPv4 is the kernel's setting",
	"rcvbuf":        isGone + "midspan leaves socket buffers to the kernel",
	"sndbuf":        isGone + "midspan leaves socket buffers to the kernel",
	"fastopen":      isGone + "midspan does not use TCP Fast Open",
	"setfib":        isGone + "it is not for Linux",
	"accept_filter": isGone + "it is not for Linux",
	"deferred":      isGone + "midspan connects to the server at once, since the server may speak first",
	"multipath":     isGone + "midspan does not use Multipath TCP",
}

// nginxListen is the address of a `listen`; port is for one without.
func nginxListen(addr, port string) (config.Listen, error) {
	host, ports, found := splitPort(addr)
	switch {
	case addr == "":
		return config.Listen{}, errors.New("it has no address")
	case strings.HasPrefix(addr, "unix:"):
		return config.Listen{}, errors.New("midspan listens on TCP addresses")
	case strings.Contains(addr, "$"):
		return config.Listen{}, errors.New("variables are not evaluated")
	case !found && strings.Trim(addr, "0123456789-") == "":
		host, ports = "", addr
	case !found && port == "":
		return config.Listen{}, fmt.Errorf("%s has no port", quote(addr))
	case !found:
		ports = port
	}
	return listenOn(host, "", ports)
}

// soKeepalive reads so_keepalive=on|off|[idle]:[interval]:[count].
func (x *nginx) soKeepalive(n *node, value string, c *nginxSettings) {
	switch value {
	case "on":
		return // midspan's default
	case "off":
		c.keepalive = config.Keepalive{Off: config.At(true, n.pos)}
		return
	}
	parts := strings.Split(value, ":")
	for len(parts) < 3 {
		parts = append(parts, "")
	}
	var k config.Keepalive
	for i, at := range []*config.Field[time.Duration]{&k.Idle, &k.Interval} {
		if parts[i] == "" {
			continue
		}
		d, ok := nginxTime(parts[i])
		if !ok {
			x.note(n.stmt, "%s: so_keepalive=%s is not carried over: %s is not a time", n, printable(value), quote(parts[i]))
			return
		}
		*at = config.At(x.within(n.pos, max(d, time.Second), time.Second, 9*time.Hour), n.pos)
	}
	if parts[2] != "" {
		v, ok := x.serverNumber(n, word{text: "so_keepalive=" + value}, parts[2], 1, 127)
		if !ok {
			return
		}
		k.Count = config.At(v, n.pos)
	}
	c.keepalive = k
}
