package plan

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"midspan/internal/config"
)

// What a file gets that says nothing. Keepalive is 60 s because Private Link
// cuts a flow that is idle for 240 s. TCP_USER_TIMEOUT finds a dead peer sooner
// than the kernel's 15 minutes of retransmission; but it also ends a connection
// whose reader takes nothing for so long (tcp(7)), so it is not shorter than a
// slow consumer's pause.
const (
	defaultHealthPort     = 8080
	defaultAdminPort      = 9600
	defaultConnectTimeout = 3 * time.Second
	defaultTries          = 64
	defaultFinTimeout     = time.Hour
	defaultUserTimeout    = 5 * time.Minute
	defaultIdle           = 60 * time.Second
	defaultInterval       = 15 * time.Second
	defaultProbes         = 4
	defaultEvery          = 5 * time.Second
	maxCheckTimeout       = 5 * time.Second
	defaultRise           = 2
	defaultFall           = 3
	defaultDetection      = 15 * time.Second
	defaultDrain          = 10 * time.Minute
	defaultMinTTL         = time.Second
	defaultMaxTTL         = 5 * time.Minute
	defaultDNSTimeout     = 2 * time.Second
)

// New makes the Plan that f describes. The error is a config.Problems with all
// that stands in the way. The second result are warnings: the plan works, but
// hardly as meant.
func New(f *config.File) (*Plan, config.Problems, error) {
	b := &builder{file: f}
	p := b.plan()
	b.warnKernel(p)
	b.conflicts()
	b.circles(p)
	if err := b.problems.Err(); err != nil {
		return nil, nil, err
	}
	_ = b.warnings.Err() // sorts them
	return p, b.warnings, nil
}

type builder struct {
	file               *config.File
	problems, warnings config.Problems
	listeners          []listener
}

// listener remembers who listens where, to name both sides of a conflict.
type listener struct {
	Listen
	udp   bool
	owner string
	route int // its place in the file; -1: health or admin
	pos   config.Pos
}

// defaultSourcePorts leaves out those that belong to services.
var defaultSourcePorts = config.Ports{From: 1024, To: 65535}

