package enginetest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"net"
	"net/netip"
	"time"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// target is one endpoint that a connect goes to. While it lives, it counts for
// its server's max_connections.
type target struct {
	server *plan.Server
	addr   netip.AddrPort
}

func (r *route) server(s *plan.Server) *serverState {
	if r.servers[s.Name] == nil {
		r.servers[s.Name] = new(serverState)
	}
	return r.servers[s.Name]
}

func (r *route) endpoint(s *plan.Server, a netip.Addr) *endpointState {
	key := s.Name + " " + a.String()
	if r.endpoints[key] == nil {
		r.endpoints[key] = new(endpointState)
	}
	return r.endpoints[key]
}

// connect reaches a server: the endpoints in turn, the next one when the last has
// failed or is silent. The reason is why there is none.
func (c *conn) connect(ctx context.Context, record *engine.Record) (*target, *net.TCPConn, engine.Reason) {
	type result struct {
		t    *target
		conn net.Conn
		err  error
	}
	switch {
	case c.tooMany:
		return nil, nil, engine.RouteLimit
	case !c.allowed():
		return nil, nil, engine.NotAllowed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result)
	tried := map[netip.AddrPort]bool{}
	flying := 0
	reason := engine.NoServer
	var won *target
	var server net.Conn
	for server == nil {
		t, none := c.pick(tried)
		if t == nil && flying == 0 {
			if len(tried) == 0 {
				reason = none
			}
			break
		}
		hedge := time.After(plainHedge)
		if t != nil {
			tried[t.addr] = true
			reason = engine.ConnectFailed
			flying++
			c.e.wg.Go(func() {
				d := net.Dialer{KeepAlive: -1}
				conn, err := d.DialContext(ctx, "tcp", t.addr.String())
				results <- result{t, conn, err}
			})
		} else {
			hedge = nil
		}
		select {
		case got := <-results:
			flying--
			if got.err == nil {
				won, server = got.t, got.conn
			} else {
				c.failed(got.t, got.err, record)
			}
		case <-hedge:
		}
	}
	// The losers are cancelled; one of them may have won too late.
	cancel()
	for ; flying > 0; flying-- {
		got := <-results
		if got.err == nil {
			got.conn.Close()
		}
		c.e.release(c.route, got.t)
	}
	if server == nil {
		return nil, nil, reason
	}
	c.worked(won)
	return won, server.(*net.TCPConn), ""
}

// pick chooses the endpoint for the next try, and takes a place on its server.
func (c *conn) pick(tried map[netip.AddrPort]bool) (*target, engine.Reason) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	r := c.route
	var able, usable []*plan.Server
	none := engine.NoServer
	for _, backup := range []bool{false, true} {
		for _, s := range c.cfg.Servers {
			if s.Backup == backup && s.Weight > 0 && len(c.free(s, nil)) > 0 {
				able = append(able, s)
			}
		}
		if len(able) > 0 {
			none = engine.ServersFull
			break
		}
	}
	for _, s := range able {
		room := s.MaxConnections == 0 || r.server(s).active < s.MaxConnections
		if room && len(c.free(s, tried)) > 0 {
			usable = append(usable, s)
		}
	}
	if len(usable) == 0 {
		return nil, none
	}
	s := r.choose(c.cfg.Balance, usable, c.info.Client.Addr())
	ends := c.free(s, tried)
	addr := ends[0]
	for _, a := range ends[1:] {
		if r.endpoint(s, a.Addr()).inTurn < r.endpoint(s, addr.Addr()).inTurn {
			addr = a
		}
	}
	r.endpoint(s, addr.Addr()).inTurn++
	r.server(s).active++
	r.endpoint(s, addr.Addr()).active++
	return &target{s, addr}, ""
}

// free are the endpoints of s that are up and not tried.
func (c *conn) free(s *plan.Server, tried map[netip.AddrPort]bool) (all []netip.AddrPort) {
	for _, e := range s.Endpoints {
		a := netip.AddrPortFrom(e.Addr, s.PortFor(c.info.Listener.Port()))
		if e.Up && !tried[a] {
			all = append(all, a)
		}
	}
	return all
}

// choose is the balance of a route.
func (r *route) choose(by plan.Balance, among []*plan.Server, client netip.Addr) *plan.Server {
	score := func(s *plan.Server) float64 { return 0 } // First: the first wins
	total := 0
	switch by {
	case plan.RoundRobin: // smooth: all gain their weight, the chosen one pays for all
		for _, s := range among {
			r.server(s).current += s.Weight
			total += s.Weight
		}
		score = func(s *plan.Server) float64 { return float64(r.server(s).current) }
	case plan.LeastConn:
		score = func(s *plan.Server) float64 { return -float64(r.server(s).active) / float64(s.Weight) }
	case plan.Source: // rendezvous: every server draws a number for the client
		score = func(s *plan.Server) float64 {
			sum := sha256.Sum256([]byte(client.String() + " " + s.Name))
			draw := float64(binary.BigEndian.Uint64(sum[:])) / (1 << 64)
			return math.Pow(draw, 1/float64(s.Weight))
		}
	}
	best := among[0]
	for _, s := range among[1:] {
		if score(s) > score(best) {
			best = s
		}
	}
	r.server(best).current -= total
	return best
}

func (e *plain) release(r *route, t *target) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r.server(t.server).active--
	r.endpoint(t.server, t.addr.Addr()).active--
}

// failed notes a connect that did not work, unless it was given up.
func (c *conn) failed(t *target, err error, record *engine.Record) {
	c.e.release(c.route, t)
	record.Retries++
	record.Err = err.Error()
	c.e.mu.Lock()
	st := c.route.endpoint(t.server, t.addr.Addr())
	st.failures++
	st.failing, st.lastError = true, err.Error()
	c.e.mu.Unlock()
	c.told(t, err)
}

func (c *conn) worked(t *target) {
	c.e.mu.Lock()
	st := c.route.endpoint(t.server, t.addr.Addr())
	st.connects++
	news := st.failing
	st.failing = false
	c.e.mu.Unlock()
	if news {
		c.told(t, nil)
	}
}

func (c *conn) told(t *target, err error) {
	if c.e.hooks.Dial != nil {
		c.e.hooks.Dial(engine.Dial{Route: c.info.Route, Server: t.server.Name, Addr: t.addr, Err: err})
	}
}
