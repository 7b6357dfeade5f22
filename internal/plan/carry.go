package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"midspan/internal/config"
)

// Engine is what carries the bytes of a route.
type Engine string

// The engines.
const (
	Relay Engine = "relay" // user space
	NFT   Engine = "nft"   // the kernel: address translation
)

// Feature is what a route may ask for, or how it behaves, that not every engine
// has.
type Feature string

// The features that a file can ask for.
const (
	FeatureUDP            Feature = "udp"
	FeatureKeepalive      Feature = "keepalive"
	FeatureConnectTimeout Feature = "connect_timeout"
	FeatureTries          Feature = "tries"
	FeatureUserTimeout    Feature = "user_timeout"
	FeatureLeastConn      Feature = "leastconn"
	FeatureServerLimit    Feature = "server max_connections"
	FeatureWarm           Feature = "warm"
	FeatureFamilies       Feature = "families"
	FeatureLoopback       Feature = "loopback"
	FeatureSource         Feature = "source"
	FeatureAllow          Feature = "allow"
	FeatureCut            Feature = "on_down: cut"
	FeatureProxy          Feature = "proxy_protocol"
	FeatureSendProxy      Feature = "send_proxy"
	FeatureGroups         Feature = "servers by name"
	FeatureSNI            Feature = "sni"
	FeatureHTTP           Feature = "http"
	FeatureKafka          Feature = "kafka"
	FeatureTLS            Feature = "tls"
	FeatureRate           Feature = "rate"
	FeaturePerSource      Feature = "per_source"
	FeatureReset          Feature = "when_full: reset"
	FeatureSlowStart      Feature = "slow_start"
)

// The features that come with the engine.
const (
	FeatureFailover    Feature = "failover"
	FeatureAcceptFirst Feature = "accept first"
	FeatureExactCounts Feature = "exact counts"
	FeatureFinTimeout  Feature = "fin_timeout of a route"
	FeatureTotalLimit  Feature = "max_connections of all"
	FeatureSurvives    Feature = "survives"
)

// Capability is a row of the table of who can carry what.
type Capability struct {
	Feature Feature
	Engines []Engine
	Asked   bool   // a file can ask for it; else it comes with the engine
	Means   string // what it is, for a reader of the table
	Lacks   string // what an engine without it does not do: "cannot …"
	Instead string // what to write where the engine lacks it
}

