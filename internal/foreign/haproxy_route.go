package foreign

import (
	"fmt"
	"slices"
	"strings"

	"midspan/internal/config"
)

// front makes the routes of a listen section or of a frontend.
func (h *haproxy) front(sec *section) {
	target, why := h.target(sec)
	if target == nil && !h.mayChoose(sec) {
		h.noteBlock(sec.head, sec.body, isGone+why)
		return
	}
	f, def := h.proxy(sec), (*proxy)(nil)
	if target != nil {
		def = h.proxy(target)
	}
	if f.disabled.Set() || (def != nil && def.disabled.Set()) {
		at := f.disabled.Pos
		if !f.disabled.Set() {
			at = def.disabled.Pos
		}
		h.noteAt(sec.head, at, "`disabled`: %s is not carried over; HAProxy does not run it either", sec)
		return
	}
	groups := listeners(f.binds)
	if len(groups) == 0 {
		groups = [][]bind{nil}
	}
	for _, binds := range groups {
		h.routeOf(f, def, binds)
	}
}

// target is the section with the servers of what no rule chooses, or why there
// is none.
func (h *haproxy) target(sec *section) (*section, string) {
	if sec.kind == "listen" && sec.has("server", "server-template") && unconditional(sec) == nil && !sec.has("default_backend") {
		return sec, ""
	}
	back := h.backend(sec)
	if back.V == "" {
		return nil, noBackend(sec)
	}
	target := h.backends[back.V]
	if target == nil {
		return nil, fmt.Sprintf("backend %s is not in this file", printable(back.V))
	}
	return target, ""
}

// mayChoose tells, before anything of sec is read, whether some rule chooses a
// backend by what midspan can tell: without one, notes on its lines would be
// about a route that there is not.
func (h *haproxy) mayChoose(sec *section) bool {
	scratch := &proxy{sec: sec, proxySettings: proxySettings{acls: map[string][]*acl{}}}
	for _, s := range sec.body {
		if s.arg(0) == "acl" && len(s.words) > 2 {
			scratch.acls[s.arg(1)] = append(scratch.acls[s.arg(1)], &acl{line: s, test: expression(s.words[2:])})
		}
	}
	views := []*view{{haproxy: h}, {haproxy: h, http: true}, {haproxy: h, http: true, tls: true}}
	chooses := func(c cond) bool {
		return slices.ContainsFunc(views, func(v *view) bool {
			return slices.ContainsFunc(v.given(c), func(tests []test) bool {
				_, why := v.alternative(tests)
				return why == ""
			})
		})
	}
	return slices.ContainsFunc(sec.body, func(s *stmt) bool {
		return s.arg(0) == "use_backend" && len(s.words) > 2 && !dynamic(s) && h.backends[s.arg(1)] != nil && chooses(h.cond(scratch, s.words[2:]))
	})
}

// routeOf puts a route together from the proxy that listens, some of its
// listen addresses, and the one that has the servers of what no rule chooses
// (nil: there is none). For a listen section they may be the same.
func (h *haproxy) routeOf(f, def *proxy, binds []bind) {
	at := f.sec.head.pos
	r := listening(f, def, binds)
	if !h.rules(len(f.tcp) + len(f.http) + usable(f) + usable(def)) {
		return
	}
	v := &view{haproxy: h, f: f, http: f.mode.V == modeHTTP, tls: len(r.TLS.Cert) > 0}
	if v.http {
		r.Mode = config.At(modeHTTP, f.mode.Pos)
		if v.onlyRedirects(binds) {
			return
		}
	}
	choices := v.choices(def)
	backs := v.backs(def, choices)
	if len(backs) == 0 {
		h.notes.Addf(at, "no route is made of this: no server is left that a connection could go to")
		return
	}
	if slices.Contains(backs, def) {
		r.To = h.servers(def)
	}
	r.Groups = v.groups(choices, backs)
	if !h.room(len(binds), countServers(&r)) {
		return
	}
	r.Settings = h.routeSettings(f, backs[0], binds)
	if len(binds) > 0 {
		r.Proxy.Mode = binds[0].proxy
	}
	v.layers(&r, backs)
	if open := v.access(&r); !open {
		return
	}
	if h.route(r) {
		h.aboutHTTP(f, backs[0], h.file.Routes[len(h.file.Routes)-1])
		h.aboutLog(f)
		for _, b := range backs {
			h.called(b.servers)
		}
	}
}

// listening is a route with a name and its listen addresses.
func listening(f, def *proxy, binds []bind) config.Route {
	at := f.sec.head.pos
	r := config.Route{
		Comment: fmt.Sprintf("%s:%d: %s", at.File, at.Line, f.sec),
		Name:    config.At(f.sec.name, at),
	}
	if def != nil && f != def {
		r.Comment += fmt.Sprintf(", line %d: %s", def.sec.head.pos.Line, def.sec)
	}
	if len(binds) > 0 {
		r.TLS = binds[0].tls
	}
	for _, b := range binds {
		r.Listen = append(r.Listen, b.listen)
	}
	return r
}

// usable is how many rules of p may choose servers.
func usable(p *proxy) int {
	if p == nil {
		return 0
	}
	return len(p.uses)
}

func countServers(r *config.Route) (n int) {
	for range r.Servers() {
		n++
	}
	return n
}

