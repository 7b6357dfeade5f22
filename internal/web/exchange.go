package web

import (
	"errors"
	"io"
	"os"
	"time"

	"midspan/internal/web/h1"
)

// exchange forwards the request whose head is the first end bytes of c.x.in, by
// those rules. It tells whether there may be another one on the connection.
func (c *conn) exchange(end int, r *rules) (again bool) {
	x := c.x
	x.Start = time.Now()
	x.head, x.rules = end, r
	x.answered, x.upgrade, x.closing, x.got = false, false, false, false
	if err := x.req.Parse(x.in[:end]); err != nil {
		var refused *h1.Error
		errors.As(err, &refused)
		c.refuse(refused.Status, err, BadRequest)
		return false
	}
	c.describe(x)
	if x.target.empty {
		c.fail(x, NoRoute, nil)
	} else {
		c.forward(x)
	}
	unread := x.req.Body != h1.None && x.head == end // nothing of it was sent
	if x.upload != nil {
		unread = !x.upload.complete
	}
	if c.p.draining.Load() {
		x.closing = true
	}
	c.done(x)
	if x.closing && x.answered && (unread || len(x.in) > x.head) {
		c.linger()
	}
	return !x.closing
}

// describe fills in what is known from the request alone.
func (c *conn) describe(x *exchange) {
	r := &x.req
	x.From, x.Method, x.Host, x.Path, x.Protocol = c.from, r.Method, r.Authority, r.Path, "HTTP/1.1"
	if r.Old {
		x.Protocol = "HTTP/1.0"
	}
	x.target = x.rules.match(r.Authority, r.Path)
	if x.target.cookie != "" {
		x.cookie = x.rules.stuckTo(&r.Head, x.target.cookie)
	}
	// h2c by Upgrade (RFC 7540, section 3.2) is history; to ignore it is allowed.
	x.upgrade = r.Upgrade && r.Body == h1.None && !r.Old && upgradable(&r.Head)
	x.closing = !r.Persist
	for i := range r.Fields {
		if f := &r.Fields[i]; f.Kind == h1.Credentials && ofConnection(r.Value(f)) {
			c.private = true // see learn
		}
	}
}

// upgradable tells whether the server is to get the Upgrade. A tunnel of HTTP/2
// through it would bring requests past all rules, so h2c must not stand anywhere
// in the list.
func upgradable(h *h1.Head) bool {
	found := false
	for i := range h.Fields {
		if f := &h.Fields[i]; f.Kind == h1.Upgrade {
			if found = true; h1.HasToken(h.Value(f), "h2c") {
				return false
			}
		}
	}
	return found
}

// errStale says that a connection that was kept turned out to be closed before
// anything of a response came.
var errStale = errors.New("the kept connection was closed")

// errDead says that a kept connection was found closed before anything was sent.
var errDead = errors.New("the kept connection is closed")

// forward gets a response and sends it.
func (c *conn) forward(x *exchange) {
	kept := true
	for {
		up := c.connect(x, kept)
		if up == nil {
			return
		}
		c.use(up)
		err := c.try(up, x)
		c.up.Store(nil)
		up.ep.Done()
		switch err {
		case errDead: // nothing was sent; the next one may be alive
		case errStale:
			kept = false
			x.Retries++
		default:
			return
		}
	}
}

// connect chooses an endpoint and gets a connection to it, a kept one if it may.
// It returns nil when it has failed, and answered.
func (c *conn) connect(x *exchange, kept bool) *upstream {
	for {
		ep, err := x.rules.up.Pick(c.from, x.target.group, x.cookie, x.tried)
		if err != nil {
			if len(x.tried) > 0 {
				c.fail(x, ConnectFailed, x.Err)
			} else {
				c.fail(x, unpicked(err), err)
			}
			return nil
		}
		x.Server, x.Endpoint = ep.Server(), ep.Addr()
		if kept {
			if up := c.kept(ep, x.rules.private, x.Start); up != nil {
				return up
			}
		}
		start := time.Now()
		nc, err := ep.Connect(c.ctx, c.from)
		if err == nil {
			x.Connect, x.Err = time.Since(start), nil
			return newUpstream(nc, ep)
		}
		ep.Done()
		x.Err = err
		x.Retries++
		x.tried = append(x.tried, ep)
		if c.aborted.Load() {
			c.fail(x, Aborted, err)
			return nil
		}
	}
}

// unpicked is the reason for an error of Pick.
func unpicked(err error) Reason {
	if errors.Is(err, ErrFull) {
		return ServersFull
	}
	return NoServer
}

// kept finds a connection that was used before: this client's own, or where any
// will do, one of the pool.
func (c *conn) kept(ep Endpoint, private bool, now time.Time) *upstream {
	if c.own[ep] {
		if up := c.p.pool.get(poolKey{ep, c}, now); up != nil {
			return up
		}
	}
	if private {
		return nil
	}
	return c.p.pool.get(poolKey{ep: ep}, now)
}

// keep has a connection wait for the next request.
func (c *conn) keep(up *upstream, private bool) {
	if !private && !c.private {
		c.p.pool.put(up, nil, time.Now())
		return
	}
	if c.own == nil {
		c.own = map[Endpoint]bool{}
	}
	c.own[up.ep] = true
	c.p.pool.put(up, c, time.Now())
}

