package foreign

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"midspan/internal/config"
)

// httpLocation is a `location` that passes requests on.
type httpLocation struct {
	node     *node
	settings nginxSettings
	path     string
	rewrite  config.Field[string]
	to       passed
	pass     *node
	tls, h2  bool   // how servers are spoken with
	written  string // the host and port of proxy_pass
}

// passes tells whether a location passes requests on, and in a way that can be
// carried over.
func (x *nginx) passes(n *node) bool {
	_, why := locationPath(n)
	_, pass := passOf(n)
	return why == "" && pass == ""
}

// locationPath is what paths begin with that the location is for, or why
// midspan cannot tell.
func locationPath(n *node) (prefix, why string) {
	prefix = n.arg(1)
	switch {
	case len(n.words) == 3 && n.arg(1) == "^~":
		prefix = n.arg(2)
	case len(n.words) == 3 && n.arg(1) == "=":
		return "", "midspan chooses by the beginning of a path, and this is for one path only; its requests go where the beginning of the path leads"
	case len(n.words) != 2 || strings.HasPrefix(prefix, "~"):
		return "", "regular expressions are not evaluated; its requests go where the beginning of the path leads"
	}
	if !plainPath(prefix) {
		return "", quote(prefix) + " is not the beginning of a path"
	}
	return prefix, ""
}

// passOf is the directive that passes requests on, or why there is none.
func passOf(n *node) (pass *node, why string) {
	for _, m := range n.block {
		switch m.name() {
		case "proxy_pass", "grpc_pass":
			pass = m
		case "return", "internal", "try_files", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "memcached_pass":
			return nil, fmt.Sprintf("%s (line %d) is an answer of nginx's own; its requests go where the beginning of the path leads", m, m.pos.Line)
		}
	}
	if pass == nil {
		return nil, "it has no `proxy_pass`; its requests go where the beginning of the path leads"
	}
	if _, _, _, why := passURL(pass); why != "" {
		return nil, fmt.Sprintf("%s (line %d): %s", pass, pass.pos.Line, why)
	}
	return pass, ""
}

// passURL takes a proxy_pass apart. uri is "" where it has none, so that the
// path goes to the server as it is.
func passURL(n *node) (scheme, host, uri, why string) {
	scheme, rest, found := strings.Cut(strings.TrimSuffix(n.arg(1), "$request_uri"), "://")
	if !found && n.name() == "grpc_pass" {
		scheme, rest = "grpc", n.arg(1)
	}
	i := strings.IndexByte(rest, '/')
	if host = rest; i >= 0 {
		host, uri = rest[:i], rest[i:]
	}
	switch {
	case !slices.Contains([]string{"http", "https", "grpc", "grpcs"}, scheme):
		why = "it is not http://HOST:PORT or http://UPSTREAM"
	case strings.Contains(rest, "$"):
		why = "variables are not evaluated"
	case strings.HasPrefix(host, "unix:"):
		why = "midspan connects to TCP addresses"
	case uri != "" && !plainPath(uri):
		why = quote(uri) + " is not a path"
	}
	return scheme, host, uri, why
}

// location reads one of a server's locations; nil: it is not carried over.
func (x *nginx) location(s *httpServer, n *node) *httpLocation {
	prefix, why := locationPath(n)
	pass, whyPass := passOf(n)
	if why = prefixed(why, whyPass); why != "" {
		mark := isGone
		if closes(n) {
			mark = moreMark + isGone
		}
		x.noteBlock(n.stmt, n.inner(), mark+why)
		return nil
	}
	l := &httpLocation{node: n, settings: s.settings.inner(), path: prefix, pass: pass}
	x.carry(n.stmt)
	for _, m := range n.block {
		switch {
		case m == pass:
		case m.name() == "location" || m.name() == "if" || m.name() == "limit_except":
			x.noteBlock(m.stmt, m.inner(), isGone+"conditions and locations in a location are not carried over")
		case x.httpSetting(&l.settings, m):
		default:
			x.noteBy(httpNotes, m)
		}
	}
	scheme, host, uri, _ := passURL(pass)
	l.tls, l.h2 = strings.HasSuffix(scheme, "s"), strings.HasPrefix(scheme, "grpc")
	l.written = host
	port := "80"
	if l.tls {
		port = "443"
	}
	if l.to, why = x.servers(host, x.http, port, pass.pos); why != "" {
		x.lost(pass.stmt, why)
		return nil
	}
	x.carry(pass.stmt)
	if len(prefix) > 1 && strings.HasSuffix(prefix, "/") {
		x.note(n.stmt, "%s: nginx answers %s with a redirect (301) to it; midspan has no answers of its own, and sends that where the rest of the path leads", n, quote(strings.TrimSuffix(prefix, "/")))
	}
	if uri != "" && uri != prefix {
		l.rewrite = config.At(uri, pass.pos)
	}
	return l
}

