package relay

import (
	"time"

	"midspan/internal/engine"
)

// How pairs end, and what is booked then.

// resetLinger is how long a reset waits for its peer to take what was sent
// before it; a direct connection's peer may have it in its receive queue.
const resetLinger = 5 * time.Second

// passReset ends p because the leg `dead` was reset: the other is reset too,
// once its peer has what was sent before.
func (l *loop) passReset(p *pair, dead *side, why reason) {
	other := &p.client
	if dead == other {
		other = &p.server
	}
	l.release(&p.client)
	l.release(&p.server)
	l.dropKafka(p)
	l.closeSide(p, dead)
	p.endedBy = why
	if unsent(other.fd) == 0 {
		l.reset(p)
		return
	}
	p.state = stateResetting
	p.mishap().giveUp = l.now + resetLinger
	l.timers.set(p, l.now+time.Millisecond)
}

// reset resets what is left of p and ends it.
func (l *loop) reset(p *pair) {
	for _, s := range []*side{&p.client, &p.server} {
		if s.fd >= 0 {
			resetOnClose(s.fd)
			l.closeSide(p, s)
		}
	}
	l.finish(p)
}

// abort resets both legs at once.
func (l *loop) abort(p *pair, why reason) {
	p.endedBy = why
	if p.dial != nil {
		l.endDial(p)
	}
	l.reset(p)
}

// cutDown resets the connections to endpoints that are cut off, and says how
// many there were. Those that are being made are reset in connected.
func (l *loop) cutDown() (n int) {
	for p := range l.all() {
		if p.state == stateOpen && p.to.cut.Load() {
			l.inHand = p
			l.abort(p, serverDown)
			n++
		}
	}
	return n
}

func (l *loop) closeSide(p *pair, s *side) {
	if s == &p.client && l.wants(true) {
		p.local() // while there is a socket to ask
	}
	l.closeLater(s.fd)
	s.fd = -1
}

// release gives back what the flow of s has in hand.
func (l *loop) release(s *side) {
	if s.held != nil {
		l.giveBuffer(s.held)
		s.held = nil
	}
	if s.pipe != nil {
		l.givePipe(s.pipe)
		s.pipe = nil
	}
}

// finish ends p, whose descriptors are closed.
func (l *loop) finish(p *pair) {
	l.release(&p.client)
	l.release(&p.server)
	l.dropKafka(p)
	l.recordEnd(p)
	l.settle(p, p.connectTime > 0)
	l.giveOpening(p)
	l.forget(p)
	l.e.roomMade()
}

// recordEnd reports the end of p, but not of a probe.
func (l *loop) recordEnd(p *pair) {
	if p.endedBy != probe {
		l.record(p, true)
	}
}

// settle takes p, which is over, out of the books; served tells whether it has
// had a server. It may be called from any goroutine. Who sees an end counted finds
// its token given back, and who sees no connection any more all else done.
func (l *loop) settle(p *pair, served bool) {
	r := p.route()
	if !served {
		p.set.refund(p.endedBy)
	}
	r.shards[l.id].ended[p.endedBy].Add(1)
	if p.to != nil {
		p.to.drop()
	}
	if p.call != nil && p.call.consumer != nil {
		p.call.consumer.leave()
	}
	p.leaveNode()
	if p.inSources {
		p.set.leave(p.clientAddr.addr)
	}
	if !p.outside {
		r.active.Add(-1)
	}
	l.e.active.Add(-1)
}

// forget makes p's slot free.
func (l *loop) forget(p *pair) {
	l.timers.set(p, 0)
	p.state = stateFree
	p.gen++
	p.to, p.trouble, p.call, p.kafka = nil, nil, nil, nil
	l.free = append(l.free, p.slot)
}

// wants tells whether records of starts, or of ends, are of use.
func (l *loop) wants(end bool) bool {
	h := &l.e.hooks
	return h.Record != nil && (h.Wants == nil || h.Wants(end))
}

// record reports the start or the end of p.
func (l *loop) record(p *pair, end bool) {
	if !l.wants(end) {
		return
	}
	r := &engine.Record{
		Conn: p.conn(), Connect: p.connectTime,
		TotalActive: int(l.e.active.Load()), RouteActive: int(p.route().active.Load()),
	}
	if t := p.trouble; t != nil {
		r.Err, r.Retries, r.Tried = t.lastErr, len(t.tried), t.tried
	}
	if p.to != nil {
		r.ServerActive = int(p.to.active.Load())
	}
	if end {
		r.End, r.Reason = time.Now(), reasons[p.endedBy]
	}
	l.e.hooks.Record(r)
}