// Capabilities are all rows. The documents and the tests of the engines are held
// to it.
var Capabilities = []Capability{
	{FeatureUDP, []Engine{NFT}, true, "`mode: udp`: datagrams", "cannot forward datagrams", "write engine: nft"},
	{FeatureKeepalive, []Engine{Relay}, true, "`keepalive`: TCP keepalive on both legs", "cannot send keepalives on connections that are the clients' and the servers' own", "write engine: relay, or take it out and let the clients send them"},
	{FeatureTries, []Engine{Relay}, true, "`tries`: how many servers a connection is tried at", "tries one server", "write engine: relay, or take it out"},
	{FeatureConnectTimeout, []Engine{Relay}, true, "`connect_timeout`: a time limit for reaching a server", "cannot limit the time of a connect, which is the client's own", "write engine: relay, or take it out"},
	{FeatureUserTimeout, []Engine{Relay}, true, "`user_timeout`: TCP_USER_TIMEOUT on both legs", "cannot set socket options", "write engine: relay, or take it out"},
	{FeatureLeastConn, []Engine{Relay}, true, "`balance: leastconn`", "cannot choose by the number of connections", "write balance: roundrobin, or engine: relay"},
	{FeatureServerLimit, []Engine{Relay}, true, "`max_connections` of a server", "cannot pass a full server by", "give the route a max_connections, or write engine: relay"},
	{FeatureWarm, []Engine{Relay}, true, "`warm`: connections kept ready", "cannot open connections", "write engine: relay, or take it out"},
	{FeatureFamilies, []Engine{Relay}, true, "IPv6 clients of an IPv4 server, and the reverse", "cannot translate between IPv4 and IPv6", "give listener and server the same IP version, or write engine: relay"},
	{FeatureLoopback, []Engine{Relay}, true, "listening on 127.0.0.1 or ::1, or servers there", "cannot forward from or to loopback addresses", "write another address of this machine, or engine: relay"},
	{FeatureSource, []Engine{Relay, NFT}, true, "`source`: a pool of addresses to connect from", "", ""},
	{FeatureAllow, []Engine{Relay, NFT}, true, "`allow`: who may connect", "", ""},
	{FeatureCut, []Engine{Relay, NFT}, true, "`on_down: cut`: connections to a server that goes down are reset", "", ""},
	{FeatureProxy, []Engine{Relay}, true, "`proxy_protocol`: headers that say who the client is, and `consumers`", "cannot read what is sent", "write engine: relay"},
	{FeatureSendProxy, []Engine{Relay}, true, "`send_proxy`: headers that tell servers who the client is", "cannot send anything of its own", "write engine: relay, or take it out"},
	{FeatureGroups, []Engine{Relay}, true, "`to: { NAME: … }`: servers by consumer", "cannot read what is sent", "write engine: relay, or one listener for each"},
	{FeatureSNI, []Engine{Relay}, true, "`mode: sni`: servers by TLS server name", "cannot read what is sent", "write engine: relay"},
	{FeatureHTTP, []Engine{Relay}, true, "`mode: http`: requests", "cannot read what is sent", "write engine: relay"},
	{FeatureKafka, []Engine{Relay}, true, "`mode: kafka`: a cluster behind one name", "cannot read what is sent", "write engine: relay, or mode: tcp and a route for each broker"},
	{FeatureTLS, []Engine{Relay}, true, "`tls` and `upstream_tls`", "cannot encrypt", "write engine: relay, or take it out"},
	{FeatureRate, []Engine{Relay}, true, "`rate`: new connections a second", "cannot make connections wait", "write engine: relay, or take it out"},
	{FeaturePerSource, []Engine{Relay}, true, "`per_source`: limits for one client", "cannot count clients", "write engine: relay, or take it out"},
	{FeatureReset, []Engine{Relay, NFT}, true, "`when_full: reset`: nobody waits at `max_connections`", "", ""},
	{FeatureSlowStart, []Engine{Relay}, true, "`slow_start`", "cannot change a share with time", "write engine: relay, or take it out"},

	{FeatureFailover, []Engine{Relay}, false, "a connect that fails is tried at another server before the client hears of it", "", ""},
	{FeatureAcceptFirst, []Engine{Relay}, false, "clients are accepted before a server is reached; else a failed connect is the client's own (refused, or no answer), and who finds no server or is not allowed is counted but not in the access log", "", ""},
	{FeatureExactCounts, []Engine{Relay}, false, "counts are of payload, at once; else of whole packets, about a second late, with idle time in seconds", "", ""},
	{FeatureFinTimeout, []Engine{Relay}, false, "`fin_timeout` is each route's own; else the longest of all routes holds for the kernel", "", ""},
	{FeatureTotalLimit, []Engine{Relay}, false, "`max_connections` of the whole file; else the size of the connection tracking table", "", ""},
	{FeatureSurvives, []Engine{NFT}, false, "live connections survive the end of the daemon's process", "", ""},
}

// Carries tells whether e has a feature.
func (e Engine) Carries(f Feature) bool {
	for _, c := range Capabilities {
		if c.Feature == f {
			return c.carriedBy(e)
		}
	}
	return false
}

func (c *Capability) carriedBy(e Engine) bool {
	for _, x := range c.Engines {
		if x == e {
			return true
		}
	}
	return false
}

// ask is a feature that a route asks for.
type ask struct {
	feature Feature
	pos     config.Pos
	detail  string // what exactly, for an error; "" where the position says it
	soft    bool   // not written in the route: it is done without where it cannot be had
}

