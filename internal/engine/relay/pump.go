package relay

import (
	"golang.org/x/sys/unix"

	"midspan/internal/proxyproto"
)

const (
	// A read of enterSplice bytes is worth a splice next time; a wake-up that
	// moved fewer than leaveSplice is not.
	enterSplice = 16 << 10
	leaveSplice = 8 << 10

	// turn is how many system calls' worth of moving a flow gets before others
	// have theirs.
	turn = 16
)

// progress moves what can be moved, both ways, and ends p when both flows have.
func (l *loop) progress(p *pair) {
	for _, s := range []*side{&p.client, &p.server} {
		// A leg whose flow has ended is not read any more, nor one whose requests are
		// too many; else the read tells.
		full := p.kafka != nil && s == &p.client && p.kafka.up.full
		if s.failed && (s.eof || full) {
			if e := socketError(s.fd); e != 0 {
				l.readFailed(p, s, e)
				return
			}
			s.failed = false
		}
	}
	more := l.pump(p, &p.client, &p.server)
	if p.state == stateOpen {
		more = l.pump(p, &p.server, &p.client) || more
	}
	if p.state != stateOpen {
		return
	}
	if p.client.finSent && p.server.finSent {
		l.closeSide(p, &p.client)
		if !l.recycle(p) {
			l.closeSide(p, &p.server)
		}
		l.finish(p)
		return
	}
	if more && !p.queued {
		p.queued = true
		l.ready = append(l.ready, p)
	}
}

// pump moves the flow that comes in on from, until a socket would block, the
// flow ends, or the turn is over: then there is more.
//
// Invariant: bytes are read only when all that were read before are written.
// So a reader that stalls stalls the sender too, and at a read error nothing
// is in hand.
func (l *loop) pump(p *pair, from, to *side) (more bool) {
	if p.kafka != nil {
		return l.pumpKafka(p, from, to)
	}
	defer l.count(p, p.books(), from, from.moved)
	for range turn {
		if from.dropped || p.state != stateOpen {
			return false
		}
		if from.held != nil || from.inPipe() > 0 {
			if !to.writable {
				return false
			}
			if e := l.flush(p, from, to); e != 0 {
				return l.writeFailed(p, from, to, e)
			}
			continue
		}
		if from.eof {
			l.passEnd(p, from, to)
			return false
		}
		if !from.readable {
			l.release(from)
			return false
		}
		if e := l.take(p, from, to); e != 0 {
			return l.writeFailed(p, from, to, e)
		}
	}
	return true
}

// passEnd passes on the end of the flow that comes in on from.
func (l *loop) passEnd(p *pair, from, to *side) {
	// Both are closed next, which does as well; but the server's leg may be
	// used again, see recycle.
	last := to == &p.client && to.eof && from.finSent
	if !to.finSent && !last {
		shutdownWrite(to.fd)
	}
	to.finSent = true
}

// books are what the bytes of a pair are counted on, beside its route. A pair that
// ends in a pump has them no more when it is time to count.
type books struct {
	call  *caller
	kafka *brokerLeg
}

func (p *pair) books() books { return books{p.call, p.kafka} }

// count books what a pump moved, on the books of before.
func (l *loop) count(p *pair, on books, from *side, before uint64) {
	n := from.moved - before
	if n == 0 {
		return
	}
	p.lastMove = l.now
	l.book(p.route(), on, from == &p.client, n)
}

// book counts bytes that went up or down on r and what else there is. It may be
// called from any goroutine.
func (l *loop) book(r *route, on books, up bool, n uint64) {
	c := &r.shards[l.id]
	if up {
		c.up.Add(n)
	} else {
		c.down.Add(n)
	}
	if on.kafka != nil {
		l.bookNode(on.kafka, up, n)
	}
	if on.call != nil && on.call.consumer != nil {
		f := &on.call.consumer.shards[l.id]
		if up {
			f.up.Add(n)
		} else {
			f.down.Add(n)
		}
	}
}

// flush writes what is in hand, as far as to takes it.
func (l *loop) flush(p *pair, from, to *side) unix.Errno {
	var n int
	var e unix.Errno
	if from.held != nil {
		n, e = write(to.fd, from.held.rest)
	} else {
		n, e = splice(from.pipe.r, to.fd, from.pipe.filled)
	}
	if e == unix.EAGAIN {
		l.block(p, to)
		return 0
	}
	if e != 0 {
		return e
	}
	if from.held == nil {
		from.moved += uint64(n)
		from.pipe.filled -= n
		return 0
	}
	l.wrote(from, n)
	return 0
}

// wrote notes that n bytes of from.held have been written.
func (l *loop) wrote(from *side, n int) {
	from.moved += uint64(n)
	if from.held.rest = from.held.rest[n:]; len(from.held.rest) == 0 {
		l.giveBuffer(from.held)
		from.held = nil
	}
}

