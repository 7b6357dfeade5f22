package relay

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/clienthello"
	"midspan/internal/plan"
	"midspan/internal/proxyproto"
)

// opening is how far the opening of a connection has been read: what a route has
// to know of it before a server is looked for. What has been read beyond it
// becomes client.held. It lives no longer than stateOpening, and the loop uses it
// again.
type opening struct {
	stage    stage
	headers  int           // PROXY headers so far
	quiet    bool          // the last one told of no client
	skip     int           // bytes of it that are still to be thrown away
	deadline time.Duration // loop time, of the stage
	hello    clienthello.Parser
	buf      []byte // read and not yet understood; at most a buffer's size
}

// stage of an opening.
type stage uint8

const (
	awaitHeader stage = iota // PROXY headers; more than the first only as far as they are there
	skipHeader               // the rest of a LOCAL one
	awaitData                // after a header that tells of no client: is it a probe?
	awaitHello               // mode sni
	complete
)

const (
	// maxHeaders is how many PROXY headers a connection may begin with, one of
	// each proxy that it came through.
	maxHeaders = 4
	// probeWait is how long a connection whose header tells of no client may say
	// nothing before a server is looked for: a load balancer's probe is over by
	// then, and bothers no server. A client whose server speaks first waits so long.
	probeWait = time.Second
)

// beginOpening reads what a new connection begins with.
func (l *loop) beginOpening(p *pair) {
	p.state = stateOpening
	p.call = &caller{opening: l.newOpening()}
	p.call.opening.deadline = l.now + p.set.Proxy.Timeout.D()
	if p.set.Proxy.Mode == plan.ProxyRequired {
		if from := p.set.Proxy.From; len(from) > 0 && !within(from, p.clientAddr.full().Addr()) {
			l.refuse(p, proxyNotAllowed, "the peer is none of `from`")
			return
		}
	} else if !l.afterHeaders(p) {
		return
	}
	l.readOpening(p)
}

func (l *loop) newOpening() *opening {
	if n := len(l.openings); n > 0 {
		o := l.openings[n-1]
		l.openings = l.openings[:n-1]
		return o
	}
	return &opening{}
}

// giveOpening takes p's opening back, if it has one.
func (l *loop) giveOpening(p *pair) {
	if p.call == nil || p.call.opening == nil {
		return
	}
	o := p.call.opening
	p.call.opening = nil
	if len(l.openings) == keepSmall {
		return
	}
	buf := o.buf[:0]
	if cap(buf) > smallBuffer {
		buf = nil
	}
	o.hello.Reset()
	*o = opening{buf: buf, hello: o.hello}
	l.openings = append(l.openings, o)
}

// readOpening reads what there is, as long as the opening is not complete. A read
// takes no more than fits into one buffer with what is left of those before.
func (l *loop) readOpening(p *pair) {
	for p.state == stateOpening {
		o := p.call.opening
		room := l.scratch[:bufferSize-len(o.buf)]
		n, e := receive(p.client.fd, room)
		switch {
		case e == unix.EAGAIN:
			p.client.readable = false
			l.waitOpening(p)
			return
		case e != 0:
			l.openingLost(p, e)
			return
		case n == 0:
			l.openingEnded(p)
			return
		}
		l.copied += uint64(n)
		p.lastMove = l.now
		drained := n < len(room) && !p.client.hup
		p.client.readable = !drained
		b := room[:n]
		if len(o.buf) > 0 {
			o.buf = append(o.buf, b...)
			b = o.buf
		}
		l.understand(p, b)
		if drained && p.state == stateOpening {
			l.waitOpening(p)
			return
		}
	}
}

// waitOpening waits for more of an opening. The client's leg is put into the
// epoll set only now: most openings come in one piece, and are there already.
func (l *loop) waitOpening(p *pair) {
	l.timers.set(p, p.call.opening.deadline)
	if !p.watching {
		p.watching = true
		l.watchClient(p, unix.EPOLL_CTL_ADD)
	}
}

// understand takes b, all that is there, through the stages of the opening. When
// there is not enough for one, it is kept.
func (l *loop) understand(p *pair, b []byte) {
	o := p.call.opening
	for {
		var done bool
		switch o.stage {
		case awaitHeader:
			b, done = l.takeHeader(p, b)
		case skipHeader:
			n := min(o.skip, len(b))
			b, o.skip = b[n:], o.skip-n
			if done = o.skip == 0; done {
				o.stage = awaitHeader
				done = len(b) > 0 || l.headersDone(p, b)
			}
		case awaitData:
			done = len(b) > 0 && l.afterHeaders(p)
		case awaitHello:
			done = l.takeHello(p, b)
		}
		if p.state != stateOpening {
			return // refused
		}
		if o.stage == complete {
			l.endOpening(p, b)
			return
		}
		if !done {
			o.keep(b)
			return
		}
	}
}

