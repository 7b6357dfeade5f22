package relay

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/engine"
)

// dial is the search for a server: attempts in turn, the next one when one
// fails or is slow, the first to succeed wins.
type dial struct {
	attempts []attempt
	tried    []*endpoint
	inFlight int
	began    time.Duration // loop time of the accept
	deadline time.Duration // loop time
	hedge    time.Duration // when the next attempt starts although one is in flight; 0: not
	shortage bool          // an attempt failed for want of something on this machine
	full     bool          // waiting for a server below its max_connections
	forNode  bool          // waiting for a plan that knows p's node
}

type attempt struct {
	*choice
	fd    int32 // -1: over
	began time.Duration
	warm  bool // it was there before the client
}

// initialRTO is the kernel's first retransmission timeout (RFC 6298 section 2):
// an attempt that has no answer by then has lost a SYN.
const initialRTO = time.Second

// hedgeAfter is when a second endpoint is tried beside the first. Within a short
// connect_timeout every endpoint still gets its chance.
func hedgeAfter(timeout time.Duration) time.Duration { return min(initialRTO, timeout/3) }

// watchDialing is how often a connection that has no server yet is looked at for
// a client that has given up: its leg is not in the epoll set.
const watchDialing = 250 * time.Millisecond

// waitFull is how often a connection looks again for a server below its limit.
const waitFull = 20 * time.Millisecond

// keepDials is how many a loop keeps for later.
const keepDials = 64

func (l *loop) newDial(now, timeout time.Duration) *dial {
	var d *dial
	if n := len(l.dials); n > 0 {
		d = l.dials[n-1]
		l.dials = l.dials[:n-1]
	} else {
		d = &dial{}
	}
	d.began, d.deadline = now, now+timeout
	return d
}

// endDial drops what is still in flight and takes p's dial back.
func (l *loop) endDial(p *pair) {
	d := p.dial
	l.dropAttempts(p)
	p.dial = nil
	if len(l.dials) == keepDials {
		return
	}
	clear(d.attempts)
	clear(d.tried)
	*d = dial{attempts: d.attempts[:0], tried: d.tried[:0]}
	l.dials = append(l.dials, d)
}

// serverEvents are asked for on a server's leg, from the connect on.
const serverEvents = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// tryNext starts a connect to the next endpoint. When there is none, and none
// is in flight, the client is reset at once: it must not wait for nothing.
func (l *loop) tryNext(p *pair) {
	d := p.dial
	for {
		c, result := (*choice)(nil), pickedNone
		if len(d.tried) < p.set.tries() && len(d.attempts) < maxAttempts {
			c, result = p.picker().take(netip.AddrFrom16(p.clientAddr.addr), d.tried)
		}
		if result != picked {
			l.noneLeft(p, result)
			return
		}
		d.full = false
		d.tried = append(d.tried, c.endpoint)
		to := c.at(p.listener.port)
		if l.e.own.Load().circle(p.route(), to) {
			l.attemptFailed(p, c, errCircle)
			continue
		}
		if fd := l.takeWarm(p.set, c, to); fd >= 0 {
			d.attempts = append(d.attempts, attempt{c, fd, l.now, true})
			d.inFlight++
			if e := l.control(unix.EPOLL_CTL_MOD, fd, serverEvents, p.slot, uint32(len(d.attempts)), p.gen); e == 0 {
				l.connected(p, len(d.attempts)-1, unix.EPOLLOUT)
				return
			}
			d.attempts[len(d.attempts)-1].fd = -1
			d.inFlight--
			l.closeLater(fd)
		}
		fd, op, e := l.socket(to, p.set)
		if e == 0 {
			if e = connect(fd, to); e != 0 {
				l.closeLater(fd)
			}
		}
		if e == 0 {
			d.attempts = append(d.attempts, attempt{c, fd, l.now, false})
			e = l.control(op, fd, serverEvents, p.slot, uint32(len(d.attempts)), p.gen)
			if e == 0 {
				d.inFlight++
				d.hedge = l.now + hedgeAfter(p.set.ConnectTimeout.D())
				l.timers.set(p, min(d.hedge, d.deadline, l.now+watchDialing))
				return
			}
			d.attempts[len(d.attempts)-1].fd = -1
			l.closeLater(fd)
		}
		l.attemptFailed(p, c, e)
	}
}

// tries is how many endpoints are tried for one connection.
func (s *settings) tries() int { return min(cmp.Or(s.Tries, maxAttempts), maxAttempts) }

