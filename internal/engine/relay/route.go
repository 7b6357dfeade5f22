package relay

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"midspan/internal/certs"
	"midspan/internal/engine"
	"midspan/internal/plan"
)

// route is what lives as long as the route does, through every change of its
// settings: counters and endpoints.
type route struct {
	name    string
	active  atomic.Int64
	removed atomic.Bool
	set     atomic.Pointer[settings] // in force for new connections
	shards  []counters               // one a loop

	turn     atomic.Uint64            // of the balancing
	turnFrom atomic.Uint32            // of the addresses to connect from
	said     [numReasons]atomic.Int64 // engine's clock when each reason to refuse was last logged

	mu        sync.Mutex
	endpoints map[endpointKey]*endpoint
	web       *proxy         // mode http; nil: none yet
	requests  []httpCounters // one a loop; nil: it has never been of mode http
	ends      map[target]*webEndpoint
	loads     map[string]*atomic.Int64  // connections by server
	turns     map[string]*atomic.Uint64 // of the balancing of each group, by Match
	sources   *sources                  // clients by address; nil: they have never been counted
	cluster   *cluster                  // mode kafka; nil: it has never been of that
}

// settings are what a connection is made by; it keeps those it was made with.
type settings struct {
	*plan.Route
	owner   *route
	options sockOptions // of the sockets to servers
	picker  *picker     // of all servers

	rest      *picker            // of those for connections that no group is for
	groups    []*picker          // as plan.Route.Groups
	byName    map[string]*picker // the same, but for patterns
	wild      []wildGroup        // patterns, the longest first
	consumers *consumers
	tls       certs.Route // with clients, with servers
	how       *how
	cluster   *cluster                   // mode kafka; else nil
	nodes     map[int32]nodeAt           // likewise: those that are known
	web       *proxy                     // mode http; else nil
	ends      map[*endpoint]*webEndpoint // likewise; without those whose port is the listener's

	reads      bool // connections have an opening, see opening
	asksWho    bool // who calls decides something, see admit
	session    bool // a goroutine carries the connection, see handOff
	checkFirst bool // the first data must not be a PROXY header
	limited    bool // there is a number of places, or a bucket

	bucket    *bucket      // of Rate; nil: none
	sources   *sources     // nil: clients have no limits
	perSource sourceLimits // of each of them
}

type endpointKey struct {
	server string
	addr   netip.Addr
}

// endpoint is one address of a server, with what the loops count on it. It
// stays the same through changes of the server's settings.
type endpoint struct {
	addr netip.Addr

	active   atomic.Int64 // connections and attempts; see choice.take
	connects atomic.Uint64
	failures atomic.Uint64
	failing  atomic.Bool  // the last connect failed
	warm     atomic.Int64 // connections ready for clients to come
	noWarm   atomic.Int64 // Unix time until which it gets no warm connections
	rise     rise
	wasDown  bool        // when last seen; route.mu guards it
	cut      atomic.Bool // not up, or gone from the plan, and the route says on_down: cut
	lastErr  atomic.Pointer[string]
	open     httpServers // mode http
}

// counters are written by one loop and read by any goroutine. The padding
// keeps two loops off the same cache line.
type counters struct {
	accepted, up, down atomic.Uint64
	ended              [numReasons]atomic.Uint64
	_                  [64]byte
}

func newRoute(name string, loops int) *route {
	return &route{name: name, shards: make([]counters, loops), endpoints: map[endpointKey]*endpoint{}, loads: map[string]*atomic.Int64{}}
}

// update puts the settings of p in force for new connections. It is now by the
// engine's clock.
func (r *route) update(p *plan.Route, who *consumers, tls certs.Route, now time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed.Store(false)
	next := map[endpointKey]*endpoint{}
	for k, ep := range r.endpoints {
		if ep.active.Load() > 0 { // it may come back, and must then be counted on
			next[k] = ep
		}
	}
	var up []choice
	isUp := map[*endpoint]bool{}
	for _, s := range p.Servers {
		if r.loads[s.Name] == nil {
			r.loads[s.Name] = new(atomic.Int64)
		}
		for _, pe := range s.Endpoints {
			k := endpointKey{s.Name, pe.Addr}
			ep := r.endpoints[k]
			if ep == nil {
				ep = &endpoint{addr: pe.Addr}
			}
			next[k] = ep
			ep.mark(pe.Up && !pe.LastResort, p.SlowStart.D())
			if pe.Up {
				up = append(up, choice{ep, s, r.loads[s.Name]})
				isUp[ep] = true
			}
		}
	}
	// Those that are forgotten too: a connect to one may be under way.
	for _, eps := range []map[endpointKey]*endpoint{r.endpoints, next} {
		for _, ep := range eps {
			ep.cut.Store(p.OnDown == plan.Cut && !isUp[ep])
		}
	}
	r.endpoints = next
	set := &settings{
		Route: p, owner: r, options: optionsOf(p), picker: newPicker(p.Balance, up, &r.turn),
		consumers:  who,
		tls:        tls,
		reads:      p.Proxy.Mode == plan.ProxyRequired || p.Mode == plan.ModeSNI,
		asksWho:    p.Guarded || len(who.inOrder) > 0 && (p.Proxy.Mode == plan.ProxyRequired || p.Mode == plan.TCP && len(p.Groups) > 0),
		session:    p.TLS != nil || p.UpstreamTLS.On || p.Mode == plan.ModeHTTP,
		checkFirst: p.Proxy.Mode != plan.ProxyPassed,
	}
	if p.Kafka != nil {
		set.cluster = r.cluster
		r.cluster.update(p.Kafka)
	}
	set.setGroups(r, up)
	set.setLimits(r.set.Load(), now)
	set.setHow(r.set.Load())
	r.setWeb(set, up)
	r.set.Store(set)
}