// keep makes b, which may be the end of o.buf, all that is kept.
func (o *opening) keep(b []byte) {
	if len(b) > 0 && len(o.buf) > 0 && &b[0] == &o.buf[0] {
		return // it is there: to copy it for each byte that comes would cost its square
	}
	o.buf = append(o.buf[:0], b...)
}

// takeHeader takes a PROXY header off b, or goes on if it has had one and there
// is no other. It says what is left, and whether there is more to do with that.
func (l *loop) takeHeader(p *pair, b []byte) (rest []byte, done bool) {
	o := p.call.opening
	n, skip, err := proxyproto.Scan(b)
	switch {
	case errors.Is(err, proxyproto.ErrNone) && o.headers > 0:
		return b, l.headersDone(p, b)
	case err != nil:
		l.refuse(p, badProxyHeader, fmt.Sprintf("%v; it begins with %q", err, b[:min(len(b), 16)]))
		return nil, false
	case n == 0:
		return b, false
	}
	h, err := proxyproto.Parse(b[:n])
	switch {
	case err != nil:
		l.refuse(p, badProxyHeader, err.Error())
		return nil, false
	case o.headers == maxHeaders:
		l.refuse(p, badProxyHeader, fmt.Sprintf("more than %d headers", maxHeaders))
		return nil, false
	case o.headers > 0 && !p.maySendAnother():
		why := "another header came from behind a private endpoint"
		if p.call.link == "" {
			why = fmt.Sprintf("%s, which the header before names, is none of `from`", p.clientAddr.full())
		}
		l.refuse(p, proxyNotAllowed, why)
		return nil, false
	}
	o.headers++
	p.noteHeader(&h)
	o.quiet = !h.Source.IsValid()
	b = b[n:]
	if o.skip = skip; skip > 0 {
		o.stage = skipHeader
		return b, true
	}
	return b, len(b) > 0 || l.headersDone(p, b)
}

// headersDone goes on after the last PROXY header; b is what follows.
func (l *loop) headersDone(p *pair, b []byte) (done bool) {
	o := p.call.opening
	if o.quiet && len(b) == 0 {
		o.stage = awaitData
		o.deadline = l.now + probeWait
		return false
	}
	return l.afterHeaders(p)
}

// afterHeaders lets p in, or not, and enters the next stage: in mode sni the
// ClientHello, else the opening is complete.
func (l *loop) afterHeaders(p *pair) (admitted bool) {
	if !l.admit(p) {
		return false
	}
	o := p.call.opening
	if p.set.Mode != plan.ModeSNI {
		o.stage = complete
		return true
	}
	o.stage = awaitHello
	o.hello.Max = p.set.SNI.MaxHello
	o.deadline = l.now + p.set.SNI.Timeout.D()
	return true
}

// takeHello looks for a ClientHello in b and chooses the servers by it.
func (l *loop) takeHello(p *pair, b []byte) (done bool) {
	if len(b) == 0 {
		return false
	}
	hello, err := p.call.opening.hello.Parse(b)
	switch {
	case errors.Is(err, clienthello.ErrNotTLS):
		switch {
		case p.set.checkFirst && proxyproto.Starts(b):
			l.refuse(p, proxyNotAllowed, headerOnOff)
		case p.set.SNI.NotTLS == plan.ToDefault:
			p.call.picker = p.set.rest
			p.call.opening.stage = complete
		default:
			l.refuse(p, notTLS, fmt.Sprintf("it begins with %q", b[:min(len(b), 16)]))
		}
		return true
	case err != nil:
		l.refuse(p, tlsFailed, err.Error())
		return true
	case hello == nil:
		return false
	}
	p.call.serverName = hello.ServerName
	l.chooseByName(p)
	return true
}

// chooseByName takes the servers for the name that the client asks for.
func (l *loop) chooseByName(p *pair) {
	name := p.call.serverName
	set := p.set
	switch g := set.group(name); {
	case name == "" && set.SNI.NoName == plan.Refuse:
		l.refuse(p, noServerName, "the ClientHello names no server")
		return
	case name == "" && set.SNI.NoName == plan.Alert:
		l.tell(p, noServerName, "the ClientHello names no server")
		l.part(p, clienthello.UnrecognizedName(), noServerName)
		return
	case name != "" && g != nil:
		p.call.picker = g
	case len(set.Default) > 0:
		p.call.picker = set.rest
	default:
		l.tell(p, unknownServerName, "no server for that name")
		l.part(p, clienthello.UnrecognizedName(), unknownServerName)
		return
	}
	p.call.opening.stage = complete
}

