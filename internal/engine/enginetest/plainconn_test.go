package enginetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

const (
	plainHedge = 250 * time.Millisecond // before the next endpoint is tried beside a silent one
	plainLook  = 20 * time.Millisecond  // between looks at a client that waits
	tcpClose   = 7                      // TCP_CLOSE of linux/tcp.h
)

// conn is one connection, from accept to its end record.
type conn struct {
	e      *plain
	route  *route
	cfg    *plan.Route // of the plan that it was accepted under
	client *net.TCPConn

	info     engine.Conn // but for what is below; under e.mu
	up, down atomic.Uint64
	moved    atomic.Int64 // when a byte or an end last did, in Unix nanoseconds
	tooMany  bool         // above the route's limit, where nobody waits
	halves   atomic.Int32 // directions that have ended

	give   context.CancelFunc // ends the connecting
	mu     sync.Mutex         // guards what follows
	server *net.TCPConn
	reason engine.Reason
}

// serve is the life of a connection.
func (e *plain) serve(l *listener, client *net.TCPConn) {
	c := e.admit(l, client)
	if c == nil {
		client.SetLinger(0)
		client.Close()
		return
	}
	record := engine.Record{}
	ctx, give := context.WithTimeout(e.ctx, c.cfg.ConnectTimeout.D())
	c.mu.Lock()
	c.give = give
	c.mu.Unlock()
	stop := c.watch(ctx)
	t, server, reason := c.connect(ctx, &record)
	if server != nil {
		record.Connect = time.Since(c.info.Start)
	}
	stop()
	give()
	if e.ctx.Err() != nil { // which is what ended the connecting
		reason = engine.Stopped
	}
	if server == nil {
		c.cut(reason)
	} else if c.open(server) {
		e.began(c, t, record)
		timer := c.startClock()
		var pumps sync.WaitGroup
		pumps.Go(func() { c.pump(client, server, &c.up, &c.route.up, engine.ClosedByClient) })
		pumps.Go(func() { c.pump(server, client, &c.down, &c.route.down, engine.ClosedByServer) })
		pumps.Wait()
		timer()
		client.Close()
		server.Close()
	}
	e.end(c, t, record)
}

// admit waits until there is room for one more, if it is to.
func (e *plain) admit(l *listener, client *net.TCPConn) *conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	full := func() bool {
		n := l.route.cfg.MaxConnections
		return len(e.conns) >= e.limit() || n > 0 && l.route.active >= n
	}
	tooMany := full() && l.route.cfg.WhenFull == plan.Reset
	for full() && !tooMany && e.ctx.Err() == nil {
		e.room.Wait()
	}
	if e.ctx.Err() != nil || l.route.removed {
		return nil
	}
	e.ids++
	c := &conn{e: e, route: l.route, cfg: l.route.cfg, client: client, tooMany: tooMany, info: engine.Conn{
		ID: fmt.Sprintf("%08x", e.ids), Route: l.route.cfg.Name, State: "connecting", Start: time.Now(),
		Client: unmapped(client.RemoteAddr()), Listener: unmapped(client.LocalAddr()),
	}}
	c.give = func() {}
	c.moved.Store(time.Now().UnixNano())
	e.conns[c.info.ID] = c
	c.route.active++
	c.route.accepted++
	return c
}

