package relay

import (
	"fmt"
	"iter"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"midspan/internal/plan"
)

// state of a pair.
type state uint8

const (
	stateFree state = iota
	// stateOpening: what the client says first is read, before a server is
	// looked for. See opening.
	stateOpening
	stateDialing
	stateOpen
	// stateResetting: one leg is gone, and the other is reset as soon as its
	// peer has what was sent before.
	stateResetting
	// stateParting: the client has been told why it is turned away, and is given
	// time to read it.
	stateParting
)

// pair is a connection: the client's leg and the server's. It is what an idle
// connection costs, so what only some connections need some of the time is
// behind a pointer, and addresses are kept in their shortest form. The loop
// makes pairs by the block.
type pair struct {
	id       uint64
	set      *settings // of the route
	listener *listener
	to       *choice    // the endpoint in use
	dial     *dial      // while dialing
	trouble  *trouble   // if there was any
	call     *caller    // what is known of the client, if more than its address
	kafka    *brokerLeg // mode kafka; else nil

	client, server side

	started     int64         // wall clock, Unix nanoseconds
	connectTime time.Duration // from accept, or the end of the opening, to the server's answer
	lastMove    time.Duration // loop time
	timer       time.Duration // loop time of the next look at the pair, while inTimers
	inTimers    int32         // place in loop.timers, from 1; 0: not in it

	slot       uint32
	gen        uint32 // of the slot; an event or timer of another one is void
	clientAddr hostPort
	localAddr  hostPort // what the client connected to; zero: see local
	which      uint16   // of the server's descriptor, in its events
	state      state
	endedBy    reason
	queued     bool // in loop.ready
	watching   bool // the client's leg is in the epoll set
	outside    bool // turned away at the accept: it has none of the route's places
	inSources  bool // its client is counted: see countSource
}

// trouble is what went wrong with a pair.
type trouble struct {
	failed  *choice // the endpoint that was last tried in vain
	lastErr string
	tried   []netip.AddrPort // in vain
	giveUp  time.Duration    // stateResetting: when to reset in any case
}

// note takes over an attempt that failed.
func (t *trouble) note(c *choice, to netip.AddrPort, err error) {
	t.tried = append(t.tried, to)
	t.lastErr = fmt.Sprintf("%s: %s", c.server.Name, err)
}

// side is one leg, and the flow that comes in on it.
type side struct {
	moved uint64  // in all, from this leg to the other
	held  *buffer // bytes read, not yet written to the other leg
	pipe  *pipe   // the same for spliced bytes
	fd    int32
	burst int32 // moved in this wake-up, as far as it matters

	readable bool // as far as is known: set by events, cleared by EAGAIN
	writable bool
	hup      bool // the peer has ended its flow, or the leg has failed
	failed   bool // the leg has failed: SO_ERROR says how
	urgent   bool // the peer has sent urgent data, at which reads stop and splice fails
	eof      bool // the end of the flow has been read
	finSent  bool // and the other flow's end written
	dropped  bool // the other leg is reset: the flow goes nowhere
	reset    bool // the leg is known to be reset: its end of file is a lie
	watchOut bool // EPOLLOUT is asked for
	splicing bool // the stream keeps moving: use splice
}

// inPipe is how many bytes wait in the pipe.
func (s *side) inPipe() int {
	if s.pipe == nil {
		return 0
	}
	return s.pipe.filled
}

// route is the route that accepted the pair.
func (p *pair) route() *route { return p.set.owner }

// mishap is p's trouble.
func (p *pair) mishap() *trouble {
	if p.trouble == nil {
		p.trouble = &trouble{}
	}
	return p.trouble
}

