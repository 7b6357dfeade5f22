package main

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"midspan/internal/config"
	"midspan/internal/foreign"
	"midspan/internal/plan"
)

// translation is a configuration on its way to midspan's plan. What midspan's
// importer carries over goes through it, as an nginx.conf of plain servers with
// the variables resolved; what it does not is written into the midspan file here.
type translation struct {
	conf   *conf
	ends   *ends // servers of the front's own, and bridges to Unix sockets
	text   strings.Builder
	routes []route
	zones  map[string]bool // of limit_conn, that the routes use
	notes  []string
}

// route is one route that the front asks for.
type route struct {
	*unit
	name   string
	listen netip.AddrPort
	params string   // of its listen
	lines  []string // of its server block
	allows []string // what its `allow` lines have
	patch  []func(*config.Route)
}

var at = config.Pos{File: "front", Line: 1, Col: 1}

// set is a value that the front writes.
func set[T any](v T) config.Field[T] { return config.At(v, at) }

// plan is the whole way: the front's routes as an nginx.conf, midspan's
// importer, what the front adds, midspan's check.
func (t *translation) plan() (*plan.Plan, []string, error) {
	if err := t.write(); err != nil {
		return nil, nil, err
	}
	file := &config.File{}
	if len(t.routes) > 0 {
		imp, err := foreign.Nginx("front.conf", foreign.Files{Open: func(string) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(t.text.String())), nil
		}})
		if err != nil {
			return nil, nil, fmt.Errorf("midspan's importer: %w\n%s", err, t.text.String())
		}
		for _, n := range imp.Notes {
			t.notes = append(t.notes, "importer: "+n.Text)
		}
		file = imp.File
	}
	for i := range file.Routes {
		r := &file.Routes[i]
		j := slices.IndexFunc(t.routes, func(o route) bool { return o.name == r.Name.V })
		if j < 0 {
			return nil, nil, fmt.Errorf("midspan's importer made a route %q, which nobody asked for", r.Name.V)
		}
		for _, patch := range t.routes[j].patch {
			patch(r)
		}
	}
	off := set(config.OffOr[config.Listen]{Off: true})
	file.Health.Listen, file.Admin, file.Control = off, off, set(config.OffOr[string]{Off: true})
	file.Drain.Detection, file.Drain.Timeout = set(time.Duration(0)), set(time.Hour)
	p, warnings, err := plan.New(file)
	return p, append(t.notes, warnings.Lines()...), err
}

// write makes the text for the importer, and the routes.
func (t *translation) write() error {
	t.line("stream {")
	t.copy(t.conf.stream, "resolver", "resolver_timeout")
	for _, b := range t.conf.binds {
		if b.udp {
			continue // see ends.datagrams
		}
		if err := t.bind(b); err != nil {
			return err
		}
	}
	for zone := range t.zones {
		t.line("limit_conn_zone $binary_remote_addr zone=%s:1m;", zone)
	}
	t.line("}")
	return nil
}

func (t *translation) line(format string, args ...any) { fmt.Fprintf(&t.text, format+"\n", args...) }

// copy passes directives on as they are.
func (t *translation) copy(ds []*directive, names ...string) {
	for _, d := range ds {
		if slices.Contains(names, d.name) {
			t.line("%s;", quoteAll(d))
		}
	}
}

func quoteAll(d *directive) string {
	all := []string{d.name}
	for _, a := range d.args {
		all = append(all, quoted(a))
	}
	return strings.Join(all, " ")
}

// quoted is a word of an nginx.conf.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// bind makes the route, or the chain of routes, of one address.
func (t *translation) bind(b *bind) error {
	if len(b.units) == 1 || b.scripted() {
		return t.unit(b.def, t.ends.address(b), b.proxy, b.ssl)
	}
	return t.names(b)
}

// scripted tells whether the servers that share b differ only in what the front
// answers: then one route serves all, and the answer depends on the name that
// midspan tells.
func (b *bind) scripted() bool {
	first := ""
	for i, u := range b.units {
		if _, is := u.returns(); !is || u.on("ssl_reject_handshake") {
			return false
		}
		var tls []string
		for _, name := range []string{"ssl_certificate", "ssl_certificate_key", "ssl_protocols", "ssl_alpn", "ssl_verify_client"} {
			tls = append(tls, u.arg(name))
		}
		key := strings.Join(tls, " ")
		if i == 0 {
			first = key
		} else if key != first {
			return false
		}
	}
	return true
}

// unit makes the route of u on listen.
func (t *translation) unit(u *unit, listen netip.AddrPort, proxy, tls bool) error {
	r := route{unit: u, name: u.route, listen: listen}
	servers, err := t.servers(u)
	if err != nil {
		return err
	}
	for _, name := range []string{"proxy_connect_timeout", "proxy_timeout", "proxy_socket_keepalive"} {
		if all := r.all(name); all != nil {
			r.lines = append(r.lines, quoteAll(all[0]))
		}
	}
	for _, step := range []func(*route) error{t.named, r.bindFrom, t.proxyHeaders(proxy, tls), t.tls(tls), t.upstreamTLS} {
		if err := step(&r); err != nil {
			return err
		}
	}
	r.access()
	r.limits(t)
	r.tries()
	if !u.on("proxy_half_close") {
		r.patch = append(r.patch, func(c *config.Route) { c.FinTimeout = set(config.OffOr[time.Duration]{V: halfClosed}) })
	}
	t.emit(&r, servers)
	t.routes = append(t.routes, r)
	return nil
}

