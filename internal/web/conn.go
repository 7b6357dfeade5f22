package web

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/web/h1"
)

// conn is a client's connection. It is what an idle one costs, with the stack of
// its goroutine: all that a request needs is in an exchange.
type conn struct {
	p *Proxy
	leg
	from *Client
	ctx  context.Context
	x    *exchange // nil between requests

	addr      []byte // the client's address, for X-Forwarded-For
	protoLine string

	own     map[Endpoint]bool // where the pool may have connections of this client only
	private bool              // servers know this client by its connection

	readable func(fd uintptr) bool // tryRead, made once
	readErr  error                 // of tryRead
	one      [1]byte               // to wait with, where there is no socket
	deadline time.Time             // of reads, as far as it has been set; zero: unknown
	requests int

	state   atomic.Int32 // fresh, waiting, busy
	turn    sync.Mutex   // held by drain, and while waiting turns into busy
	aborted atomic.Bool
	up      atomic.Pointer[upstream] // in use

	watch watch
	http  atomic.Pointer[netServer] // where net/http serves the connection
}

// The states of a conn. Drain ends one that is waiting: of the next request nothing
// has come. A fresh one has had no request yet, and gets an answer to its first one.
const (
	fresh = iota
	waiting
	busy
)

func newConn(ctx context.Context, p *Proxy, nc net.Conn, from *Client) *conn {
	c := &conn{p: p, leg: newLeg(nc), from: from, ctx: ctx, protoLine: "X-Forwarded-Proto: http\r\n"}
	if from.TLS {
		c.protoLine = "X-Forwarded-Proto: https\r\n"
	}
	c.addr = []byte(from.Addr.Addr().Unmap().WithZone("").String())
	c.ready()
	c.readable = c.tryRead
	if len(from.Held) > 0 {
		c.acquire()
		c.x.in = append(c.x.in, from.Held...)
	}
	return c
}

// exchange is what a request takes up, from its first byte to the end of the
// response.
type exchange struct {
	Exchange

	in   []byte // the request's head, and what was read behind it
	head int    // length of the head in in
	out  []byte // a head that is written
	sb   []byte // read from the server: the response's head, and what follows
	resp h1.Response
	req  h1.Request

	rules    *rules
	target   target
	cookie   string // the server that the client was on
	tried    []Endpoint
	upgrade  bool
	got      bool // something of a response has come
	answered bool // a final response has begun to be sent
	closing  bool // there will be no further request on this connection
	upload   *upload
}

// The sizes that buffers begin with. A head may make them grow up to the route's
// max_header; grown ones are not kept.
const (
	inSize  = 4 << 10
	outSize = 8 << 10
	sbSize  = 16 << 10
	maxKept = 64 << 10
)

var exchanges = sync.Pool{New: func() any {
	return &exchange{in: make([]byte, 0, inSize), out: make([]byte, 0, outSize), sb: make([]byte, 0, sbSize)}
}}

func (c *conn) acquire() {
	if c.x == nil {
		c.x = exchanges.Get().(*exchange)
	}
}

// release gives the exchange back, and with it all buffers.
func (c *conn) release() {
	x := c.x
	if c.x = nil; x != nil && cap(x.in)+cap(x.out)+cap(x.sb) <= maxKept && cap(x.in) >= inSize {
		x.clear()
		x.in = x.in[:0]
		exchanges.Put(x)
	}
}

// clear makes x ready for another request, but for what was read of it.
func (x *exchange) clear() {
	x.Exchange = Exchange{}
	x.rules, x.cookie, x.upload = nil, "", nil
	x.out, x.sb = x.out[:0], x.sb[:0]
	clear(x.tried)
	x.tried = x.tried[:0]
}

// serve is the life of the connection.
func (c *conn) serve() (int, Reason) {
	if c.from.ALPN == "h2" {
		return c.serveH2()
	}
	if c.p.rules.Load().H2 {
		return c.serveH2() // net/http serves HTTP/1.1 on this side, too
	}
	for {
		end, err := c.readHead()
		if end == 0 {
			return c.requests, c.noRequest(err)
		}
		r := c.p.rules.Load()
		if r.H2 || c.requests == 0 && string(c.x.in[:end]) == preface {
			n, why := c.serveH2() // the route may have changed since the last request
			return c.requests + n, why
		}
		c.requests++
		c.begun()
		again := c.exchange(end, r)
		why := c.x.Reason
		if !again {
			return c.requests, why
		}
		c.next()
	}
}

// next makes room for the next request: what was read of it already stays.
func (c *conn) next() {
	x := c.x
	x.in = x.in[:copy(x.in, x.in[x.head:])]
	if u := x.upload; u != nil {
		x.in = append(x.in, u.more...)
	}
	if len(x.in) == 0 {
		c.release()
	} else {
		x.clear()
	}
}