func unmapped(a net.Addr) netip.AddrPort {
	ap := addrPort(a)
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// watch ends the connecting when the client resets, or the engine closes.
func (c *conn) watch(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	raw, _ := c.client.SyscallConn()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(plainLook):
			}
			gone := false
			raw.Control(func(fd uintptr) {
				info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
				gone = err == nil && info.State == tcpClose
			})
			if gone {
				c.cut(engine.ResetByClient)
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// open makes server the other leg, unless the connection has ended meanwhile.
func (c *conn) open(server *net.TCPConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason != "" {
		server.SetLinger(0)
		server.Close()
		return false
	}
	c.server = server
	return true
}

// cut resets both legs because of why, unless there is a reason already.
func (c *conn) cut(why engine.Reason) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.give()
	if c.reason != "" && c.reason != engine.ClosedByClient && c.reason != engine.ClosedByServer || c.halves.Load() == 2 {
		return false
	}
	c.reason = why
	for _, leg := range []*net.TCPConn{c.client, c.server} {
		if leg != nil {
			leg.SetLinger(0)
			leg.Close()
		}
	}
	return true
}

// pump moves what from sends to to, and passes on how it ends.
func (c *conn) pump(from, to *net.TCPConn, mine, all *atomic.Uint64, closed engine.Reason) {
	resetFrom, resetTo := engine.ResetByClient, engine.ResetByServer
	if closed == engine.ClosedByServer {
		resetFrom, resetTo = resetTo, resetFrom
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			m, failed := to.Write(buf[:n])
			mine.Add(uint64(m))
			all.Add(uint64(m))
			c.moved.Store(time.Now().UnixNano())
			if failed != nil {
				c.cut(resetTo)
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			c.half(closed) // first: the answer to what follows may be the other half
			to.CloseWrite()
			c.halves.Add(1)
			return
		case err != nil:
			c.cut(resetFrom)
			return
		}
	}
}

// half notes that one side has ended.
func (c *conn) half(closed engine.Reason) {
	c.mu.Lock()
	if c.reason == "" {
		c.reason = closed
	}
	c.mu.Unlock()
	c.moved.Store(time.Now().UnixNano())
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	c.info.State = map[engine.Reason]string{engine.ClosedByClient: "client-closed", engine.ClosedByServer: "server-closed"}[closed]
}

// startClock looks after idle_timeout and fin_timeout.
func (c *conn) startClock() (stop func()) {
	idle, fin := c.cfg.IdleTimeout.D(), c.cfg.FinTimeout.D()
	if idle == 0 && fin == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			quiet := time.Since(time.Unix(0, c.moved.Load()))
			switch {
			case fin > 0 && quiet > fin && c.halves.Load() > 0:
				c.cut(engine.FinTimeout)
			case idle > 0 && quiet > idle:
				c.cut(engine.IdleTimeout)
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// conn is c as others see it. The caller holds e.mu.
func (c *conn) conn() engine.Conn {
	info := c.info
	info.BytesUp, info.BytesDown = c.up.Load(), c.down.Load()
	info.Idle = time.Since(time.Unix(0, c.moved.Load()))
	return info
}

// began tells that the server is connected.
func (e *plain) began(c *conn, t *target, r engine.Record) {
	e.mu.Lock()
	c.info.State, c.info.Server, c.info.Endpoint = "open", t.server.Name, t.addr
	c.moved.Store(time.Now().UnixNano())
	e.fill(&r, c, t)
	lost := c.lost() // while it was being made
	e.mu.Unlock()
	e.tell(r)
	if lost {
		c.cut(engine.ServerDown)
	}
}

// end gives back what the connection held, and tells why it ended.
func (e *plain) end(c *conn, t *target, r engine.Record) {
	e.mu.Lock()
	e.fill(&r, c, t)
	r.End, r.Reason = time.Now(), c.reason
	delete(e.conns, c.info.ID)
	c.route.active--
	c.route.ended[r.Reason]++
	if t != nil {
		c.route.server(t.server).active--
		c.route.endpoint(t.server, t.addr.Addr()).active--
	}
	e.forget()
	e.room.Broadcast()
	e.mu.Unlock()
	e.tell(r)
}

func (e *plain) fill(r *engine.Record, c *conn, t *target) {
	r.Conn, r.TotalActive, r.RouteActive = c.conn(), len(e.conns), c.route.active
	if t != nil {
		r.ServerActive = c.route.server(t.server).active
	}
}

func (e *plain) tell(r engine.Record) {
	if e.hooks.Record != nil {
		e.hooks.Record(&r)
	}
}
