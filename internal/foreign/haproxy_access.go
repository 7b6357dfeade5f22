package foreign

import (
	"slices"
	"strings"
	"time"

	"midspan/internal/config"
)

// refusals are the actions that refuse; those of http-request among them.
var refusals = []string{"deny", "reject", "silent-drop", "tarpit", "auth"}

// levels are the stages of HAProxy's rules on who may connect. A connection has
// to pass each of them.
type levels map[string]*level

type level struct {
	access
	open bool // a rule before lets in whom midspan cannot tell
}

func (l levels) at(stage string) *level {
	if l[stage] == nil {
		l[stage] = &level{access: *newAccess()}
	}
	return l[stage]
}

// access reads the rules on who may connect and how often. false: nobody may,
// so that there is no route.
func (v *view) access(r *config.Route) (open bool) {
	stages, tracked := levels{}, false
	for i, s := range v.f.tcp {
		switch action := s.arg(2); {
		case action == "expect-proxy":
			v.expectProxy(r, s)
		case strings.HasPrefix(action, "track-"):
			v.track(s, &tracked)
		default:
			v.decide(r, decision{
				line: s, cond: s.words[3:], accept: action == "accept", level: stages.at(s.arg(1)), tracked: tracked,
				last: !slices.ContainsFunc(v.f.tcp[i+1:], func(o *stmt) bool { return o.arg(1) == s.arg(1) && slices.Contains(refusals, o.arg(2)) }),
			})
		}
	}
	for _, s := range v.f.http {
		if a := s.arg(1); s.arg(0) == "http-request" && (slices.Contains(refusals, a) || a == "allow") {
			v.decide(r, decision{line: s, cond: conditionOf(s.words), accept: a == "allow", level: stages.at("http"), tracked: tracked, last: a == "allow"})
		}
	}
	if l := stages["connection"]; l != nil && r.Proxy.Mode.Set() {
		// Before the header is read, the source is who sends it.
		if nets, all := l.result(); len(nets) > maxAllow {
			v.tooMany(r)
		} else if !all {
			r.Proxy.From = append(r.Proxy.From, networks(nets, r.Proxy.Mode.Pos)...)
		}
		delete(stages, "connection")
	}
	return v.allow(r, stages)
}

// allow is `allow` for those who pass each stage.
func (v *view) allow(r *config.Route, stages levels) (open bool) {
	nets, all := everywhere(), true
	for _, l := range stages {
		passed, every := l.result()
		if len(passed) > maxAllow {
			nets, all = passed, false
			break
		}
		if !every {
			nets, all = tidy(intersect(nets, passed)), false
		}
	}
	switch {
	case all:
		return true
	case len(nets) == 0:
		v.notes.Addf(r.Name.Pos, "no route is made of this: its rules refuse every connection")
		return false
	case len(nets) > maxAllow:
		v.tooMany(r)
		return true
	}
	r.Allow = networks(nets, r.Name.Pos)
	return true
}

func (v *view) tooMany(r *config.Route) {
	v.notes.Addf(r.Name.Pos, "%sthe rules of %s are not carried over: they make more than %d networks; %s", openMark, v.f.sec, maxAllow, whereSource)
}

// decision is one rule on who may connect.
type decision struct {
	line    *stmt
	cond    []word
	level   *level
	accept  bool
	tracked bool // the client's address is counted already
	last    bool // nothing is refused after it
}

// decide adds a rule to its level, or a limit to the route.
func (v *view) decide(r *config.Route, d decision) {
	s := d.line
	c := v.cond(v.f, d.cond)
	if hello := slices.ContainsFunc(c, func(ts []test) bool {
		return slices.ContainsFunc(ts, func(t test) bool { return t.fact == factHello })
	}); hello && r.Mode.V != modeSNI {
		v.because(s, s.pos, s.String(), isGone+"midspan looks for a ClientHello in mode sni only; what is not TLS goes to the servers")
	}
	v.carry(s)
	why := ""
	for _, tests := range v.given(c) {
		if w := v.decideOne(r, d, tests); w != "" {
			why = w
		}
	}
	if why != "" {
		s.carried = false
		v.because(s, s.pos, s.String(), why)
		return
	}
	if s.arg(0) == "http-request" && !d.accept {
		v.note(s, "%s is carried over as `allow`: who may not connect is reset, without an answer", s)
	}
}

