package web

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"midspan/internal/web/h1"
)

// exchange forwards the request whose head is the first end bytes of c.x.in. It
// tells whether there may be another one on the connection.
func (c *conn) exchange(end int) (again bool) {
	x := c.x
	x.Start = time.Now()
	x.head, x.rules = end, c.p.rules.Load()
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
	unread := x.req.Body != h1.None && x.head == end
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
	if x.rules.Sticky != "" {
		x.cookie = x.rules.stuckTo(&r.Head)
	}
	// h2c by Upgrade (RFC 7540, section 3.2) is history; to ignore it is allowed.
	x.upgrade = r.Upgrade && r.Body == h1.None && !r.Old && upgradable(&r.Head)
	x.closing = !r.Persist
	if f := r.Find(h1.Credentials); f != nil && ofConnection(r.Value(f)) {
		c.private = true // see learn
	}
}

func upgradable(h *h1.Head) bool {
	f := h.Find(h1.Upgrade)
	return f != nil && !h1.Equal(h.Value(f), "h2c")
}

// errStale says that a connection that was kept turned out to be closed before
// anything of a response came.
var errStale = errors.New("the kept connection was closed")

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
		if err != errStale {
			return
		}
		kept = false
		x.Retries++
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
				c.fail(x, NoServer, err)
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

// kept finds a connection that was used before: this client's own, or where any
// will do, one of the pool.
func (c *conn) kept(ep Endpoint, private bool, now time.Time) *upstream {
	if up := c.own[ep]; up != nil {
		delete(c.own, ep)
		if up.alive() {
			return up
		}
		up.Close()
	}
	if private {
		return nil
	}
	return c.p.pool.get(ep, now)
}

// keep has a connection wait for the next request.
func (c *conn) keep(up *upstream, private bool) {
	if !private && !c.private {
		c.p.pool.put(up, time.Now())
		return
	}
	if c.own == nil {
		c.own = map[Endpoint]*upstream{}
	}
	up.used = true
	c.own[up.ep] = up
}

// try makes the exchange over up, which it gives back or closes.
func (c *conn) try(up *upstream, x *exchange) error {
	err := c.send(up, x)
	if err == nil {
		err = c.respond(up, x)
	}
	if err != nil && up.used && c.repeatable(x) && staleError(err) {
		up.Close()
		c.watch.end(c)
		return errStale
	}
	reuse := c.settle(up, x, err)
	c.watch.end(c)
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
	rest := x.in[x.head:]
	whole := true
	switch x.req.Body {
	case h1.Length:
		n := min(int64(len(rest)), x.req.Length)
		x.head += int(n)
		x.BytesUp = n
		x.out = append(x.out, rest[:n]...)
		if whole = n == x.req.Length; !whole {
			x.upload = newUpload(c, up, x, x.req.Length-n)
		}
	case h1.Chunked:
		u := newUpload(c, up, x, 0)
		_, n, err := pass(&u.chunks, rest, false)
		if err != nil {
			return &legError{err, false}
		}
		x.head += n
		x.BytesUp = int64(n)
		x.out = append(x.out, rest[:n]...)
		if whole = u.chunks.Done(); !whole {
			x.upload = u
		}
	}
	if whole {
		c.watch.begin(x.Start)
		if t := x.rules.responseTimeout; t > 0 {
			up.SetReadDeadline(time.Now().Add(t))
		}
	}
	_, err := up.Write(x.out)
	if err == nil && !whole {
		c.setDeadline(time.Time{})
		go x.upload.run()
	} else if !whole {
		close(x.upload.done)
	}
	return asLeg(err, true)
}

// respond reads the response and sends it to the client. A nil error means that
// it was sent whole.
func (c *conn) respond(up *upstream, x *exchange) error {
	for {
		end, err := c.responseHead(up, x)
		if err != nil {
			return err
		}
		if err := x.resp.Parse(x.sb[:end], string(x.req.Method) == http.MethodHead); err != nil {
			return err
		}
		switch s := x.resp.Status; {
		case s == http.StatusSwitchingProtocols && x.upgrade:
			x.Status, x.Wait = s, time.Since(x.Start)
			return c.tunnel(up, x, x.sb[end:])
		case s == http.StatusSwitchingProtocols:
			return errSwitched
		case s >= 200:
			x.Status, x.Wait = s, time.Since(x.Start)
			if x.rules.responseTimeout > 0 {
				c.clearDeadline(up, x)
			}
			return c.final(up, x, x.sb[end:])
		case !x.req.Old: // HTTP/1.0 knows nothing of interim responses
			x.out = c.appendResponse(x.out[:0], x, false)
			if _, err := c.Write(x.out); err != nil {
				return &legError{err, false}
			}
		}
		x.sb = x.sb[:copy(x.sb, x.sb[end:])]
	}
}

var errSwitched = &h1.Error{Status: 502, Text: "the server switched protocols, and nobody asked it to"}

// clearDeadline takes the response timeout away. An upload that is still running
// would set it when it ends.
func (c *conn) clearDeadline(up *upstream, x *exchange) {
	if u := x.upload; u != nil {
		u.answered()
	}
	up.SetReadDeadline(time.Time{})
}

// responseHead reads until there is a whole head at the beginning of x.sb.
func (c *conn) responseHead(up *upstream, x *exchange) (end int, err error) {
	for next := 0; ; {
		if end, next, err = h1.End(x.sb, next); err != nil {
			return 0, err
		}
		if end > x.rules.MaxHeader || end == 0 && len(x.sb) >= x.rules.MaxHeader {
			return 0, h1.ErrTooLarge
		}
		if end > 0 {
			return end, nil
		}
		if len(x.sb) == cap(x.sb) {
			x.sb = append(make([]byte, 0, 2*cap(x.sb)), x.sb...)
		}
		n, err := up.Read(x.sb[len(x.sb):cap(x.sb)])
		if n == 0 {
			return 0, &legError{orEOF(err), true}
		}
		x.sb, x.got = x.sb[:len(x.sb)+n], true
	}
}

