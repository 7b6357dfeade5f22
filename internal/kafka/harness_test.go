package kafka

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// cut says how many bytes of n that have come are given to the codec next, of which it has
// have already.
type cut func(have, n int) int

func whole(_, n int) int { return n }

func bytewise(have, _ int) int { return have + 1 }

// at cuts once.
func at(place int) cut {
	seen := 0
	return func(have, n int) int {
		if seen < place {
			take := min(place-seen, n-have)
			seen += take
			return have + take
		}
		return n
	}
}

func randomly(r *rand.Rand) cut {
	return func(have, n int) int { return have + 1 + r.IntN(n-have) }
}

// flow drives one direction of a connection as its contract says, and fails where the codec breaks that.
type flow struct {
	t     testing.TB
	step  func([]byte) (Step, error)
	cut   cut
	in    []byte // what has come of the stream, and has not gone
	given int    // how much of it the codec has been shown
	out   []byte
	need  int // of the last step
	most  int // bytes that had to be held
	pass  int64
	full  bool
	own   bool // an answer of our own is due
	err   error
}

// waits: the codec wants more than has come, so what is wrong with that may not be found yet.
func (f *flow) waits() bool { return f.need > len(f.in) }

// feed gives the stream, or more of it.
func (f *flow) feed(b []byte) {
	f.in = append(f.in, b...)
	for f.err == nil && !f.full {
		if f.pass > 0 {
			n := min(f.pass, int64(len(f.in)))
			f.out = append(f.out, f.in[:n]...)
			f.in = f.in[n:]
			f.given = max(0, f.given-int(n))
			if f.pass -= n; f.pass > 0 {
				return
			}
			f.call()
			continue
		}
		if f.given == len(f.in) {
			return
		}
		f.given = min(len(f.in), f.cut(f.given, len(f.in)))
		if f.given < f.need {
			continue
		}
		f.call()
	}
}

// call calls the codec with what it may see, as often as it wants that.
func (f *flow) call() {
	for {
		s, err := f.step(f.in[:f.given:f.given])
		if err != nil {
			f.err = err
			if s.Take != 0 || len(s.Send) != 0 || s.Pass != 0 {
				f.t.Fatalf("a step with an error: %+v", s)
			}
			return
		}
		if s.Take < 0 || s.Take > f.given || s.Pass < 0 || s.Pass > 0 && s.Need > 0 {
			f.t.Fatalf("of %d bytes: %+v", f.given, s)
		}
		if s.Need != 0 && (s.Need <= f.given-s.Take || s.Need > MaxBuffered) {
			f.t.Fatalf("%d bytes are there: %+v", f.given-s.Take, s)
		}
		f.out = append(f.out, s.Send...)
		f.in = f.in[s.Take:]
		f.given -= s.Take
		f.need, f.pass, f.full, f.own = s.Need, s.Pass, s.Full, f.own || s.Own
		f.most = max(f.most, s.Need)
		if s.Pass > 0 || s.Full || s.Need > 0 || s.Take == 0 || f.given == 0 {
			return
		}
	}
}

// pair is a connection with both directions.
type pair struct {
	c        *Conn
	req, res flow
}

func newPair(t testing.TB, o *Options, c cut) *pair {
	p := &pair{c: New(o)}
	p.req = flow{t: t, step: p.c.Requests, cut: c}
	p.res = flow{t: t, step: p.c.Responses, cut: c}
	return p
}

// request feeds what the client sends, and gives what the broker gets. Our own answers are taken.
func (p *pair) request(b []byte) { p.req.feed(b); p.owns() }

func (p *pair) response(b []byte) {
	p.res.feed(b)
	p.owns()
	if p.req.full {
		p.req.full = false
		p.req.call()
		p.request(nil)
	}
}

// owns calls Responses for answers of our own, if what it gave before has gone.
func (p *pair) owns() {
	for (p.req.own || p.res.own) && p.res.pass == 0 && p.res.err == nil {
		p.req.own, p.res.own = false, false
		p.res.call()
		p.res.feed(nil)
	}
}

// port is what tests write in place of an address: the host is told by rewriteAll, the port
// by the node. Nodes from 100 on are dropped.
func rewriteAll(node int32, host string, _ int32) (string, int32, bool) {
	return fmt.Sprintf("n%d.midspan.example", node), 19100 + node, node < 100
}

func keepAll(_ int32, host string, port int32) (string, int32, bool) { return host, port, true }
