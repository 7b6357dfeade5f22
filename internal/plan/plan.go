// Package plan turns a config.File into a Plan: checked, whole, immutable. It
// fills in the defaults, links what belongs together, and refuses what cannot
// work, all at once and with the place of each.
//
// A Plan made by New knows servers by name. With makes the next Plan, in which
// every server has the endpoints that its name stands for now, each up or down;
// that is what an engine is given. Nothing here looks up a name or reads a
// clock: this package is pure.
//
// Limits: the addresses and interfaces of the machine are not known here, so a
// listener may still fail to bind.
package plan

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"midspan/internal/config"
)

// Plan is all that the daemon is to do. Its values are never changed once
// built; they may be read from any goroutine.
type Plan struct {
	Health         Health `json:"health"`
	Admin          Listen `json:"admin"`   // zero: off
	Control        string `json:"control"` // path; "" default, "off" none
	Log            Log    `json:"log"`
	DNS            DNS    `json:"dns"`
	Drain          Drain  `json:"drain"`
	NFT            Kernel `json:"nft"`
	MaxConnections int    `json:"max_connections"` // 0: what the fd limit allows
	// Consumers may use the guarded routes.
	Consumers []*Consumer `json:"consumers,omitempty"`
	Routes    []*Route    `json:"routes"` // in the order of the file; listeners are disjoint
}

// Health is the probe endpoint.
type Health struct {
	Listen   Listen   `json:"listen"` // zero: off
	DownWhen DownWhen `json:"down_when"`
}

// DownWhen is the policy by which the probe answers 503 although the daemon is
// well: DESIGN calls the danger "shared fate".
type DownWhen string

// The policies.
const (
	DownNoRoute  DownWhen = "no_route"
	DownSelf     DownWhen = "self"
	DownAnyRoute DownWhen = "any_route"
)

// Log is the access log.
type Log struct {
	Format LogFormat `json:"format"`
	To     string    `json:"to"`
	Start  bool      `json:"start"`
}

// LogFormat is how a record is written.
type LogFormat string

// The formats.
const (
	LogJSON   LogFormat = "json"
	LogTCP    LogFormat = "tcplog"
	LogSilent LogFormat = "off"
)

// DNS says how names are looked up; no servers means as the system does.
type DNS struct {
	Servers []netip.AddrPort `json:"servers,omitempty"`
	MinTTL  Duration         `json:"min_ttl"`
	MaxTTL  Duration         `json:"max_ttl"`
	Timeout Duration         `json:"timeout"`
}

// Drain says how the daemon ends.
type Drain struct {
	Detection Duration `json:"detection"`
	Timeout   Duration `json:"timeout"`
}

// Kernel is what holds for all routes of the nft engine.
type Kernel struct {
	Keep  bool         `json:"keep"`  // rules and live connections outlive the daemon
	Ports config.Ports `json:"ports"` // to connect to servers from
}

// Route is one thing forwarded.
type Route struct {
	Name           string    `json:"name"`
	Mode           Mode      `json:"mode"`
	Engine         Engine    `json:"engine"`
	EngineWhy      string    `json:"engine_why"` // why that one: default, written, or "auto: …"
	Listen         []Listen  `json:"listen"`
	Balance        Balance   `json:"balance"`
	Servers        []*Server `json:"servers"`
	Check          Check     `json:"check"`
	ConnectTimeout Duration  `json:"connect_timeout"`
	Tries          int       `json:"tries"`        // endpoints for one connection, at most
	IdleTimeout    Duration  `json:"idle_timeout"` // 0: off
	FinTimeout     Duration  `json:"fin_timeout"`  // 0: off
	UserTimeout    Duration  `json:"user_timeout"` // 0: the kernel's
	Warm           int       `json:"warm"`         // connections kept ready to each address of a server
	Keepalive      Keepalive `json:"keepalive"`
	MaxConnections int       `json:"max_connections"` // 0: no limit of its own

	Allow  []netip.Prefix `json:"allow,omitempty"`  // clients that may connect; none: all
	Source []netip.Addr   `json:"source,omitempty"` // addresses to connect from; none: the interface's
	OnDown OnDown         `json:"on_down"`

	Rate      config.Rate `json:"rate,omitzero"`       // new connections; zero: no limit
	WhenFull  WhenFull    `json:"when_full"`           // above MaxConnections and Rate
	PerSource Limits      `json:"per_source,omitzero"` // of one client address
	SlowStart Duration    `json:"slow_start"`          // 0: off

	Proxy     Proxy     `json:"proxy_protocol"`
	SendProxy SendProxy `json:"send_proxy"`
	Guarded   bool      `json:"guarded,omitempty"` // only for consumers, see Consumer.MayUse

	// Groups are sets of servers for some connections or requests; Default is
	// the set for the others, which may be empty. Both are indices into
	// Servers, which has each server once.
	Groups  []Group `json:"groups,omitempty"`
	Default []int   `json:"-"`

	SNI         SNI         `json:"sni,omitzero"`          // mode sni
	TLS         *TLS        `json:"tls,omitempty"`         // with clients; nil: none
	UpstreamTLS UpstreamTLS `json:"upstream_tls,omitzero"` // with servers
	HTTP        *HTTP       `json:"http,omitempty"`        // mode http; else nil
	Kafka       *Kafka      `json:"kafka,omitempty"`       // mode kafka; else nil
}

