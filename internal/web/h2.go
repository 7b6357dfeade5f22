package web

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"time"
)

// preface is what a client that speaks HTTP/2 from the start sends first, as far
// as it looks like a head (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\n"

// maxStreams is how many requests there may be on a client's connection at once.
const maxStreams = 250

// serveH2 has net/http serve the connection: one of HTTP/2, or one whose requests
// go to servers over HTTP/2.
func (c *conn) serveH2() (int, Reason) {
	h := &handed{Conn: c.leg.Conn, strict: strict{c: c, max: 2*c.p.rules.Load().MaxHeader + netHeader}, gone: make(chan struct{})}
	if c.x != nil {
		h.held = append(h.held, c.x.in...)
		c.release()
	}
	c.setDeadline(time.Time{})
	s := c.newServer()
	if c.http.Store(s); c.p.draining.Load() {
		c.drain()
	}
	l := &oneConn{conn: h, closed: make(chan struct{})}
	s.server.Serve(l) // returns when h is closed, or Shutdown has begun
	if !l.given {
		h.Close() // a Shutdown was faster
	}
	<-h.gone
	l.Close()
	s.stop()
	s.wait()
	c.p.h2.forget(c)
	n := int(s.requests.Load())
	if h.strict.refused.Load() {
		return n + 1, BadRequest
	}
	return n, c.endOf(h, s)
}

// endOf is why a connection that net/http served is over. A client of HTTP/2 that is
// told to go closes first: of those that rest too long, and of a drain.
func (c *conn) endOf(h *handed, s *netServer) Reason {
	why := h.why.Load()
	switch {
	case c.aborted.Load():
		return Aborted
	case why == nil, c.p.draining.Load(), time.Since(time.Unix(0, s.rests.Load())) >= s.server.IdleTimeout:
		return Done
	}
	return *why
}

// netServer is net/http's server of one connection.
type netServer struct {
	c        *conn
	server   http.Server
	proxy    httputil.ReverseProxy
	requests atomic.Int64
	rests    atomic.Int64 // when the last request ended, or the connection began: Unix nanoseconds
	ctx      context.Context
	stop     context.CancelFunc // ends a Shutdown that waits

	mu      sync.Mutex
	over    bool           // the connection is: a request that is still about to begin must not
	running sync.WaitGroup // requests that are being served
}

// enter begins a request, unless the connection is over.
func (s *netServer) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.running.Add(1)
	}
	return !s.over
}

// wait waits for the last request of a connection that is over.
func (s *netServer) wait() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.running.Wait()
}

func (c *conn) newServer() *netServer {
	s := &netServer{c: c}
	s.rests.Store(time.Now().UnixNano())
	s.ctx, s.stop = context.WithCancel(context.Background())
	r := c.p.rules.Load()
	quiet := log.New(io.Discard, "", 0)
	s.server = http.Server{
		Handler:                      s,
		Protocols:                    new(http.Protocols),
		ReadHeaderTimeout:            r.headerTimeout,
		IdleTimeout:                  r.keepalive,
		MaxHeaderBytes:               2 * r.MaxHeader, // see tooLarge
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     quiet,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
	}
	// Whatever was agreed on in TLS: to net/http it is a connection without,
	// which begins with the preface or does not.
	s.server.Protocols.SetHTTP1(true)
	s.server.Protocols.SetUnencryptedHTTP2(true)
	s.proxy = httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      tripper{},
		FlushInterval:  -1,
		BufferPool:     pages{},
		ErrorLog:       quiet,
		ModifyResponse: modifyResponse,
		ErrorHandler:   failStream,
	}
	return s
}

// drain lets the requests that are under way end, and the connection with them.
func (s *netServer) drain() {
	go s.server.Shutdown(s.ctx)
}

// handed is a client's connection in net/http's hands. It hides what is above
// and beneath it, and begins with what was read of it before.
type handed struct {
	net.Conn
	held    []byte
	strict  strict
	refused bool                   // there is nothing to read but what is held
	why     atomic.Pointer[Reason] // how the client has ended the connection; nil: it has not
	once    sync.Once
	gone    chan struct{} // closed with it
}

func (h *handed) Read(b []byte) (n int, err error) {
	switch {
	case len(h.held) > 0:
		n = copy(b, h.held)
		h.held = h.held[n:]
	case h.refused:
		return 0, io.EOF
	default:
		n, err = h.Conn.Read(b)
		h.saw(err)
	}
	if h.refused || n == 0 {
		return n, err
	}
	if n, h.refused = h.strict.pass(b[:n]); !h.refused {
		return n, err
	}
	h.held = []byte(noRequest)
	if n == 0 {
		return h.Read(b)
	}
	return n, nil
}

