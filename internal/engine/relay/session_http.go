package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/engine"
	"midspan/internal/plan"
	"midspan/internal/web"
)

// proxy forwards the requests of a route of mode http, as long as the route is of
// that mode; then it ends with the last session on it.
type proxy struct {
	*web.Proxy
	mu      sync.Mutex
	users   int
	retired bool
}

func (p *proxy) enter() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users++
}

func (p *proxy) leave() {
	p.mu.Lock()
	p.users--
	last := p.retired && p.users == 0
	p.mu.Unlock()
	if last {
		p.Close()
	}
}

// retire has p end when the requests on it have.
func (p *proxy) retire() {
	p.Drain()
	p.mu.Lock()
	p.retired = true
	last := p.users == 0
	p.mu.Unlock()
	if last {
		p.Close()
	}
}

// setWeb gives set, which is about to come into force, what mode http needs.
// r.mu is held.
func (r *route) setWeb(set *settings, up []choice) {
	if set.Mode != plan.ModeHTTP {
		r.retireWeb()
		return
	}
	if r.requests == nil {
		r.requests = make([]httpCounters, len(r.shards))
	}
	ends := map[target]*webEndpoint{}
	set.ends = map[*endpoint]*webEndpoint{}
	for i := range up {
		if c := &up[i]; c.server.Port != 0 {
			t := set.target(c, 0)
			if ends[t] = r.ends[t]; ends[t] == nil {
				ends[t] = &webEndpoint{t}
			}
			set.ends[c.endpoint] = ends[t]
		}
	}
	r.ends = ends
	if u := (webUpstream{set}); r.web == nil {
		r.web = &proxy{Proxy: web.New(set.Route, u, web.Options{Record: recordRequest, Halved: tunnelHalved})}
	} else {
		r.web.Update(set.Route, u)
	}
	if len(set.Listen) == 0 { // a drain has begun
		r.web.Drain()
	}
	set.web = r.web
}

func (r *route) retireWeb() {
	if r.web != nil {
		r.web.retire()
		r.web, r.ends = nil, nil
	}
}

// serveHTTP forwards what the client asks for, until the connection is over.
func (s *session) serveHTTP() {
	if !s.shakeHands() || !s.enter("open") {
		return
	}
	p := s.p.set.web
	p.enter()
	defer p.leave()
	g := s.clients
	from := &web.Client{Addr: s.p.clientAddr.full(), TLS: g.tls != nil, Data: s}
	if g.tls == nil {
		switch err := g.begin(time.Now().Add(s.p.set.HTTP.HeaderTimeout.D())); {
		case err == errHeader:
			s.refuseHeader()
			return
		case err != nil:
			s.close(openingTimeout, "")
			return
		}
		from.Held, g.held = g.held, nil
		s.moved(true, len(from.Held))
	} else {
		from.ALPN = g.tls.ConnectionState().NegotiatedProtocol
	}
	s.mu.Lock()
	s.arm()
	s.mu.Unlock()
	requests, why := p.Serve(s.ctx, &httpClient{stream{g}, s}, from)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = requests
	if s.over {
		return
	}
	s.p.endedBy = s.reasonOf(why)
	silent := requests == 0 && s.up.Load() == 0
	if silent && (why == web.ClientClosed || why == web.ClientReset || why == web.Done) {
		s.p.endedBy = probe
	}
}

// webReasons are the engine's words for the proxy's.
var webReasons = map[web.Reason]reason{
	web.Done: closedByServer, web.BadRequest: badRequest, web.HeadTimeout: openingTimeout,
	web.NoRoute: unknownHost, web.NoServer: noServer, web.ServersFull: serversFull, web.ConnectFailed: connectFailed,
	web.BadResponse: badResponse, web.ServerClosed: closedByServer, web.ServerReset: resetByServer, web.Timeout: responseTimeout,
	web.ClientClosed: closedByClient, web.ClientReset: resetByClient, web.Aborted: stopped,
}

// reasonOf is the engine's word for the proxy's. An upgraded connection has told who
// ended first; s.mu is held.
func (s *session) reasonOf(why web.Reason) reason {
	if why == web.Tunnelled {
		return s.p.endedBy
	}
	return webReasons[why]
}

// tunnelHalved notes that one side of an upgraded connection has ended its flow.
func tunnelHalved(from *web.Client, byServer bool) {
	s := from.Data.(*session)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.halved(!byServer)
}

