package kafka

import (
	"encoding/binary"
	"errors"
)

// responses is the state of that direction.
type responses struct {
	out *[]byte // what the last call gave, if it was not the input
	err error

	done   bool    // the answer to the front of the queue has gone or is passing
	layout *layout // of the answer in hand; nil: the next bytes are the head of one
	w      walk
	total  int  // its bytes, with the length
	first  int  // of a frame that is held: where its first mark is; -1: not known yet
	tail   bool // of one that passes: all up to the first mark has gone
}

func (c *Conn) responses(in []byte) (Step, error) {
	at := 0
	for {
		r, waiting, raw := c.front()
		if waiting && r.own {
			return c.giveOwn(in, at, r), nil
		}
		if at == len(in) {
			return Step{Take: at, Send: in[:at]}, nil
		}
		var s Step
		var more bool
		var err error
		switch {
		case c.resp.layout != nil:
			s, more, err = c.look(in, at, r)
		case raw && !waiting:
			s, more, err = c.token(in, at)
		default:
			s, more, err = c.answer(in, at, r, waiting)
		}
		if !more || err != nil {
			return s, err
		}
		at = s.Take
	}
}

// front takes what is done from the queue, and gives what is next there. raw: where nothing
// is, SASL tokens may come.
func (c *Conn) front() (r request, waiting, raw bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resp.done {
		c.resp.done = false
		c.queue.pop()
	}
	if c.queue.len() == 0 {
		return r, false, c.raw
	}
	return *c.queue.front(), true, false
}

// upTo is the step that sends the input up to at, for Need or Pass to be added.
func upTo(in []byte, at int) Step { return Step{Take: at, Send: in[:at]} }

// pass lets the frame at in[at:] go as it is, of which there may be more to come. more is for
// responses: it was whole, and the next can be looked at.
func pass(in []byte, at, total int) (s Step, more bool) {
	if len(in)-at >= total {
		return upTo(in, at+total), true
	}
	s = upTo(in, at)
	s.Pass = int64(total)
	return s, false
}

// wait asks for need bytes of the frame at in[at:], which has total: for more where that is
// little, so that the frame is not looked at for every few bytes, and for less where it is much,
// since nothing is held for bytes that are only promised.
func wait(in []byte, at, need, total int) (Step, error) {
	s, have := upTo(in, at), len(in)-at
	if need > MaxBuffered {
		return s, brokerError("an answer of which %d bytes would have to be held; up to %d are", need, MaxBuffered)
	}
	s.Need = max(need, min(total, MaxBuffered, 2*have))
	s.Need = min(s.Need, max(smallFrame, 2*have))
	return s, nil
}

// token passes one of SASL's, which has a length and no more.
func (c *Conn) token(in []byte, at int) (Step, bool, error) {
	b := in[at:]
	if len(b) < sizeLen {
		s := upTo(in, at)
		s.Need = sizeLen
		return s, false, nil
	}
	size := int32(binary.BigEndian.Uint32(b))
	if size < 0 || size > maxToken {
		return upTo(in, at), false, badAnswerSize(b[:sizeLen], size)
	}
	s, more := pass(in, at, sizeLen+int(size))
	return s, more, nil
}

// answer looks at the head of one, which r is about.
func (c *Conn) answer(in []byte, at int, r request, waiting bool) (s Step, more bool, err error) {
	b := in[at:]
	s = upTo(in, at)
	if len(b) < sizeLen {
		s.Need = sizeLen
		return s, false, nil
	}
	size := int32(binary.BigEndian.Uint32(b))
	if size < answerHead-sizeLen || size > maxFrame {
		return s, false, badAnswerSize(b[:sizeLen], size)
	}
	if len(b) < answerHead {
		s.Need = answerHead
		return s, false, nil
	}
	correlation := int32(binary.BigEndian.Uint32(b[sizeLen:]))
	if !waiting {
		return s, false, brokerError("an answer (correlation id %d) where no request waits for one", correlation)
	}
	if correlation != r.correlation {
		return s, false, brokerError("an answer with correlation id %d, where %s (version %d) with %d waits for one", correlation, apiName(r.key), r.version, r.correlation)
	}
	total := sizeLen + int(size)
	l := layoutOf(r.key, r.version)
	if l == nil {
		c.resp.done = true
		s, more = pass(in, at, total)
		return s, more, nil
	}
	c.resp.layout, c.resp.total, c.resp.first, c.resp.tail = l, total, -1, false
	c.resp.w = walk{prog: l.prog, left: int64(total)}
	return c.look(in, at, r)
}

