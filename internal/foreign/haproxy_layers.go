package foreign

import (
	"slices"
	"strings"
	"time"

	"midspan/internal/config"
)

// layers fills in what the route does above TCP.
func (v *view) layers(r *config.Route, backs []*proxy) {
	b := backs[0]
	v.serverSide(r, backs)
	if len(r.Groups) > 0 && !v.http {
		r.Mode = config.At(modeSNI, r.Groups[0].Match.Pos)
		v.sni(r)
	} else if v.f.inspectLine != nil {
		v.needless(v.f.inspectLine, "midspan does not wait for bytes of the client")
	}
	if b.stick.Set() {
		r.Balance = config.At("source", b.stick.Pos)
	}
	for _, x := range b.servers {
		if x.slowStart.V > 0 && !r.SlowStart.Set() {
			d := v.within(x.slowStart.Pos, x.slowStart.V, time.Second, time.Hour)
			r.SlowStart = config.At(config.OffOr[time.Duration]{V: d}, x.slowStart.Pos)
		}
	}
	v.onDown(r, b)
	if v.f.rate.Set() {
		r.Rate = v.f.rate
	}
	if v.http {
		v.httpProtocols(r)
		v.httpSettings(r, backs)
	}
}

// httpProtocols leaves of ALPN what mode http speaks.
func (v *view) httpProtocols(r *config.Route) {
	var speaks []config.Field[string]
	for _, f := range r.TLS.ALPN {
		if f.V == "h2" || f.V == "http/1.1" {
			speaks = append(speaks, f)
		} else {
			v.notes.Addf(f.Pos, "%s of `alpn` is not carried over: mode http speaks h2 and http/1.1", quote(f.V))
		}
	}
	r.TLS.ALPN = speaks
}

// onDown carries over `on-marked-down shutdown-sessions`.
func (v *view) onDown(r *config.Route, b *proxy) {
	without := slices.IndexFunc(b.servers, func(s server) bool { return !s.onDown.Set() })
	for _, s := range b.servers {
		if !s.onDown.Set() {
			continue
		}
		if r.OnDown = s.onDown; without >= 0 {
			v.notes.Addf(s.onDown.Pos, "`on-marked-down` is carried over as `on_down: cut` for all servers of the route; server %s has it not", printable(b.servers[without].name))
		}
		return
	}
}

// serverSide is how midspan speaks with the servers, which a route has once.
func (v *view) serverSide(r *config.Route, backs []*proxy) {
	first := backs[0].servers[0]
	if first.source.Set() {
		r.Source = append(r.Source, first.source)
	}
	r.UpstreamTLS, r.SendProxy = v.upstreamTLS(first), first.sendProxy
	for _, b := range backs {
		for _, s := range b.servers {
			switch {
			case s.tls.On.V != first.tls.On.V || s.sendProxy.V != first.sendProxy.V:
				v.notes.Addf(s.target.Pos, "server %s is not carried over: midspan speaks with all servers of a route as with the first (%s), and the two differ in `ssl` or `send-proxy`; give it a route of its own", printable(s.name), printable(first.name))
				v.drop(r, s)
			case s.source.V != first.source.V:
				v.notes.Addf(s.target.Pos, "`source` of server %s is not that of server %s: midspan has one for a route, and the first is carried over", printable(s.name), printable(first.name))
			case !sameUpstreamTLS(v.quietTLS(s), v.quietTLS(first)):
				v.notes.Addf(s.tls.On.Pos, "server %s has other TLS settings than server %s: midspan has one `upstream_tls` for a route, and the first is carried over", printable(s.name), printable(first.name))
			}
		}
	}
}

// quietTLS is upstreamTLS without its notes.
func (h *haproxy) quietTLS(s server) config.UpstreamTLS {
	n := len(h.notes)
	t := h.upstreamTLS(s)
	h.notes = h.notes[:n]
	return t
}

// drop takes a server out of a route.
func (v *view) drop(r *config.Route, s server) {
	is := func(c config.Server) bool { return c.Target.Pos == s.target.Pos }
	r.To = slices.DeleteFunc(r.To, is)
	for i := range r.Groups {
		r.Groups[i].To = slices.DeleteFunc(r.Groups[i].To, is)
	}
}

// sni says what becomes of clients that send no name. HAProxy leads them, and
// who does not speak TLS, to the default backend, unless a rule refuses what is
// no ClientHello.
func (v *view) sni(r *config.Route) {
	if v.f.inspect.V > 0 {
		r.SNI.Timeout = config.At(v.within(v.f.inspect.Pos, v.f.inspect.V, time.Millisecond, time.Hour), v.f.inspect.Pos)
	}
	if len(r.To) == 0 {
		return
	}
	refused := slices.ContainsFunc(v.f.tcp, func(s *stmt) bool { return s.arg(1) == "content" && v.refusesPlain(s) })
	if !refused {
		r.SNI.NotTLS = config.At("default", r.To[0].Target.Pos)
	}
}

// refusesPlain tells whether a line refuses connections that do not begin with
// a ClientHello, and such as come to it.
func (v *view) refusesPlain(s *stmt) bool {
	if s.arg(2) != "reject" && s.arg(2) != "silent-drop" {
		return false
	}
	if len(s.words) == 3 {
		return true
	}
	c := v.cond(v.f, s.words[3:])
	return len(c) == 1 && len(c[0]) == 1 && c[0][0].fact == factHello && c[0][0].not
}

// setTable reads `stick-table type ip … store conn_cur,conn_rate(3s)`.
func (h *haproxy) setTable(p *proxy, s *stmt) {
	p.table = &table{line: s}
	for i := 1; i+1 < len(s.words); i++ {
		switch s.arg(i) {
		case "type":
			if !slices.Contains([]string{"ip", "ipv4", "ipv6"}, s.arg(i+1)) {
				p.table = nil
				h.lost(s, whyStick)
				return
			}
		case "store":
			for what := range strings.SplitSeq(s.arg(i+1), ",") {
				if period, is := strings.CutPrefix(what, "conn_rate("); is {
					p.table.rate, _ = haproxyTime(strings.TrimSuffix(period, ")"), time.Millisecond)
				}
			}
		}
	}
}

// setStick reads `stick on src`.
func (h *haproxy) setStick(p *proxy, s *stmt) {
	if len(s.words) != 3 || s.arg(2) != "src" || (s.arg(1) != "on" && s.arg(1) != "match") {
		h.lost(s, whyStick)
		return
	}
	p.stick = config.At(true, s.pos)
	h.note(s, "%s is carried over as `balance: source`: a client goes to the server that its address hashes to, and not to the one that `balance` chose first", s)
}

// setRate reads `rate-limit sessions N`, new connections a second.
func (h *haproxy) setRate(p *proxy, s *stmt) {
	if n, ok := h.number(s, s.word(2), 0); ok && n > 0 {
		p.rate = config.At(config.Rate{N: h.withinInt(s.word(2).pos, n, 1, connsMax), Per: time.Second}, s.pos)
	}
}

// setInspect reads `tcp-request inspect-delay TIME`.
func (h *haproxy) setInspect(p *proxy, s *stmt) {
	if d, ok := h.time(s, s.word(2), time.Millisecond); ok {
		p.inspect, p.inspectLine = config.At(d, s.pos), s
	}
}