// Mode is what a route understands of what it forwards.
type Mode string

// The modes.
const (
	TCP      Mode = "tcp"
	UDP      Mode = "udp"
	ModeSNI  Mode = "sni"  // the server is chosen by the TLS server name; nothing is decrypted
	ModeHTTP Mode = "http" // requests are forwarded, not connections
	// ModeKafka forwards a cluster: what its answers say of where brokers are is
	// rewritten.
	ModeKafka Mode = "kafka"
)

// OnDown is what becomes of live connections to a server that goes down.
type OnDown string

// The policies.
const (
	Keep OnDown = "keep"
	Cut  OnDown = "cut"
)

// Balance is how a server is chosen for a connection.
type Balance string

// The ways.
const (
	RoundRobin Balance = "roundrobin" // in turn, by weight
	LeastConn  Balance = "leastconn"  // fewest connections for its weight
	Source     Balance = "source"     // the same client to the same server, by rendezvous hashing
	First      Balance = "first"      // the first in the file that is up and not full
)

// Keepalive is TCP keepalive on both legs.
type Keepalive struct {
	Off      bool     `json:"off,omitempty"`
	Idle     Duration `json:"idle"`
	Interval Duration `json:"interval"`
	Count    int      `json:"count"`
}

// Server is one host:port of a route's upstream.
type Server struct {
	Name           string     `json:"name"`               // as the file has it; unique in its route
	Host           string     `json:"host"`               // a name, or an IP address in its canonical form
	TLSName        string     `json:"tls_name,omitempty"` // what its certificate is for; "": Host. See Route.UpstreamTLS
	Port           uint16     `json:"port"`               // 0: the listener's plus Shift
	Shift          int        `json:"shift,omitempty"`
	Weight         int        `json:"weight"` // 0: gets no new connections
	Backup         bool       `json:"backup"`
	MaxConnections int        `json:"max_connections"` // 0: no limit
	Endpoints      []Endpoint `json:"endpoints"`       // sorted by address; empty while the name has none
}

// Endpoint is one address of a server.
type Endpoint struct {
	Addr netip.Addr `json:"addr"`
	Up   bool       `json:"up"` // gets new connections
	// LastResort: connects to it fail, and it is Up only because the route has
	// no check and nothing better.
	LastResort bool `json:"last_resort,omitempty"`
}

// PortFor is the server's port for a connection that came in on port listen.
func (s *Server) PortFor(listen uint16) uint16 {
	if s.Port != 0 {
		return s.Port
	}
	return uint16(int(listen) + s.Shift)
}

// Literal is the server's address, if its host is one and not a name.
func (s *Server) Literal() (netip.Addr, bool) {
	a, err := netip.ParseAddr(s.Host)
	return a, err == nil
}

// CertName is the name that the server's certificate must have, where the file
// gives none.
func (s *Server) CertName() string { return cmp.Or(s.TLSName, s.Host) }

// MainPort is the server's port for health: that of the first listener, where
// the route has many.
func (r *Route) MainPort(s *Server) uint16 { return s.PortFor(r.Listen[0].From) }