// block notes that s takes no more, and has epoll say when it does again.
func (l *loop) block(p *pair, s *side) {
	s.writable = false
	if !s.watchOut {
		s.watchOut = true
		if p.watching {
			l.watchClient(p, unix.EPOLL_CTL_MOD)
		}
	}
}

// take reads from the flow, into a pipe or by way of the loop's buffer. A read
// error or the end of the flow is dealt with here; the error returned is that
// of a write.
func (l *loop) take(p *pair, from, to *side) unix.Errno {
	from.splicing = from.splicing && !from.urgent
	if from.splicing && from.pipe == nil {
		from.pipe = l.pipe()
		from.splicing = from.pipe != nil
	}
	var n int
	var e unix.Errno
	spliced := from.splicing
	if spliced {
		n, e = splice(from.fd, from.pipe.w, from.pipe.size)
	}
	// Splice also returns 0 at urgent data. Only a read tells the end.
	if !spliced || (n == 0 && e == 0) {
		spliced = false
		n, e = receive(from.fd, l.scratch)
	}
	switch {
	case e == unix.EAGAIN:
		from.readable = false
		// Nothing at all can also mean that the flow waits for the other
		// side, after back-pressure: no reason to leave.
		if from.burst > 0 && from.burst < leaveSplice {
			from.splicing = false
		}
		return 0
	case e == unix.EINVAL && from.splicing: // not for this socket
		from.splicing = false
		return 0
	case e != 0:
		l.readFailed(p, from, e)
		return 0
	case n == 0:
		l.ended(p, from)
		return 0
	}
	from.burst = int32(min(int(from.burst)+n, leaveSplice))
	if spliced {
		l.spliced += uint64(n)
		from.pipe.filled = n
		return 0
	}
	if from.moved == 0 && from == &p.client && p.set.checkFirst && proxyproto.Starts(l.scratch[:n]) {
		l.refuseLateHeader(p)
		return 0
	}
	l.copied += uint64(n)
	from.splicing = n >= enterSplice
	// Less than was asked for: the socket is empty, unless its end or urgent
	// data is near.
	if n < len(l.scratch) && !from.hup && !from.urgent {
		from.readable = false
	}
	return l.put(p, from, to, l.scratch[:n])
}

// put writes b, and keeps what to does not take. More than a buffer's size stays
// where it is, and must not change until it is written.
func (l *loop) put(p *pair, from, to *side, b []byte) unix.Errno {
	n := 0
	if to.writable {
		var e unix.Errno
		switch n, e = write(to.fd, b); {
		case e == unix.EAGAIN:
			n = 0
			l.block(p, to)
		case e != 0:
			return e
		}
	}
	from.moved += uint64(n)
	switch rest := b[n:]; {
	case len(rest) > bufferSize:
		from.held = l.buffer(nil)
		from.held.rest = rest
	case len(rest) > 0:
		from.held = l.buffer(rest)
	}
	return 0
}

// ended notes the end of the flow of from.
func (l *loop) ended(p *pair, from *side) {
	if from.reset {
		l.passReset(p, from, p.resetBy(from))
		return
	}
	from.eof = true
	p.lastMove = l.now // fin_timeout counts from here, however long the rest before
	if other := p.other(from); !other.eof {
		p.endedBy = closedByClient
		if from == &p.server {
			p.endedBy = closedByServer
		}
		l.timers.set(p, p.idleDeadline())
	}
}

func (p *pair) other(s *side) *side {
	if s == &p.client {
		return &p.server
	}
	return &p.client
}

func (p *pair) resetBy(s *side) reason {
	if s == &p.client {
		return resetByClient
	}
	return resetByServer
}

// readFailed ends p: the leg is reset, or lost (no answer to keepalive probes
// or to data).
func (l *loop) readFailed(p *pair, from *side, e unix.Errno) {
	why := p.resetBy(from)
	switch e {
	case unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN:
		why = lostClient
		if from == &p.server {
			why = lostServer
		}
	}
	l.passReset(p, from, why)
}

// writeFailed deals with a leg that was found reset by writing to it. What it
// sent before may still be in its receive queue, such as an error message of a
// server that refused the rest of a request: that is passed on first. The error
// has been taken from the socket by the write, so the end of the queue will
// look like an end of file; side.reset says it is none.
func (l *loop) writeFailed(p *pair, from, to *side, e unix.Errno) (more bool) {
	if from.reset || (e != unix.ECONNRESET && e != unix.EPIPE) {
		l.readFailed(p, to, e)
		return false
	}
	l.release(from)
	from.dropped = true
	to.reset, to.hup, to.readable = true, true, true
	if to.eof {
		l.passReset(p, to, p.resetBy(to))
		return false
	}
	return true
}