func prefixed(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// closes tells whether a location keeps somebody out.
func closes(n *node) bool {
	return slices.ContainsFunc(n.block, func(m *node) bool {
		return m.name() == "deny" || m.name() == "internal" || strings.HasPrefix(m.name(), "auth_") || (m.name() == "return" && strings.HasPrefix(m.arg(1), "4"))
	})
}

// group is the location for a host.
func (l *httpLocation) group(host config.Field[string]) config.Group {
	return config.Group{Match: host, Path: config.At(l.path, l.node.pos), Rewrite: l.rewrite, To: l.to.servers}
}

// httpSetting is setting for what only an http block has.
func (x *nginx) httpSetting(c *nginxSettings, n *node) bool {
	switch n.name() {
	case "proxy_set_header", "grpc_set_header":
		c.setHeader.add(n)
	case "add_header":
		c.addHeader.add(n)
	case "proxy_hide_header":
		c.hideHeader.add(n)
	case "proxy_read_timeout", "grpc_read_timeout":
		x.time(n, &c.read)
		return true
	case "client_header_timeout":
		x.time(n, &c.header)
		return true
	case "keepalive_timeout":
		first := *n.stmt
		first.words = first.words[:min(2, len(first.words))] // the second is for a header
		if d, ok := nginxTime(first.arg(1)); ok && d > 0 {
			c.rest = config.At(d, n.pos)
			break
		}
		x.lost(n.stmt, "midspan keeps clients' connections for `keepalive_timeout`")
		return true
	case "real_ip_header":
		if n.arg(1) != "proxy_protocol" {
			return false
		}
		c.realHeader = n.arg(1)
	case "grpc_connect_timeout":
		x.time(n, &c.connect)
		return true
	case "proxy_timeout", "preread_timeout", "proxy_ssl":
		return false // of a stream block
	default:
		return x.setting(c, n)
	}
	x.carry(n.stmt)
	return true
}

// route is what a route has once, as this location has it.
func (l *httpLocation) route(x *nginx, ssl bool) config.Route {
	c := l.settings
	r := config.Route{Mode: config.At(modeHTTP, l.node.pos)}
	r.Settings = x.settings(c)
	upstream := ""
	if u := l.to.up; u != nil {
		r.Balance, r.Check, r.SlowStart, r.HTTP.Sticky = u.balance, u.check, u.slowStart, u.sticky
		upstream = u.name
	}
	r.UpstreamTLS = x.serverTLS(c.up, l.tls, upstream, l.written, l.pass.pos)
	if l.h2 {
		r.HTTP.Protocol = config.At("h2", l.pass.pos)
	}
	within := func(t config.Field[time.Duration]) config.Field[time.Duration] {
		if t.V > 0 {
			return config.At(x.within(t.Pos, t.V, time.Millisecond, time.Hour), t.Pos)
		}
		return config.Field[time.Duration]{}
	}
	r.HTTP.HeaderTimeout, r.HTTP.KeepaliveTimeout = within(c.header), within(c.rest)
	if t := within(c.read); t.Set() {
		r.HTTP.ResponseTimeout = config.At(config.OffOr[time.Duration]{V: t.V}, t.Pos)
		x.notes.Addf(t.Pos, "`proxy_read_timeout` is carried over as response_timeout, which is for the head of a response; nginx has it for each part of the body too (idle_timeout)")
	}
	x.requestHeaders(l, &r, ssl)
	x.responseHeaders(c, &r)
	x.connLimits(c, &r.Settings)
	if r.PerSource.MaxConnections.Set() || r.MaxConnections.Set() {
		x.notes.Addf(c.limits.nodes[0].pos, "`limit_conn` counts requests in nginx's http, and connections in midspan; those above the limit are reset, without an answer")
	}
	return r
}

// requestHeaders carries over proxy_set_header.
func (x *nginx) requestHeaders(l *httpLocation, r *config.Route, ssl bool) {
	h := &r.HTTP
	h.Forwarded = config.At("off", l.node.pos)
	host := "$proxy_host"
	for _, n := range l.settings.setHeader.nodes { // this one decides about others
		switch strings.ToLower(n.arg(1)) {
		case "x-forwarded-for":
			switch n.arg(2) {
			case "$proxy_add_x_forwarded_for":
				h.Forwarded = config.At("append", n.pos)
			case "$remote_addr":
				h.Forwarded = config.At("replace", n.pos)
			}
		case "host":
			if host = n.arg(2); host == "$host" {
				x.note(n.stmt, "%s: midspan keeps the Host header as it came; nginx's $host has no port and is in lower case", n)
			}
		}
	}
	x.hostHeader(l, h, host)
	scheme := "http"
	if ssl {
		scheme = "https"
	}
	for _, n := range l.settings.setHeader.nodes {
		if why := setRequestHeader(h, n, scheme); why != "" {
			x.because(n.stmt, n.pos, n.String(), why)
		}
	}
}

// setRequestHeader carries over one proxy_set_header, or tells why not.
func setRequestHeader(h *config.HTTP, n *node, scheme string) (why string) {
	name, value := n.arg(1), n.arg(2)
	replaced := h.Forwarded.V == "replace"
	switch lower := strings.ToLower(name); {
	case len(n.words) != 3:
		return isGone + "it is not a name and a value"
	case lower == "host":
		return ""
	case lower == "upgrade" || lower == "connection":
		return isNone + whyUpgrade + ", and keeps connections to servers"
	case lower == "x-forwarded-for" && (value == "$proxy_add_x_forwarded_for" || value == "$remote_addr"):
		return ""
	case lower == "x-forwarded-proto" && value == "$scheme" && replaced:
		return ""
	case lower == "x-forwarded-proto" && value == "$scheme":
		value = scheme
	case lower == "x-forwarded-host" && (value == "$host" || value == "$http_host") && replaced:
		return ""
	case lower == "x-forwarded-host" && (value == "$host" || value == "$http_host") && h.Forwarded.V == "append":
		return isGone + whyAppended
	case value == "$http_"+strings.ReplaceAll(lower, "-", "_"):
		return isNone + "headers of clients are passed on"
	case value == "":
		if why = removeHeader(&h.RequestHeaders, name, n.pos); why != "" {
			why = isGone + why
		}
		return why
	}
	if strings.Contains(value, "$") {
		return isGone + "midspan sets headers to constant values, and X-Forwarded-For, -Proto and -Host by `forwarded`" + keepOut(&h.RequestHeaders, name, n.pos)
	}
	if why = setHeader(&h.RequestHeaders, name, value, n.pos); why != "" {
		why = isGone + why
	}
	return why
}

// hostHeader carries over the Host that servers get. nginx's own is what
// proxy_pass has.
func (x *nginx) hostHeader(l *httpLocation, h *config.HTTP, value string) {
	at := l.pass.pos
	switch value {
	case "$host", "$http_host", "$host:$server_port":
		return // midspan's default
	case "$proxy_host", "$proxy_host:$proxy_port":
		value = l.written
		if l.to.up == nil {
			h.Host = config.At("server", at)
			return
		}
	}
	host, _, _ := splitPort(value)
	if name, ok := matchName(host); ok && !strings.HasPrefix(name, "*") && value != "keep" {
		h.Host = config.At(strings.ToLower(value), at)
		return
	}
	x.notes.Addf(at, "the Host header %s is not carried over: midspan keeps the client's, or sets that of the server or a name (`http: { host: … }`)", quote(value))
}

// responseHeaders carries over add_header and proxy_hide_header.
func (x *nginx) responseHeaders(c nginxSettings, r *config.Route) {
	for _, n := range c.hideHeader.nodes {
		if why := removeHeader(&r.HTTP.ResponseHeaders, n.arg(1), n.pos); why != "" {
			x.lost(n.stmt, why)
		}
	}
	for _, n := range c.addHeader.nodes {
		name, value := n.arg(1), n.arg(2)
		switch {
		case strings.Contains(value, "$"):
			x.lost(n.stmt, "midspan sets headers to constant values")
			continue
		case value == "":
			x.needless(n.stmt, "nginx adds no empty header")
			continue
		case n.arg(3) != "always":
			x.note(n.stmt, "%s: midspan sets it in every response, nginx in good ones (201, 204, 206, 2xx and 3xx)", n)
		}
		if why := setHeader(&r.HTTP.ResponseHeaders, name, value, n.pos); why != "" {
			x.lost(n.stmt, why)
		}
	}
}

// alike notes what locations have of their own that a route has once, and takes
// those out whose servers are spoken with in another way.
func (x *nginx) alike(a *httpAddress, servers []*httpServer, r *config.Route) {
	first, base := servers[0].locations[0], inParts(r)
	for _, s := range servers {
		s.locations = slices.DeleteFunc(s.locations, func(l *httpLocation) bool {
			if l == first {
				return false
			}
			if l.tls != first.tls || l.h2 != first.h2 {
				x.note(l.node.stmt, "%s is not carried over: its servers are spoken with in another way (%s) than those of line %d, and midspan has one way for a route; give it a port of its own", l.node, quote(l.pass.arg(1)), first.node.pos.Line)
				return true
			}
			n, u := len(x.notes), len(x.unneeded)
			other := l.route(x, a.listens[0].ssl)
			if len(l.to.servers) == 1 { // nothing to choose
				other.Balance, other.Check, other.SlowStart, other.HTTP.Sticky = r.Balance, r.Check, r.SlowStart, r.HTTP.Sticky
			}
			x.notes, x.unneeded = x.notes[:n], x.unneeded[:u]
			if what := differs(base, inParts(&other)); what != "" {
				x.note(l.node.stmt, "%s: what it has of its own (%s) is not carried over: midspan has that once for a route, and takes it from line %d", l.node, what, first.node.pos.Line)
			}
			return false
		})
	}
}

// part is something that a route has once and locations may have differently.
type part struct {
	name string
	of   func(r *config.Route) config.Route
}

var parts = []part{
	{"proxy_ssl", func(r *config.Route) config.Route { return config.Route{UpstreamTLS: r.UpstreamTLS} }},
	{"the Host header", func(r *config.Route) config.Route {
		return config.Route{HTTP: config.HTTP{Host: r.HTTP.Host}}
	}},
	{"headers", func(r *config.Route) config.Route {
		h := config.HTTP{Forwarded: r.HTTP.Forwarded, RequestHeaders: r.HTTP.RequestHeaders, ResponseHeaders: r.HTTP.ResponseHeaders}
		return config.Route{HTTP: h}
	}},
	{"timeouts", func(r *config.Route) config.Route {
		h := config.HTTP{HeaderTimeout: r.HTTP.HeaderTimeout, KeepaliveTimeout: r.HTTP.KeepaliveTimeout, ResponseTimeout: r.HTTP.ResponseTimeout}
		return config.Route{HTTP: h, Settings: config.Settings{ConnectTimeout: r.ConnectTimeout}}
	}},
	{"limit_conn", func(r *config.Route) config.Route {
		return config.Route{Settings: config.Settings{MaxConnections: r.MaxConnections, PerSource: r.PerSource}}
	}},
	{"the upstream's balancing and max_fails", func(r *config.Route) config.Route {
		return config.Route{HTTP: config.HTTP{Sticky: r.HTTP.Sticky}, Settings: config.Settings{Balance: r.Balance, Check: r.Check, SlowStart: r.SlowStart}}
	}},
}

// inParts are the parts of a route as texts.
func inParts(r *config.Route) (texts []string) {
	for _, p := range parts {
		texts = append(texts, string(encoded(p.of(r))))
	}
	return texts
}

// differs names the parts in which two routes are not the same.
func differs(a, b []string) string {
	var what []string
	for i, p := range parts {
		if a[i] != b[i] {
			what = append(what, p.name)
		}
	}
	return strings.Join(what, ", ")
}

// encoded is a route as text, which has no places.
func encoded(r config.Route) []byte {
	at := config.Pos{Line: 1}
	r.Name, r.Listen = config.At("r", at), []config.Field[config.Listen]{config.At(config.Listen{From: 1, To: 1}, at)}
	return config.Encode(&config.File{Routes: []config.Route{r}})
}
