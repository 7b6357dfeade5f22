package relay

import (
	"time"

	"midspan/internal/plan"
)

// What a route lets in. Its own limits (max_connections, rate) hold from the
// accept on, before a byte is read: what is above them costs as little as can
// be, and what is to wait must do so in the kernel's queue. Those of one client
// (sources.go) hold once its address is known.

// noReason is no reason to turn a connection away.
const noReason reason = 255

// setLimits gives s, which is about to replace old, the limits that its plan
// says. Their state goes on: a reload fills no bucket and forgets no client.
func (s *settings) setLimits(old *settings, now time.Duration) {
	if s.Rate.N > 0 {
		switch {
		case old == nil || old.bucket == nil:
			s.bucket = newBucket(s.Rate)
		case old.Rate == s.Rate:
			s.bucket = old.bucket
		default:
			s.bucket = newBucket(s.Rate)
			s.bucket.inherit(old.bucket, now)
		}
	}
	if s.PerSource != (plan.Limits{}) {
		if s.owner.sources == nil {
			s.owner.sources = newSources()
		}
		s.sources = s.owner.sources
		s.perSource = sourceLimits{max: s.PerSource.MaxConnections}
		if s.PerSource.Rate.N > 0 {
			s.perSource.pace = paceOf(s.PerSource.Rate)
		}
	}
	s.limited = s.MaxConnections > 0 || s.bucket != nil
}

// enter takes what the next connection of a limited route needs: a place and a
// token. Where it must wait for one, s is paused, and it stays in the kernel's
// queue; else why says whether it is to be turned away.
func (l *loop) enter(s *socket, set *settings) (why reason, waits bool) {
	if !set.takePlace() {
		if set.WhenFull == plan.Reset {
			return routeLimit, false
		}
		s.tokens.giveBack() // another loop may find a place first
		l.pause(s, full, true)
		return noReason, true
	}
	if s.tokens.take(set.bucket, l.now) {
		return noReason, false
	}
	set.leavePlace()
	if set.WhenFull == plan.Reset {
		return rateLimit, false
	}
	l.pause(s, s.tokens.reserve(set.bucket, l.now)-l.now, false)
	return noReason, true
}

// limitReached is what the log says of connections that are turned away by enter.
var limitReached = map[reason]string{
	routeLimit: "the route has its max_connections",
	rateLimit:  "connections come faster than the route's rate",
}

// stayOut takes an enter back: there was no connection.
func (l *loop) stayOut(s *socket, set *settings) {
	if !set.limited {
		return
	}
	set.leavePlace()
	if set.bucket != nil {
		set.bucket.giveBack(1)
	}
	s.tokens.giveBack()
}

// takePlace counts a connection on a route that has a number of places, if one
// is free. On others the connection counts itself.
func (s *settings) takePlace() bool {
	if s.MaxConnections == 0 {
		return true
	}
	for active := &s.owner.active; ; {
		n := active.Load()
		if n >= int64(s.MaxConnections) {
			return false
		}
		if active.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (s *settings) leavePlace() {
	if s.MaxConnections > 0 {
		s.owner.active.Add(-1)
	}
}

// countSource holds the client of p to the limits for one client. Above them p is
// ended, and countSource false. What it counts is given back by leave, once, when
// the connection ends.
func (l *loop) countSource(p *pair) bool {
	if p.set.sources == nil {
		return true
	}
	switch p.set.sources.enter(p.clientAddr.addr, &p.set.perSource) {
	case sourceRefused:
		l.refuse(p, sourceLimit, "the client is above the limits of per_source")
		return false
	case sourceCounted:
		p.inSources = true
	case sourceUncounted:
		l.e.complain("too many different clients to count; more are let in without the limits of per_source", "route", p.route().name, "clients", maxSources)
	}
	return true
}

// leave gives back what countSource counted for a client (of a pair whose inSources
// was set). It may be called from any goroutine.
func (s *settings) leave(client [16]byte) { s.sources.leave(client) }

// refund gives back the token of a connection that ended before a server was
// looked for: the rate protects servers, and who is turned away for other
// reasons must not use up what is for others.
func (s *settings) refund(why reason) {
	if s.bucket == nil {
		return
	}
	switch why {
	case notAllowed, probe, openingTimeout, badProxyHeader, proxyNotAllowed, unknownConsumer, consumerNotAllowed, consumerLimit,
		sourceLimit, noServerName, unknownServerName, notTLS:
		s.bucket.giveBack(1)
	}
}

// forgetTokens wakes the listeners that wait for tokens of a rate that holds no
// longer, or that nobody is to wait for any more.
func (l *loop) forgetTokens() {
	for _, s := range l.listeners {
		if s == nil || s.tokens.n == 0 {
			continue
		}
		if set := s.route.Load().set.Load(); s.tokens.of != set.bucket || set.WhenFull == plan.Reset {
			s.tokens.giveBack()
			s.retry, l.resumeAt = l.now, l.now
		}
	}
}
