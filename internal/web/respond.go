package web

import (
	"net/http"
	"time"

	"midspan/internal/web/h1"
)

// respond reads the response and sends it to the client. A nil error means that
// it was sent whole.
func (c *conn) respond(up *upstream, x *exchange) error {
	waits := x.req.Continue // the server may believe that the body is not sent
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
			if waits {
				// It may take what was sent of the body for the next request,
				// or not: the answer to that is not for the next client.
				x.resp.Persist = false
			}
			return c.final(up, x, x.sb[end:])
		case !x.req.Old: // HTTP/1.0 knows nothing of interim responses
			x.out = c.appendResponse(x.out[:0], x, false)
			if err := c.sendAll(x.out); err != nil {
				return &legError{err, false}
			}
		}
		waits = waits && x.resp.Status != http.StatusContinue
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
	return asLeg(c.sendAll(x.out), false)
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
		if err := c.sendAll(send); err != nil {
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