// recordRequest counts and reports a request that is over.
func recordRequest(x *web.Exchange) {
	s := x.From.Data.(*session)
	s.p.route().requests[s.l.id].count(x.Status, x.Wait)
	if !s.l.wants(true) {
		return
	}
	s.mu.Lock()
	s.sync()
	r := &engine.Record{Conn: s.p.conn()}
	if s.over { // the proxy knows no more than that it was told to end
		r.Reason = reasons[s.p.endedBy]
	} else if x.Reason != web.Done {
		r.Reason = reasons[s.reasonOf(x.Reason)]
	}
	s.mu.Unlock()
	r.State, r.Server, r.Endpoint = "open", x.Server, x.Endpoint
	r.Start, r.End, r.Connect, r.Retries = x.Start, x.Start.Add(x.Duration), x.Connect, x.Retries
	r.BytesUp, r.BytesDown = uint64(x.BytesUp), uint64(x.BytesDown)
	if x.Err != nil {
		r.Err = x.Err.Error()
	}
	r.TotalActive, r.RouteActive = int(s.l.e.active.Load()), int(s.p.route().active.Load())
	if u := s.using.Load(); u != nil && u.server == x.Server {
		r.ServerActive = int(u.active.Load())
	}
	r.HTTP = &engine.HTTP{
		Method: string(x.Method), Host: string(x.Host), Path: string(x.Path),
		Protocol: x.Protocol, Status: x.Status, Wait: x.Wait,
	}
	s.l.e.hooks.Record(r)
}

// webUpstream chooses the servers of requests, by the settings that came with the
// proxy's rules.
type webUpstream struct{ set *settings }

var errNoServer = errors.New("no server is up")

// Pick implements web.Upstream. While all servers are full it waits, as a
// connection does.
func (u webUpstream) Pick(from *web.Client, group int, prefer string, tried []web.Endpoint) (web.Endpoint, error) {
	s := from.Data.(*session)
	p := u.set.rest
	if group >= 0 {
		p = u.set.groups[group]
	}
	var not []*endpoint
	for _, t := range tried {
		not = append(not, t.(*webEndpoint).endpoint)
	}
	if len(tried) >= u.set.tries() {
		return nil, errNoServer
	}
	for began := time.Now(); ; {
		c, result := p.named(prefer, not), picked
		if c == nil || !c.take() {
			c, result = p.take(netip.AddrFrom16(s.p.clientAddr.addr), not)
		}
		switch {
		case result == picked:
			t := u.end(c, s.p.listener.port)
			s.using.Store(t)
			return t, nil
		case result == pickedNone:
			return nil, errNoServer
		case time.Since(began) >= u.set.ConnectTimeout.D():
			return nil, web.ErrFull
		}
		select {
		case <-time.After(waitFull):
		case <-s.ctx.Done():
			return nil, s.ctx.Err()
		}
	}
}

// named is the server of that name, if it takes connections; else nil.
func (p *picker) named(server string, tried []*endpoint) *choice {
	if server == "" {
		return nil
	}
	for _, tier := range p.tiers {
		for i := range tier {
			if c := &tier[i]; c.server.Name == server && !c.full() && !slices.Contains(tried, c.endpoint) {
				return c
			}
		}
	}
	return nil
}

// end is what the proxy knows c as, for a connection that came in on port listen.
func (u webUpstream) end(c *choice, listen uint16) *webEndpoint {
	if t := u.set.ends[c.endpoint]; t != nil {
		return t
	}
	r, t := u.set.owner, u.set.target(c, listen)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ends[t] == nil {
		if r.ends == nil {
			r.ends = map[target]*webEndpoint{}
		}
		r.ends[t] = &webEndpoint{t}
	}
	return r.ends[t]
}

// webEndpoint is a target to the proxy. There is one for each, so that its
// connections are shared.
type webEndpoint struct{ target }

// Server implements web.Endpoint.
func (t *webEndpoint) Server() string { return t.server }

// Addr implements web.Endpoint.
func (t *webEndpoint) Addr() netip.AddrPort { return t.to }

// Done implements web.Endpoint.
func (t *webEndpoint) Done() {
	t.active.Add(-1)
	t.load.Add(-1)
}