// decideOne is decide for one alternative. It returns why it is not carried over.
func (v *view) decideOne(r *config.Route, d decision, tests []test) (why string) {
	only := len(tests) == 1
	switch {
	case d.level.open && !d.accept:
		return whyAccess
	case len(tests) == 0 && d.accept:
		d.level.allow(everywhere())
	case len(tests) == 0 && r.Mode.V == modeSNI && d.line.arg(1) == "content":
		// Of what is no ClientHello; see sni.
	case len(tests) == 0:
		d.level.deny(everywhere())
	case only && tests[0].fact == factSrc:
		decideSource(&d.level.access, tests[0], d.accept)
	case only && !d.accept && !tests[0].not && (tests[0].fact == factConns || tests[0].fact == factRate):
		return v.limit(r, d, tests[0])
	case d.accept && d.last:
		return isNone + "nothing is refused after it"
	case d.accept:
		d.level.open = true
		d.level.allow(everywhere())
		return whyAccess
	default:
		return whyAccess
	}
	return ""
}

func decideSource(list *access, t test, accept bool) {
	switch {
	case accept && t.not:
		others := everywhere()
		for _, n := range t.nets {
			others = without(others, n)
		}
		list.allow(others)
	case accept:
		list.allow(t.nets)
	case t.not:
		list.denyOthers(t.nets)
	default:
		list.deny(t.nets)
	}
}

// expectProxy reads `tcp-request connection expect-proxy layer4 [if { src … }]`.
func (v *view) expectProxy(r *config.Route, s *stmt) {
	c := v.cond(v.f, conditionOf(s.words))
	if holds, known := v.alone(c); known && holds {
		v.carry(s)
		r.Proxy.Mode = config.At(proxyRequired, s.pos)
		return
	}
	for _, tests := range c {
		if len(tests) != 1 || tests[0].fact != factSrc || tests[0].not {
			v.lost(s, "midspan knows senders of PROXY headers by their networks (`proxy_protocol: { from: [NETWORK] }`)")
			return
		}
	}
	v.carry(s)
	v.note(s, "%s: midspan resets clients from elsewhere, which HAProxy serves without a header; give them a route of their own", s)
	r.Proxy.Mode = config.At(proxyRequired, s.pos)
	for _, tests := range c {
		r.Proxy.From = append(r.Proxy.From, networks(tests[0].nets, s.pos)...)
	}
}

// track reads `tcp-request LEVEL track-sc0 src [table NAME]`.
func (v *view) track(s *stmt, tracked *bool) {
	if s.arg(3) != "src" {
		v.lost(s, whyStick)
		return
	}
	*tracked = true
	v.carry(s)
}

// tableOf is the table that a line, or the one that tracks, names.
func (v *view) tableOf() *table {
	for _, s := range v.f.tcp {
		i := slices.IndexFunc(s.words, func(w word) bool { return w.text == "table" })
		if i < 0 || i+1 >= len(s.words) {
			continue
		}
		if sec := v.haproxy.backends[s.arg(i+1)]; sec != nil {
			return v.proxy(sec).table
		}
	}
	return v.f.table
}

// limit carries over a limit for one client's address. The connection itself is
// among those that are counted if it was tracked before.
func (v *view) limit(r *config.Route, d decision, t test) (why string) {
	s, tab, n := d.line, v.tableOf(), t.limit
	if !d.tracked {
		n++
	}
	switch {
	case tab == nil || n < 1:
		return whyAccess
	case t.fact == factConns:
		r.PerSource.MaxConnections = config.At(n, s.pos)
	case tab.rate == 0:
		return whyAccess
	default:
		r.PerSource.Rate = config.At(perTime(n, tab.rate), s.pos)
		v.note(s, "%s is carried over as `rate: %s`, which allows bursts of one second's worth; HAProxy counts those of the last %s", s, r.PerSource.Rate.V, config.FormatDuration(tab.rate))
	}
	return ""
}

// perTime is n in d as a rate of the file, by the second where that is no less
// than one.
func perTime(n int, d time.Duration) config.Rate {
	for _, per := range []time.Duration{time.Second, time.Minute, time.Hour} {
		if x := int(float64(n) * float64(per) / float64(d)); x >= 1 || per == time.Hour {
			exact := int64(x)*int64(d) == int64(n)*int64(per)
			if exact || x >= 10 || per == time.Hour {
				return config.Rate{N: min(max(x, 1), connsMax), Per: per}
			}
		}
	}
	return config.Rate{}
}