// open makes a pair of an accepted connection and starts to look for a server,
// unless there is a reason to turn it away.
func (l *loop) open(s *socket, set *settings, fd int32, client netip.AddrPort, why reason) {
	r := set.owner
	p := l.newPair()
	if p == nil {
		if why == noReason {
			l.stayOut(s, set)
		}
		closeFD(fd)
		return
	}
	l.inHand = p
	l.nextID++
	p.id = l.nextID*uint64(len(l.e.loops)) + uint64(l.id)
	p.state = stateDialing
	p.client = side{fd: fd, readable: true, writable: true}
	p.server = side{fd: -1, writable: true}
	p.set, p.listener = set, s.listener
	came := time.Now()
	p.clientAddr, p.started = compact(client), came.UnixNano()
	l.now = came.Sub(l.epoch) // else it took longer to connect than the connection lasted, if the batch began long ago
	p.lastMove = l.now
	l.e.active.Add(1)
	if why == noReason && set.MaxConnections == 0 { // else it has its place
		r.active.Add(1)
	}
	r.shards[l.id].accepted.Add(1)
	switch {
	case why != noReason:
		p.outside = true
		l.refuse(p, why, limitReached[why])
	case p.set.reads:
		l.beginOpening(p)
	case p.set.asksWho || p.set.sources != nil:
		if l.admit(p) {
			l.seek(p)
		}
	case !p.set.allows(client.Addr()):
		l.abort(p, notAllowed)
	default:
		l.seek(p)
	}
}

// pairsABlock makes blocks that fill one of the Go allocator's sizes (16 KiB).
const pairsABlock = int(16 << 10 / unsafe.Sizeof(pair{}))

func (l *loop) newPair() *pair {
	if len(l.free) == 0 {
		first := len(l.blocks) * pairsABlock
		if first+pairsABlock > maxSlots {
			return nil
		}
		block := make([]pair, pairsABlock)
		l.blocks = append(l.blocks, block)
		for i := range block {
			block[i].slot = uint32(first + i)
		}
		for i := pairsABlock - 1; i >= 0; i-- {
			l.free = append(l.free, uint32(first+i))
		}
	}
	p := l.pairAt(l.free[len(l.free)-1])
	l.free = l.free[:len(l.free)-1]
	*p = pair{slot: p.slot, gen: p.gen}
	return p
}

// pairAt is the pair of a slot.
func (l *loop) pairAt(slot uint32) *pair {
	return &l.blocks[slot/uint32(pairsABlock)][slot%uint32(pairsABlock)]
}

// all are the pairs in use.
func (l *loop) all() iter.Seq[*pair] {
	return func(yield func(*pair) bool) {
		for _, block := range l.blocks {
			for i := range block {
				if p := &block[i]; p.state != stateFree && !yield(p) {
					return
				}
			}
		}
	}
}

// local is the address that the client connected to. A listener on one address
// knows it; one on all asks the kernel.
func (p *pair) local() netip.AddrPort {
	if p.listener.addr.IsValid() && !p.listener.addr.IsUnspecified() {
		return netip.AddrPortFrom(p.listener.addr, p.listener.port)
	}
	if p.localAddr == (hostPort{}) && p.client.fd >= 0 {
		p.localAddr = compact(localAddr(p.client.fd))
	}
	return p.localAddr.full()
}

// handle takes an event of one of p's descriptors.
func (l *loop) handle(p *pair, which, events uint32) {
	switch {
	case p.state == stateOpening || p.state == stateParting:
		p.client.note(events)
		if p.state == stateOpening {
			l.readOpening(p)
		} else {
			l.parting(p)
		}
		return
	case p.state == stateResetting:
		left := p.server.fd
		if which == whichClient {
			left = p.client.fd
		}
		if left >= 0 && events&unix.EPOLLERR != 0 { // not a late event of the dead leg
			l.reset(p)
		}
		return
	case which == whichClient:
		p.client.note(events)
	case p.state == stateDialing:
		l.onAttempt(p, int(which-1), events)
		return
	case which == uint32(p.which):
		p.server.note(events)
	default:
		return // an attempt that lost
	}
	if p.state == stateOpen {
		l.progress(p)
	}
}