// Connect implements web.Endpoint.
func (t *webEndpoint) Connect(ctx context.Context, from *web.Client) (net.Conn, error) {
	s := from.Data.(*session)
	ctx, cancel := context.WithTimeout(ctx, t.how.timeout)
	defer cancel()
	e := s.l.e
	err := error(unix.EMFILE)
	var g *leg
	if e.takeServer() {
		if g, err = s.connect(ctx, t.target); err != nil {
			e.giveServer()
		}
	}
	if err != nil {
		if isShortage(err) {
			e.complain("cannot connect: this machine is out of something", "error", err.Error(), "route", t.how.route.name)
		}
		return nil, fmt.Errorf("%s: %w", t.server, err)
	}
	return t.open.add(&httpServer{stream{g}, e, t.endpoint}), nil
}

// takeServer counts a connection to a server of mode http, unless those have half
// of the descriptors: a client of HTTP/2 can need hundreds of them at once, and
// other routes are to have some too. It may outlive the request, and takes its
// place from what is only there to make things faster.
func (e *Engine) takeServer() bool {
	if 2*e.servers.Add(1) > e.room.Load() {
		e.servers.Add(-1)
		return false
	}
	e.extra.Add(1)
	return true
}

func (e *Engine) giveServer() {
	e.servers.Add(-1)
	e.giveFDs(1)
}

// httpServers are the connections to an endpoint.
type httpServers struct {
	mu  sync.Mutex
	all map[*httpServer]struct{}
}

func (h *httpServers) add(c *httpServer) *httpServer {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all == nil {
		h.all = map[*httpServer]struct{}{}
	}
	h.all[c] = struct{}{}
	if c.end.cut.Load() { // since the connect began
		c.g.reset()
	}
	return c
}

// remove tells whether c was one of them.
func (h *httpServers) remove(c *httpServer) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, is := h.all[c]
	delete(h.all, c)
	return is
}

// cut resets them all, and says how many there were.
func (h *httpServers) cut() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.all {
		c.g.reset()
	}
	return len(h.all)
}

// stream is a leg as the proxy has it.
type stream struct{ g *leg }

func (c stream) Read(b []byte) (int, error)         { return c.g.Read(b) }
func (c stream) Write(b []byte) (int, error)        { return c.g.Write(b) }
func (c stream) CloseWrite() error                  { return c.g.CloseWrite() }
func (c stream) LocalAddr() net.Addr                { return c.g.LocalAddr() }
func (c stream) RemoteAddr() net.Addr               { return c.g.RemoteAddr() }
func (c stream) SetDeadline(t time.Time) error      { return c.g.SetDeadline(t) }
func (c stream) SetReadDeadline(t time.Time) error  { return c.g.SetReadDeadline(t) }
func (c stream) SetWriteDeadline(t time.Time) error { return c.g.SetWriteDeadline(t) }
func (c stream) Close() error                       { return c.g.Close() }

// NetConn is the connection beneath TLS.
func (c stream) NetConn() net.Conn { return c.g.tcp }

// TCP implements web.Plain.
func (c stream) TCP() *net.TCPConn {
	if c.g.tls != nil {
		return nil
	}
	return c.g.tcp
}

// Moved implements web.Plain.
func (c stream) Moved(_, _ int64) {}

// Reset closes the connection with a reset.
func (c stream) Reset() error {
	c.g.reset()
	return nil
}

// httpClient is the client's leg; its bytes are counted.
type httpClient struct {
	stream
	s *session
}

// Read implements net.Conn.
func (c *httpClient) Read(b []byte) (int, error) {
	n, err := c.g.Read(b)
	c.s.moved(true, n)
	return n, err
}

// Write implements net.Conn.
func (c *httpClient) Write(b []byte) (int, error) {
	n, err := c.g.Write(b)
	c.s.moved(false, n)
	return n, err
}

// Moved implements web.Plain.
func (c *httpClient) Moved(read, written int64) {
	c.s.moved(true, int(read))
	c.s.moved(false, int(written))
}

// httpServer is a connection to a server; requests of many clients may use it.
type httpServer struct {
	stream
	e   *Engine
	end *endpoint
}

// Close implements net.Conn.
func (c *httpServer) Close() error {
	c.remove()
	return c.g.Close()
}

// Reset closes the connection with a reset.
func (c *httpServer) Reset() error {
	c.remove()
	return c.stream.Reset()
}

func (c *httpServer) remove() {
	if c.end.open.remove(c) {
		c.e.giveServer()
	}
}