// saw notes an end that is the client's: there is none after it, and none of a
// connection that was closed here, or was waited for too long.
func (h *handed) saw(err error) {
	why := ClientReset
	switch {
	case err == nil, isTimeout(err), errors.Is(err, net.ErrClosed):
		return
	case errors.Is(err, io.EOF):
		why = ClientClosed
	}
	h.why.CompareAndSwap(nil, &why)
}

func (h *handed) Close() error {
	err := h.Conn.Close()
	h.once.Do(func() { close(h.gone) })
	return err
}

// oneConn is a listener that has one connection.
type oneConn struct {
	conn   *handed
	given  bool
	once   sync.Once
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if !l.given {
		l.given = true
		return l.conn, nil
	}
	select {
	case <-l.closed:
	case <-l.conn.gone:
	}
	return nil, net.ErrClosed
}

func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// pages lends the buffers for bodies to ReverseProxy.
type pages struct{}

func (pages) Get() []byte  { return bulk.Get().(*[bulkSize]byte)[:] }
func (pages) Put(b []byte) { bulk.Put((*[bulkSize]byte)(b)) }

// h2Side are the connections to servers of requests that net/http serves.
type h2Side struct {
	mu   sync.Mutex
	used map[tripKey]*trip
}

// tripKey is what connections may be shared by.
type tripKey struct {
	ep      Endpoint
	h2      bool
	maxHead int
	owner   *conn // nil: anybody's
}

// trip is a transport and its connections.
type trip struct {
	*http.Transport
	last time.Time // used

	mu    sync.Mutex
	conns map[*tripConn]struct{}
}

// tripConn is a connection that its trip knows of. It hides what is beneath it:
// net/http would else want to know what was agreed on in TLS.
type tripConn struct {
	net.Conn
	of *trip
}

func (c *tripConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

func (t *trip) add(nc net.Conn) net.Conn {
	c := &tripConn{nc, t}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns[c] = struct{}{}
	return c
}

// idle tells whether there is no connection.
func (t *trip) idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.conns) == 0
}

// end closes all connections, whatever is under way on them.
func (t *trip) end() {
	t.mu.Lock()
	all := t.conns
	t.conns = map[*tripConn]struct{}{}
	t.mu.Unlock()
	for c := range all {
		c.Close()
	}
	t.CloseIdleConnections()
}

func (s *h2Side) init(*Proxy) { s.used = map[tripKey]*trip{} }

// transport is the one for k; it is made when it is needed first.
func (s *h2Side) transport(k tripKey, now time.Time) *trip {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.used[k]
	if t == nil {
		t = newTrip(k)
		s.used[k] = t
	}
	t.last = now
	return t
}

// How it is noticed that a connection of HTTP/2 to a server is dead: by a ping
// after this time without a frame, and its answer missing.
const (
	pingAfter = 20 * time.Second
	pingWait  = 10 * time.Second
)

func newTrip(k tripKey) *trip {
	t := &trip{conns: map[*tripConn]struct{}{}}
	t.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := ctx.Value(dialKey{}).(*dial)
			start := time.Now()
			c, err := k.ep.Connect(ctx, d.from)
			if err != nil {
				return nil, &dialError{err}
			}
			d.took.Store(int64(time.Since(start)))
			return t.add(c), nil
		},
		DisableCompression:     true,
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        idleServer,
		MaxResponseHeaderBytes: int64(k.maxHead),
		Protocols:              new(http.Protocols),
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingWait},
	}
	// Over TLS the endpoint has agreed on h2 by itself; here it is just a
	// connection on which HTTP/2 is spoken.
	t.Protocols.SetHTTP1(!k.h2)
	t.Protocols.SetUnencryptedHTTP2(k.h2)
	return t
}

// dial goes with a request's context, to the function that connects for it.
type dial struct {
	from *Client
	took atomic.Int64 // nanoseconds; 0: there was a connection
}

type dialKey struct{}

// dialError says that nothing was sent.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

// forget closes the connections that were c's own.
func (s *h2Side) forget(c *conn) {
	s.closeIf(func(k tripKey, _ *trip) bool { return k.owner == c })
}

// unusedAfter is when a transport without connections is given up.
const unusedAfter = 5 * time.Minute

func (s *h2Side) expire(now time.Time) {
	s.closeIf(func(_ tripKey, t *trip) bool { return now.Sub(t.last) > unusedAfter && t.idle() })
}

func (s *h2Side) close() { s.closeIf(func(tripKey, *trip) bool { return true }) }

func (s *h2Side) closeIf(over func(tripKey, *trip) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, t := range s.used {
		if over(k, t) {
			t.end()
			delete(s.used, k)
		}
	}
}