// asks are what the route needs of its engine.
func (b *builder) asks(c *config.Route, r *Route) (all []ask) {
	need := func(f Feature, asked bool, pos config.Pos, detail string) {
		if asked {
			all = append(all, ask{f, firstSet(pos, c.Name.Pos), detail, false})
		}
	}
	d := &b.file.Defaults
	need(FeatureUDP, r.Mode == UDP, c.Mode.Pos, "mode udp")
	need(FeatureTries, c.Tries.Set(), c.Tries.Pos, "")
	need(FeatureConnectTimeout, c.ConnectTimeout.Set(), c.ConnectTimeout.Pos, "")
	need(FeatureUserTimeout, c.UserTimeout.Set() && !c.UserTimeout.V.Off, c.UserTimeout.Pos, "")
	need(FeatureLeastConn, r.Balance == LeastConn, firstSet(c.Balance.Pos, d.Balance.Pos), "")
	need(FeatureWarm, c.Warm.V > 0, c.Warm.Pos, "")
	need(FeatureSource, len(r.Source) > 0, posOf(c.Source, d.Source), "")
	need(FeatureAllow, len(r.Allow) > 0, posOf(c.Allow, d.Allow), "")
	need(FeatureCut, r.OnDown == Cut, firstSet(c.OnDown.Pos, d.OnDown.Pos), "")
	for s := range c.Servers() {
		need(FeatureServerLimit, s.MaxConnections.V > 0, s.MaxConnections.Pos, "")
	}
	b.layerAsks(c, r, need)
	for _, l := range c.Listen {
		need(FeatureLoopback, l.V.Addr.IsLoopback(), l.Pos, "listen "+l.V.String())
	}
	for s := range c.Servers() {
		if a, err := netip.ParseAddr(s.Target.V.Host); err == nil {
			need(FeatureLoopback, a.IsLoopback(), s.Target.Pos, "server "+s.Target.V.String())
			for _, l := range c.Listen {
				need(FeatureFamilies, l.V.Addr.IsValid() && l.V.Addr.Is4() != a.Is4(), s.Target.Pos, fmt.Sprintf("listen %s to server %s", l.V, s.Target.V))
			}
		}
	}
	k := &c.Keepalive
	switch pos := firstSet(k.Idle.Pos, k.Interval.Pos, k.Count.Pos); {
	case pos != config.Pos{} && !r.Keepalive.Off:
		need(FeatureKeepalive, true, pos, "")
	case r.Mode.Stream() && !r.Keepalive.Off:
		all = append(all, ask{FeatureKeepalive, c.Name.Pos, "", true})
	}
	return all
}

// layerAsks are those above TCP.
func (b *builder) layerAsks(c *config.Route, r *Route, need func(Feature, bool, config.Pos, string)) {
	d := &b.file.Defaults
	need(FeatureProxy, r.Proxy.Mode != ProxyRefused, firstSet(c.Proxy.Mode.Pos, posOf(c.Proxy.From, d.Proxy.From), d.Proxy.Mode.Pos), "")
	need(FeatureSendProxy, r.SendProxy != SendNone, firstSet(c.SendProxy.Pos, d.SendProxy.Pos), "")
	need(FeatureSNI, r.Mode == ModeSNI, c.Mode.Pos, "mode sni")
	need(FeatureHTTP, r.Mode == ModeHTTP, c.Mode.Pos, "mode http")
	need(FeatureKafka, r.Mode == ModeKafka, c.Mode.Pos, "mode kafka")
	need(FeatureGroups, r.Mode == TCP && len(r.Groups) > 0, c.Name.Pos, "")
	need(FeatureTLS, r.TLS != nil || r.UpstreamTLS.On, firstSet(c.UpstreamTLS.On.Pos, posOf(c.TLS.Cert)), "")
	need(FeatureRate, r.Rate.N > 0, firstSet(c.Rate.Pos, d.Rate.Pos), "")
	need(FeaturePerSource, r.PerSource != Limits{}, firstSet(c.PerSource.MaxConnections.Pos, c.PerSource.Rate.Pos), "")
	need(FeatureReset, r.WhenFull == Reset, firstSet(c.WhenFull.Pos, d.WhenFull.Pos), "")
	need(FeatureSlowStart, r.SlowStart > 0, firstSet(c.SlowStart.Pos, d.SlowStart.Pos), "")
}