// endOpening looks for a server, now that all is known that it needs; rest is
// what has been read beyond.
func (l *loop) endOpening(p *pair, rest []byte) {
	if len(rest) > 0 {
		p.client.held = l.buffer(rest)
	}
	l.giveOpening(p) // rest may be of its buffer
	l.timers.set(p, 0)
	l.seek(p)
}

// openingTimer is called at the deadline of a stage.
func (l *loop) openingTimer(p *pair) {
	o := p.call.opening
	switch {
	case o.stage == awaitData && p.set.Guarded && p.set.consumers.find(p.call.link, p.clientAddr.full().Addr()) == nil:
		l.endProbe(p) // it could only be refused, and has asked for nothing
	case o.stage == awaitData:
		if l.afterHeaders(p) {
			l.understandMore(p, o)
		}
	case o.stage == awaitHeader && o.headers > 0: // what is there may be a header, but may be data
		if l.headersDone(p, o.buf) {
			l.understandMore(p, o)
		}
	case o.stage == awaitHello:
		l.refuse(p, openingTimeout, fmt.Sprintf("%d bytes of a ClientHello in %s", len(o.buf), p.set.SNI.Timeout))
	default:
		l.refuse(p, openingTimeout, fmt.Sprintf("%d bytes of a PROXY header in %s", len(o.buf), p.set.Proxy.Timeout))
	}
}

// understandMore goes on with what o has, in a stage that was entered for want of
// more.
func (l *loop) understandMore(p *pair, o *opening) {
	if o.stage == complete {
		l.endOpening(p, o.buf)
		return
	}
	l.understand(p, o.buf)
	if p.state == stateOpening {
		l.waitOpening(p)
	}
}

// openingEnded deals with the end of the client's flow before the opening is
// complete.
func (l *loop) openingEnded(p *pair) {
	o := p.call.opening
	p.client.hup, p.client.readable = true, true // the end is read once more, in its place
	switch {
	case len(o.buf) == 0 && o.skip == 0:
		l.endProbe(p)
	case o.stage == awaitHello:
		l.refuse(p, tlsFailed, fmt.Sprintf("the client has ended after %d bytes of a ClientHello", len(o.buf)))
	case o.stage == awaitHeader && o.headers > 0:
		if l.headersDone(p, o.buf) {
			l.understandMore(p, o)
		}
	default:
		l.refuse(p, badProxyHeader, fmt.Sprintf("the client has ended after %d bytes of a header", len(o.buf)))
	}
}

// openingLost deals with a reset, or a lost client, before the opening is complete.
func (l *loop) openingLost(p *pair, e unix.Errno) {
	if o := p.call.opening; e == unix.ECONNRESET && len(o.buf) == 0 && o.skip == 0 {
		l.endProbe(p)
		return
	}
	l.readFailed(p, &p.client, e)
}

// endProbe ends a connection that has said nothing, as load balancers make them
// to see whether somebody listens. It is counted, but in no log.
func (l *loop) endProbe(p *pair) {
	p.endedBy = probe
	l.closeSide(p, &p.client)
	l.finish(p)
}

// partLinger is how long a client that was told why it is turned away has to
// read it: a reset could take the message from its receive queue.
const partLinger = time.Second

// part sends last words and ends p when the client does.
func (l *loop) part(p *pair, last []byte, why reason) {
	p.state = stateParting
	p.endedBy = why
	l.giveOpening(p)
	if _, e := write(p.client.fd, last); e != 0 {
		l.abort(p, why)
		return
	}
	shutdownWrite(p.client.fd)
	l.timers.set(p, l.now+partLinger)
	if !p.watching {
		p.watching = true
		l.watchClient(p, unix.EPOLL_CTL_ADD)
	}
	if p.state == stateParting {
		l.parting(p)
	}
}

// parting throws away what a client still says, up to its end.
func (l *loop) parting(p *pair) {
	for range turn {
		n, e := receive(p.client.fd, l.scratch)
		if e == unix.EAGAIN {
			return
		}
		if n == 0 || e != 0 {
			break
		}
	}
	l.closeSide(p, &p.client)
	l.finish(p)
}
