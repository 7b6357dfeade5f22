package foreign

import (
	"fmt"
	"slices"
	"strings"

	"midspan/internal/config"
)

// httpServer is a `server` block of http that passes requests on.
type httpServer struct {
	node      *node
	settings  nginxSettings
	listens   []listenAt
	names     []config.Field[string] // in lower case, also "*.NAME"
	locations []*httpLocation
	carried   bool // false: it only takes part in who is the default server
}

// httpBlock makes routes of the servers of an http block: one for the listen
// addresses that have the same servers.
func (x *nginx) httpBlock(ns []*node) {
	var around nginxSettings
	x.upstreams(ns, x.http, "80")
	x.zones = map[string]*zone{}
	x.readZones(ns)
	for _, n := range ns {
		switch {
		case n.name() == "upstream" && n.isBlock, n.name() == "server" && n.isBlock:
		case n.name() == "limit_conn_zone": // read
		case x.upgradeMap(n):
		case x.httpSetting(&around, n):
		default:
			x.noteBy(httpNotes, n)
		}
	}
	var servers []*httpServer
	for _, n := range ns {
		if n.name() == "server" && n.isBlock {
			servers = append(servers, x.httpServer(n, around))
		}
	}
	for _, at := range addresses(servers) {
		x.httpRoute(at)
	}
	x.unusedUpstreams(x.http)
}

// upgradeMap carries over the map that WebSocket proxies are set up with,
// which midspan needs none of.
func (x *nginx) upgradeMap(n *node) bool {
	if n.name() != "map" || !n.isBlock || n.arg(1) != "$http_upgrade" {
		return false
	}
	x.noteBlock(n.stmt, n.inner(), isNone+whyUpgrade)
	return true
}

// whyUpgrade is why directives for WebSockets are not needed.
const whyUpgrade = "midspan passes upgrades such as WebSocket on by itself"

// httpServer reads a server, if some location of it passes requests on.
func (x *nginx) httpServer(n *node, around nginxSettings) *httpServer {
	s := &httpServer{node: n, settings: around.inner()}
	var locations []*node
	why := "it has no location that passes requests on (`proxy_pass`)"
	for _, m := range n.block {
		switch {
		case m.name() == "return":
			why = fmt.Sprintf("it answers by itself (`return`, line %d), and midspan has no answers of its own", m.pos.Line)
			locations = nil
		case m.name() == "location" && m.isBlock:
			locations = append(locations, m)
		}
	}
	s.carried = !slices.ContainsFunc(n.block, func(m *node) bool { return m.name() == "return" }) && slices.ContainsFunc(locations, x.passes)
	if !s.carried {
		x.quietListens(s)
		why += "; requests for its names go to the default server of its address, if that is carried over"
		x.noteBlock(n.stmt, n.inner(), isGone+why)
		return s
	}
	x.carry(n.stmt)
	for _, m := range n.block {
		switch {
		case m.name() == "listen", m.name() == "location" && m.isBlock:
		case m.name() == "server_name":
			x.serverNames(s, m)
		case x.httpSetting(&s.settings, m):
		default:
			x.noteBy(httpNotes, m)
		}
	}
	written := false
	for _, m := range n.block {
		if m.name() == "listen" {
			written = true
			s.listens = append(s.listens, x.listen(m, &s.settings, "80")...)
		}
	}
	if !written {
		s.listens = append(s.listens, listenAt{Field: config.At(config.Listen{From: 80, To: 80}, n.pos), node: n})
	}
	for _, m := range locations {
		if l := x.location(s, m); l != nil {
			s.locations = append(s.locations, l)
		}
	}
	return s
}

// quietListens are the listen addresses of a server that is not carried over.
func (x *nginx) quietListens(s *httpServer) {
	for _, m := range s.node.block {
		if m.name() != "listen" {
			continue
		}
		if l, err := nginxListen(m.arg(1), "80"); err == nil {
			def := slices.ContainsFunc(m.words, func(w word) bool { return w.text == "default_server" || w.text == "default" })
			s.listens = append(s.listens, listenAt{Field: config.At(l, m.pos), node: m, def: def})
		}
	}
	if len(s.listens) == 0 {
		s.listens = append(s.listens, listenAt{Field: config.At(config.Listen{From: 80, To: 80}, s.node.pos), node: s.node})
	}
}

