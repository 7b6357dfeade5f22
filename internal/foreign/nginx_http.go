package foreign

import (
	"fmt"
	"strings"

	"midspan/internal/config"
)

// httpBlock makes routes of the servers of an http block that are plain: one
// on its port, and everything that comes to it goes to one upstream.
func (x *nginx) httpBlock(ns []*node) {
	var around nginxSettings
	x.upstreams(ns, x.http, "80")
	ports := map[string]int{} // how many servers there are on a listen address
	for _, n := range ns {
		switch {
		case n.name() == "upstream" && n.isBlock:
		case n.name() == "server" && n.isBlock:
			for _, addr := range httpListens(n) {
				ports[addr]++
			}
		case x.httpSetting(&around, n):
		default:
			x.noteBy(httpNotes, n)
		}
	}
	for _, n := range ns {
		if n.name() != "server" || !n.isBlock {
			continue
		}
		if why := notPlain(n, ports); why != "" {
			x.noteBlock(n.stmt, n.inner(), isGone+why)
			continue
		}
		x.httpServer(n, around)
	}
	x.unusedUpstreams(x.http)
}

// httpSetting is setting without those that mean something else for HTTP.
func (x *nginx) httpSetting(c *nginxSettings, n *node) bool {
	return n.name() != "proxy_timeout" && x.setting(c, n)
}

// httpListens are the listen addresses of a server, in one spelling.
func httpListens(n *node) []string {
	var out []string
	for _, m := range n.block {
		if m.name() == "listen" {
			if l, err := nginxListen(m.arg(1), "80"); err == nil {
				out = append(out, l.String())
			}
		}
	}
	if len(out) == 0 {
		return []string{"80"} // nginx's default
	}
	return out
}

// httpServerPlain are the directives of a server that leave it plain, besides
// listen, server_name and location.
var httpServerPlain = map[string]bool{"error_page": true, "keepalive_timeout": true, "server_tokens": true, "charset": true, "default_type": true, "underscores_in_headers": true}

// notPlain is why a server of an http block is more than a route, or "".
func notPlain(n *node, ports map[string]int) string {
	for _, addr := range httpListens(n) {
		if ports[addr] > 1 {
			return fmt.Sprintf("%d servers share the address %s and are told apart by the name that is asked for; give each a port of its own", ports[addr], addr)
		}
	}
	locations := 0
	for _, m := range n.block {
		switch name := m.name(); {
		case name == "listen":
			for _, w := range m.words {
				if w.text == "ssl" || w.text == "quic" {
					return fmt.Sprintf("`listen … %s` (line %d): midspan does not decrypt", w.text, m.pos.Line)
				}
			}
		case name == "location":
			locations++
			if why := locationNotPlain(m); why != "" {
				return why
			}
		case name == "server_name" || httpServerPlain[name] || httpPassing(name):
		default:
			return fmt.Sprintf("%s (line %d) needs HTTP to be read", m, m.pos.Line)
		}
	}
	if locations != 1 {
		return fmt.Sprintf("it has %d locations; a TCP route has one upstream for everything", locations)
	}
	return ""
}

// locationNotPlain is why a location is more than "everything goes there".
func locationNotPlain(n *node) string {
	if n.arg(1) != "/" || len(n.words) != 2 {
		return fmt.Sprintf("%s (line %d) is for some paths only", n, n.pos.Line)
	}
	pass := false
	for _, m := range n.block {
		switch {
		case m.name() == "proxy_pass":
			pass = true
			if _, ok := httpPass(m); !ok {
				return fmt.Sprintf("%s (line %d) is not http://HOST:PORT or http://UPSTREAM without a path", m, m.pos.Line)
			}
		case httpPassing(m.name()):
		default:
			return fmt.Sprintf("%s (line %d) needs HTTP to be read", m, m.pos.Line)
		}
	}
	if !pass {
		return fmt.Sprintf("%s (line %d) has no `proxy_pass`", n, n.pos.Line)
	}
	return ""
}

// httpPass is HOST:PORT or UPSTREAM of a proxy_pass that changes no path.
func httpPass(n *node) (string, bool) {
	to, ok := strings.CutPrefix(n.arg(1), "http://")
	to = strings.TrimSuffix(to, "/")
	return to, ok && to != "" && !strings.ContainsAny(to, "/$?")
}

// httpPassing tells whether a directive only shapes how a request is handed
// on, so that the bytes go the same way without it.
func httpPassing(name string) bool {
	for _, prefix := range []string{"proxy_set_", "proxy_http_version", "proxy_buffer", "proxy_busy_", "proxy_request_buffering", "proxy_connect_timeout", "proxy_read_timeout", "proxy_send_timeout", "proxy_next_upstream", "proxy_socket_keepalive", "proxy_redirect", "proxy_pass_header", "proxy_hide_header", "proxy_max_temp", "client_", "access_log", "error_log", "gzip", "resolver", "tcp_nodelay", "tcp_nopush", "send_timeout"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// httpServer makes a route of a plain server.
func (x *nginx) httpServer(n *node, c nginxSettings) {
	var listens []config.Field[config.Listen]
	var pass *node
	written := false
	for _, m := range n.block {
		switch m.name() {
		case "listen":
			written = true
			listens = append(listens, x.listen(m, &c, "80")...)
		case "location":
			x.carry(m.stmt)
			for _, o := range m.block {
				if o.name() == "proxy_pass" {
					pass = o
				} else if !x.httpSetting(&c, o) {
					x.noteBy(httpNotes, o)
				}
			}
		case "server_name":
			x.note(m.stmt, "%s is not looked at: every name that is asked for on this port goes to the route's servers", m)
		default:
			if !x.httpSetting(&c, m) {
				x.noteBy(httpNotes, m)
			}
		}
	}
	x.carry(n.stmt)
	if !written {
		listens = append(listens, config.At(config.Listen{From: 80, To: 80}, n.pos))
	}
	to, _ := httpPass(pass)
	r, ok := x.routeTo(n, pass, to, x.http, "80")
	if !ok {
		return
	}
	r.Listen = listens
	settings := x.settings(c)
	settings.Balance, settings.Check = r.Balance, r.Check
	r.Settings = settings
	if x.room(len(r.Listen), len(r.To)) && x.route(r) {
		x.notes.Addf(n.pos, "route %s: HTTP is forwarded as a TCP stream. What is lost: balancing by request (connections are balanced), headers that nginx sets (Host, X-Forwarded-For), buffering, HTTP log fields", x.file.Routes[len(x.file.Routes)-1].Name.V)
	}
}