func (b *builder) plan() *Plan {
	f := b.file
	p := &Plan{
		Health: Health{
			Listen:   b.listenOr(f.Health.Listen, Listen{From: defaultHealthPort, To: defaultHealthPort}, "health"),
			DownWhen: DownWhen(f.Health.DownWhen.Or(string(DownNoRoute))),
		},
		Admin:   b.listenOr(f.Admin, Listen{Addr: loopback, From: defaultAdminPort, To: defaultAdminPort}, "admin"),
		Control: control(f.Control),
		Log: Log{
			Format: LogFormat(f.Log.Format.Or(string(LogJSON))),
			To:     f.Log.To.Or("stdout"),
			Start:  f.Log.Start.Or(true),
		},
		DNS: DNS{
			MinTTL:  Duration(f.DNS.MinTTL.Or(defaultMinTTL)),
			MaxTTL:  Duration(f.DNS.MaxTTL.Or(defaultMaxTTL)),
			Timeout: Duration(f.DNS.Timeout.Or(defaultDNSTimeout)),
		},
		Drain: Drain{
			Detection: Duration(f.Drain.Detection.Or(defaultDetection)),
			Timeout:   Duration(f.Drain.Timeout.Or(defaultDrain)),
		},
		MaxConnections: f.MaxConnections.V,
		NFT:            Kernel{Keep: f.NFT.Keep.V, Ports: f.NFT.Ports.Or(defaultSourcePorts)},
	}
	for _, s := range f.DNS.Servers {
		p.DNS.Servers = append(p.DNS.Servers, netip.AddrPort(s.V))
	}
	if p.DNS.MinTTL > p.DNS.MaxTTL {
		b.problems.Addf(firstSet(f.DNS.MinTTL.Pos, f.DNS.MaxTTL.Pos), "min_ttl (%s) is above max_ttl (%s); lower it", p.DNS.MinTTL, p.DNS.MaxTTL)
	}
	b.checkForm(&f.Defaults.Check, "defaults")
	for i := range f.Routes {
		p.Routes = append(p.Routes, b.route(i, &f.Routes[i]))
	}
	b.consumers(p)
	return p
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func control(f config.Field[config.OffOr[string]]) string {
	if f.V.Off {
		return "off"
	}
	return f.V.V
}

// listenOr is the address of one of the daemon's own endpoints, which has one
// port and not a range.
func (b *builder) listenOr(f config.Field[config.OffOr[config.Listen]], d Listen, owner string) Listen {
	l := d
	if f.Set() {
		if f.V.Off {
			return Listen{}
		}
		l = Listen(f.V.V)
		if l.From != l.To {
			b.problems.Addf(f.Pos, "%s listens on one port, not on the range %d-%d", owner, l.From, l.To)
			return l
		}
	}
	b.listeners = append(b.listeners, listener{l, false, owner, -1, f.Pos})
	return l
}

func (b *builder) route(i int, c *config.Route) *Route {
	s, d := &c.Settings, &b.file.Defaults
	r := &Route{
		Name:           c.Name.V,
		Mode:           Mode(c.Mode.Or(config.Modes[0])),
		OnDown:         OnDown(pick(s.OnDown, d.OnDown, config.OnDowns[0])),
		Allow:          values(s.Allow, d.Allow),
		Source:         values(s.Source, d.Source),
		Balance:        Balance(pick(s.Balance, d.Balance, config.Balances[0])),
		ConnectTimeout: Duration(pick(s.ConnectTimeout, d.ConnectTimeout, defaultConnectTimeout)), Tries: pick(s.Tries, d.Tries, defaultTries),
		IdleTimeout:    pickOff(s.IdleTimeout, d.IdleTimeout, 0),
		FinTimeout:     pickOff(s.FinTimeout, d.FinTimeout, defaultFinTimeout),
		Keepalive:      keepalive(s.Keepalive, d.Keepalive),
		Warm:           pick(s.Warm, d.Warm, 0),
		MaxConnections: pick(s.MaxConnections, d.MaxConnections, 0),
	}
	if r.Mode == ModeHTTP || r.Mode == ModeKafka || c.UpstreamTLS.On.V || len(c.TLS.Cert) > 0 {
		r.Warm = 0 // no connection of a session's is one that was there
	}
	r.UserTimeout = pickOff(s.UserTimeout, d.UserTimeout, b.userTimeout(r.Keepalive))
	for _, l := range c.Listen {
		r.Listen = append(r.Listen, Listen(l.V))
		b.listeners = append(b.listeners, listener{Listen(l.V), r.Mode == UDP, fmt.Sprintf("route %q", r.Name), i, l.Pos})
	}
	b.servers(c, r)
	r.Kafka = b.kafka(i, c, r)
	b.layers(c, r)
	r.Check = b.check(c, r)
	b.engine(c, r)
	b.warnRoute(c, r)
	return r
}

// userTimeout keeps TCP_USER_TIMEOUT from cutting keepalive's probes short.
func (b *builder) userTimeout(k Keepalive) time.Duration {
	if k.Off {
		return defaultUserTimeout
	}
	return max(defaultUserTimeout, k.Idle.D()+time.Duration(k.Count)*k.Interval.D())
}

// pick is the route's value, or that of the defaults, or d.
func pick[T any](route, defaults config.Field[T], d T) T { return route.Or(defaults.Or(d)) }

func pickOff(route, defaults config.Field[config.OffOr[time.Duration]], d time.Duration) Duration {
	v := pick(route, defaults, config.OffOr[time.Duration]{V: d})
	if v.Off {
		return 0
	}
	return Duration(v.V)
}

// values is the route's list, or that of the defaults.
func values[T any](route, defaults []config.Field[T]) (all []T) {
	if len(route) == 0 {
		route = defaults
	}
	for _, f := range route {
		all = append(all, f.V)
	}
	return all
}

func keepalive(route, defaults config.Keepalive) Keepalive {
	timed := route.Idle.Set() || route.Interval.Set() || route.Count.Set()
	return Keepalive{
		Off:      route.Off.V || (defaults.Off.V && !timed),
		Idle:     Duration(pick(route.Idle, defaults.Idle, defaultIdle)),
		Interval: Duration(pick(route.Interval, defaults.Interval, defaultInterval)),
		Count:    pick(route.Count, defaults.Count, defaultProbes),
	}
}

// servers fills in the route's servers, each once, and its groups of them.
func (b *builder) servers(c *config.Route, r *Route) {
	known := map[string]int{}
	r.Default = b.set(c, r, c.To, known)
	for i := range c.Groups {
		g := &c.Groups[i]
		r.Groups = append(r.Groups, Group{g.Match.V, g.Path.V, g.Rewrite.V, b.set(c, r, g.To, known)})
	}
}

// set is one set of servers, as indices.
func (b *builder) set(c *config.Route, r *Route, to []config.Server, known map[string]int) (set []int) {
	first := map[string]config.Pos{}
	for i := range to {
		s := &to[i]
		name := s.Target.V.String()
		if at, dup := first[name]; dup {
			b.problems.Addf(s.Target.Pos, "route %q: server %s stands here again (first on line %d); give the first a weight instead", r.Name, name, at.Line)
			continue
		}
		first[name] = s.Target.Pos
		server := b.server(s, r)
		at, there := known[name]
		switch {
		case !there:
			at = len(r.Servers)
			known[name] = at
			r.Servers = append(r.Servers, server)
		case !reflect.DeepEqual(r.Servers[at], server):
			b.problems.Addf(s.Target.Pos, "route %q: server %s stands elsewhere with other settings; a server has the same weight, backup and max_connections wherever it stands", r.Name, name)
		}
		set = append(set, at)
	}
	return set
}

func (b *builder) server(s *config.Server, r *Route) *Server {
	t := s.Target.V
	for _, l := range r.Listen {
		if lo, hi := int(l.From)+t.Shift, int(l.To)+t.Shift; t.Port == 0 && (lo < 1 || hi > 65535) {
			b.problems.Addf(s.Target.Pos, "route %q: server %s would need port %d for listen %s; choose another shift", r.Name, t, map[bool]int{true: lo, false: hi}[lo < 1], l)
		}
	}
	if m := s.MaxConnections; r.Warm > 0 && m.V > 0 && !s.Backup.V {
		b.problems.Addf(m.Pos, "route %q: max_connections of server %s does not count the %d connections that `warm` keeps ready; leave one of the two out", r.Name, t, r.Warm)
	}
	return &Server{
		Name: t.String(), Host: t.Host, Port: t.Port, Shift: t.Shift,
		Weight: s.Weight.Or(1), Backup: s.Backup.V, MaxConnections: s.MaxConnections.V,
	}
}

// warnRoute names combinations that can be run but do not do what their words
// promise.
func (b *builder) warnRoute(c *config.Route, r *Route) {
	b.warnSet(c, r, c.To, r.Default)
	for i := range c.Groups {
		b.warnSet(c, r, c.Groups[i].To, r.Groups[i].Servers)
	}
	b.warnLayers(c, r)
	if r.Check.Kind != CheckOff && r.Check.Timeout > r.Check.Every {
		b.warnings.Addf(firstSet(c.Check.Timeout.Pos, c.Name.Pos), "route %q: check timeout %s is above `every` %s; tests then start late", r.Name, r.Check.Timeout, r.Check.Every)
	}
	if t := r.IdleTimeout; t != 0 && !r.Keepalive.Off && t.D() > 0 && t.D() <= 4*time.Minute && !c.IdleTimeout.Set() {
		b.warnings.Addf(c.Name.Pos, "route %q: idle_timeout %s from `defaults` cuts connection pools that rest longer", r.Name, t)
	}
	if r.Engine == Relay && (r.Keepalive.Off || r.Keepalive.Idle.D() >= 4*time.Minute) {
		b.warnings.Addf(firstSet(c.Keepalive.Off.Pos, c.Keepalive.Idle.Pos, c.Name.Pos), "route %q: without keepalive below 240s Private Link cuts idle connections without a word; write keepalive: 60s", r.Name)
	}
}

// warnSet looks at one set of the route's servers.
func (b *builder) warnSet(c *config.Route, r *Route, to []config.Server, set []int) {
	usable, primary := 0, 0
	for _, i := range set {
		if s := r.Servers[i]; s.Weight > 0 {
			usable++
			if !s.Backup {
				primary++
			}
		}
	}
	switch {
	case len(set) == 0:
	case usable == 0:
		b.problems.Addf(to[0].Weight.Pos, "route %q: every server has weight 0, so no connection could go anywhere; give one a weight", r.Name)
	case primary == 0:
		b.warnings.Addf(to[0].Target.Pos, "route %q: every server is a backup; it works as if none were", r.Name)
	}
}

func firstSet(ps ...config.Pos) config.Pos {
	for _, p := range ps {
		if p != (config.Pos{}) {
			return p
		}
	}
	return config.Pos{}
}

// conflicts reports every listener that cannot be bound because of one before.
func (b *builder) conflicts() {
	byPort := map[uint16][]listener{}
	for _, l := range b.listeners {
		if other, found := taken(byPort, l); found {
			b.conflict(l, other)
		}
		for port := int(l.From); port <= int(l.To); port++ {
			byPort[uint16(port)] = append(byPort[uint16(port)], l)
		}
	}
}

func taken(byPort map[uint16][]listener, l listener) (listener, bool) {
	for port := int(l.From); port <= int(l.To); port++ {
		for _, other := range byPort[uint16(port)] {
			if l.udp == other.udp && l.overlaps(other.Listen) {
				return other, true
			}
		}
	}
	return listener{}, false
}

func (b *builder) conflict(l, other listener) {
	// Health and admin have default addresses: then blame the route.
	if l.pos == (config.Pos{}) {
		l, other = other, l
	}
	where := "by default"
	if other.pos != (config.Pos{}) {
		where = fmt.Sprintf("line %d", other.pos.Line)
	}
	hint := "choose another port"
	if other.owner == "health" || other.owner == "admin" {
		hint += fmt.Sprintf(", or set `%s: \":PORT\"`", other.owner)
	}
	on := func(l listener) string { return strings.TrimPrefix(l.String(), "*:") }
	has := fmt.Sprintf("which %s has already", other.owner)
	if l.owner == other.owner {
		has = fmt.Sprintf("and on %s already", on(other))
	}
	b.problems.Addf(l.pos, "%s listens on %s, %s (%s); %s", l.owner, on(l), has, where, hint)
}

// circles refuses servers that lead back to their own route, by way of listeners
// of this file: a connection to one would come back in until nothing is left. (A
// route may lead to another one.) Addresses of this machine that the file does
// not name are known at run time only.
func (b *builder) circles(p *Plan) {
	type edge struct {
		from, to int
		server   *config.Field[config.Target]
		listener listener
	}
	var edges []edge
	next := make([][]int, len(p.Routes))
	at := b.byPort()
	for i := range b.file.Routes {
		for t := range targets(&b.file.Routes[i]) {
			for _, l := range at.arrivals(p.Routes[i], t.V) {
				edges = append(edges, edge{i, l.route, t, *l})
				next[i] = append(next[i], l.route)
			}
		}
	}
	told := map[*config.Field[config.Target]]bool{}
	for _, e := range edges {
		if !told[e.server] && reaches(next, e.to, e.from) {
			told[e.server] = true
			b.problems.Addf(e.server.Pos, "route %q: server %s is where %s listens (line %d), so connections would go in a circle; write the real target",
				p.Routes[e.from].Name, e.server.V, e.listener.owner, e.listener.pos.Line)
		}
	}
}

// reaches tells whether the edges lead from one node to another.
func reaches(next [][]int, from, to int) bool {
	seen := make([]bool, len(next))
	var visit func(int) bool
	visit = func(n int) bool {
		if n == to || seen[n] {
			return n == to
		}
		seen[n] = true
		return slices.ContainsFunc(next[n], visit)
	}
	return visit(from)
}

// portIndex are the routes' listeners by port: of a thousand routes each is to
// be looked up, and not compared with all others.
type portIndex map[int][]*listener

func (b *builder) byPort() portIndex {
	at := portIndex{}
	for i := range b.listeners {
		l := &b.listeners[i]
		if l.route < 0 || l.pos == (config.Pos{}) || (l.Interface != "" && l.Interface != "lo") {
			continue
		}
		for port := int(l.From); port <= int(l.To); port++ {
			at[port] = append(at[port], l)
		}
	}
	return at
}

// arrivals are the listeners at which connections from r to t would come back in.
func (at portIndex) arrivals(r *Route, t config.Target) (all []*listener) {
	a, err := netip.ParseAddr(t.Host)
	if err != nil {
		return nil
	}
	for _, from := range r.Listen {
		lo, hi := int(t.Port), int(t.Port)
		if t.Port == 0 {
			lo, hi = int(from.From)+t.Shift, int(from.To)+t.Shift
		}
		for port := lo; port <= hi; port++ {
			for _, l := range at[port] {
				if l.reachedBy(a) && !slices.Contains(all, l) {
					all = append(all, l)
				}
			}
		}
	}
	return all
}

// reachedBy tells whether a connection of this host's to a arrives at l, if the
// port does.
func (l *listener) reachedBy(a netip.Addr) bool {
	if l.Addr.IsValid() {
		return l.Addr == a
	}
	return a.IsLoopback() || a.IsUnspecified()
}