// socket is a socket to connect to a server, and how to watch it: a spare one is
// in the epoll set already.
func (l *loop) socket(to netip.AddrPort, set *settings) (fd int32, op int, e unix.Errno) {
	from := set.from(to.Addr())
	if !from.IsValid() { // spares have no address of their own, see recycle
		if fd := l.spare(to, set.options); fd >= 0 {
			return fd, unix.EPOLL_CTL_MOD, 0
		}
	}
	n, _, e := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family(to.Addr())), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if e != 0 {
		return -1, 0, e
	}
	set.options.apply(int(n))
	if from.IsValid() {
		if e = bindTo(int32(n), from); e != 0 {
			closeFD(int32(n))
		}
	}
	return int32(n), unix.EPOLL_CTL_ADD, e
}

// noneLeft ends the dial unless there is something to wait for.
func (l *loop) noneLeft(p *pair, result pickResult) {
	d := p.dial
	d.hedge = 0
	d.full = result == pickedFull
	if d.full {
		l.timers.set(p, min(l.now+waitFull, d.deadline))
		return
	}
	if d.inFlight > 0 {
		l.timers.set(p, min(d.deadline, l.now+watchDialing))
		return
	}
	switch {
	case d.shortage:
		l.e.complain("cannot connect: this machine is out of something", "error", p.mishap().lastErr, "route", p.route().name)
		l.abort(p, noResources)
	case len(d.tried) == 0:
		l.abort(p, noServer)
	default:
		l.abort(p, connectFailed)
	}
}

func (l *loop) dialTimer(p *pair) {
	d := p.dial
	switch {
	case d.forNode:
		l.nodeTimer(p)
	case socketError(p.client.fd) != 0:
		l.abort(p, resetByClient)
	case l.now >= d.deadline:
		for i := range d.attempts {
			if a := &d.attempts[i]; a.fd >= 0 {
				l.failSlow(p, a)
			}
		}
		if d.full && len(d.tried) == 0 {
			l.abort(p, serversFull)
		} else {
			l.abort(p, connectFailed)
		}
	case d.full, d.hedge != 0 && l.now >= d.hedge:
		l.tryNext(p)
	default:
		next := min(d.deadline, l.now+watchDialing)
		if d.hedge != 0 {
			next = min(next, d.hedge)
		}
		l.timers.set(p, next)
	}
}

// onAttempt takes an event of attempt i.
func (l *loop) onAttempt(p *pair, i int, events uint32) {
	a := &p.dial.attempts[i]
	if a.fd < 0 {
		return
	}
	e := unix.Errno(0)
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		e = socketError(a.fd)
	}
	switch {
	case e == 0 && events&unix.EPOLLOUT != 0:
		l.connected(p, i, events)
	case e != 0:
		l.closeLater(a.fd)
		a.fd = -1
		p.dial.inFlight--
		l.attemptFailed(p, a.choice, e)
		l.tryNext(p)
	}
}

// attemptFailed counts a connect that failed.
func (l *loop) attemptFailed(p *pair, c *choice, err error) {
	c.drop()
	p.mishap().note(c, c.at(p.listener.port), err)
	if isShortage(err) {
		p.dial.shortage = true
		return // no fault of the server's
	}
	l.failed(p, c, err)
}

// failSlow gives up an attempt that got no answer in time.
func (l *loop) failSlow(p *pair, a *attempt) {
	l.closeLater(a.fd)
	a.fd = -1
	a.drop()
	err := fmt.Errorf("no answer to a connect in %s", (l.now - a.began).Round(time.Millisecond))
	p.mishap().note(a.choice, a.at(p.listener.port), err)
	l.failed(p, a.choice, err)
}

func (l *loop) failed(p *pair, c *choice, err error) {
	p.mishap().failed = c
	l.e.failed(p.route(), c.endpoint, c.server.Name, c.at(p.listener.port), err)
}

// failed counts a failed connect on its endpoint.
func (e *Engine) failed(r *route, ep *endpoint, server string, to netip.AddrPort, err error) {
	ep.failures.Add(1)
	ep.failing.Store(true)
	text := err.Error()
	ep.lastErr.Store(&text)
	e.report(r, server, to, err)
}

// lateError is a failure after the TCP connect: of the PROXY header or of TLS.
type lateError struct{ error }

func (e lateError) Unwrap() error { return e.error }

func (e *Engine) report(r *route, server string, to netip.AddrPort, err error) {
	if e.hooks.Dial != nil {
		var late lateError
		e.hooks.Dial(engine.Dial{Route: r.name, Server: server, Addr: to, Err: err, Late: errors.As(err, &late)})
	}
}

// dropAttempts closes the attempts in flight that are not needed. One that lost a
// SYN while another endpoint answered counts as failed; closing it before the
// handshake is done leaves no trace on the server.
func (l *loop) dropAttempts(p *pair) {
	for i := range p.dial.attempts {
		a := &p.dial.attempts[i]
		switch {
		case a.fd < 0:
		case l.now-a.began >= initialRTO:
			l.failSlow(p, a)
		default:
			l.closeLater(a.fd)
			a.fd = -1
			a.drop()
		}
	}
}
