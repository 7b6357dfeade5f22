package nft

import (
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/conntrack"
	"midspan/internal/engine"
	"midspan/internal/host"
	"midspan/internal/plan"
)

const tcp = unix.IPPROTO_TCP

func anyPort(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }

// reachable are the endpoints of a route that are up; port 0 is any.
type reachable map[netip.AddrPort]bool

func reachableBy(r *plan.Route) reachable {
	up := reachable{}
	for _, s := range r.Servers {
		for _, e := range s.Endpoints {
			if e.Up {
				up[netip.AddrPortFrom(e.Addr, s.Port)] = true
			}
		}
	}
	return up
}

func (up reachable) has(a netip.AddrPort) bool { return up[a] || up[anyPort(a)] }

// gauge keeps what is costly to read for as long as reading it took ten times
// over, and for the counters what they last were.
type gauge struct {
	mu       sync.Mutex
	counters map[string]counted
	at       time.Time // of the counters
	took     time.Duration
	timeouts map[conntrack.State]time.Duration
	timed    time.Time        // when they were read
	levels   map[string]level // of pressure, by what
	looked   time.Time        // when they were read
}

func (g *gauge) lastCounters() map[string]counted {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.counters
}

func (g *gauge) read(k *kernel) map[string]counted {
	g.mu.Lock()
	defer g.mu.Unlock()
	if since := time.Since(g.at); g.counters == nil || since > 10*g.took {
		began := time.Now()
		if now, err := k.counters(); err == nil && now != nil {
			g.counters, g.at, g.took = now, time.Now(), time.Since(began)
		}
	}
	return g.counters
}

// idle is how long a connection has been silent: the kernel winds its timeout up
// with every packet.
func (g *gauge) idle(f *conntrack.Flow) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.timed) > watchEvery {
		g.timeouts, g.timed = readTimeouts(), time.Now()
	}
	full := g.timeouts[f.State]
	if short := g.timeouts[stateUnanswered]; f.State == conntrack.Established && f.Timeout <= short {
		full = short // while an end owes an acknowledgement
	}
	if f.Orig.Proto == unix.IPPROTO_UDP {
		full = g.timeouts[stateUDP]
		if f.Status&conntrack.Assured != 0 {
			full = g.timeouts[stateUDPStream]
		}
	}
	return max(0, full-f.Timeout)
}

// States that are none of TCP's: UDP has none, and connection tracking has a
// shorter timeout for connections with unacknowledged data.
const (
	stateUnanswered conntrack.State = iota + 100
	stateUDP
	stateUDPStream
)

// readTimeouts are the kernel's (net.netfilter.nf_conntrack_*).
func readTimeouts() map[conntrack.State]time.Duration {
	all := map[conntrack.State]time.Duration{}
	for state, name := range map[conntrack.State]string{
		conntrack.SynSent: "tcp_timeout_syn_sent", conntrack.SynRecv: "tcp_timeout_syn_recv", conntrack.Established: "tcp_timeout_established",
		conntrack.FinWait: "tcp_timeout_fin_wait", conntrack.CloseWait: "tcp_timeout_close_wait", conntrack.LastAck: "tcp_timeout_last_ack",
		stateUnanswered: "tcp_timeout_unacknowledged", stateUDP: "udp_timeout", stateUDPStream: "udp_timeout_stream",
	} {
		text, _ := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_" + name) // without it, idle is 0
		seconds, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		all[state] = time.Duration(seconds) * time.Second
	}
	return all
}

// sum is what the kernel's table has of a route or an endpoint.
type sum struct {
	active   int // that have not ended
	tracked  int // entries, each with a source port
	up, down uint64
}

// Status implements engine.Engine.
func (e *Engine) Status() engine.Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	routes, endpoints := map[uint16]*sum{}, map[uint16]map[netip.AddrPort]*sum{}
	// What cannot be read is not counted.
	_ = e.flows.Dump(markOurs, markOursBits, func(f *conntrack.Flow) {
		n := routeOf(f.Mark)
		if routes[n] == nil {
			routes[n], endpoints[n] = &sum{}, map[netip.AddrPort]*sum{}
		}
		if endpoints[n][f.Reply.Src] == nil {
			endpoints[n][f.Reply.Src] = &sum{}
		}
		for _, s := range []*sum{routes[n], endpoints[n][f.Reply.Src]} {
			s.tracked++
			s.up += f.Up.Bytes
			s.down += f.Down.Bytes
			if !over(f) {
				s.active++
			}
		}
	})
	status := engine.Status{Pending: e.pending, Tracking: tracking()}
	if status.Tracking != nil {
		status.MaxConnections = status.Tracking.Max
	}
	counters := e.gauge.read(e.kernel)
	t := e.tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	for n, s := range routes {
		if r := t.route(n, ""); r.plan == nil && s.active > 0 && e.plan != nil {
			status.Routes = append(status.Routes, engine.RouteStatus{Name: r.name, Removed: true, Outlives: e.plan.NFT.Keep, Listening: []string{}, Counters: r.counters(s, counters)})
		}
		status.Connections += s.active
	}
	slices.SortFunc(status.Routes, func(a, b engine.RouteStatus) int { return strings.Compare(a.Name, b.Name) })
	if e.plan != nil {
		var here []engine.RouteStatus
		for _, p := range e.plan.Routes {
			n := e.numbers[p.Name]
			here = append(here, e.routeStatus(p, t.route(n, p.Name), routes[n], endpoints[n], counters))
		}
		status.Routes = append(here, status.Routes...)
	}
	return status
}

