package main

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// conf is a configuration as it was read.
type conf struct {
	tree      []*directive
	stream    []*directive // nil: no stream block
	defined   map[string]definition
	formats   map[string]*format
	upstreams map[string]*directive
	binds     []*bind
	workers   int
	dump      string
}

// bind is one address that is listened on, with the servers that share it.
type bind struct {
	addr  netip.AddrPort
	unix  string // path, where addr is invalid
	udp   bool
	ssl   bool
	proxy bool // clients begin with a PROXY header
	units []*unit
	def   *unit // for names that no other unit has
}

// unit is a server on one of its addresses: what becomes a route of midspan's.
type unit struct {
	conf   *conf
	bind   *bind
	server *directive
	names  []serverName
	route  string  // its name in midspan's plan
	bad    bool    // its proxy_pass has no value
	passes string  // proxy_pass with static variables
	byName []named // proxy_pass by the name in the ClientHello, where it depends on that
	trust  []netip.Prefix
}

// serverName is one value of `server_name`.
type serverName struct {
	text    string
	pattern *regexp.Regexp // for ~…
}

// readConf reads the configuration file and what it includes, with the
// statements of the -g argument before it.
func readConf(o *options) (*conf, error) {
	r := &reader{prefix: o.prefix}
	tree, err := r.file(o.file)
	if err != nil {
		return nil, err
	}
	globals, err := r.text("command line", o.globals)
	if err != nil {
		return nil, err
	}
	c := &conf{
		tree: append(globals, tree...), upstreams: map[string]*directive{}, formats: map[string]*format{},
		workers: 1, dump: strings.Join(r.dump, ""),
	}
	if err := checkTree(c.tree); err != nil {
		return nil, err
	}
	if find(c.tree, "events") == nil {
		return nil, fmt.Errorf("no \"events\" section in configuration")
	}
	if w := find(c.tree, "worker_processes"); w != nil {
		if c.workers, err = strconv.Atoi(w.arg(0)); err != nil || c.workers < 1 {
			c.workers = 1 // auto
		}
	}
	if s := find(c.tree, "stream"); s != nil {
		c.stream = s.block
	}
	if c.defined, err = definitions(r, c.stream); err != nil {
		return nil, err
	}
	return c, c.servers()
}

// servers reads the stream block's upstreams, log formats and servers.
func (c *conf) servers() error {
	for _, d := range c.stream {
		switch d.name {
		case "upstream":
			c.upstreams[d.arg(0)] = d
		case "log_format":
			c.formats[d.arg(0)] = newFormat(d)
		}
	}
	for _, d := range c.stream {
		if d.name != "server" {
			continue
		}
		if err := c.addServer(d); err != nil {
			return err
		}
	}
	for _, b := range c.binds {
		if b.def == nil {
			b.def = b.units[0]
		}
	}
	return nil
}

func (c *conf) addServer(d *directive) error {
	names, err := serverNames(d)
	if err != nil {
		return err
	}
	count := 0
	for _, l := range d.block {
		if l.name != "listen" {
			continue
		}
		count++
		b, err := c.bindFor(l)
		if err != nil {
			return err
		}
		u := &unit{conf: c, bind: b, server: d, names: names}
		u.route = b.routeName()
		u.passes, u.bad = u.target()
		if u.bad {
			u.byName = u.targets()
			u.bad = len(u.byName) == 0
		}
		if u.trust, err = u.trusted(); err != nil {
			return err
		}
		b.units = append(b.units, u)
		if slices.Contains(l.args, "default_server") {
			b.def = u
		}
	}
	if count == 0 {
		return d.errorf("no \"listen\" is defined for server")
	}
	if find(d.block, "proxy_pass") == nil && find(d.block, "return") == nil {
		return d.errorf("no handler for server")
	}
	return nil
}

func (c *conf) units() (all []*unit) {
	for _, b := range c.binds {
		all = append(all, b.units...)
	}
	return all
}

// bindFor is the address of a `listen`, shared with the servers before.
func (c *conf) bindFor(l *directive) (*bind, error) {
	b := &bind{}
	text := l.arg(0)
	if path, isUnix := strings.CutPrefix(text, "unix:"); isUnix {
		b.unix = path
	} else {
		if !strings.Contains(text, ":") {
			text = "0.0.0.0:" + text
		}
		addr, err := netip.ParseAddrPort(strings.Replace(text, "*:", "0.0.0.0:", 1))
		if err != nil {
			return nil, l.errorf("invalid host in %q of the \"listen\" directive", l.arg(0))
		}
		b.addr = addr
	}
	b.udp = slices.Contains(l.args, "udp")
	i := slices.IndexFunc(c.binds, func(o *bind) bool { return o.addr == b.addr && o.unix == b.unix && o.udp == b.udp })
	if i < 0 {
		c.binds = append(c.binds, b)
	} else {
		b = c.binds[i]
	}
	for _, p := range l.args[1:] {
		switch name, _, _ := strings.Cut(p, "="); name {
		case "udp", "default_server", "backlog", "so_keepalive", "reuseport", "bind", "rcvbuf", "sndbuf", "ipv6only", "deferred":
		case "ssl":
			b.ssl = true
		case "proxy_protocol":
			b.proxy = true
		default:
			return nil, l.errorf("invalid parameter %q", p)
		}
	}
	return b, nil
}

// routeName names the route of the next server on b.
func (b *bind) routeName() string {
	at := "unix" + path.Base(b.unix)
	if b.addr.IsValid() {
		at = strings.NewReplacer(":", ".", "[", "", "]", "", "%", ".").Replace(b.addr.String())
	}
	return fmt.Sprintf("on-%s-%d", at, len(b.units))
}