// serverNames reads `server_name NAME…`.
func (x *nginx) serverNames(s *httpServer, m *node) {
	x.carry(m.stmt)
	for _, w := range m.words[1:] {
		names := []string{w.text}
		if rest, both := strings.CutPrefix(w.text, "."); both {
			names = []string{rest, "*." + rest}
		}
		for _, name := range names {
			switch match, ok := matchName(name); {
			case ok:
				s.names = append(s.names, config.At(match, m.pos))
			case name == "_" || name == "":
				// No client asks for it.
			default:
				x.note(m.stmt, "%s: %s is not carried over: midspan chooses by NAME or *.NAME, so these requests go to the default server", m, quote(w.text))
			}
		}
	}
}

// httpAddress is where the same servers listen.
type httpAddress struct {
	listens []listenAt
	servers []*httpServer // the default one first
}

// addresses are the listen addresses of all servers, those with the same
// servers together.
func addresses(servers []*httpServer) (out []*httpAddress) {
	type one struct {
		listenAt
		servers []*httpServer
		last    *httpServer // that was added
	}
	known := map[config.Listen]*one{}
	var all []*one
	for _, s := range servers {
		for _, l := range s.listens {
			o := known[l.V]
			if o == nil {
				o = &one{listenAt: l}
				known[l.V] = o
				all = append(all, o)
			}
			o.ssl, o.proxy = o.ssl || l.ssl, o.proxy || l.proxy // of the address, whoever says it
			switch {
			case o.last == s:
			case l.def:
				o.servers = slices.Insert(o.servers, 0, s)
			default:
				o.servers = append(o.servers, s)
			}
			o.last, o.def = s, o.def || l.def
		}
	}
	same := map[*httpServer][]*httpAddress{} // by the first server
	for _, o := range all {
		if !slices.ContainsFunc(o.servers, func(s *httpServer) bool { return s.carried }) {
			continue
		}
		list := same[o.servers[0]]
		i := slices.IndexFunc(list, func(a *httpAddress) bool {
			return a.listens[0].ssl == o.ssl && a.listens[0].proxy == o.proxy && slices.Equal(a.servers, o.servers)
		})
		if i < 0 {
			a := &httpAddress{servers: o.servers}
			list, out = append(list, a), append(out, a)
			same[o.servers[0]] = list
			i = len(list) - 1
		}
		list[i].listens = append(list[i].listens, o.listenAt)
	}
	return out
}

// httpRoute makes the route for the servers that share listen addresses.
func (x *nginx) httpRoute(a *httpAddress) {
	carried := slices.DeleteFunc(slices.Clone(a.servers), func(s *httpServer) bool { return !s.carried || len(s.locations) == 0 })
	if len(carried) == 0 {
		return
	}
	if a.listens[0].ssl {
		carried = x.sameCallers(carried)
	}
	first := carried[0]
	if n := countLocations(carried); !x.rules(n) || !x.rules(len(a.servers[0].names)*len(carried)) {
		return
	}
	l := first.locations[0]
	r := l.route(x, a.listens[0].ssl)
	x.nameOf(&r, carried)
	for _, at := range a.listens {
		r.Listen = append(r.Listen, at.Field)
	}
	if !x.httpListener(a, carried, &r) {
		return
	}
	x.alike(a, carried, &r)
	x.hosts(a, carried, &r)
	if !x.httpAccess(carried, &r) {
		return
	}
	if x.room(len(r.Listen), countServers(&r)) && x.route(r) {
		x.aboutHTTPDefaults(l)
	}
}

// httpListener fills in how clients are spoken with. false: they cannot be.
func (x *nginx) httpListener(a *httpAddress, carried []*httpServer, r *config.Route) bool {
	first := a.listens[0]
	if first.ssl {
		var cs []nginxSettings
		for _, s := range carried {
			cs = append(cs, s.settings)
		}
		t, why := x.clientTLS(cs...)
		if why != "" {
			x.lost(first.node.stmt, why)
			return false
		}
		r.TLS = t
	}
	if first.proxy {
		c := carried[0].settings
		if c.realHeader == "" { // then it is about a header of requests
			c.realIP = inherited{}
		}
		r.Proxy = x.proxied(c, first)
	}
	for _, s := range carried {
		if c := s.settings; c.realHeader == "" || !first.proxy {
			for _, n := range c.realIP.nodes {
				x.lost(n.stmt, "midspan takes the client's address from PROXY headers (`real_ip_header proxy_protocol`), and from no header of a request")
			}
		}
	}
	return true
}

