package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"midspan/internal/certs"
	"midspan/internal/plan"
)

// find is a session's search for a server, as dial is a pair's: endpoints in
// turn, the next one when one fails or is slow, the first to succeed wins. With
// TLS, the handshake is a part of the connect.
type find struct {
	s        *session
	tried    []*endpoint
	results  chan attempted
	done     chan struct{} // closed when nobody takes results any more
	inFlight int
	shortage bool // an attempt failed for want of something on this machine
	full     bool // waiting for a server below its max_connections
	allTried bool
}

// attempted is how an attempt has ended. On success the choice stays taken.
type attempted struct {
	*choice
	leg *leg
	err error
}

// findServer is a leg to a server; nil: there is none, and the session is over.
func (s *session) findServer() *leg {
	timeout := s.p.set.ConnectTimeout.D()
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	f := &find{s: s, results: make(chan attempted), done: make(chan struct{})}
	defer close(f.done)
	began := time.Now()
	watch := time.NewTicker(watchDialing)
	defer watch.Stop()
	hedge := time.NewTimer(0)
	defer hedge.Stop()
	for {
		select {
		case <-hedge.C:
			hedge.Reset(f.next(ctx, timeout))
		case a := <-f.results:
			f.inFlight--
			if a.err == nil {
				s.connected(a, time.Since(began))
				return a.leg
			}
			f.note(a)
			hedge.Reset(f.next(ctx, timeout))
		case <-watch.C:
			if s.clients.lost() != 0 {
				s.end(resetByClient)
			}
		case <-ctx.Done():
			f.giveUp(errors.Is(ctx.Err(), context.DeadlineExceeded))
			return nil
		}
		if f.allTried && f.inFlight == 0 {
			s.end(f.reason())
			return nil
		}
	}
}

// never is longer than any timeout.
const never = 365 * 24 * time.Hour

// next starts an attempt, and says when the one after it is due.
func (f *find) next(ctx context.Context, timeout time.Duration) time.Duration {
	s := f.s
	c, result := (*choice)(nil), pickedNone
	if len(f.tried) < s.p.set.tries() {
		c, result = s.p.picker().take(netip.AddrFrom16(s.p.clientAddr.addr), f.tried)
	}
	switch result {
	case pickedNone:
		f.allTried = true
		return never
	case pickedFull:
		f.full = true
		return waitFull
	}
	f.full = false
	f.tried = append(f.tried, c.endpoint)
	f.inFlight++
	go f.attempt(ctx, c)
	return hedgeAfter(timeout)
}

func (f *find) attempt(ctx context.Context, c *choice) {
	a := attempted{choice: c, err: errDefect}
	defer func() {
		select {
		case f.results <- a:
		case <-f.done: // another one was faster
			if a.err == nil {
				a.leg.reset()
				c.drop()
			}
		}
	}()
	defer f.s.guard()
	if a.leg, a.err = f.s.connect(ctx, f.s.p.set.target(c, f.s.p.listener.port)); a.err != nil {
		c.drop()
	}
}

// errDefect stands for a panic.
var errDefect = errors.New("a defect in midspan")

// note takes over what an attempt has failed of.
func (f *find) note(a attempted) {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.p.mishap()
	t.note(a.choice, a.at(s.p.listener.port), a.err)
	if isShortage(a.err) {
		f.shortage = true
		return
	}
	t.failed = a.choice
}

func (f *find) reason() reason {
	switch {
	case f.shortage:
		f.s.l.e.complain("cannot connect: this machine is out of something", "error", f.s.p.mishap().lastErr, "route", f.s.p.route().name)
		return noResources
	case len(f.tried) == 0:
		return noServer
	}
	return connectFailed
}

// giveUp waits for what is in flight, which ends at once, and ends the session.
func (f *find) giveUp(late bool) {
	for ; f.inFlight > 0; f.inFlight-- {
		if a := <-f.results; a.err != nil {
			f.note(a)
		} else {
			a.leg.reset()
			a.drop()
		}
	}
	switch {
	case !late: // the session is over
	case f.full && len(f.tried) == 0:
		f.s.end(serversFull)
	default:
		f.s.end(connectFailed)
	}
}