// remove takes r out of the plan: it stays while it has connections.
func (r *route) remove() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed.Store(true)
	r.retireWeb()
}

// cutHTTP resets the connections of mode http to endpoints that are cut off, and
// says how many there were.
func (r *route) cutHTTP() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ep := range r.endpoints {
		if ep.cut.Load() {
			n += ep.open.cut()
		}
	}
	return n
}

// mustCut tells whether there are connections to an endpoint that is cut off.
func (r *route) mustCut() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ep := range r.endpoints {
		if ep.cut.Load() && ep.active.Load() > 0 {
			return true
		}
	}
	return false
}

// allows tells whether a client may connect. IPv4 clients come unmapped.
func (s *settings) allows(client netip.Addr) bool {
	return len(s.Allow) == 0 || within(s.Allow, client)
}

func (r *route) status(listening []address) engine.RouteStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := engine.RouteStatus{
		Name: r.name, Removed: r.removed.Load(), Listening: []string{},
		Counters:  engine.Counters{Active: int(r.active.Load()), Ended: map[engine.Reason]uint64{}},
		Endpoints: []engine.EndpointStatus{},
		HTTP:      httpStatus(r.requests),
		Kafka:     r.cluster.status(r.set.Load().Route),
	}
	slices.SortFunc(listening, address.compare)
	for _, a := range listening {
		s.Listening = append(s.Listening, a.String())
	}
	for i := range r.shards {
		c := &r.shards[i]
		s.Counters.Accepted += c.accepted.Load()
		s.Counters.BytesUp += c.up.Load()
		s.Counters.BytesDown += c.down.Load()
		for j := range c.ended {
			if n := c.ended[j].Load(); n > 0 {
				s.Counters.Ended[reasons[j]] += n
			}
		}
	}
	for _, ps := range r.set.Load().Servers {
		if len(ps.Endpoints) == 0 {
			s.Endpoints = append(s.Endpoints, engine.EndpointStatus{Server: ps.Name})
		}
		for _, pe := range ps.Endpoints {
			ep := r.endpoints[endpointKey{ps.Name, pe.Addr}]
			es := engine.EndpointStatus{
				Server: ps.Name, Addr: netip.AddrPortFrom(pe.Addr, ps.Port), Up: pe.Up, LastResort: pe.LastResort,
				Active: int(ep.active.Load()), Warm: int(ep.warm.Load()), Connects: ep.connects.Load(), Failures: ep.failures.Load(),
			}
			if err := ep.lastErr.Load(); err != nil {
				es.LastError = *err
			}
			s.Endpoints = append(s.Endpoints, es)
		}
	}
	return s
}

// reason is an engine.Reason in one byte; reasons says which.
type reason uint8

const (
	closedByClient reason = iota
	closedByServer
	resetByClient
	resetByServer
	notAllowed
	probe
	openingTimeout
	badProxyHeader
	proxyNotAllowed
	unknownConsumer
	consumerNotAllowed
	consumerLimit
	rateLimit
	routeLimit
	sourceLimit
	noServerName
	unknownServerName
	unknownHost
	notTLS
	tlsFailed
	badRequest
	unknownNode
	connectFailed
	noServer
	serversFull
	noResources
	badResponse
	responseTimeout
	idleTimeout
	finTimeout
	lostClient
	lostServer
	serverDown
	killed
	stopped
	fault
	numReasons
)

var reasons = [numReasons]engine.Reason{
	closedByClient: engine.ClosedByClient, closedByServer: engine.ClosedByServer,
	resetByClient: engine.ResetByClient, resetByServer: engine.ResetByServer, notAllowed: engine.NotAllowed,
	probe: engine.Probe, openingTimeout: engine.OpeningTimeout, badProxyHeader: engine.BadProxyHeader, proxyNotAllowed: engine.ProxyNotAllowed,
	unknownConsumer: engine.UnknownConsumer, consumerNotAllowed: engine.ConsumerNotAllowed, consumerLimit: engine.ConsumerLimit,
	rateLimit: engine.RateLimit, routeLimit: engine.RouteLimit, sourceLimit: engine.SourceLimit,
	noServerName: engine.NoServerName, unknownServerName: engine.UnknownServerName, unknownHost: engine.UnknownHost, notTLS: engine.NotTLS, tlsFailed: engine.TLSFailed, badRequest: engine.BadRequest,
	unknownNode: engine.UnknownNode, connectFailed: engine.ConnectFailed, noServer: engine.NoServer, serversFull: engine.ServersFull, noResources: engine.NoResources,
	badResponse: engine.BadResponse, responseTimeout: engine.ResponseTimeout,
	idleTimeout: engine.IdleTimeout, finTimeout: engine.FinTimeout, lostClient: engine.LostClient, lostServer: engine.LostServer,
	serverDown: engine.ServerDown, killed: engine.Killed, stopped: engine.Stopped, fault: engine.Fault,
}