// final sends a final response: its head, with what has come of the body, then
// the rest.
func (c *conn) final(up *upstream, x *exchange, body []byte) error {
	r := &x.resp
	c.learn(up, r)
	if r.Body == h1.UntilClose || r.Body == h1.Chunked && x.req.Old || c.p.draining.Load() || x.upload != nil && !x.upload.read.Load() {
		x.closing = true
	}
	x.out = c.appendResponse(x.out[:0], x, x.closing)
	switch r.Body {
	case h1.Length:
		return c.sendLength(up, x, body)
	case h1.Chunked:
		return c.sendChunks(up, x, body)
	case h1.UntilClose:
		x.out = append(x.out, body...)
		x.BytesDown = int64(len(body))
		if err := c.begin(x); err != nil {
			return err
		}
		return pump(&c.leg, &up.leg, &x.BytesDown)
	}
	if len(body) > 0 {
		r.Persist = false // nobody asked for that
	}
	return c.begin(x)
}

// begin sends the head of the final response, and what of the body is with it.
// From here on there is no other answer to this request.
func (c *conn) begin(x *exchange) error {
	x.answered = true
	_, err := c.Write(x.out)
	return asLeg(err, false)
}

func asLeg(err error, ofServer bool) error {
	if err == nil {
		return nil
	}
	return &legError{err, ofServer}
}

func (c *conn) sendLength(up *upstream, x *exchange, body []byte) error {
	r := &x.resp
	if int64(len(body)) > r.Length {
		body, r.Persist = body[:r.Length], false
	}
	x.out = append(x.out, body...)
	if err := c.begin(x); err != nil {
		return err
	}
	x.BytesDown = int64(len(body))
	left := r.Length - x.BytesDown
	if left == 0 {
		return nil
	}
	n, ofServer, err := copyN(&c.leg, &up.leg, left)
	x.BytesDown += n
	return asLeg(err, ofServer)
}

// sendChunks passes a chunked body on; to a client of HTTP/1.0, which does not
// know of chunks, only what is in them.
func (c *conn) sendChunks(up *upstream, x *exchange, body []byte) error {
	var chunks h1.Chunks
	send, n, err := pass(&chunks, body, x.req.Old)
	if err != nil {
		return err
	}
	x.out = append(x.out, send...)
	if err := c.begin(x); err != nil {
		return err
	}
	x.BytesDown = int64(len(send))
	buf := x.sb[:cap(x.sb)]
	if !chunks.Done() && cap(x.sb) < bulkSize && len(x.sb) == cap(x.sb) {
		big := bulk.Get().(*[bulkSize]byte)
		defer bulk.Put(big)
		buf = big[:]
	}
	for !chunks.Done() {
		m, err := up.Read(buf)
		if m == 0 {
			return &legError{orEOF(err), true}
		}
		if send, n, err = pass(&chunks, buf[:m], x.req.Old); err != nil {
			return err
		}
		if _, err := c.Write(send); err != nil {
			return &legError{err, false}
		}
		x.BytesDown += int64(len(send))
		body = buf[:m]
	}
	if n < len(body) {
		x.resp.Persist = false
	}
	return nil
}

// pass follows a chunked body through b, and returns what of it is to be sent
// on: the first n bytes, or where they are decoded, the content in them.
func pass(chunks *h1.Chunks, b []byte, decode bool) (send []byte, n int, err error) {
	content := 0
	for n < len(b) && !chunks.Done() {
		m, data, err := chunks.Next(b[n:])
		if err != nil {
			return nil, n, err
		}
		if decode && data {
			content += copy(b[content:], b[n:n+m])
		}
		n += m
	}
	if decode {
		return b[:content], n, nil
	}
	return b[:n], n, nil
}

// learn takes what a response tells about its connection.
func (c *conn) learn(up *upstream, r *h1.Response) {
	for i := range r.Fields {
		switch f := &r.Fields[i]; f.Kind {
		case h1.KeepAlive:
			up.idle = min(idleServer, keepAliveOf(r.Value(f)))
		case h1.Challenge:
			// NTLM and Negotiate authenticate the connection and not the
			// request: nobody else may ever use it (RFC 4559, section 6).
			c.private = c.private || ofConnection(r.Value(f))
		}
	}
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
	why, ofServer := c.blame(x, err)
	up.Close()
	if u != nil {
		u.end(c)
		x.BytesUp += u.bytes
		if u.fault != Done {
			why, err, ofServer = u.fault, u.err, u.fault == BadRequest
		}
	}
	c.fail(x, why, err)
	if !ofServer {
		x.closing = true
	}
	return false
}

// blame tells what went wrong, and whether it concerns the server or the
// request alone, so that the client can be answered.
func (c *conn) blame(x *exchange, err error) (why Reason, ofServer bool) {
	var refused *h1.Error
	var leg *legError
	switch {
	case c.aborted.Load():
		return Aborted, false
	case errors.As(err, &leg) && !leg.ofServer:
		if errors.As(err, &refused) {
			return BadRequest, true
		}
		return ClientReset, false
	case errors.As(err, &refused):
		return BadResponse, true
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Timeout, true
	case errors.Is(err, io.EOF):
		return ServerClosed, true
	}
	return ServerReset, true
}

// statusOf are the answers to what goes wrong.
var statusOf = map[Reason]int{
	BadRequest: 400, NoRoute: 404, NoServer: 503, ConnectFailed: 502, BadResponse: 502, ServerClosed: 502, ServerReset: 502, Timeout: 504,
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