// connected makes a the server's leg.
func (s *session) connected(a attempted, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.servers, s.p.to, s.p.connectTime = a.leg, a.choice, max(1, took)
	if s.over { // meanwhile
		a.leg.reset()
		return
	}
	s.lastMove.Store(int64(s.now()))
	s.phase = "open"
	s.l.record(&s.p, false)
	if a.cut.Load() { // since the connect began
		s.endLocked(serverDown)
		return
	}
	s.arm()
}

// target is an address of a server and how connections to it are made. It is a
// value: connections to equal ones are alike.
type target struct {
	*endpoint
	load         *atomic.Int64 // of the server
	server, host string
	to           netip.AddrPort
	how          *how
}

// how a route connects to its servers. One pointer stands for it as long as it
// stays the same.
type how struct {
	route     *route
	options   sockOptions
	sendProxy plan.SendProxy
	tls       *certs.Servers
	protocol  string // for TLS; "": the client's
	timeout   time.Duration
}

// setHow gives s, which is about to replace old, its how.
func (s *settings) setHow(old *settings) {
	h := how{s.owner, s.options, s.SendProxy, s.tls.Servers, "", s.ConnectTimeout.D()}
	if s.HTTP != nil {
		if h.protocol = "http/1.1"; s.HTTP.H2 {
			h.protocol = "h2"
		}
	}
	if s.how = &h; old != nil && *old.how == h {
		s.how = old.how
	}
}

func (s *settings) target(c *choice, listen uint16) target {
	return target{c.endpoint, c.load, c.server.Name, c.server.CertName(), c.at(listen), s.how}
}

// connect opens a connection to t for s, with what the route sends first: the
// PROXY header, and the TLS handshake. The error is in words that can follow the
// server's name, and it is counted.
func (s *session) connect(ctx context.Context, t target) (*leg, error) {
	began := time.Now()
	g, err := s.dial(ctx, t)
	e := s.l.e
	switch {
	case err == nil:
		t.connects.Add(1)
		if t.failing.CompareAndSwap(true, false) {
			t.lastErr.Store(nil)
			e.report(t.how.route, t.server, t.to, nil)
		}
		return g, nil
	case ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		took := time.Since(began)
		var late lateError
		isLate := errors.As(err, &late)
		err = fmt.Errorf("no answer to a connect in %s", took.Round(time.Millisecond))
		if isLate {
			err = lateError{err}
		}
		if took < initialRTO && errors.Is(ctx.Err(), context.Canceled) {
			return nil, err // given up: no fault of the server's, which had not much time
		}
	case isShortage(err):
		return nil, err
	}
	e.failed(t.how.route, t.endpoint, t.server, t.to, err)
	return nil, err
}

func (s *session) dial(ctx context.Context, t target) (*leg, error) {
	if s.l.e.own.Load().circle(t.how.route, t.to) {
		return nil, errCircle
	}
	from := t.how.route.set.Load().from(t.to.Addr())
	d := net.Dialer{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			t.how.options.apply(int(fd))
			if from.IsValid() {
				leavePort(int(fd))
			}
		})
	}}
	conn, err := d.DialTCP(ctx, "tcp", netip.AddrPortFrom(from, 0), t.to)
	if err != nil {
		var e syscall.Errno
		if errors.As(err, &e) {
			return nil, e
		}
		return nil, err
	}
	g, err := newLeg(conn, nil)
	if err == nil {
		if err = s.greet(ctx, t, g); err != nil {
			err = lateError{err}
		}
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return g, nil
}

// greet makes g ready for the client's bytes.
func (s *session) greet(ctx context.Context, t target, g *leg) error {
	if v := t.how.sendProxy; v != plan.SendNone {
		if _, err := g.tcp.Write(s.p.appendProxyHeader(nil, v)); err != nil {
			return err
		}
	}
	if t.how.tls == nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = g.tcp.SetDeadline(past) })
	protocols := s.protocols
	if t.how.protocol != "" {
		protocols = []string{t.how.protocol}
	}
	g.tls = tls.Client(&g.wire, t.how.tls.Config(t.host, protocols...))
	err := g.tls.Handshake()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil && s.p.set.Kafka != nil && certs.PlainBroker(g.tls, err) != "":
		return errors.New("TLS: " + certs.PlainBroker(g.tls, err))
	case err != nil:
		return errors.New("TLS: " + tlsText(err) + certs.Remedy(err))
	case t.how.protocol == "h2" && g.tls.ConnectionState().NegotiatedProtocol != "h2":
		return errors.New("TLS: the server does not offer h2 by ALPN")
	}
	return nil
}
