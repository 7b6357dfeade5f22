package relay

import (
	"errors"
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"midspan/internal/kafka"
	"midspan/internal/proxyproto"
)

// brokerFlow is one of the two flows of a pair of mode kafka: what the codec has
// said of it, and what it has not seen yet.
type brokerFlow struct {
	in      *buffer // read, and not understood yet: a part of a frame, or what has to wait
	pass    int64   // bytes that go out unread before the codec is asked again
	charged int64   // of in, or of what was made of it, on Engine.held
	need    int     // the codec cannot go on with fewer bytes than that
	peeks   uint8   // so many reads to come are short, since large frames are about
	full    bool    // the codec takes no more before there are answers
	within  bool    // the frame goes on behind pass
	again   bool    // the codec is to be asked, with input or without
}

const (
	// peekSize is how much is read where a large frame may begin: what is behind
	// its head is to be spliced, and not copied.
	peekSize = 4 << 10
	// lastSize is how much of what passes unread is read nevertheless, where the
	// frame goes on: so that the few bytes behind need no segment of their own.
	lastSize = 1 << 10
	// peekFor is how many reads are short after a large frame.
	peekFor = 8
	// maxHeld bounds, over all connections, what is held of frames that do not fit
	// in an ordinary buffer (answers of 64 KiB to kafka.MaxBuffered with
	// addresses in them). The connection that would need more is reset.
	maxHeld = 256 << 20
)

// startKafka has the frames of p, which has got its server, looked into; those
// that have been read with the opening too.
func (l *loop) startKafka(p *pair) {
	l.speakKafka(p)
	p.kafka.up.in, p.client.held = p.client.held, nil
}

// flow is the one that comes in on from.
func (k *brokerLeg) flow(p *pair, from *side) *brokerFlow {
	if from == &p.client {
		return &k.up
	}
	return &k.down
}

// pumpKafka is pump for pairs of mode kafka, with the same invariant: nothing is
// read while something that was read before can go out. What cannot, since a part
// of a frame tells too little, is bounded by what the codec may need.
func (l *loop) pumpKafka(p *pair, from, to *side) (more bool) {
	k, on, before := p.kafka, p.books(), from.moved
	more = l.moveFrames(p, from, to, k.flow(p, from))
	l.count(p, on, from, before)
	if k.wake { // the other flow can go on
		k.wake = false
		return p.state == stateOpen
	}
	return more
}

func (l *loop) moveFrames(p *pair, from, to *side, f *brokerFlow) (more bool) {
	for range turn {
		var e unix.Errno
		switch {
		case from.dropped || p.state != stateOpen:
			l.answersOver(p, from)
			return false
		case from.held != nil || from.inPipe() > 0:
			if !to.writable {
				return false
			}
			if e = l.flush(p, from, to); from.held == nil {
				l.sentFrames(p, from, f)
			}
		case f.canGoOn() && !to.finSent:
			e = l.understandFrames(p, from, to, f, f.input())
		case from.eof: // a part of a frame that is left is of no use to anybody
			l.answersOver(p, from)
			l.passEnd(p, from, to)
			return false
		case !from.readable || f.full:
			l.release(from)
			return false
		case f.pass >= enterSplice && l.passUnread(p, from, f):
		default:
			e = l.takeFrames(p, from, to, f)
		}
		if e != 0 {
			return l.writeFailed(p, from, to, e)
		}
	}
	return true
}

// input is what has been read and not understood.
func (f *brokerFlow) input() []byte {
	if f.in == nil {
		return nil
	}
	return f.in.rest
}

// canGoOn tells whether there is something to do without a read.
func (f *brokerFlow) canGoOn() bool {
	n := len(f.input())
	switch {
	case f.pass > 0:
		return n > 0
	case f.full:
		return false
	}
	return f.again || n >= max(f.need, 1)
}

// passUnread splices what goes out unread. It is false where a read has to do it.
func (l *loop) passUnread(p *pair, from *side, f *brokerFlow) bool {
	if from.urgent {
		return false
	}
	if from.pipe == nil {
		if from.pipe = l.pipe(); from.pipe == nil {
			return false
		}
	}
	most := f.pass
	if f.within {
		most -= lastSize
	}
	n, e := splice(from.fd, from.pipe.w, int(min(int64(from.pipe.size), most)))
	switch {
	case e == unix.EAGAIN:
		from.readable = false
	case e == unix.EINVAL || n == 0 && e == 0: // not for this socket; the end, or urgent data
		return false
	case e != 0:
		l.readFailed(p, from, e)
	default:
		l.spliced += uint64(n)
		from.pipe.filled = n
		f.passed(n)
	}
	return true
}

