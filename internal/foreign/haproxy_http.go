package foreign

import (
	"slices"
	"strings"
	"time"

	"midspan/internal/config"
)

// httpSettings fills in `http` from the frontend and the backends of a route.
func (v *view) httpSettings(r *config.Route, backs []*proxy) {
	f, b, h := v.f, backs[0], &r.HTTP
	if b.servers[0].h2.V {
		h.Protocol = config.At("h2", b.servers[0].h2.Pos)
	}
	h.Forwarded = config.At("off", f.mode.Pos)
	if at := firstSetAt(f.forwardfor, b.forwardfor); at.Set() {
		h.Forwarded = config.At("append", at.Pos)
	}
	h.Sticky = b.cookie
	v.httpTimeouts(h, b)
	for _, s := range f.http {
		v.httpRule(r, f, s, "")
	}
	for _, back := range backs {
		if back == f {
			continue
		}
		for _, s := range back.http {
			why := ""
			if len(backs) > 1 && !v.everyHas(backs, s) {
				why = "it is for " + back.sec.String() + " only, and midspan has one `http` for a route"
			}
			v.httpRule(r, back, s, why)
		}
	}
}

func firstSetAt[T any](fs ...config.Field[T]) (none config.Field[T]) {
	for _, f := range fs {
		if f.Set() {
			return f
		}
	}
	return none
}

// everyHas tells whether all of backs have a rule in the same words.
func (v *view) everyHas(backs []*proxy, s *stmt) bool {
	for _, b := range backs {
		if !slices.ContainsFunc(b.http, func(o *stmt) bool { return phrase(o.words) == phrase(s.words) }) {
			return false
		}
	}
	return true
}

// httpTimeouts: without its own, HAProxy takes the next of http-keep-alive,
// http-request and client for the time between requests.
func (v *view) httpTimeouts(h *config.HTTP, b *proxy) {
	in := func(t config.Field[time.Duration]) config.Field[time.Duration] {
		if t.V > 0 {
			t.V = v.within(t.Pos, t.V, time.Millisecond, time.Hour)
			return t
		}
		return config.Field[time.Duration]{}
	}
	t := v.f.timeouts
	h.HeaderTimeout = in(t.request)
	h.KeepaliveTimeout = in(firstSetAt(t.keepAlive, t.request, t.client))
	if server := b.timeouts.server; server.V > 0 {
		h.ResponseTimeout = config.At(config.OffOr[time.Duration]{V: in(server).V}, server.Pos)
	}
}

// httpRule carries over a line of `http-request`, `http-response` or
// `redirect` of p. not is why it cannot be, if something is known already.
func (v *view) httpRule(r *config.Route, p *proxy, s *stmt, not string) {
	action := s.arg(1)
	switch {
	case s.arg(0) == "redirect", s.arg(0) == "http-request" && action == "redirect":
		v.redirect(p, s)
	case s.arg(0) == "http-request" && (slices.Contains(refusals, action) || action == "allow"):
		if p != v.f {
			v.because(s, s.pos, s.String(), whyAccess)
		}
	case s.arg(0) == "http-request" && (action == "replace-path" || action == "set-path" || action == "replace-uri"):
		// The groups have it; see rewritten.
		if !v.rewrote[s] {
			v.lost(s, "midspan replaces the beginning of a path that servers are chosen by (`hosts: { NAME: { /api/: { to: …, rewrite: / } } }`)")
		}
	case not != "":
		v.lost(s, not)
	case action == "set-header" || action == "add-header" || action == "del-header":
		v.header(r, p, s)
	default:
		v.lost(s, whyNotHTTP)
	}
}

func (v *view) redirect(p *proxy, s *stmt) {
	if holds, known := v.alone(v.cond(p, conditionOf(s.words))); known && !holds {
		v.carry(s)
		return
	}
	v.lost(s, "a route forwards; it has no answers of its own, so these requests go to the servers")
}

// header carries over set-header, add-header and del-header.
func (v *view) header(r *config.Route, p *proxy, s *stmt) {
	c := v.cond(p, conditionOf(s.words))
	holds, known := v.alone(c)
	if !known {
		v.lost(s, "midspan changes headers of every request; give these a route of their own")
		return
	}
	if v.carry(s); !holds {
		v.plainScheme(r, s)
		return
	}
	in, name := &r.HTTP.RequestHeaders, s.arg(2)
	if s.arg(0) == "http-response" {
		in = &r.HTTP.ResponseHeaders
	}
	if s.arg(1) == "del-header" {
		if why := removeHeader(in, name, s.pos); why != "" {
			v.lost(s, why)
		}
		return
	}
	scheme := "http"
	if v.tls {
		scheme = "https"
	}
	value := s.arg(3)
	why, own := v.ownValue(r, in == &r.HTTP.RequestHeaders, name, value, scheme)
	switch {
	case own:
	case why != "" && in == &r.HTTP.RequestHeaders && s.arg(1) == "set-header":
		v.lost(s, why+keepOut(in, name, s.pos))
	case why != "":
		v.lost(s, why)
	default:
		if why = setHeader(in, name, value, s.pos); why != "" {
			v.lost(s, why)
		} else if s.arg(1) == "add-header" {
			v.note(s, "%s: what was there of that name goes in midspan", s)
		}
	}
}

// plainScheme says http in X-Forwarded-Proto, where a line that is for clients with
// TLS only says https: with `forwarded: append` what others claim in it would
// reach the servers.
func (v *view) plainScheme(r *config.Route, s *stmt) {
	h := &r.HTTP.RequestHeaders
	is := func(name string) bool { return strings.EqualFold(name, "x-forwarded-proto") }
	if v.tls || s.arg(0) != "http-request" || s.arg(1) != "set-header" || !is(s.arg(2)) || s.arg(3) != "https" || r.HTTP.Forwarded.V != "append" ||
		slices.ContainsFunc(h.Set, func(x config.Header) bool { return is(x.Name.V) }) {
		return
	}
	if setHeader(h, s.arg(2), "http", s.pos) == "" {
		v.note(s, "%s: where clients speak no TLS midspan says http in it; HAProxy passes on what they claim", s)
	}
}

// whyAppended is how X-Forwarded-Host differs, and -Proto where it is not constant.
const whyAppended = "with `forwarded: append` midspan writes it where the client has sent none; write `forwarded: replace` where there is no proxy before this one"

// ownValue carries over values that midspan has by itself.
func (v *view) ownValue(r *config.Route, request bool, name, value, scheme string) (why string, own bool) {
	h := &r.HTTP
	switch name = strings.ToLower(name); {
	case !request:
	case name == "host":
		if host, ok := matchName(value); ok {
			h.Host = config.At(host, r.Mode.Pos)
			return "", true
		}
		return "midspan sets Host to a name, or to the server's own", false
	case name == "x-forwarded-for" && value == "%[src]":
		h.Forwarded = config.At("replace", r.Mode.Pos)
		return "", true
	case h.Forwarded.V == "replace" && name == "x-forwarded-proto" && value == scheme:
		return "", true
	case h.Forwarded.V == "replace" && name == "x-forwarded-host" && strings.Contains(value, "hdr(host)"):
		return "", true
	case h.Forwarded.V == "append" && name == "x-forwarded-host" && strings.Contains(value, "hdr(host)"):
		return whyAppended, false
	}
	if strings.Contains(value, "%") {
		return "midspan sets headers to constant values", false
	}
	return "", false
}
