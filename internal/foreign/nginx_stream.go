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
	around := nginxSettings{tls: proxySSL(ns, false)}
	x.upstreams(ns, x.stream, "")
	for _, n := range ns {
		switch {
		case n.name() == "upstream" && n.isBlock, n.name() == "server" && n.isBlock:
		case x.setting(&around, n):
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
}

// streamServer makes a route of a server of a stream block.
func (x *nginx) streamServer(n *node, c nginxSettings) {
	i := slices.IndexFunc(n.block, func(m *node) bool { return m.name() == "proxy_pass" })
	if i < 0 {
		x.noteBlock(n.stmt, n.inner(), isGone+"it has no `proxy_pass`")
		return
	}
	c.tls = proxySSL(n.block, c.tls)
	if line := onlyTLS(n); line != 0 && !c.tls {
		x.noteBlock(n.stmt, n.inner(), fmt.Sprintf("%s`listen … ssl` (line %d): %s", isGone, line, whyNoTLS))
		return
	}
	pass := n.block[i]
	var tcp, udp []config.Field[config.Listen]
	for _, m := range n.block {
		switch {
		case m == pass:
		case m.name() == "listen" && slices.ContainsFunc(m.words, func(w word) bool { return w.text == modeUDP }):
			udp = append(udp, x.listen(m, &c, "")...)
		case m.name() == "listen":
			tcp = append(tcp, x.listen(m, &c, "")...)
		case x.setting(&c, m):
		case m.name() == "ssl_verify_client" && m.arg(1) == "off":
			x.needless(m.stmt, "midspan asks clients for no certificate")
		default:
			x.noteBy(streamNotes, m)
		}
	}
	x.carry(n.stmt)
	r, ok := x.routeTo(n, pass, pass.arg(1), x.stream, "")
	if !ok {
		return
	}
	settings := x.settings(c)
	settings.Balance, settings.Check = r.Balance, r.Check
	r.Settings = settings
	added := false
	if r.Listen = tcp; len(tcp) > 0 || len(udp) == 0 {
		added = x.room(len(r.Listen), len(r.To)) && x.route(r)
	}
	if r.Listen = udp; len(udp) > 0 {
		added = x.datagrams(n, r) || added
	}
	if added {
		x.aboutDefaults(c, n.pos)
	}
}

// datagrams makes a route of the `listen … udp` of a server, which the kernel
// carries, without what it cannot.
func (x *nginx) datagrams(n *node, r config.Route) bool {
	r.Mode, r.Engine = config.At(modeUDP, n.pos), config.At(engineKernel, n.pos)
	if why := notInKernel(&r); why != "" {
		x.note(n.stmt, "`listen … udp` is not carried over: %s, and %s", whyNoUDP, why)
		return false
	}
	// A connect, a check and a keepalive are TCP's.
	r.ConnectTimeout, r.Keepalive, r.Check = config.Field[time.Duration]{}, config.Keepalive{}, config.Check{}
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

// whyNoTLS is why a listener cannot stay that takes TLS for plaintext servers.
const whyNoTLS = "midspan does not decrypt, and the servers are not asked by TLS (`proxy_ssl`); give them certificates, and write a route to their TLS port"

// proxySSL tells whether servers are asked by TLS; outside is what holds around ns.
func proxySSL(ns []*node, outside bool) bool {
	for _, n := range ns {
		if n.name() == "proxy_ssl" {
			outside = n.arg(1) == "on"
		}
	}
	return outside
}

// onlyTLS is the line of the first `listen` of a server that takes TLS on all
// of them, or 0.
func onlyTLS(n *node) (line int) {
	for _, m := range n.block {
		switch {
		case m.name() != "listen":
		case !slices.ContainsFunc(m.words, func(w word) bool { return w.text == "ssl" }):
			return 0
		case line == 0:
			line = m.pos.Line
		}
	}
	return line
}

// routeTo is a route to the upstream or server that a proxy_pass names.
func (x *nginx) routeTo(n, pass *node, to string, ups map[string]*upstream, port string) (config.Route, bool) {
	r := config.Route{Comment: fmt.Sprintf("%s:%d: server", n.pos.File, n.pos.Line)}
	if u := ups[to]; u != nil {
		x.carry(pass.stmt)
		x.read(u)
		r.Comment += fmt.Sprintf(", %s: upstream %s", placeFrom(n.pos, u.node.pos), u.name)
		r.Name = config.At(u.name, n.pos)
		r.To, r.Check = u.servers, u.check
		r.Balance = u.balance
		return r, true
	}
	t, why := nginxTarget(to, port)
	if why != "" {
		x.lost(pass.stmt, why)
		return r, false
	}
	x.carry(pass.stmt)
	r.Name = config.At(hostName(t), n.pos)
	r.To = []config.Server{{Target: config.At(t, pass.pos)}}
	return r, true
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
func (x *nginx) listen(n *node, c *nginxSettings, port string) []config.Field[config.Listen] {
	l, err := nginxListen(n.arg(1), port)
	if err != nil {
		x.lost(n.stmt, printable(err.Error()))
		return nil
	}
	for _, w := range n.words[2:] { // nginxListen has seen the address
		name, value, _ := strings.Cut(w.text, "=")
		switch why, known := listenParams[name]; {
		case name == "quic":
			x.lost(n.stmt, "midspan forwards TCP and UDP")
			return nil
		case name == modeUDP && (port != "" || slices.ContainsFunc(n.words, func(w word) bool { return w.text == "ssl" })):
			x.lost(n.stmt, "midspan forwards UDP as it is")
			return nil
		case name == modeUDP:
		case name == "ssl" && !c.tls:
			x.lost(n.stmt, whyNoTLS)
			return nil
		case name == "so_keepalive":
			x.soKeepalive(n, value, c)
		case known:
			x.because(n.stmt, n.pos, quote(w.text), why)
		default:
			x.note(n.stmt, "%s is not known to this importer and is not carried over", quote(w.text))
		}
	}
	x.carry(n.stmt)
	return []config.Field[config.Listen]{config.At(l, n.pos)}
}

// listenParams are the parameters of `listen` that are only noted.
var listenParams = map[string]string{
	"backlog":        isNone + "midspan asks for the longest listen queue that the kernel allows",
	"bind":           isNone + "midspan binds each address",
	"reuseport":      isNone + "midspan does so by itself",
	"default_server": isNone + "a route has its port for itself",
	"http2":          isNone + "bytes are forwarded as they are",
	"ipv6only":       isGone + "whether an IPv6 address also takes IPv4 is the kernel's setting",
	"rcvbuf":         isGone + "midspan leaves socket buffers to the kernel",
	"sndbuf":         isGone + "midspan leaves socket buffers to the kernel",
	"fastopen":       isGone + "midspan does not use TCP Fast Open",
	"setfib":         isGone + "it is not for Linux",
	"accept_filter":  isGone + "it is not for Linux",
	"deferred":       isGone + "midspan connects to the server at once, since the server may speak first",
	"multipath":      isGone + "midspan does not use Multipath TCP",
	"proxy_protocol": whyPROXYIn,
	"ssl":            whyTLSBind, // where it can stay; see listen
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
