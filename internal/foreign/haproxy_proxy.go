package foreign

import (
	"slices"
	"strings"
	"time"

	"midspan/internal/config"
)

// proxy is one evaluated defaults, listen, frontend or backend section.
type proxy struct {
	sec *section
	proxySettings
	binds   []bind
	servers []server
	always  *stmt // the `use_backend` without a condition

	ownExpect, ownTCPCheck bool // it has such lines of its own
}

// proxySettings are what a section takes over from its `defaults`.
type proxySettings struct {
	mode, balance, log config.Field[string]
	backend            config.Field[string] // default_backend
	maxconn            config.Field[int]
	timeouts           timeouts
	disabled           config.Field[bool]
	allBackups         config.Field[bool]
	check              checking
	server             serverOptions // default-server

	clientKeepalive, serverKeepalive config.Keepalive

	acls        map[string][]*acl
	uses        []*stmt // use_backend and use-server
	tcp, http   []*stmt // tcp-request; http-request, http-response and redirect
	table       *table
	inspect     config.Field[time.Duration]
	inspectLine *stmt
	rate        config.Field[config.Rate]
	cookie      config.Field[string]
	stick       config.Field[bool]
	forwardfor  config.Field[bool]
}

// timeouts are HAProxy's. 0 means that there is no limit.
type timeouts struct {
	connect, client, server, tunnel, clientFin, serverFin, check config.Field[time.Duration]
	request, keepAlive                                           config.Field[time.Duration] // of HTTP
}

// proxy evaluates sec, once.
func (h *haproxy) proxy(sec *section) *proxy {
	if p := h.proxies[sec]; p != nil {
		return p
	}
	p := &proxy{sec: sec, always: unconditional(sec)}
	h.proxies[sec] = p // before the defaults: they may name each other in a circle
	h.carry(sec.head)
	if d := h.defaultsOf(sec); d != nil {
		p.proxySettings = h.proxy(d).proxySettings
	}
	// What is appended here is this section's own.
	p.uses, p.tcp, p.http = slices.Clip(p.uses), slices.Clip(p.tcp), slices.Clip(p.http)
	for _, s := range sec.body { // some rules depend on it
		if s.arg(0) == "mode" && len(s.words) > 1 {
			p.mode = config.At(s.arg(1), s.pos)
		}
	}
	h.oldListen(p)
	for _, s := range sec.body {
		r, known := proxyRule(p, s)
		h.apply(p, s, r, known)
	}
	return p
}

// rule says what becomes of a statement: it is done, or noted.
type rule struct {
	// do carries the statement over. It is called with at least least+1 words
	// whose values are known.
	do    func(h *haproxy, p *proxy, s *stmt)
	least int
	side  side
	// note, if there is no do, is what stands after the statement in the note.
	note string
}

// side tells in which half of a proxy a statement has an effect. HAProxy
// ignores it in the other, with a warning.
type side int

const (
	bothSides side = iota
	frontSide
	backSide
)

func (s side) within(kind string) bool {
	return s == bothSides || (s == frontSide && kind != "backend") || (s == backSide && kind != "frontend")
}

// apply does with s what its rule says. p is nil for a line of `global`.
func (h *haproxy) apply(p *proxy, s *stmt, r rule, known bool) {
	switch {
	case !known:
		h.note(s, "%s is not known to this importer and is not carried over", s)
	case r.do == nil && p != nil && p.mode.V == modeHTTP:
		h.because(s, s.pos, s.String(), strings.ReplaceAll(r.note, whyHTTP, whyNotHTTP))
	case r.do == nil:
		h.because(s, s.pos, s.String(), r.note)
	case p != nil && !r.side.within(p.sec.kind):
		h.needless(s, "HAProxy ignores it in a "+p.sec.kind)
	case len(s.words) <= r.least:
		s.noted = true
		h.problem(s.pos, "%s: a value is missing", s)
	case h.known(s):
		h.carry(s)
		r.do(h, p, s)
	}
}

// known reports words whose value depends on the environment.
func (h *haproxy) known(s *stmt) bool {
	for _, w := range s.words {
		if w.env != "" {
			s.noted = true
			h.problem(w.pos, "%s: the environment variable %s is not known here; write its value, then import again", s, printable(w.env))
			return false
		}
	}
	return true
}

// oldListen reads the addresses that stood on the `listen` line before there
// was `bind`.
func (h *haproxy) oldListen(p *proxy) {
	if head := p.sec.head; (p.sec.kind == "listen" || p.sec.kind == "frontend") && len(head.words) > 2 && head.arg(2) != "from" && h.known(head) {
		h.bind(p, head, head.words[2:3])
	}
}