// servers are those of b as a route has them.
func (h *haproxy) servers(b *proxy) (to []config.Server) {
	backups := 0
	for _, s := range b.servers {
		to = append(to, s.config())
		if s.backup.Set() {
			backups++
		}
	}
	if backups > 1 && !b.allBackups.Set() {
		h.notes.Addf(b.sec.head.pos, "%s has %d backup servers, of which HAProxy uses one at a time; midspan balances over all that are up", b.sec, backups)
	}
	return to
}

// view is a frontend as the clients of some of its listen addresses see it.
type view struct {
	*haproxy
	f    *proxy
	http bool // mode http
	tls  bool // they speak TLS with us
}

// onlyRedirects tells whether all that is done for these clients is to send
// them to https.
func (v *view) onlyRedirects(binds []bind) bool {
	if v.tls {
		return false
	}
	for _, s := range v.f.http {
		words := s.words
		if s.arg(0) == "http-request" {
			words = words[1:]
		}
		if words[0].text != "redirect" || len(words) < 3 || words[1].text != "scheme" || words[2].text != "https" {
			continue
		}
		if holds, known := v.alone(v.cond(v.f, conditionOf(words))); !known || !holds {
			continue
		}
		v.carry(s)
		for _, b := range binds {
			v.lost(b.line, fmt.Sprintf("all that HAProxy does there is to send clients to https (line %d), and midspan has no answers of its own; let the clients ask there, or keep HAProxy for it", s.pos.Line))
		}
		return true
	}
	return false
}

// conditionOf is the part of words from `if` or `unless` on.
func conditionOf(words []word) []word {
	i := slices.IndexFunc(words, func(w word) bool { return w.text == "if" || w.text == "unless" })
	if i < 0 {
		return nil
	}
	return words[i:]
}

// given is what is left of a condition where it is known whether clients speak
// TLS: the alternatives that may hold.
func (v *view) given(c cond) cond {
	var out cond
	for _, tests := range c {
		var left []test
		never := false
		for _, t := range tests {
			switch t.fact {
			case factAlways:
				never = never || t.not
			case factTLS:
				never = never || v.tls == t.not
			case factHello:
				never = never || t.not
			default:
				left = append(left, t)
			}
		}
		if !never {
			out = append(out, left)
		}
	}
	return out
}

// alone tells whether c holds, where nothing but TLS decides that.
func (v *view) alone(c cond) (holds, known bool) {
	c = v.given(c)
	if len(c) == 0 {
		return false, true
	}
	for _, tests := range c {
		if len(tests) == 0 {
			return true, true
		}
	}
	return false, false
}

// backs are the proxies with the servers of a route, without those that the
// others do not go with.
func (v *view) backs(def *proxy, choices []*choice) (out []*proxy) {
	all := []*proxy{}
	if def != nil {
		all = append(all, def)
	}
	for _, c := range choices {
		if !slices.Contains(all, c.back) {
			all = append(all, c.back)
		}
	}
	for _, b := range all {
		switch {
		case b.disabled.Set():
			v.notes.Addf(b.disabled.Pos, "`disabled`: %s is not carried over; HAProxy does not run it either", b.sec)
		case len(b.servers) == 0:
			v.notes.Addf(b.sec.head.pos, "%s has no server that is carried over", b.sec)
		case len(out) > 0 && !v.alike(out[0], b):
		default:
			out = append(out, b)
		}
	}
	return out
}

// alike tells whether a route can have the servers of both: it speaks in one
// way with all of them. All else that differs is noted.
func (v *view) alike(first, b *proxy) bool {
	x, y := first.servers[0], b.servers[0]
	switch {
	case x.tls.On.V != y.tls.On.V:
		v.lost(b.sec.head, fmt.Sprintf("its servers and those of %s (line %d) differ in `ssl`, and midspan has one `upstream_tls` for a route; give it a frontend of its own", first.sec, first.sec.head.pos.Line))
		return false
	case x.sendProxy.V != y.sendProxy.V:
		v.lost(b.sec.head, fmt.Sprintf("its servers and those of %s (line %d) differ in `send-proxy`, and midspan has one `send_proxy` for a route; give it a frontend of its own", first.sec, first.sec.head.pos.Line))
		return false
	}
	var differ []string
	for what, differs := range map[string]bool{
		"balance":         first.balance.Or("roundrobin") != b.balance.Or("roundrobin"),
		"timeout connect": first.timeouts.connect.V != b.timeouts.connect.V,
		"timeout server":  first.timeouts.server.V != b.timeouts.server.V,
		"timeout tunnel":  first.timeouts.tunnel.V != b.timeouts.tunnel.V,
		"the checks":      !first.sameChecks(b),
		"cookie":          first.cookie.V != b.cookie.V,
		"stick":           first.stick.Set() != b.stick.Set(),
	} {
		if differs {
			differ = append(differ, what)
		}
	}
	if slices.Sort(differ); len(differ) > 0 {
		v.notes.Addf(b.sec.head.pos, "%s: what it has of its own (%s) is not carried over: midspan has that once for a route, and takes it from %s (line %d)", b.sec, strings.Join(differ, ", "), first.sec, first.sec.head.pos.Line)
	}
	return true
}
