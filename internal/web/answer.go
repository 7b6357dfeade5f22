package web

import (
	"net/http"
	"strconv"
	"time"

	"midspan/internal/web/h1"
)

// refuse answers a head that is no request, and records it.
func (c *conn) refuse(status int, err error, why Reason) {
	x := c.x
	if x.Start.IsZero() { // it came whole
		x.Start = time.Now()
	}
	x.From, x.Protocol = c.from, "HTTP/1.1"
	x.Reason, x.Err, x.closing = why, err, true
	x.req.Method, x.req.Body, x.req.Old = nil, h1.None, false
	c.answer(status, reasonText(why, err))
	c.linger()
	c.done(x)
}

// reasonText is what a client is told: never an address of a server.
func reasonText(why Reason, err error) string {
	if why == BadRequest {
		return err.Error()
	}
	return string(why)
}

// answer sends a response of the proxy's own.
func (c *conn) answer(status int, why string) {
	x := c.x
	x.answered, x.Status = true, status
	text := http.StatusText(status)
	body := strconv.Itoa(status) + " " + text + ": " + why + "\n"
	out := append(x.out[:0], "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(status), 10)
	out = append(out, ' ')
	out = append(out, text...)
	out = append(out, "\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n"...)
	out = appendLength(out, int64(len(body)))
	switch {
	case x.closing:
		out = append(out, "Connection: close\r\n"...)
	case x.req.Old:
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	out = append(out, "\r\n"...)
	if string(x.req.Method) != http.MethodHead {
		out = append(out, body...)
		x.BytesDown = int64(len(body))
	}
	x.out = out
	if err := c.sendAll(out); err != nil {
		x.closing = true
	}
}

// lingerTime is how long a client that is still sending is listened to after its
// last response. If the connection were closed with its bytes unread, TCP would
// reset it, and the client might never see the response (RFC 9112, section 9.6).
const lingerTime = 3 * time.Second

// linger ends a connection on which not all was read.
func (c *conn) linger() {
	if c.aborted.Load() || c.closeWrite() != nil {
		return
	}
	c.setDeadline(time.Now().Add(lingerTime))
	buf := bulk.Get().(*[bulkSize]byte)
	defer bulk.Put(buf)
	for {
		if _, err := c.Read(buf[:]); err != nil {
			return
		}
	}
}

// done ends the exchange and records it.
func (c *conn) done(x *exchange) {
	if c.p.record == nil {
		return
	}
	x.Duration = time.Since(x.Start)
	c.p.record(&x.Exchange)
}