// routeSettings are the settings of a route from front f to back b.
func (h *haproxy) routeSettings(f, b *proxy, binds []bind) config.Settings {
	s := config.Settings{
		ConnectTimeout: h.connectTimeout(b.timeouts.connect),
		IdleTimeout:    h.idleTimeout(f, b),
		FinTimeout:     h.longer(f.timeouts.clientFin, b.timeouts.serverFin, "timeout client-fin", "timeout server-fin", "fin_timeout"),
		Keepalive:      h.keepalive(f.clientKeepalive, b.serverKeepalive),
		Check:          h.check(b),
		MaxConnections: f.maxconn,
	}
	if b.balance.Set() && b.balance.V != "roundrobin" {
		s.Balance = b.balance
	}
	for _, bind := range binds {
		if bind.userTimeout.Set() && !s.UserTimeout.Set() {
			s.UserTimeout = bind.userTimeout
		}
	}
	return s
}

func (h *haproxy) connectTimeout(t config.Field[time.Duration]) config.Field[time.Duration] {
	if !t.Set() {
		return t
	}
	if t.V == 0 {
		h.notes.Addf(t.Pos, "`timeout connect 0` (no limit) is not carried over: connect_timeout stays at its default")
		return config.Field[time.Duration]{}
	}
	t.V = h.within(t.Pos, t.V, time.Millisecond, time.Hour)
	return t
}

// idleTimeout: `timeout tunnel` replaces the others once bytes may flow both
// ways, which for TCP is at once.
func (h *haproxy) idleTimeout(f, b *proxy) config.Field[config.OffOr[time.Duration]] {
	if t := b.timeouts.tunnel; t.Set() && f.mode.V != modeHTTP {
		return h.offOr(t)
	} else if t.Set() {
		// Of HTTP it is for connections that were upgraded; midspan has one for all.
		return h.offOr(longest(t, f.timeouts.client, b.timeouts.server))
	}
	return h.longer(f.timeouts.client, b.timeouts.server, "timeout client", "timeout server", "idle_timeout")
}

// longest is the longest of some times, of which 0 is no limit.
func longest(ts ...config.Field[time.Duration]) (most config.Field[time.Duration]) {
	for _, t := range ts {
		if t.Set() && (!most.Set() || most.V != 0 && (t.V == 0 || t.V > most.V)) {
			most = t
		}
	}
	return most
}

// longer is the longer of a front's and a back's timeout: midspan has one for
// both directions.
func (h *haproxy) longer(front, back config.Field[time.Duration], frontName, backName, becomes string) config.Field[config.OffOr[time.Duration]] {
	if !front.Set() || !back.Set() {
		if back.Set() {
			front = back
		}
		return h.offOr(front)
	}
	longest := front
	if front.V != 0 && (back.V == 0 || back.V > front.V) {
		longest = back
	}
	if front.V != back.V {
		h.notes.Addf(longest.Pos, "`%s` (%s) and `%s` (%s) become one %s, the longer", frontName, limit(front.V), backName, limit(back.V), becomes)
	}
	return h.offOr(longest)
}

func limit(d time.Duration) string {
	if d == 0 {
		return "no limit"
	}
	return config.FormatDuration(d)
}

// offOr is t as an idle time of the file, where 0 is the word "off".
func (h *haproxy) offOr(t config.Field[time.Duration]) config.Field[config.OffOr[time.Duration]] {
	if !t.Set() {
		return config.Field[config.OffOr[time.Duration]]{}
	}
	v := config.OffOr[time.Duration]{Off: t.V == 0}
	if !v.Off {
		v.V = h.within(t.Pos, t.V, time.Second, 30*24*time.Hour)
	}
	return config.At(v, t.Pos)
}

// keepalive joins the two legs' settings, which midspan has once.
func (h *haproxy) keepalive(f, b config.Keepalive) config.Keepalive {
	return config.Keepalive{
		Idle:     shorter(h, f.Idle, b.Idle, "idle"),
		Interval: shorter(h, f.Interval, b.Interval, "interval"),
		Count:    shorter(h, f.Count, b.Count, "count"),
	}
}

func shorter[T int | time.Duration](h *haproxy, f, b config.Field[T], what string) config.Field[T] {
	if !f.Set() || !b.Set() || f.V == b.V {
		if f.Set() {
			return f
		}
		return b
	}
	if b.V < f.V {
		f, b = b, f
	}
	h.notes.Addf(b.Pos, "the keepalive %s of the client side and of the server side differ; midspan has one for both, and the smaller is carried over", what)
	return f
}