func countLocations(servers []*httpServer) (n int) {
	for _, s := range servers {
		n += len(s.locations)
	}
	return n
}

// nameOf gives the route a name and tells where it is from.
func (x *nginx) nameOf(r *config.Route, servers []*httpServer) {
	n := servers[0].node
	r.Comment = fmt.Sprintf("%s:%d: server", n.pos.File, n.pos.Line)
	for i, s := range servers[1:] {
		if i == 3 {
			r.Comment += fmt.Sprintf(" and %d more", len(servers)-4)
			break
		}
		r.Comment += fmt.Sprintf(", %s: server", placeFrom(n.pos, s.node.pos))
	}
	to := servers[0].locations[0].to
	r.Name = config.At(to.name, n.pos)
	if to.up != nil && len(servers) == 1 {
		r.Comment += fmt.Sprintf(", %s: upstream %s", placeFrom(n.pos, to.up.node.pos), to.up.name)
	}
}

// hosts fills in which servers are for which host and path.
func (x *nginx) hosts(a *httpAddress, carried []*httpServer, r *config.Route) {
	def := a.servers[0]
	whole := func(s *httpServer) *httpLocation {
		i := slices.IndexFunc(s.locations, func(l *httpLocation) bool { return l.path == "/" })
		if i < 0 || s.locations[i].rewrite.Set() {
			return nil
		}
		return s.locations[i]
	}
	// What fits no path of a host goes to `to`, so it can be the default
	// server's only where no other server would lead there.
	var rest *httpLocation
	if slices.Contains(carried, def) && !slices.ContainsFunc(carried, func(s *httpServer) bool { return s != def && whole(s) == nil }) {
		rest = whole(def)
	}
	for _, s := range carried {
		for _, name := range s.names {
			if s == def && !slices.ContainsFunc(carried, func(o *httpServer) bool { return o != def && o.takes(name.V) }) {
				continue // as good as any other name
			}
			r.Groups = append(r.Groups, s.groups(name)...)
		}
		if s == def {
			for _, l := range s.locations {
				if l != rest {
					r.Groups = append(r.Groups, l.group(config.At("*", l.node.pos)))
				}
			}
		}
		if s != def && len(s.names) == 0 {
			x.note(s.node.stmt, "%s has no name that midspan can tell, so no request goes to it", s.node)
		}
	}
	if rest != nil {
		r.To = rest.to.servers
	}
}

// takes tells whether some pattern of s has name among others.
func (s *httpServer) takes(name string) bool {
	return slices.ContainsFunc(s.names, func(n config.Field[string]) bool { return coversName(n.V, name) })
}

func (s *httpServer) groups(name config.Field[string]) (out []config.Group) {
	for _, l := range s.locations {
		out = append(out, l.group(name))
	}
	return out
}

// httpAccess is `allow` for a route, which has it once. false: nobody may
// connect.
func (x *nginx) httpAccess(servers []*httpServer, r *config.Route) bool {
	l := servers[0].locations[0]
	allow, none := x.access(l.settings, l.node.pos)
	for _, s := range servers {
		for _, o := range s.locations {
			if slices.EqualFunc(o.settings.access.nodes, l.settings.access.nodes, func(a, b *node) bool { return a.String() == b.String() }) {
				continue
			}
			for _, m := range slices.Concat(l.settings.access.nodes, o.settings.access.nodes) {
				x.because(m.stmt, m.pos, m.String(), openMark+isGone+"midspan has one `allow` for a route, and its hosts and paths have others")
			}
			return true
		}
	}
	if none {
		x.note(servers[0].node.stmt, "no route is made of this: `allow` and `deny` refuse every connection")
		return false
	}
	if r.Allow = allow; len(allow) > 0 {
		x.notes.Addf(l.settings.access.nodes[0].pos, "`allow` and `deny` are carried over as `allow`: who may not connect is reset, without an answer")
	}
	return true
}

// aboutHTTPDefaults is aboutDefaults for http.
func (x *nginx) aboutHTTPDefaults(l *httpLocation) {
	if x.silentHTTP || l.settings.read.Set() && l.settings.connect.Set() {
		return
	}
	x.silentHTTP = true
	x.notes.Addf(l.node.pos, "nginx's defaults are not taken over: it waits 60s for a server (proxy_connect_timeout) and for each part of a response (proxy_read_timeout); midspan waits 3s, and for a response as long as it takes unless response_timeout says so")
}