func (r *route) counters(s *sum, kernel map[string]counted) engine.Counters {
	c := engine.Counters{Ended: map[engine.Reason]uint64{}, Accepted: kernel[chainOf(r.name)].packets, BytesUp: r.up, BytesDown: r.down}
	if s != nil {
		c.Active, c.BytesUp, c.BytesDown = s.active, c.BytesUp+s.up, c.BytesDown+s.down
	}
	// The table is read while connections end.
	r.most[0], r.most[1] = max(r.most[0], c.BytesUp), max(r.most[1], c.BytesDown)
	c.BytesUp, c.BytesDown = r.most[0], r.most[1]
	for why, n := range r.ended {
		c.Ended[why] = n
	}
	if n := kernel[withoutServer(r.name)].packets; n > 0 {
		c.Ended[engine.NoServer] = n
	}
	for counter, why := range map[string]engine.Reason{deniedBy(r.name): engine.NotAllowed, fullBy(r.name): engine.RouteLimit} {
		if n := kernel[counter].packets; n > 0 {
			c.Ended[why] = n
			c.Accepted += n // as the relay counts
		}
	}
	return c
}

func (e *Engine) routeStatus(p *plan.Route, r *route, s *sum, endpoints map[netip.AddrPort]*sum, kernel map[string]counted) engine.RouteStatus {
	status := engine.RouteStatus{Name: p.Name, Outlives: e.plan.NFT.Keep, Listening: []string{}, Endpoints: []engine.EndpointStatus{}, Counters: r.counters(s, kernel)}
	for _, l := range p.Listen {
		status.Listening = append(status.Listening, l.String())
	}
	for _, server := range p.Servers {
		if len(server.Endpoints) == 0 {
			status.Endpoints = append(status.Endpoints, engine.EndpointStatus{Server: server.Name})
		}
		for _, x := range server.Endpoints {
			addr := netip.AddrPortFrom(x.Addr, server.Port)
			known := r.endpoint(addr)
			now := engine.EndpointStatus{
				Server: server.Name, Addr: addr, Up: x.Up, LastResort: x.LastResort,
				Failures: known.failures, LastError: known.lastErr, MaxPorts: e.sourcePorts(p, x.Addr),
			}
			if led := kernel[endpointName(p.Name, addr)].packets; led > known.failures {
				now.Connects = led - known.failures
			}
			for at, s := range endpoints {
				if at == addr || (addr.Port() == 0 && at.Addr() == addr.Addr()) {
					now.Active += s.active
					now.Ports = max(now.Ports, s.tracked)
				}
			}
			status.Endpoints = append(status.Endpoints, now)
		}
	}
	return status
}

// sourcePorts is how many connections to one endpoint there can be.
func (e *Engine) sourcePorts(r *plan.Route, to netip.Addr) int {
	sources := 0
	for _, a := range r.Source {
		if a.Is4() == to.Is4() {
			sources++
		}
	}
	ports := e.plan.NFT.Ports
	return (int(ports.To) - int(ports.From) + 1) * max(1, sources)
}

func tracking() *engine.Tracking {
	entries, limit, err := host.Conntrack()
	if err != nil {
		return nil
	}
	t := &engine.Tracking{Entries: entries, Max: limit}
	if d, err := host.ConntrackDrops(); err == nil {
		t.Dropped = d.Drop + d.InsertFailed
	}
	return t
}

// Conns implements engine.Engine.
func (e *Engine) Conns() []engine.Conn {
	var all []engine.Conn
	e.unread(e.flows.Dump(markOurs, markOursBits, func(f *conntrack.Flow) {
		if over(f) {
			return
		}
		t := e.tracker
		t.mu.Lock()
		defer t.mu.Unlock()
		r := t.route(routeOf(f.Mark), "")
		idle := e.gauge.idle(f)
		start := f.Start
		if l := t.lives[f.Orig]; l != nil && start.IsZero() {
			start = l.start
		}
		all = append(all, engine.Conn{
			ID: connID(f), Route: r.name, State: stateText(f), Client: f.Orig.Src, Listener: f.Orig.Dst, Server: r.endpoint(f.Reply.Src).server,
			Endpoint: f.Reply.Src, Start: start, Idle: idle, BytesUp: f.Up.Bytes, BytesDown: f.Down.Bytes,
		})
	}))
	slices.SortFunc(all, func(a, b engine.Conn) int { return a.Start.Compare(b.Start) })
	return all
}

func stateText(f *conntrack.Flow) string {
	switch {
	case f.Orig.Proto != tcp && f.Status&conntrack.SeenReply == 0:
		return "connecting"
	case f.Orig.Proto != tcp, f.State == conntrack.Established:
		return "open"
	case f.State < conntrack.Established || f.State == conntrack.SynSent2:
		return "connecting"
	case serverFirst(f):
		return "server-closed"
	}
	return "client-closed"
}