func (f *brokerFlow) passed(n int) {
	f.pass -= int64(n)
	f.again = f.again || f.pass == 0
}

// takeFrames reads, and deals with what it has read. The error is that of a write.
func (l *loop) takeFrames(p *pair, from, to *side, f *brokerFlow) unix.Errno {
	have := len(f.input())
	// What little there is goes before what is read; more stays where it is.
	inPlace := have > smallBuffer || f.need > bufferSize
	room := l.scratch
	if inPlace {
		if room = l.growInput(p, f); room == nil {
			return 0
		}
	}
	room = room[:min(len(room), have+f.wants(have))]
	n := l.readFrames(p, from, room[have:])
	if n == 0 {
		return 0
	}
	if have == 0 && from.moved == 0 && from == &p.client && p.set.checkFirst && proxyproto.Starts(room[:n]) {
		l.refuseLateHeader(p)
		return 0
	}
	whole := room[:have+n]
	switch {
	case inPlace:
		f.in.rest = whole
	case have > 0:
		copy(whole, f.in.rest)
		l.giveBuffer(f.in)
		f.in = nil
	}
	e := l.understandFrames(p, from, to, f, whole)
	f.sawRead(n)
	return e
}

// readFrames reads into b. 0: there is nothing, or no more, which is dealt with.
func (l *loop) readFrames(p *pair, from *side, b []byte) int {
	n, e := receive(from.fd, b)
	switch {
	case e == unix.EAGAIN:
		from.readable = false
		return 0
	case e != 0:
		l.readFailed(p, from, e)
		return 0
	case n == 0:
		l.ended(p, from)
		return 0
	}
	p.lastMove = l.now // though perhaps nothing goes out yet
	l.copied += uint64(n)
	// Less than was asked for, as in take.
	if n < len(b) && !from.hup && !from.urgent {
		from.readable = false
	}
	return n
}

// wants is how much to read: little where large frames begin.
func (f *brokerFlow) wants(have int) int {
	if f.peeks == 0 {
		return bufferSize + f.need
	}
	return max(f.need-have, int(min(f.pass, bufferSize))+peekSize)
}

// sawRead chooses how much the next reads take, after one of n bytes.
func (f *brokerFlow) sawRead(n int) {
	switch {
	case f.pass >= enterSplice:
		f.peeks = peekFor
	case f.peeks > 0 && n >= peekSize && f.pass == 0: // many small ones
		f.peeks = 0
	case f.peeks > 0:
		f.peeks--
	}
}

// understandFrames takes in, all there is of the flow, through the codec as far as
// it goes, and writes what comes of it. The rest is kept in f.in, in which in may
// be.
func (l *loop) understandFrames(p *pair, from, to *side, f *brokerFlow, in []byte) unix.Errno {
	first, at := 0, 0 // in[first:at] goes out as it is
	for {
		if f.pass > 0 {
			n := int(min(f.pass, int64(len(in)-at)))
			at += n
			f.passed(n)
		}
		if f.pass > 0 || f.full || from.held != nil || !f.again && len(in)-at < max(f.need, 1) {
			break
		}
		s, err := l.askCodec(p, from, f, in[at:])
		if err != nil {
			l.emit(p, from, to, in[first:at])
			l.breakOff(p, err)
			return 0
		}
		next := at + s.Take
		if begins(in[at:], s.Send) {
			if at += len(s.Send); at == next {
				continue
			}
			s.Send = nil
		}
		if e := l.emit(p, from, to, in[first:at]); e != 0 {
			return e
		}
		if e := l.emit(p, from, to, s.Send); e != 0 {
			return e
		}
		first, at = next, next
	}
	e := l.emit(p, from, to, in[first:at])
	if e == 0 {
		l.keepInput(f, in[at:])
		l.sentFrames(p, from, f)
	}
	return e
}

// begins tells whether b is the begin of in, the memory itself.
func begins(in, b []byte) bool {
	return len(b) == 0 || len(b) <= len(in) && &in[0] == &b[0]
}