// try makes the exchange over up, which it gives back or closes.
func (c *conn) try(up *upstream, x *exchange) error {
	err := c.send(up, x)
	if err == nil {
		err = c.respond(up, x)
	}
	if err == errDead {
		up.Close()
		c.watch.end(c)
		return err
	}
	if err != nil && up.used && c.repeatable(x) && staleError(err) {
		up.Close()
		c.watch.end(c)
		return errStale
	}
	reuse := c.settle(up, x, err)
	c.watch.end(c)
	c.up.Store(nil) // before it is another client's: abort would reset that one's request
	if reuse && !up.halved.Load() && !c.aborted.Load() {
		c.keep(up, x.rules.private)
	} else {
		up.Close()
	}
	return nil
}

// repeatable tells whether the request may be sent again, nothing of a response
// having come.
func (c *conn) repeatable(x *exchange) bool {
	return !x.answered && !x.got && x.req.Body == h1.None && x.req.Idempotent() && !c.aborted.Load()
}

func staleError(err error) bool {
	var e *legError
	return errors.As(err, &e) && e.ofServer && !errors.Is(err, os.ErrDeadlineExceeded)
}

// legError is a failure of one of the two legs.
type legError struct {
	error
	ofServer bool
}

func (e *legError) Unwrap() error { return e.error }

// send sends the head, and as much of the body as has come with it. What is
// missing of the body is then sent by an upload.
func (c *conn) send(up *upstream, x *exchange) error {
	x.out = c.appendRequest(x.out[:0], x, x.Server)
	whole, err := c.appendBody(up, x)
	if err != nil {
		return asLeg(err, false)
	}
	if !whole {
		return c.sendPart(up, x)
	}
	layered := up.tcp == nil
	if layered && up.used && !up.alive() {
		return errDead
	}
	c.watch.begin(x.Start)
	if t := x.rules.responseTimeout; t > 0 {
		up.SetReadDeadline(time.Now().Add(t))
	}
	if layered || !up.used {
		return asLeg(up.sendAll(x.out), true)
	}
	n, err := up.ask(x.out, x.sb[:cap(x.sb)])
	x.sb, x.got = x.sb[:n], n > 0
	if err == nil || err == errDead {
		return err
	}
	return asLeg(err, true)
}

// appendBody adds to x.out what has come of the body, and tells whether that is
// all of it. Else there is an upload, which has not begun.
func (c *conn) appendBody(up *upstream, x *exchange) (whole bool, err error) {
	x.upload = nil
	rest := x.in[len(x.req.Bytes):]
	n := 0
	whole = true
	switch x.req.Body {
	case h1.Length:
		n = int(min(int64(len(rest)), x.req.Length))
		if left := x.req.Length - int64(n); left > 0 {
			x.upload, whole = newUpload(c, up, x, left), false
		}
	case h1.Chunked:
		u := newUpload(c, up, x, 0)
		if _, n, err = pass(&u.chunks, rest, false); err != nil {
			return false, err
		}
		if !u.chunks.Done() {
			x.upload, whole = u, false
		}
	}
	x.out = append(x.out, rest[:n]...)
	x.head = len(x.req.Bytes) + n
	x.BytesUp = int64(n)
	return whole, nil
}

// sendPart sends what there is, and has the upload send the rest.
func (c *conn) sendPart(up *upstream, x *exchange) error {
	if up.used && !up.alive() {
		return errDead
	}
	if err := up.sendAll(x.out); err != nil {
		close(x.upload.done)
		return &legError{err, true}
	}
	c.setDeadline(time.Time{})
	go x.upload.run()
	return nil
}

// settle ends an exchange that came to err, and tells whether the connection to
// the server can be used again.
func (c *conn) settle(up *upstream, x *exchange, err error) (reuse bool) {
	u := x.upload
	if err == nil {
		if u != nil {
			u.end(c)
			x.BytesUp += u.bytes
		}
		if x.Reason == Tunnelled {
			return false
		}
		return x.resp.Persist && (u == nil || u.complete)
	}
	why := c.blame(err)
	up.Close()
	if u != nil {
		u.end(c)
		x.BytesUp += u.bytes
		if u.fault != Done {
			why, err = u.fault, u.err
		}
	}
	c.fail(x, why, err)
	return false
}

// blame tells what went wrong.
func (c *conn) blame(err error) Reason {
	var refused *h1.Error
	var leg *legError
	switch {
	case c.aborted.Load():
		return Aborted
	case errors.As(err, &leg) && !leg.ofServer:
		if errors.As(err, &refused) {
			return BadRequest
		}
		return ClientReset
	case errors.As(err, &refused):
		return BadResponse
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Timeout
	case errors.Is(err, io.EOF):
		return ServerClosed
	}
	return ServerReset
}

// statusOf are the answers to what goes wrong.
var statusOf = map[Reason]int{
	BadRequest: 400, NoRoute: 404, NoServer: 503, ServersFull: 503, ConnectFailed: 502, BadResponse: 502, ServerClosed: 502, ServerReset: 502, Timeout: 504,
}

// fail answers where that is still possible. Where a response has begun, it is
// broken off.
func (c *conn) fail(x *exchange, why Reason, err error) {
	x.Reason, x.Err = why, err
	status := statusOf[why]
	switch {
	case x.answered || status == 0:
		x.closing = true
		c.breakOff(x, why)
	default:
		if x.req.Body != h1.None || why == BadRequest {
			x.closing = true // what of the body is left cannot be told from a request
		}
		c.answer(status, reasonText(why, err))
	}
}

// breakOff ends a connection in the middle of a response. Only where the server
// has closed in an orderly way, and the client can tell from the framing that
// something is missing, is its connection closed in that way, too.
func (c *conn) breakOff(x *exchange, why Reason) {
	if why == ServerClosed && c.tcp != nil && (x.resp.Body == h1.Length || x.resp.Body == h1.Chunked && !x.req.Old) {
		return
	}
	c.reset()
}