func serverNames(d *directive) (names []serverName, err error) {
	for _, n := range d.block {
		if n.name != "server_name" {
			continue
		}
		for _, text := range n.args {
			name := serverName{text: strings.ToLower(text)}
			if pattern, is := strings.CutPrefix(text, "~"); is {
				name.text = text
				if name.pattern, err = regexp.Compile("(?i)" + pattern); err != nil {
					return nil, n.errorf("%v", err)
				}
			}
			names = append(names, name)
		}
	}
	return names, nil
}

// name is $server_name: the first one.
func (u *unit) name() string {
	if len(u.names) == 0 {
		return ""
	}
	return strings.TrimPrefix(u.names[0].text, ".")
}

func (u *unit) protocol() string {
	if u.bind.udp {
		return "UDP"
	}
	return "TCP"
}

// all are the directives of that name that hold for the server: its own, or
// those of the stream block where it has none.
func (u *unit) all(name string) (own []*directive) {
	for _, from := range [][]*directive{u.server.block, u.conf.stream} {
		for _, d := range from {
			if d.name == name {
				own = append(own, d)
			}
		}
		if own != nil {
			return own
		}
	}
	return nil
}

// arg is the first argument of the one directive of that name; "": none.
func (u *unit) arg(name string) string {
	if all := u.all(name); all != nil {
		return all[0].arg(0)
	}
	return ""
}

func (u *unit) on(name string) bool { return u.arg(name) == "on" }

// returns is the text of `return`, if the server has one.
func (u *unit) returns() (text string, has bool) {
	if d := find(u.server.block, "return"); d != nil {
		return d.arg(0), true
	}
	return "", false
}

// static are the variables whose values are known before any client comes.
func (u *unit) static(name string) (string, bool) {
	switch {
	case u.conf.defined[name] != nil:
		return u.conf.defined[name].value(u.static)
	case name == "server_port" && u.bind.addr.IsValid():
		return strconv.Itoa(int(u.bind.addr.Port())), true
	case name == "server_addr" && u.bind.addr.IsValid() && !u.bind.addr.Addr().IsUnspecified():
		return u.bind.addr.Addr().String(), true
	case name == "proxy_protocol_addr" && !u.bind.proxy, strings.HasPrefix(name, "ssl_preread_") && !u.on("ssl_preread"):
		return "", true
	}
	return "", false
}

// target is proxy_pass with static variables in place; bad tells that it
// depends on what is not known yet, and is not one of the server names that
// a route of midspan's can choose by.
func (u *unit) target() (text string, bad bool) {
	d := find(u.server.block, "proxy_pass")
	if d == nil {
		return "", false
	}
	text, known := expand(d.arg(0), u.static)
	return text, !known
}

// trusted are the networks of set_real_ip_from. Names are not looked up but
// for localhost.
func (u *unit) trusted() (nets []netip.Prefix, err error) {
	for _, d := range u.all("set_real_ip_from") {
		switch text := d.arg(0); text {
		case "unix:":
			nets = append(nets, netip.PrefixFrom(unixPeer, 32))
		case "localhost":
			nets = append(nets, netip.PrefixFrom(netip.MustParseAddr("127.0.0.1"), 32), netip.PrefixFrom(netip.IPv6Loopback(), 128))
		default:
			net, err := prefix(text)
			if err != nil {
				return nil, d.errorf("invalid parameter %q", text)
			}
			nets = append(nets, net)
		}
	}
	return nets, nil
}

// trusts tells whether what peer says of its client is taken for true.
func (u *unit) trusts(peer netip.AddrPort) bool {
	a := peer.Addr().Unmap()
	return slices.ContainsFunc(u.trust, func(p netip.Prefix) bool { return p.Contains(a) })
}

// byName is the unit of b that a client who asked for name gets, and the
// captures of its pattern.
func (b *bind) byName(name string) (*unit, lookup) {
	name = strings.ToLower(name)
	best, length := (*unit)(nil), -1
	for _, u := range b.units {
		for _, n := range u.names {
			if l := n.matches(name); l > length {
				best, length = u, l
			}
		}
	}
	if best != nil {
		return best, nil
	}
	for _, u := range b.units {
		for _, n := range u.names {
			if n.pattern == nil || name == "" {
				continue
			}
			if groups := n.pattern.FindStringSubmatch(name); groups != nil {
				return u, captures(n.pattern, groups, func(string) (string, bool) { return "", false })
			}
		}
	}
	return b.def, nil
}

// Ranks of matches: an exact name before *.name before name.*, and of each kind
// the longer one.
const (
	rankExact  = 20000
	rankSuffix = 10000
)

// matches ranks n for name; -1: it does not match, or is a pattern.
func (n serverName) matches(name string) int {
	prefix, isPrefix := strings.CutSuffix(n.text, ".*")
	switch {
	case n.pattern != nil || name == "":
		return -1
	case n.text == name:
		return rankExact
	case strings.HasPrefix(n.text, ".") && name == n.text[1:]:
		return rankExact
	case strings.HasPrefix(n.text, ".") && strings.HasSuffix(name, n.text):
		return rankSuffix + len(n.text)
	case strings.HasPrefix(n.text, "*.") && strings.HasSuffix(name, n.text[1:]):
		return rankSuffix + len(n.text)
	case isPrefix && strings.HasPrefix(name, prefix+"."):
		return len(n.text)
	}
	return -1
}