// readHead reads until there is a whole head, and returns its length; or 0, and
// the error: of the connection, or an h1.Error.
func (c *conn) readHead() (end int, err error) {
	if c.x == nil {
		if err := c.await(); err != nil {
			return 0, err
		}
	}
	r := c.p.rules.Load()
	timed := false
	for next := 0; ; {
		if end, next, err = h1.End(c.x.in, next); err != nil {
			return 0, err
		}
		if end > r.MaxHeader || end == 0 && len(c.x.in) >= r.MaxHeader {
			return 0, h1.ErrTooLarge
		}
		if end > 0 {
			return end, nil
		}
		if !timed {
			timed = true
			if c.requests > 0 {
				c.begun()
			}
			c.x.Start = time.Now() // for as long as there is no more than a part
			c.setDeadline(c.x.Start.Add(r.headerTimeout))
		}
		if err := c.readMore(); err != nil {
			return 0, err
		}
	}
}

// await waits for the first byte of a request, without holding a buffer. The
// deadline is not set anew for every request, for that costs more than reading
// one: it may be late by the slack, a second at most.
func (c *conn) await() error {
	r := c.p.rules.Load()
	limit, slack := r.keepalive, r.slack
	if c.state.Load() == fresh {
		limit, slack = r.headerTimeout, 0
	}
	now := time.Now()
	if left := c.deadline.Sub(now); left < limit || left > limit+slack {
		c.setDeadline(now.Add(limit + slack))
	}
	if c.state.Load() != fresh {
		c.state.Store(waiting)
		if c.p.draining.Load() {
			return errDraining
		}
	}
	err := c.first()
	// A request may have come at the same time as a drain. If so, it is served.
	for look := true; look && errors.Is(err, os.ErrDeadlineExceeded) && c.p.draining.Load(); look = c.unread() {
		c.SetReadDeadline(time.Now().Add(quietTime))
		err = c.first()
	}
	return err
}

// begun says that a request has begun: drain leaves the connection alone from here
// on.
func (c *conn) begun() {
	c.turn.Lock()
	c.state.Store(busy)
	c.turn.Unlock()
}

// first reads what comes first of a request.
func (c *conn) first() error {
	if c.tcp == nil {
		n, err := c.Read(c.one[:])
		if n > 0 {
			c.acquire()
			c.x.in = append(c.x.in, c.one[0])
			return nil
		}
		return orEOF(err)
	}
	if err := c.raw.Read(c.readable); err != nil {
		return err
	}
	if c.readErr == nil {
		c.moved(int64(len(c.x.in)), 0)
	}
	return c.readErr
}

// errDraining ends a connection between two requests.
var errDraining = errors.New("draining")

// tryRead reads if there is anything, into a buffer that is given back if there
// is not.
func (c *conn) tryRead(fd uintptr) bool {
	c.acquire()
	n, errno := readNow(fd, c.x.in[:cap(c.x.in)])
	if errno == unix.EAGAIN {
		c.release()
		return false
	}
	if c.readErr = readError(n, errno); c.readErr == nil {
		c.x.in = c.x.in[:n]
	}
	return true
}

func orEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// readMore reads behind what is there.
func (c *conn) readMore() error {
	x := c.x
	if len(x.in) == cap(x.in) {
		x.in = append(make([]byte, 0, 2*cap(x.in)), x.in...)
	}
	n, err := c.Read(x.in[len(x.in):cap(x.in)])
	x.in = x.in[:len(x.in)+n]
	if n > 0 {
		return nil
	}
	return orEOF(err)
}

// past is a deadline that wakes whoever reads.
var past = time.Unix(1, 0)

func (c *conn) setDeadline(t time.Time) {
	c.deadline = t
	c.SetReadDeadline(t)
}

// drain ends the connection if it waits between two requests.
func (c *conn) drain() {
	c.turn.Lock()
	defer c.turn.Unlock()
	if s := c.http.Load(); s != nil {
		s.drain()
	} else if c.state.Load() == waiting {
		c.SetReadDeadline(past)
	}
}

// abort ends the connection, and the exchange that is under way, at once.
func (c *conn) abort() {
	c.aborted.Store(true)
	if up := c.up.Load(); up != nil {
		up.reset()
	}
	c.reset()
}

// use makes up the connection that abort ends.
func (c *conn) use(up *upstream) {
	c.up.Store(up)
	if c.aborted.Load() {
		up.reset()
	}
}

// finish gives back what the connection has.
func (c *conn) finish() {
	for ep := range c.own {
		c.p.pool.forget(poolKey{ep, c})
	}
	c.release()
	c.Close()
}

// noRequest ends a connection on which no (further) head came, and tells why.
func (c *conn) noRequest(err error) Reason {
	begun := c.x != nil && len(c.x.in) > 0 && string(c.x.in) != "\r\n"
	var refused *h1.Error
	switch {
	case c.aborted.Load():
		return Aborted
	case errors.As(err, &refused):
		c.requests++
		c.refuse(refused.Status, refused, BadRequest)
		return BadRequest
	case errors.Is(err, os.ErrDeadlineExceeded) && begun:
		c.requests++
		c.refuse(408, errors.New("the head was not complete in time"), HeadTimeout)
		return HeadTimeout
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, errDraining):
		return Done
	case errors.Is(err, io.EOF):
		return ClientClosed
	}
	return ClientReset
}
