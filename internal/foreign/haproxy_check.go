package foreign

import (
	"fmt"
	"slices"
	"time"

	"midspan/internal/config"
)

// What HAProxy does where a server line says only `check`.
const (
	haproxyInter = 2 * time.Second
	haproxyRise  = 2
	haproxyFall  = 3
)

// The kinds of checks, as far as they are not words of the file's.
const (
	checkTCP  = "tcp"
	checkTLS  = "tls"
	checkHTTP = "http"
	checkRaw  = "raw"
)

// checking is how the servers of a proxy are tested that have the word `check`.
type checking struct {
	kind config.Field[string] // one of config.Checks, http or raw; not set: tcp
	http httpCheck
	raw  rawCheck
}

// httpCheck is what `option httpchk` and `http-check` lines say.
type httpCheck struct {
	method, path, host config.Field[string]
	status             []config.Field[config.StatusRange]
	expect             config.Field[string]
}

// rawCheck is what `tcp-check` lines say: one question and one answer.
type rawCheck struct {
	send, expect config.Field[string]
	port         config.Field[int]
	tls          config.Field[bool]
}

// check is the test of a backend's servers. HAProxy's defaults are written
// out, since midspan's are others.
func (h *haproxy) check(b *proxy) config.Check {
	var checked, unchecked []server
	for _, s := range b.servers {
		if s.check.Set() {
			checked = append(checked, s)
		} else {
			unchecked = append(unchecked, s)
		}
	}
	if len(checked) == 0 {
		if b.check.kind.Set() && len(unchecked) > 0 {
			h.notes.Addf(b.check.kind.Pos, "the check has no effect on %s: no server there has `check`, so neither HAProxy nor midspan tests them", b.sec)
		}
		return config.Check{}
	}
	first := checked[0]
	for _, s := range unchecked {
		h.notes.Addf(s.target.Pos, "server %s has no `check`, but others of %s have: midspan tests all servers of a route", printable(s.name), b.sec)
	}
	for _, s := range checked[1:] {
		if !s.sameCheck(first) {
			h.notes.Addf(s.check.Pos, "the check of server %s differs from that of server %s: midspan has one for a route, and the first is carried over", printable(s.name), printable(first.name))
		}
	}
	at := first.check.Pos
	c := config.Check{
		Port: first.port,
		Rise: config.At(first.rise.Or(haproxyRise), at),
		Fall: config.At(first.fall.Or(haproxyFall), at),
	}
	if !c.Port.Set() {
		c.Port = b.check.raw.port
	}
	h.checkKind(&c, b, first)
	h.checkTimes(&c, first, b.timeouts.check)
	return c
}

func (s server) sameCheck(first server) bool {
	return s.inter.Or(haproxyInter) == first.inter.Or(haproxyInter) &&
		s.rise.Or(haproxyRise) == first.rise.Or(haproxyRise) &&
		s.fall.Or(haproxyFall) == first.fall.Or(haproxyFall) &&
		s.port.V == first.port.V
}

// sameChecks tells whether the servers of two proxies are tested alike.
func (p *proxy) sameChecks(q *proxy) bool {
	a, b := p.servers[0], q.servers[0]
	x, y := p.check, q.check
	return a.check.Set() == b.check.Set() && (!a.check.Set() || a.sameCheck(b) && x.kind.V == y.kind.V &&
		x.http.path.V == y.http.path.V && x.http.host.V == y.http.host.V && x.http.expect.V == y.http.expect.V && slices.EqualFunc(x.http.status, y.http.status, same) &&
		x.raw.send.V == y.raw.send.V && x.raw.expect.V == y.raw.expect.V && x.raw.port.V == y.raw.port.V)
}

// checkKind fills in what is asked. midspan's test speaks TLS, and sends a
// PROXY header, where the route does and the test has no port of its own.
func (h *haproxy) checkKind(c *config.Check, b *proxy, s server) {
	at := s.check.Pos
	kind := b.check.kind
	if !kind.Set() {
		kind = config.At(checkTCP, at)
	}
	wants := s.checkSSL.Set() || (s.tls.On.V && !s.port.Set()) || (kind.V == checkRaw && b.check.raw.tls.V)
	speaks := s.tls.On.V && !c.Port.Set()
	switch {
	case kind.V == checkTCP && wants:
		kind = config.At(checkTLS, at)
	case wants && !speaks && kind.V != checkTLS:
		h.notes.Addf(kind.Pos, "the check of %s is %s over TLS in HAProxy; midspan's test speaks TLS where the route does, and at the servers' own port, so this one only shakes hands", b.sec, kind.V)
		kind = config.At(checkTLS, at)
	}
	if s.checkProxy.Set() && (c.Port.Set() || !s.sendProxy.Set()) {
		h.notes.Addf(s.checkProxy.Pos, "`check-send-proxy` is not carried over: midspan's test sends a PROXY header where the route does, and at the servers' own port")
	}
	switch kind.V {
	case checkHTTP:
		x := b.check.http
		c.HTTP, c.Host, c.Status, c.Expect = x.path, x.host, x.status, x.expect
		if m := x.method; m.V != "GET" {
			h.notes.Addf(m.Pos, "the check asks with %s in HAProxy; midspan's asks with GET", printable(m.V))
		}
	case checkRaw:
		x := b.check.raw
		if c.Send, c.Expect = x.send, x.expect; x.expect.Set() {
			return
		}
		if c.Send.Set() {
			h.notes.Addf(c.Send.Pos, "what the check sends is not carried over: no `tcp-check expect` says what must come")
		}
		c.Send = config.Field[string]{}
		c.Kind = config.At(checkTCP, at)
		if wants {
			c.Kind.V = checkTLS
		}
	default:
		c.Kind = kind
		if kind.V == checkTLS && !speaks {
			c.Host = s.checkName
		}
	}
}

// checkTimes: without `timeout check`, HAProxy gives a test the whole interval.
func (h *haproxy) checkTimes(c *config.Check, s server, timeout config.Field[time.Duration]) {
	const most = 5 * time.Second // plan's default timeout is `every`, up to this
	every := s.inter.Or(haproxyInter)
	at := s.inter.Pos
	if !s.inter.Set() {
		at = s.check.Pos
	}
	c.Every = config.At(h.within(at, every, 10*time.Millisecond, time.Hour), at)
	switch {
	case timeout.V > 0:
		c.Timeout = config.At(h.within(timeout.Pos, timeout.V, time.Millisecond, time.Hour), timeout.Pos)
	case c.Every.V > most:
		c.Timeout = c.Every
	}
}

// checkBy is for options that are a check by their name alone.
func checkBy(kind string) func(*haproxy, *proxy, *stmt) {
	return func(h *haproxy, p *proxy, s *stmt) {
		p.check.kind = config.At(kind, s.pos)
		if len(s.words) > 2 {
			if kind == "mysql" {
				h.note(s, "%s: midspan's check logs in as `midspan`, without a password; the server logs a denied login for each test unless it has that user", s)
				return
			}
			h.needless(s, fmt.Sprintf("midspan's %s check needs no more than the server", kind))
		}
	}
}

// smtpCheck reads `option smtpchk`.
func (h *haproxy) smtpCheck(p *proxy, s *stmt) {
	p.check.kind = config.At(checkRaw, s.pos)
	p.check.raw = rawCheck{expect: config.At("220", s.pos)}
	h.note(s, "%s is carried over as `expect: \"220\"`: midspan waits for the greeting and says no HELO", s)
}