func (s *side) note(events uint32) {
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.hup = true
		s.readable = true // the read says which
	}
	s.failed = s.failed || events&unix.EPOLLERR != 0
	s.urgent = s.urgent || events&unix.EPOLLPRI != 0
	if events&unix.EPOLLIN != 0 {
		s.readable = true
	}
	if events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		s.writable = true
	}
	s.burst = 0
}

// connected makes attempt i the server's leg.
func (l *loop) connected(p *pair, i int, events uint32) {
	d := p.dial
	a := d.attempts[i]
	p.to, p.which = a.choice, uint16(i+1)
	p.server = side{fd: a.fd, watchOut: true}
	p.server.note(events)
	d.attempts[i].fd = -1
	p.connectTime = max(1, l.now-d.began) // 0 would be: none was made
	l.endDial(p)
	p.state = stateOpen
	p.to.connects.Add(1)
	// A connection that was there already says nothing of the server's state now.
	if !a.warm && p.to.failing.CompareAndSwap(true, false) {
		p.to.lastErr.Store(nil)
		l.e.report(p.route(), p.to.server.Name, p.to.at(p.listener.port), nil)
	}
	p.lastMove = l.now
	l.record(p, false)
	if p.to.cut.Load() { // since the connect began
		l.abort(p, serverDown)
		return
	}
	l.timers.set(p, p.idleDeadline())
	if p.kafka != nil {
		l.startKafka(p)
	}
	if p.set.SendProxy != plan.SendNone {
		l.greet(p)
	}
	l.progress(p)
	if p.state == stateOpen && !p.watching {
		p.watching = true
		// Late: most of what a short connection sends has been read by now,
		// without an event. EPOLLOUT is asked for when a write would block.
		l.watchClient(p, unix.EPOLL_CTL_ADD)
	}
}

func (l *loop) watchClient(p *pair, op int) {
	events := uint32(unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET)
	if p.client.watchOut {
		events |= unix.EPOLLOUT
	}
	if e := l.control(op, p.client.fd, events, p.slot, whichClient, p.gen); e != 0 {
		l.e.complain("cannot watch a connection", "error", e.Error())
		l.abort(p, noResources)
	}
}

func (p *pair) stateName() string {
	switch {
	case p.state == stateOpening:
		return "opening"
	case p.state == stateDialing:
		return "connecting"
	case p.state == stateResetting, p.state == stateParting:
		return "resetting"
	case p.client.eof:
		return "client-closed"
	case p.server.eof:
		return "server-closed"
	}
	return "open"
}

// idleDeadline is when p is to be cut if nothing moves; 0: never.
func (p *pair) idleDeadline() time.Duration {
	limit := p.set.IdleTimeout.D()
	if fin := p.set.FinTimeout.D(); fin != 0 && (p.client.eof || p.server.eof) && (limit == 0 || fin < limit) {
		limit = fin
	}
	if limit == 0 {
		return 0
	}
	return p.lastMove + limit
}

func (l *loop) onTimer(p *pair) {
	switch p.state {
	case stateOpening:
		l.openingTimer(p)
	case stateParting:
		l.closeSide(p, &p.client)
		l.finish(p)
	case stateDialing:
		l.dialTimer(p)
	case stateResetting:
		other := p.client.fd
		if other < 0 {
			other = p.server.fd
		}
		if unsent(other) == 0 || l.now >= p.trouble.giveUp {
			l.reset(p)
			return
		}
		l.timers.set(p, l.now+5*time.Millisecond)
	case stateOpen:
		at := p.idleDeadline()
		if at == 0 || l.now < at {
			l.timers.set(p, at)
			return
		}
		l.abort(p, p.idleReason(l.now))
	}
}

// idleReason says which timeout has passed at p.idleDeadline.
func (p *pair) idleReason(now time.Duration) reason {
	if p.set.IdleTimeout == 0 || now < p.lastMove+p.set.IdleTimeout.D() {
		return finTimeout
	}
	return idleTimeout
}
