package foreign

import (
	"time"

	"midspan/internal/config"
)

// What HAProxy does where a server line says only `check`.
const (
	haproxyInter = 2 * time.Second
	haproxyRise  = 2
	haproxyFall  = 3
)

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
		if b.check.path.Set() && len(unchecked) > 0 {
			h.notes.Addf(b.check.path.Pos, "`option httpchk` has no effect on %s: no server there has `check`, so neither HAProxy nor midspan tests them", b.sec)
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
	h.checkKind(&c, b, first, at)
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
	return a.check.Set() == b.check.Set() && (!a.check.Set() || a.sameCheck(b) && p.check.path.V == q.check.path.V)
}

func (h *haproxy) checkKind(c *config.Check, b *proxy, s server, at config.Pos) {
	if !b.check.path.Set() {
		c.Kind = config.At("tcp", at)
		return
	}
	if s.checkSSL.Set() || (s.tls.On.V && !s.port.Set()) {
		c.Kind = config.At("tcp", at)
		h.notes.Addf(b.check.path.Pos, "the check of %s is HTTP over TLS in HAProxy, which midspan does not speak: it only connects", b.sec)
		return
	}
	c.HTTP, c.Host = b.check.path, b.check.host
	if m := b.check.method; m.V != "GET" {
		h.notes.Addf(m.Pos, "the check asks with %s in HAProxy; midspan's asks with GET", printable(m.V))
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