// askCodec has the codec look at in, and notes what it says of what is next.
func (l *loop) askCodec(p *pair, from *side, f *brokerFlow, in []byte) (s kafka.Step, err error) {
	k := p.kafka
	f.again = false
	if from == &p.client {
		s, err = k.conn.Requests(in)
	} else {
		s, err = k.conn.Responses(in)
		l.countRewritten(p)
	}
	idle := s.Take == 0 && s.Pass == 0 && len(s.Send) == 0
	if from == &p.server && k.up.full { // an answer may be over, and make room
		k.up.full, k.wake = false, true
	}
	f.pass, f.within, f.need, f.full = s.Pass, s.Within, s.Need, s.Full
	if idle && f.need == 0 && !f.full {
		f.need = len(in) + 1
	}
	if f.full && (p.server.eof || p.server.dropped) {
		f.unanswered()
	}
	if s.Own {
		k.down.again = true
	}
	return s, err
}

// answersOver follows on the end of what is read from a leg. If it is the server's,
// requests wait for answers no more; or a client that is gone would not be found.
func (l *loop) answersOver(p *pair, from *side) {
	if from == &p.server && p.state == stateOpen && p.kafka.up.full {
		p.kafka.up.unanswered()
		p.kafka.wake = true
	}
}

// unanswered has the requests that are left go out unread, as there are no more
// answers to come that could make room for them.
func (f *brokerFlow) unanswered() { f.full, f.pass = false, math.MaxInt64 }

// emit writes b behind what could not be written before, and keeps what is left.
func (l *loop) emit(p *pair, from, to *side, b []byte) unix.Errno {
	switch {
	case len(b) == 0:
		return 0
	case from.held != nil:
		from.held.rest = slices.Concat(from.held.rest, b)
		return 0
	}
	return l.put(p, from, to, b)
}

// sentFrames gives back, when nothing waits to be written, what was held for that.
func (l *loop) sentFrames(p *pair, from *side, f *brokerFlow) {
	if from.held != nil {
		return
	}
	if from == &p.server {
		p.kafka.conn.Sent()
	}
	if f.charged > 0 && (f.in == nil || cap(f.in.full) <= bufferSize) {
		l.e.held.Add(-f.charged)
		f.charged = 0
	}
}

// breakOff ends p, on which something came that is not of the protocol.
func (l *loop) breakOff(p *pair, err error) {
	why := badRequest
	var broken *kafka.Error
	if errors.As(err, &broken) && broken.Broker {
		why = badResponse
	}
	l.refuse(p, why, err.Error())
}

// keepInput keeps what the codec has not taken. It may be in f.in.
func (l *loop) keepInput(f *brokerFlow, rest []byte) {
	old := f.in
	if old != nil && len(rest) > smallBuffer {
		old.rest = rest
		return
	}
	if f.in = nil; len(rest) > 0 {
		f.in = l.buffer(rest)
	}
	if old != nil {
		l.giveInput(old)
	}
}

// giveInput gives a buffer back; of those that are larger than usual none is kept.
func (l *loop) giveInput(b *buffer) {
	if cap(b.full) > bufferSize {
		b.full = nil
	}
	l.giveBuffer(b)
}

// growInput makes room in f.in for what the codec needs, and is its memory, with
// what there is at its begin. Nil: p is over, for want of memory.
func (l *loop) growInput(p *pair, f *brokerFlow) []byte {
	if f.in == nil {
		f.in = l.buffer(nil)
	}
	size := max(f.need, bufferSize)
	whole := f.in.full[:cap(f.in.full)]
	if len(whole) < size {
		if size > bufferSize && !l.charge(p, f, int64(size)) {
			return nil
		}
		whole = make([]byte, size)
	}
	if !begins(whole, f.in.rest) { // or each read would copy all there is onto itself
		copy(whole, f.in.rest)
	}
	f.in.full, f.in.rest = whole, whole[:len(f.in.rest)]
	return whole
}

// charge counts n bytes, instead of what was counted before, on what may be held.
// Above that p is over.
func (l *loop) charge(p *pair, f *brokerFlow, n int64) bool {
	more := n - f.charged
	if l.e.held.Add(more) > maxHeld {
		l.e.held.Add(-more)
		l.e.complain("a connection was reset: too much is held of answers with addresses", "route", p.route().name, "bytes", maxHeld)
		l.abort(p, noResources)
		return false
	}
	f.charged = n
	return true
}

// dropKafka gives back what the flows of p hold.
func (l *loop) dropKafka(p *pair) {
	if p.kafka == nil {
		return
	}
	for _, f := range []*brokerFlow{&p.kafka.up, &p.kafka.down} {
		if f.in != nil {
			l.giveInput(f.in)
			f.in = nil
		}
		l.e.held.Add(-f.charged)
		f.charged = 0
	}
	if p.kafka.conn != nil {
		p.kafka.conn.Sent()
	}
}
