package relay

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a loop's own socket of a listener.
type socket struct {
	*listener
	fd      int32
	slot    uint32
	retry   time.Duration // paused until then; 0: not paused
	atLimit bool          // paused because of a limit that ends with a connection
	tokens  tokens        // of the route's rate
}

const (
	acceptBatch = 64
	// shortage is how long a listener rests when the machine has no fd or
	// memory for another connection.
	shortage = 100 * time.Millisecond
	// full is how often a listener that has reached a limit looks again, if no
	// connection that ends makes it look sooner.
	full = 5 * time.Millisecond
)

func (l *loop) addListener(ln *listener) {
	s := &socket{listener: ln, fd: int32(ln.fds[l.id])}
	i := slices.Index(l.listeners, nil)
	if i < 0 {
		i = len(l.listeners)
		l.listeners = append(l.listeners, nil)
	}
	s.slot = uint32(i)
	l.listeners[i] = s
	l.watch(s.fd, unix.EPOLLIN, s.slot, whichListener, 0)
}

// removeListener takes what waits in the accept queue, as far as the limits
// allow, then closes: a client whose handshake is done must not be reset because
// of a reload.
func (l *loop) removeListener(ln *listener) {
	for i, s := range l.listeners {
		if s != nil && s.listener == ln {
			for l.acceptFrom(s) {
			}
			l.unpause(s)
			s.tokens.giveBack()
			unix.Close(int(s.fd))
			l.listeners[i] = nil
			return
		}
	}
}

// acceptFrom takes a batch of new connections and tells whether there may be
// more. At a limit they are left in the kernel's queue, where they wait as they
// would for a busy server.
func (l *loop) acceptFrom(s *socket) bool {
	r := s.route.Load()
	for range l.share() {
		if l.e.active.Load() >= l.e.limit.Load() {
			l.e.complain("the limit of connections is reached; more wait in the listen queue", "max_connections", l.e.limit.Load())
			l.pause(s, full, true)
			return false
		}
		set, why := r.set.Load(), noReason
		if set.limited {
			var waits bool
			if why, waits = l.enter(s, set); waits {
				return false
			}
		}
		fd, client, e := accept(int(s.fd))
		if e != 0 && why == noReason {
			l.stayOut(s, set)
		}
		switch {
		case e == 0:
			l.open(s, set, fd, client, why)
		case e == unix.EAGAIN:
			return false
		case isShortage(e):
			l.e.acceptErrors.Add(1)
			l.e.complain("cannot accept connections: this machine is out of something", "error", e.Error(), "route", r.name)
			l.pause(s, shortage, false)
			return false
		}
		// What else accept(2) reports is an error of that one connection.
	}
	if l.e.atLimit.Load() > 0 {
		l.pause(s, full, true) // the others' turn
		return false
	}
	return true
}

// share is how many connections to take at once. The kernel has spread those
// that wait over the queues of all loops; while any of them waits at a limit, a
// loop takes no more than its part of the room there is, or the queues of the
// others would never move.
func (l *loop) share() int {
	if l.e.atLimit.Load() == 0 {
		return acceptBatch
	}
	loops := int64(len(l.e.loops))
	room := l.e.limit.Load() - l.e.active.Load()
	return int(min(acceptBatch, max(1, (room+loops-1)/loops)))
}

// pause makes s rest, at a limit or for want of something.
func (l *loop) pause(s *socket, d time.Duration, atLimit bool) {
	if s.retry == 0 {
		l.control(unix.EPOLL_CTL_MOD, s.fd, 0, s.slot, whichListener, 0)
	}
	if atLimit && !s.atLimit {
		s.atLimit = true
		l.atLimit.Add(1)
		l.e.atLimit.Add(1)
	}
	s.retry = l.now + d
	if l.resumeAt == 0 || s.retry < l.resumeAt {
		l.resumeAt = s.retry
	}
}

func (l *loop) unpause(s *socket) {
	s.retry = 0
	if s.atLimit {
		s.atLimit = false
		l.atLimit.Add(-1)
		l.e.atLimit.Add(-1)
	}
}

// resume wakes the listeners whose pause is over.
func (l *loop) resume() {
	l.resumeAt = 0
	for _, s := range l.listeners {
		switch {
		case s == nil || s.retry == 0:
		case s.retry <= l.now:
			l.unpause(s)
			l.control(unix.EPOLL_CTL_MOD, s.fd, unix.EPOLLIN, s.slot, whichListener, 0)
		case l.resumeAt == 0 || s.retry < l.resumeAt:
			l.resumeAt = s.retry
		}
	}
}

// retryLimits ends the pause of the listeners that are at a limit.
func (l *loop) retryLimits() {
	for _, s := range l.listeners {
		if s != nil && s.atLimit {
			s.retry = l.now
			l.resumeAt = l.now
		}
	}
}

// roomMade is called when a connection has ended: the loops whose listeners are
// at a limit look again, one after the other.
func (e *Engine) roomMade() {
	if e.atLimit.Load() == 0 {
		return
	}
	turn := int(e.turn.Add(1))
	for i := range e.loops {
		l := e.loops[(turn+i)%len(e.loops)]
		if l.atLimit.Load() > 0 {
			if l.nudged.CompareAndSwap(false, true) {
				l.awaken()
			}
			return
		}
	}
}
