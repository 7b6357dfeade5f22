package relay

import (
	"context"
	"fmt"
	"iter"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/engine"
)

// session is a connection that a goroutine carries instead of a loop: one with
// TLS on either side, or of mode http. In the books it is the pair that it was.
//
// An idle one holds two descriptors, two goroutines that wait, no buffer of ours,
// and what crypto/tls keeps for each leg that it is on.
type session struct {
	l    *loop  // that has accepted it, and whose counters it uses
	held []byte // read by the loop, beyond the opening
	up   atomic.Uint64
	down atomic.Uint64
	// lastMove is the loop's time of the last byte.
	lastMove atomic.Int64
	ctx      context.Context // done when the session is over
	cancel   context.CancelFunc
	// protocols are what the client's TLS has agreed on: they are offered to the
	// server.
	protocols []string
	kafka     *kafkaFlows // mode kafka; nil: no server yet

	mu      sync.Mutex // guards what follows
	p       pair       // a copy, of which no loop knows
	phase   string     // engine.Conn.State, as long as no flow has ended
	over    bool       // p.endedBy is final, and both legs are reset
	gone    bool       // it is out of the books
	lost    *leg       // the leg that has failed
	clients *leg       // nil before run
	servers *leg       // mode tcp: of the server
	timer   *time.Timer

	requests int                         // mode http: how many there were
	using    atomic.Pointer[webEndpoint] // mode http: who had the last one
}

// sessions are those of a loop.
type sessions struct {
	mu   sync.Mutex
	byID map[uint64]*session
	done sync.WaitGroup
}

func (ss *sessions) add(s *session) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.byID == nil {
		ss.byID = map[uint64]*session{}
	}
	ss.byID[s.p.id] = s
	ss.done.Add(1)
}

func (ss *sessions) remove(s *session) {
	ss.mu.Lock()
	delete(ss.byID, s.p.id)
	ss.mu.Unlock()
	ss.done.Done()
}

func (ss *sessions) find(id uint64) *session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return ss.byID[id]
}

// all are those that live at this moment.
func (ss *sessions) all() iter.Seq[*session] {
	ss.mu.Lock()
	list := make([]*session, 0, len(ss.byID))
	for _, s := range ss.byID {
		list = append(list, s)
	}
	ss.mu.Unlock()
	return func(yield func(*session) bool) {
		for _, s := range list {
			if !yield(s) {
				return
			}
		}
	}
}

// handOff gives p, whose opening is over, to a goroutine.
func (l *loop) handOff(p *pair) {
	s := &session{l: l, phase: "opening"}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	fd := p.client.fd
	if p.watching { // else its events would come as long as a copy of fd is open
		l.control(unix.EPOLL_CTL_DEL, fd, 0, 0, 0, 0)
	}
	p.local() // while there is a descriptor to ask
	if p.client.held != nil {
		s.held = append([]byte(nil), p.client.held.rest...)
		l.release(&p.client)
	}
	s.lastMove.Store(int64(l.now))
	s.p = *p
	s.p.client, s.p.server = side{fd: -1}, side{fd: -1}
	l.forget(p)
	l.sessions.add(s)
	go s.run(fd)
}

// run carries the session to its end.
func (s *session) run(fd int32) {
	defer s.finish()
	defer s.guard()
	if !s.begin(fd) {
		return
	}
	if s.p.set.web != nil {
		s.serveHTTP()
	} else {
		s.carry()
	}
}

// begin makes the client's leg.
func (s *session) begin(fd int32) bool {
	var g *leg
	c, err := connOf(fd)
	if err == nil {
		g, err = newLeg(c, s.held)
	}
	s.held = nil
	if err == nil {
		g.noHeader = s.p.set.checkFirst
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.p.endedBy, s.over = noResources, true
		s.p.mishap().lastErr = err.Error()
		return false
	}
	s.clients = g
	if s.over { // killed meanwhile
		g.reset()
		return false
	}
	return true
}

// guard survives a panic of one session's goroutines.
func (s *session) guard() {
	if v := recover(); v != nil {
		s.l.e.panics.Add(1)
		s.l.e.log.Error("a defect in midspan ended a connection", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		s.end(fault)
	}
}

// end resets both legs at once, unless the session is over. It tells whether it
// did.
func (s *session) end(why reason) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endLocked(why)
}

func (s *session) endLocked(why reason) bool {
	if s.over {
		return false
	}
	s.over, s.p.endedBy = true, why
	s.cancel()
	for _, g := range []*leg{s.clients, s.servers} {
		if g != nil {
			g.reset()
		}
	}
	return true
}

// finish takes the session out of the books. Its goroutines have ended.
func (s *session) finish() {
	s.mu.Lock()
	s.cancel()
	if s.timer != nil {
		s.timer.Stop()
	}
	if !s.over {
		for _, g := range []*leg{s.clients, s.servers} {
			if g != nil {
				_ = g.tcp.Close()
			}
		}
	}
	s.over, s.gone = true, true
	s.sync()
	if s.requests == 0 { // else each has its own record
		s.l.recordEnd(&s.p)
	}
	s.l.settle(&s.p, s.p.connectTime > 0 || s.using.Load() != nil)
	s.mu.Unlock()
	s.l.e.roomMade()
	s.l.sessions.remove(s)
}

// sync brings s.p to what the flows have counted.
func (s *session) sync() {
	s.p.client.moved, s.p.server.moved = s.up.Load(), s.down.Load()
	s.p.lastMove = time.Duration(s.lastMove.Load())
}

// now is the loop's time.
func (s *session) now() time.Duration { return time.Since(s.l.epoch) }

// enter says what the session is about to do, and whether it still may.
func (s *session) enter(phase string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = phase
	return !s.over
}

// conn describes the session, if it lives: whoever has seen the record of its end
// does not find it.
func (s *session) conn() (c engine.Conn, lives bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return c, false
	}
	s.sync()
	c = s.p.conn()
	c.Idle = s.now() - s.p.lastMove
	if u := s.using.Load(); u != nil {
		c.Server, c.Endpoint = u.server, u.to
	}
	switch {
	case s.lost != nil:
		c.State = "resetting"
	case s.p.client.eof:
		c.State = "client-closed"
	case s.p.server.eof:
		c.State = "server-closed"
	default:
		c.State = s.phase
	}
	return c, true
}

// moved counts bytes that came from the client (up), or went to it.
func (s *session) moved(up bool, n int) {
	if n == 0 {
		return
	}
	s.lastMove.Store(int64(s.now()))
	if up {
		s.up.Add(uint64(n))
	} else {
		s.down.Add(uint64(n))
	}
	s.l.book(s.p.route(), s.p.books(), up, uint64(n))
}

// arm sets the timer for the idle timeout that holds now; s.mu is held.
func (s *session) arm() {
	s.sync()
	at := s.p.idleDeadline()
	if at == 0 {
		return
	}
	d := at - s.now()
	if s.timer == nil {
		s.timer = time.AfterFunc(d, s.onTimer)
		return
	}
	s.timer.Reset(d)
}

func (s *session) onTimer() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sync()
	now := s.now()
	if s.over || s.lost != nil {
		return
	}
	if at := s.p.idleDeadline(); at == 0 || now < at {
		s.arm()
		return
	}
	s.endLocked(s.p.idleReason(now))
}

// endSessions ends all sessions of l that which names, and says how many.
func (l *loop) endSessions(why reason, which func(*pair) bool) (n int) {
	for s := range l.sessions.all() {
		s.mu.Lock()
		if which(&s.p) && s.endLocked(why) {
			n++
		}
		s.mu.Unlock()
	}
	return n
}