// proxyHeaders writes what becomes of PROXY headers on either side.
func (t *translation) proxyHeaders(proxy, tls bool) func(*route) error {
	return func(r *route) error {
		if proxy {
			r.params += " proxy_protocol"
		}
		if _, answers := r.returns(); answers {
			r.patch = append(r.patch, func(c *config.Route) { c.SendProxy = set(string(plan.SendV2)) })
		} else if r.on("proxy_protocol") {
			r.lines = append(r.lines, "proxy_protocol on")
		} else if !proxy && !tls && !r.on("proxy_ssl") && len(r.byName) == 0 {
			// To nginx a header that it does not ask for is the client's data.
			r.patch = append(r.patch, func(c *config.Route) { c.Proxy.Mode = set(string(plan.ProxyPassed)) })
		}
		return nil
	}
}

// bindFrom writes proxy_bind.
func (r *route) bindFrom(*route) error {
	from := r.arg("proxy_bind")
	if from == "" {
		return nil
	}
	a, err := netip.ParseAddr(from)
	if err != nil {
		return r.server.errorf("invalid address %q", from)
	}
	r.patch = append(r.patch, func(c *config.Route) { c.Source = []config.Field[netip.Addr]{set(a)} })
	return nil
}

// tries writes proxy_next_upstream and its number of tries.
func (r *route) tries() {
	n, err := strconv.Atoi(r.arg("proxy_next_upstream_tries"))
	if r.arg("proxy_next_upstream") == "off" {
		n, err = 1, nil
	}
	if err == nil && n > 0 {
		r.patch = append(r.patch, func(c *config.Route) { c.Tries = set(n) })
	}
}

// halfClosed is how long a connection may live of which one side has ended. nginx
// ends it at once unless proxy_half_close is on.
const halfClosed = 20 * time.Millisecond

// emit writes r for the importer.
func (t *translation) emit(r *route, servers []string) {
	t.line("upstream %s {", r.name)
	for _, s := range servers {
		t.line("  %s;", s)
	}
	t.line("}")
	t.line("server {")
	t.line("  listen %s%s;", r.listen, r.params)
	t.line("  proxy_pass %s;", r.name)
	for _, l := range r.lines {
		t.line("  %s;", l)
	}
	t.line("}")
}

// nowhere is a server that no name leads to: connections find no server up.
const (
	nowhere = "none.invalid:1"
	nobody  = "server " + nowhere
)

// servers are the statements of an upstream block for u.
func (t *translation) servers(u *unit) ([]string, error) {
	if _, answers := u.returns(); answers {
		addr, err := t.ends.answer(u)
		return []string{"server " + addr.String()}, err
	}
	if u.bad {
		return []string{nobody}, nil
	}
	if len(u.byName) > 0 {
		return []string{"server 127.0.0.1:1"}, nil // named writes them
	}
	if up := u.conf.upstreams[u.passes]; up != nil {
		return t.upstream(u, up)
	}
	addr, err := t.ends.reach(u.passes)
	if err != nil {
		u.bad = true // nginx, too, says so only when a client comes
		return []string{nobody}, nil
	}
	return []string{"server " + addr}, nil
}

// upstreamServer is a `server` of an upstream, or several of the same address.
type upstreamServer struct {
	addr          string
	weight, conns int
	params        map[string]string
}

// upstreamServer reads d, with nginx's default of max_fails=1 written out; nil: it
// is down.
func (t *translation) upstreamServer(d *directive) (*upstreamServer, error) {
	s := &upstreamServer{weight: 1, params: map[string]string{"max_fails": "1", "fail_timeout": "10s"}}
	for _, p := range d.args[1:] {
		name, value, _ := strings.Cut(p, "=")
		s.params[name] = value
	}
	if _, down := s.params["down"]; down {
		return nil, nil
	}
	var err error
	if s.addr, err = t.ends.reach(d.arg(0)); err != nil {
		return nil, d.errorf("%v", err)
	}
	if s.params["max_fails"] == "0" {
		s.params["max_fails"] = "100" // as near to never as midspan comes
	}
	if n, err := strconv.Atoi(s.params["weight"]); err == nil {
		s.weight = n
	}
	s.conns, _ = strconv.Atoi(s.params["max_conns"]) // none is 0
	return s, nil
}

// String is s as a statement.
func (s *upstreamServer) String() string {
	text := fmt.Sprintf("server %s weight=%d max_conns=%d max_fails=%s fail_timeout=%s", s.addr, s.weight, s.conns, s.params["max_fails"], s.params["fail_timeout"])
	for _, flag := range []string{"backup", "resolve"} {
		if _, is := s.params[flag]; is {
			text += " " + flag
		}
	}
	return text
}

// upstream are the statements of up. Servers that stand twice become one with
// twice the share.
func (t *translation) upstream(u *unit, up *directive) (all []string, err error) {
	var servers []*upstreamServer
	for _, d := range up.block {
		switch d.name {
		case "zone":
		case "hash":
			if text, known := expand(d.arg(0), u.static); !known || text != "" {
				all = append(all, quoteAll(d))
			} // else nginx falls back to round robin
		case "server":
			s, err := t.upstreamServer(d)
			if err != nil {
				return nil, err
			}
			if s == nil {
				continue
			}
			if i := slices.IndexFunc(servers, func(o *upstreamServer) bool { return o.addr == s.addr }); i >= 0 {
				servers[i].weight += s.weight
				servers[i].conns += s.conns
				continue
			}
			servers = append(servers, s)
		default:
			all = append(all, quoteAll(d))
		}
	}
	for _, s := range servers {
		all = append(all, s.String())
	}
	if len(servers) == 0 {
		all = append(all, nobody)
	}
	return all, nil
}