// look goes on with an answer that is looked into.
func (c *Conn) look(in []byte, at int, r request) (s Step, more bool, err error) {
	if c.resp.layout.stream && c.resp.total > c.o.smallFrame() {
		s, more, err = c.stream(in, at)
	} else {
		s, more, err = c.hold(in, at)
	}
	if err != nil {
		if !errors.As(err, new(*Error)) {
			err = brokerError("a broken answer to %s (version %d): %v", apiName(r.key), r.version, err)
		}
		return upTo(in, at), false, err
	}
	return s, more, nil
}

// finish ends the look at an answer.
func (c *Conn) finish() {
	c.resp.layout, c.resp.done = nil, true
}

// hold looks at a frame that is kept from its begin, at in[at:].
func (c *Conn) hold(in []byte, at int) (s Step, more bool, err error) {
	b, f := in[at:], &c.resp
	if len(b) < f.total && (!f.layout.head || f.total <= c.o.smallFrame()) {
		s, err = wait(in, at, f.total, f.total)
		return s, false, err
	}
	if f.first < 0 {
		first, need, err := f.w.hold(b)
		if err != nil {
			return s, false, err
		}
		if need > 0 {
			s, err = wait(in, at, need, f.total)
			return s, false, err
		}
		f.first = first
		if f.layout.leave != 0 && f.w.value == f.layout.leave {
			c.finish()
			s, more = pass(in, at, f.total)
			return s, more, nil
		}
	}
	second, need, err := f.w.hold(b)
	if err != nil {
		return s, false, err
	}
	if need > 0 {
		s, err = wait(in, at, need, f.total)
		return s, false, err
	}
	return c.edit(in, at, f.first, second)
}

// edit writes the part of the frame at in[at:] anew that is between first and second.
func (c *Conn) edit(in []byte, at, first, second int) (s Step, more bool, err error) {
	b, l, total := in[at:], c.resp.layout, c.resp.total
	old := b[first:second]
	c.finish()
	if l.part == partTag && old[0] == 0 { // no tagged fields, which is nearly always so
		s, more = pass(in, at, total)
		return s, more, nil
	}
	e := editor{o: c.o, in: reader{b: old}, out: c.begin(in[:at])}
	e.out = append(e.out, b[:first]...)
	if err := e.part(l); err != nil {
		return s, false, err
	}
	if !e.changed {
		c.Sent()
		s, more = pass(in, at, total)
		return s, more, nil
	}
	if l.part != partVersions {
		c.rewritten.Add(1)
	}
	size := total - sizeLen + len(e.out) - at - second
	binary.BigEndian.PutUint32(e.out[at:], uint32(size))
	if len(b) < total {
		s.Take, s.Pass = at+second, int64(total-second)
	} else {
		e.out = append(e.out, b[second:total]...)
		s.Take = at + total
	}
	return c.give(s, e.out), false, nil
}

// stream looks at a frame while it passes, until only what is behind its first mark is left.
// That is held, and keeps its length.
func (c *Conn) stream(in []byte, at int) (s Step, more bool, err error) {
	f := &c.resp
	if !f.tail {
		n, stopped, err := f.w.run(in[at:], true)
		if err != nil {
			return s, false, err
		}
		at += n
		if stopped != (stop{}) {
			s = upTo(in, at)
			s.Need, s.Pass, s.Within = stopped.need, stopped.pass, stopped.pass > 0
			return s, false, nil
		}
		f.tail = true
	}
	rest := int(f.w.left)
	if len(in)-at < rest {
		s, err = wait(in, at, rest, rest)
		return s, false, err
	}
	l := f.layout
	c.finish()
	e := editor{o: c.o, in: reader{b: in[at : at+rest]}}
	if e.hides(l) {
		e.in.at = 0
		e.out = c.begin(in[:at])
		err = e.hide(l)
		c.rewritten.Add(1)
		return c.give(Step{Take: at + rest}, e.out), false, err
	}
	return upTo(in, at+rest), true, e.in.err()
}

// begin takes a buffer for what is sent instead of the input, which starts with what came
// before.
func (c *Conn) begin(before []byte) []byte {
	c.resp.out = c.o.buffer()
	return append((*c.resp.out)[:0], before...)
}

// give ends what begin began. s is the step but for what it sends.
func (c *Conn) give(s Step, out []byte) Step {
	*c.resp.out = out
	s.Send = out
	if s.Pass == 0 { // else the answer is under way until it has passed
		r, waiting, _ := c.front()
		s.Own = waiting && r.own
	}
	return s
}

// giveOwn answers r, in[:at] going first.
func (c *Conn) giveOwn(in []byte, at int, r request) Step {
	out := appendUnsupported(c.begin(in[:at]), r.correlation)
	c.resp.done = true
	s := c.give(Step{Take: at}, out)
	s.Own = s.Own || len(in) > at
	return s
}