func posOf[T any](lists ...[]config.Field[T]) config.Pos {
	for _, l := range lists {
		if len(l) > 0 {
			return l[0].Pos
		}
	}
	return config.Pos{}
}

// engine chooses the route's engine, or takes the one that is written and
// refuses what it cannot do.
func (b *builder) engine(c *config.Route, r *Route) {
	asks := b.asks(c, r)
	written := pick(c.Engine, b.file.Defaults.Engine, config.Engines[0])
	if written == "auto" {
		r.Engine, r.EngineWhy = choose(asks)
	} else {
		r.Engine, r.EngineWhy = Engine(written), "written"
		if !c.Engine.Set() {
			r.EngineWhy = "default"
		}
	}
	for _, a := range asks {
		row := a.feature.row()
		if a.soft || row.carriedBy(r.Engine) {
			continue
		}
		what := string(a.feature)
		if a.detail != "" {
			what = a.detail
		}
		b.problems.Addf(a.pos, "route %q: %s: engine %s %s; %s", r.Name, what, r.Engine, row.Lacks, row.Instead)
	}
}

func (f Feature) row() *Capability {
	for i := range Capabilities {
		if Capabilities[i].Feature == f {
			return &Capabilities[i]
		}
	}
	return &Capability{Feature: f}
}

// choose takes the kernel where it can do all that is asked for, since it is the
// faster one.
func choose(asks []ask) (Engine, string) {
	var relayOnly, nftOnly []string
	for _, a := range asks {
		switch row := a.feature.row(); {
		case !row.carriedBy(NFT):
			relayOnly = append(relayOnly, string(a.feature))
		case !row.carriedBy(Relay):
			nftOnly = append(nftOnly, string(a.feature))
		}
	}
	switch {
	case len(nftOnly) > 0: // if there are relayOnly too, they are refused
		return NFT, "auto: only nft has " + strings.Join(nftOnly, ", ")
	case len(relayOnly) > 0:
		why := "auto: only relay has " + strings.Join(relayOnly, ", ")
		if slices.Equal(relayOnly, []string{string(FeatureKeepalive)}) {
			why += " (write keepalive: off where clients send them)"
		}
		return Relay, why
	}
	return NFT, "auto: the kernel can do all that the route asks for"
}

// warnKernel says, once for all routes that it is about, what no address
// translation can do for a connection.
func (b *builder) warnKernel(p *Plan) {
	var names []string
	pos := config.Pos{}
	for i, r := range p.Routes {
		if r.Engine == NFT && r.Mode.Stream() {
			c := &b.file.Routes[i]
			if len(names) == 0 {
				pos = firstSet(c.Engine.Pos, b.file.Defaults.Engine.Pos, c.Name.Pos)
			}
			names = append(names, fmt.Sprintf("%q", r.Name))
		}
	}
	const few = 3
	what := "route "
	switch n := len(names); {
	case n == 0:
		return
	case n > few+1:
		what = "routes "
		names = append(names[:few], fmt.Sprintf("and %d more", n-few))
	case n > 1:
		what = "routes "
	}
	b.warnings.Addf(pos, "%s%s: engine nft cannot send keepalives, and Private Link cuts a flow that is idle for 240s; set them in the clients: "+
		"connections.max.idle.ms=180000 (Kafka; in Spark kafka.connections.max.idle.ms), with socket.keepalive.enable=true (librdkafka), "+
		"tcpKeepAlive=true and net.ipv4.tcp_keepalive_time=60 (JDBC), keepaliveTime=120000 (HikariCP); or write engine: relay", what, strings.Join(names, ", "))
}
