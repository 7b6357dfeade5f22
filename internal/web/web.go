// Package web is the reverse proxy of `mode: http`: it takes a client's
// connection, and forwards each request on it to a server of the route's.
//
// HTTP/1.1 is its own code (package h1 reads the heads): a goroutine for each
// connection of a client, blocking reads, no allocation for a request, buffers
// that are held only while a request is under way, connections to servers that
// are kept and shared, and large bodies that stay in the kernel. HTTP/2, on
// either side, goes through net/http and httputil.ReverseProxy, by the same
// rules and with the same records.
//
// What is answered is what the server answered: a response that breaks off is
// broken off for the client too, and nothing is sent twice but what may be.
//
// Limits: bodies are never stored, so nothing is sent again once its body is
// under way. No compression, no cache, no CONNECT. Requests on one connection
// of HTTP/1.1 are served one after the other. A response that is delimited by the
// end of a TLS connection is taken for whole without close_notify, too, if the end
// is one of TCP: crypto/tls does not tell the difference.
package web

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"midspan/internal/plan"
)

// Upstream chooses servers. Its methods are called from any goroutine.
type Upstream interface {
	// Pick chooses an endpoint of a set of servers: group is an index into
	// the Groups of the plan.Route that came with this Upstream, or -1 for its
	// Default. prefer is the server that the client is to stay on, if it is up;
	// or "". tried are endpoints that could not be connected to just now.
	//
	// An endpoint that is returned counts as used until its Done. Where there are
	// servers, but none that takes one more request, the error is ErrFull.
	Pick(from *Client, group int, prefer string, tried []Endpoint) (Endpoint, error)
}

// ErrFull is what Pick says where all servers have as much as they may have.
var ErrFull = errors.New("the servers have their max_connections")

// Endpoint is an address of a server. It is a comparable value: connections to
// endpoints that are equal are shared.
type Endpoint interface {
	Server() string
	Addr() netip.AddrPort
	// Connect opens a connection for that client, ready for HTTP: with a PROXY
	// header and TLS where the route asks for it. See Plain for what it may
	// return. It gives up when ctx is done.
	Connect(ctx context.Context, from *Client) (net.Conn, error)
	// Done ends the use that a Pick has begun.
	Done()
}

// Plain is implemented by connections that are not a *net.TCPConn, but are one
// beneath: then large bodies need not pass through user space. A layer such as TLS
// may tell what is beneath it by a method NetConn, as *tls.Conn has it: then a
// client that goes away is noticed, and a reset is one. A connection with a method
// Reset() error is reset by that.
type Plain interface {
	// TCP is the connection beneath where the bytes on it are those that Read
	// and Write see, and none is held back; else nil.
	TCP() *net.TCPConn
	// Moved tells of bytes that were read and written without Read and Write.
	Moved(read, written int64)
}

// Client is who is at the other end of a connection that is served. It does not
// change.
type Client struct {
	Addr netip.AddrPort // as the PROXY header has it, where there is one
	TLS  bool           // the client speaks TLS
	ALPN string         // what was agreed on in TLS: "h2", "http/1.1" or ""
	Held []byte         // what was read of the connection already: its first bytes
	Data any            // the caller's own
}

// Reason is why an exchange ended as it did.
type Reason string

// The reasons.
const (
	Done          Reason = ""                                  // the whole response was sent
	BadRequest    Reason = "bad request"                       // refused; Err says why
	HeadTimeout   Reason = "header timeout"                    // the request's head was not complete in time
	NoRoute       Reason = "no servers for this host and path" // nor has the route any
	NoServer      Reason = "no server up"                      // Pick had none
	ServersFull   Reason = "servers full"                      // Pick had none that takes more: ErrFull
	ConnectFailed Reason = "connect failed"                    // to all that could be tried
	BadResponse   Reason = "bad response"                      // what the server sent is not HTTP, or not safe to pass on
	ServerClosed  Reason = "closed by server"                  // before the response was complete
	ServerReset   Reason = "reset by server"                   // likewise
	Timeout       Reason = "response timeout"                  // no head in time
	ClientClosed  Reason = "closed by client"                  // before its request was complete
	ClientReset   Reason = "reset by client"                   // or it could not be written to
	Aborted       Reason = "killed or stopped"                 // by the caller
	Tunnelled     Reason = "upgraded and ended"                // a tunnel that both sides have closed
)

// Exchange is a request and what became of it. It and all that it points to
// belong to the proxy: a Record that keeps any of it keeps a copy.
type Exchange struct {
	From     *Client
	Method   []byte
	Host     []byte // without anything removed; may be empty
	Path     []byte // with the query, as the client sent it
	Protocol string // HTTP/1.0, HTTP/1.1 or HTTP/2.0
	Status   int    // 0: nothing was answered

	Server   string         // "": none was chosen
	Endpoint netip.AddrPort // of it

	Start    time.Time     // when the head was there; of one that never was, when its first part was
	Connect  time.Duration // how long connecting took; 0: the connection was there
	Wait     time.Duration // from Start to the head of the response; 0: none came
	Duration time.Duration // from Start to the end
	Retries  int           // how many times it was tried again

	BytesUp, BytesDown int64 // of bodies, with their framing; after an upgrade all bytes

	Reason Reason
	Err    error // what went wrong, if anything
}

// Options of a Proxy.
type Options struct {
	// Record, if not nil, is called once for each request when it has ended,
	// from the data path: it must not block.
	Record func(*Exchange)
	// Halved, if not nil, is called when a side of an upgraded connection has ended
	// its flow. It must not block, either.
	Halved func(from *Client, byServer bool)
}

// Proxy forwards the requests of one route. Its methods may be called from any
// goroutine.
type Proxy struct {
	record   func(*Exchange)
	halved   func(*Client, bool)
	rules    atomic.Pointer[rules]
	draining atomic.Bool
	pool     pool
	h2       h2Side

	mu     sync.Mutex // guards what follows
	conns  map[*conn]struct{}
	closed bool
	serve  sync.WaitGroup
	stop   chan struct{} // ends the janitor
	ended  sync.WaitGroup
}

// New makes a Proxy for a route of mode http. Close ends it.
func New(r *plan.Route, u Upstream, o Options) *Proxy {
	p := &Proxy{record: o.Record, halved: o.Halved, conns: map[*conn]struct{}{}, stop: make(chan struct{})}
	p.pool.init()
	p.h2.init(p)
	p.Update(r, u)
	p.ended.Go(p.janitor)
	return p
}

// Update makes r the route of all requests to come.
func (p *Proxy) Update(r *plan.Route, u Upstream) { p.rules.Store(newRules(r, u)) }

// Serve forwards the requests that come on c until the connection is over, and
// closes it. It returns how many there were, and why there are no more. When ctx
// is done, both legs are closed at once.
func (p *Proxy) Serve(ctx context.Context, nc net.Conn, from *Client) (requests int, why Reason) {
	c := newConn(ctx, p, nc, from)
	if !p.enter(c) {
		c.reset()
		return 0, Aborted
	}
	defer p.leave(c)
	stop := context.AfterFunc(ctx, c.abort)
	defer stop()
	return c.serve()
}

func (p *Proxy) enter(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[c] = struct{}{}
	p.serve.Add(1)
	return true
}

func (p *Proxy) leave(c *conn) {
	c.finish()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	p.serve.Done()
}

// Drain lets requests that are under way end, and takes no more on connections
// that have had one: those that wait for the next one are closed.
func (p *Proxy) Drain() {
	p.draining.Store(true)
	for _, c := range p.all() {
		c.drain()
	}
}

// Close ends all connections at once, and waits until no Serve is running.
func (p *Proxy) Close() {
	p.mu.Lock()
	was := p.closed
	p.closed = true
	p.mu.Unlock()
	if was {
		return
	}
	for _, c := range p.all() {
		c.abort()
	}
	p.serve.Wait()
	p.h2.close()
	close(p.stop)
	p.ended.Wait()
	p.pool.close()
}

func (p *Proxy) all() []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*conn, 0, len(p.conns))
	for c := range p.conns {
		all = append(all, c)
	}
	return all
}

// janitor closes connections to servers that have been idle for long, and has
// clients watched whose requests take long.
func (p *Proxy) janitor() {
	tick := time.NewTicker(watchAfter)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case now := <-tick.C:
			p.pool.expire(now)
			p.h2.expire(now)
			for _, c := range p.all() {
				c.watchIfSlow(now)
			}
		}
	}
}