// With is p with the endpoints of every server: the addresses that addrs gives
// for its host (literal addresses are not asked for), in the state that state
// gives.
func (p *Plan) With(addrs func(host string) []netip.Addr, state func(*Route, *Server, netip.Addr) (up, lastResort bool)) *Plan {
	next := *p
	next.Routes = make([]*Route, len(p.Routes))
	for i, r := range p.Routes {
		route := *r
		route.Servers = make([]*Server, len(r.Servers))
		for j, s := range r.Servers {
			server := *s
			server.Endpoints = nil
			list := []netip.Addr{}
			if a, ok := s.Literal(); ok {
				list = append(list, a)
			} else {
				list = addrs(s.Host)
			}
			for _, a := range list {
				up, lastResort := state(r, s, a)
				server.Endpoints = append(server.Endpoints, Endpoint{a, up, lastResort})
			}
			route.Servers[j] = &server
		}
		next.Routes[i] = &route
	}
	return &next
}

// Of is p with only the routes of an engine.
func (p *Plan) Of(e Engine) *Plan {
	next := *p
	next.Routes = nil
	for _, r := range p.Routes {
		if r.Engine == e {
			next.Routes = append(next.Routes, r)
		}
	}
	return &next
}

// WithoutListeners is p with routes that listen nowhere: what an engine is given
// to stop accepting while connections that live go on. Routes that outlive the
// daemon keep theirs.
func (p *Plan) WithoutListeners() *Plan {
	next := *p
	next.Routes = make([]*Route, len(p.Routes))
	for i, r := range p.Routes {
		route := *r
		if !p.Outlives(r) {
			route.Listen = nil
		}
		next.Routes[i] = &route
	}
	return &next
}

// Outlives tells whether a route is still forwarded when the daemon has ended.
func (p *Plan) Outlives(r *Route) bool { return p.NFT.Keep && r.Engine == NFT }

// Usable tells whether a new connection on r has somewhere to go that is not
// known to fail. On a route of mode kafka that is one to the cluster, and not to a
// certain node of it.
func (r *Route) Usable() bool {
	for i, s := range r.Servers {
		if s.Weight > 0 && s.Up() && (r.Kafka == nil || slices.Contains(r.Default, i)) {
			return true
		}
	}
	return false
}

// Up tells whether a connection to s has somewhere to go that is not known to fail.
func (s *Server) Up() bool {
	return slices.ContainsFunc(s.Endpoints, func(e Endpoint) bool { return e.Up && !e.LastResort })
}

// Hosts are the names (not addresses) that the plan needs, without repetition,
// in the order of the file.
func (p *Plan) Hosts() []string {
	var hosts []string
	seen := map[string]bool{}
	for _, r := range p.Routes {
		for _, s := range r.Servers {
			if _, literal := s.Literal(); !literal && !seen[s.Host] {
				seen[s.Host] = true
				hosts = append(hosts, s.Host)
			}
		}
	}
	return hosts
}

// Listen is one listening address or range of ports.
type Listen struct {
	Addr      netip.Addr // zero: all, IPv4 and IPv6
	Interface string     // "": any
	From, To  uint16     // inclusive
}

// Off tells whether l is the zero Listen: nothing listens.
func (l Listen) Off() bool { return l.From == 0 }

func (l Listen) String() string {
	if l.Off() {
		return "off"
	}
	ports := strconv.Itoa(int(l.From))
	if l.From != l.To {
		ports += "-" + strconv.Itoa(int(l.To))
	}
	host := ""
	if l.Addr.IsValid() {
		host = l.Addr.String()
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if l.Interface != "" {
		host += "%" + l.Interface
	}
	if host == "" {
		host = "*"
	}
	return host + ":" + ports
}

// MarshalText makes a Listen a string in JSON.
func (l Listen) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// overlaps tells whether one socket of l and one of m would want the same
// port of the same address.
func (l Listen) overlaps(m Listen) bool {
	ports := l.From <= m.To && m.From <= l.To
	addrs := !l.Addr.IsValid() || !m.Addr.IsValid() || l.Addr == m.Addr ||
		(l.Addr.IsUnspecified() && l.Addr.Is4() == m.Addr.Is4()) || (m.Addr.IsUnspecified() && l.Addr.Is4() == m.Addr.Is4())
	interfaces := l.Interface == "" || m.Interface == "" || l.Interface == m.Interface
	return ports && addrs && interfaces
}

// Duration is a time.Duration that is a string (3s) in JSON; 0 is "off".
type Duration time.Duration

// D is d for the standard library.
func (d Duration) D() time.Duration { return time.Duration(d) }

func (d Duration) String() string {
	if d == 0 {
		return "off"
	}
	s := time.Duration(d).String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// MarshalJSON implements json.Marshaler.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }
