package plan

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"midspan/internal/config"
)

const (
	defaultOpening          = 5 * time.Second // a PROXY header or a ClientHello is sent at once
	defaultHeaderTimeout    = 10 * time.Second
	defaultKeepaliveTimeout = 75 * time.Second
	defaultMaxHeader        = config.Size(32 << 10)
	maxHello                = config.Size(64 << 10)
)

// layers fills in what the route does above TCP.
func (b *builder) layers(c *config.Route, r *Route) {
	s, d := &c.Settings, &b.file.Defaults
	r.Rate = pick(s.Rate, d.Rate, config.Rate{})
	r.WhenFull = WhenFull(pick(s.WhenFull, d.WhenFull, config.WhenFulls[0]))
	r.PerSource = Limits{
		MaxConnections: pick(s.PerSource.MaxConnections, d.PerSource.MaxConnections, 0),
		Rate:           pick(s.PerSource.Rate, d.PerSource.Rate, config.Rate{}),
	}
	r.SlowStart = pickOff(s.SlowStart, d.SlowStart, 0)
	r.SendProxy = SendProxy(pick(s.SendProxy, d.SendProxy, config.SendProxies[0]))
	r.Proxy = b.proxy(c, r)
	b.sni(c, r)
	r.TLS = b.tls(c, r)
	r.UpstreamTLS = b.upstreamTLS(c, r)
	r.HTTP = b.http(c, r)
	b.groups(c, r)
	if r.Proxy.Mode == ProxyPassed && (r.Mode != TCP || r.TLS != nil || r.UpstreamTLS.On) {
		pos := firstSet(c.Proxy.Mode.Pos, b.file.Defaults.Proxy.Mode.Pos)
		b.problems.Addf(pos, "route %q: a PROXY header can be passed on only where nothing behind it is read or encrypted; write proxy_protocol: required, and send_proxy: v2 for servers that want one", r.Name)
	}
	if c.Warm.V > 0 && r.Warm == 0 {
		b.problems.Addf(c.Warm.Pos, "route %q: `warm` is for plain TCP, without TLS on either side; take it out (mode http keeps connections by itself)", r.Name)
	}
	if c.WhenFull.Set() && r.MaxConnections == 0 && r.Rate.N == 0 {
		b.problems.Addf(c.WhenFull.Pos, "route %q: when_full says what happens at a limit, and there is none; add max_connections or rate", r.Name)
	}
}

func (b *builder) proxy(c *config.Route, r *Route) Proxy {
	s, d := &c.Proxy, &b.file.Defaults.Proxy
	mode := func(p *config.Proxy) (string, bool) {
		if p.Mode.Set() {
			return p.Mode.V, true
		}
		return string(ProxyRequired), len(p.From) > 0 || p.Timeout.Set()
	}
	p := Proxy{Mode: ProxyRefused}
	if m, set := mode(d); set {
		p.Mode = ProxyMode(m)
	}
	if m, set := mode(s); set {
		p.Mode = ProxyMode(m)
	}
	if p.Mode != ProxyRequired {
		if pos := firstSet(posOf(s.From), s.Timeout.Pos); pos != (config.Pos{}) {
			b.problems.Addf(pos, "route %q: `from` and `timeout` are for headers that are read; write mode: required", r.Name)
		}
		return p
	}
	p.From = values(s.From, d.From)
	p.Timeout = Duration(pick(s.Timeout, d.Timeout, defaultOpening))
	return p
}

func (b *builder) sni(c *config.Route, r *Route) {
	pos := firstSet(c.SNI.NoName.Pos, c.SNI.NotTLS.Pos, c.SNI.MaxHello.Pos, c.SNI.Timeout.Pos)
	if r.Mode != ModeSNI {
		if pos != (config.Pos{}) {
			b.problems.Addf(pos, "route %q: `sni` is for mode sni; write mode: sni, or take it out", r.Name)
		}
		return
	}
	noName := Refuse
	if len(r.Default) > 0 {
		noName = ToDefault
	}
	r.SNI = SNI{
		NoName:   Fallback(c.SNI.NoName.Or(string(noName))),
		NotTLS:   Fallback(c.SNI.NotTLS.Or(string(Refuse))),
		MaxHello: int(min(c.SNI.MaxHello.Or(maxHello), maxHello)),
		Timeout:  Duration(c.SNI.Timeout.Or(defaultOpening)),
	}
	for _, f := range []config.Field[string]{c.SNI.NoName, c.SNI.NotTLS} {
		if f.V == string(ToDefault) && len(r.Default) == 0 {
			b.problems.Addf(f.Pos, "route %q: there is no default server; add `default: HOST:PORT` to `to`", r.Name)
		}
	}
}

func (b *builder) tls(c *config.Route, r *Route) *TLS {
	t := &c.TLS
	pos := firstSet(posOf(t.Cert, t.ALPN), t.Key.Pos, t.ClientCA.Pos, t.ClientCert.Pos, t.Min.Pos, t.Resume.Pos)
	if pos == (config.Pos{}) {
		return nil
	}
	if r.Mode != TCP && r.Mode != ModeHTTP && r.Mode != ModeKafka {
		b.problems.Addf(pos, "route %q: mode %s decrypts nothing; write mode: tcp, http or kafka, or take `tls` out", r.Name, r.Mode)
	}
	if len(t.Cert) == 0 {
		b.problems.Addf(pos, "route %q: `tls` has no certificate; add cert: FILE", r.Name)
	}
	if t.Key.Set() && len(t.Cert) > 1 {
		b.problems.Addf(t.Key.Pos, "route %q: one key cannot be that of %d certificates; put each key into the file of its certificate", r.Name, len(t.Cert))
	}
	if t.ClientCert.Set() && !t.ClientCA.Set() {
		b.problems.Addf(t.ClientCert.Pos, "route %q: client certificates are told by who signed them; add client_ca: FILE", r.Name)
	}
	v := &TLS{
		Certs: values(t.Cert, nil), Key: t.Key.V, ClientCA: t.ClientCA.V, ClientCert: t.ClientCert.V,
		Min: t.Min.Or(config.TLSVersions[0]), ALPN: values(t.ALPN, nil), NoResume: !t.Resume.Or(true),
	}
	for _, f := range t.ALPN {
		if r.Mode == ModeHTTP && f.V != "h2" && f.V != "http/1.1" {
			b.problems.Addf(f.Pos, "route %q: mode http speaks h2 and http/1.1, and not %s; take it out", r.Name, f.V)
		}
	}
	if v.ClientCA != "" && v.ClientCert == "" {
		v.ClientCert = config.ClientCerts[0]
	}
	if r.Mode == ModeHTTP && len(v.ALPN) == 0 {
		v.ALPN = []string{"h2", "http/1.1"}
	}
	return v
}

func (b *builder) upstreamTLS(c *config.Route, r *Route) UpstreamTLS {
	t := &c.UpstreamTLS
	if !t.On.V {
		return UpstreamTLS{}
	}
	if r.Mode != TCP && r.Mode != ModeHTTP && r.Mode != ModeKafka {
		b.problems.Addf(t.On.Pos, "route %q: mode %s encrypts nothing; write mode: tcp, http or kafka, or take `upstream_tls` out", r.Name, r.Mode)
	}
	if t.Key.Set() && !t.Cert.Set() {
		b.problems.Addf(t.Key.Pos, "route %q: a key needs its certificate; add cert: FILE", r.Name)
	}
	if !t.Verify.Or(true) {
		b.warnings.Addf(t.Verify.Pos, "route %q: verify: false lets anybody on the way to the servers read and change what is sent; write ca: FILE instead", r.Name)
	}
	return UpstreamTLS{
		On: true, Name: strings.ToLower(t.Name.V), CA: t.CA.V, Cert: t.Cert.V, Key: t.Key.V,
		Insecure: !t.Verify.Or(true), Min: t.Min.Or(config.TLSVersions[0]), NoResume: !t.Resume.Or(true),
	}
}

func (b *builder) http(c *config.Route, r *Route) *HTTP {
	h := &c.HTTP
	if r.Mode != ModeHTTP {
		if pos := httpPos(h); pos != (config.Pos{}) {
			b.problems.Addf(pos, "route %q: `http` is for mode http; write mode: http, or take it out", r.Name)
		}
		return nil
	}
	v := &HTTP{
		H2:               h.Protocol.V == "h2",
		Host:             h.Host.V,
		Forwarded:        Forwarded(h.Forwarded.Or(config.Forwardeds[0])),
		Sticky:           h.Sticky.V,
		HeaderTimeout:    Duration(h.HeaderTimeout.Or(defaultHeaderTimeout)),
		KeepaliveTimeout: Duration(h.KeepaliveTimeout.Or(defaultKeepaliveTimeout)),
		MaxHeader:        int(h.MaxHeader.Or(defaultMaxHeader)),
		ResponseTimeout:  pickOff(h.ResponseTimeout, config.Field[config.OffOr[time.Duration]]{}, 0),
		SetRequest:       h.RequestHeaders.Set,
		RemoveRequest:    values(h.RequestHeaders.Remove, nil),
		SetResponse:      h.ResponseHeaders.Set,
		RemoveResponse:   values(h.ResponseHeaders.Remove, nil),
	}
	if v.Host == "keep" {
		v.Host = ""
	}
	for _, x := range slices.Concat(h.RequestHeaders.Set, h.ResponseHeaders.Set) {
		b.ownHeader(r, x.Name)
	}
	for _, x := range slices.Concat(h.RequestHeaders.Remove, h.ResponseHeaders.Remove) {
		b.ownHeader(r, x)
	}
	return v
}

// ownHeader refuses fields that say where messages end, or that hold for one
// connection only: changing them would let requests be smuggled.
func (b *builder) ownHeader(r *Route, f config.Field[string]) {
	switch strings.ToLower(f.V) {
	case "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "proxy-connection":
		b.problems.Addf(f.Pos, "route %q: header %s frames the message and is the proxy's own; take it out", r.Name, f.V)
	case "host":
		b.problems.Addf(f.Pos, "route %q: the Host header is set by `host: keep`, `host: server` or `host: NAME`; take it out here", r.Name)
	}
}

func httpPos(h *config.HTTP) config.Pos {
	p := firstSet(h.Protocol.Pos, h.Host.Pos, h.Forwarded.Pos, h.Sticky.Pos, h.HeaderTimeout.Pos, h.KeepaliveTimeout.Pos, h.ResponseTimeout.Pos, h.MaxHeader.Pos)
	for _, x := range []*config.Headers{&h.RequestHeaders, &h.ResponseHeaders} {
		if len(x.Set) > 0 {
			p = firstSet(p, x.Set[0].Name.Pos)
		}
		p = firstSet(p, posOf(x.Remove))
	}
	return p
}

// groups checks that the route's mode can tell its groups apart.
func (b *builder) groups(c *config.Route, r *Route) {
	if r.Mode == ModeSNI && len(r.Groups) == 0 {
		b.problems.Addf(c.Mode.Pos, "route %q: mode sni chooses servers by name; write to: { NAME: HOST:PORT }, or mode: tcp", r.Name)
	}
	first := map[string]config.Pos{}
	for i := range c.Groups {
		g := &c.Groups[i]
		hosts := g.Path.Set()
		switch {
		case hosts && r.Mode != ModeHTTP:
			b.problems.Addf(g.Match.Pos, "route %q: `hosts` is for mode http; write mode: http", r.Name)
		case !hosts && r.Mode == ModeHTTP:
			b.problems.Addf(g.Match.Pos, "route %q: mode http chooses servers by `hosts`, and `to` has those for the rest; write hosts: { %s: … }", r.Name, g.Match.V)
		case !hosts && (r.Mode == UDP || r.Mode == ModeKafka):
			b.problems.Addf(g.Match.Pos, "route %q: mode %s has one set of servers; write to: [HOST:PORT]", r.Name, r.Mode)
		case r.Mode == ModeSNI || r.Mode == ModeHTTP:
			r.Groups[i].Match = strings.ToLower(strings.TrimSuffix(g.Match.V, "."))
			b.hostname(r, g.Match)
		case r.Mode == TCP && !slices.ContainsFunc(b.file.Consumers, func(x config.Consumer) bool { return x.Name.V == g.Match.V }):
			hint := "add it to `consumers`"
			if like := config.Closest(g.Match.V, b.consumerNames()); like != "" {
				hint = like
			} else if strings.Contains(g.Match.V, ".") {
				hint = "for names that TLS clients ask for write mode: sni"
			}
			b.problems.Addf(g.Match.Pos, "route %q: there is no consumer %q; %s", r.Name, g.Match.V, hint)
		}
		key := r.Groups[i].Match + g.Path.V
		if at, again := first[key]; again {
			b.problems.Addf(g.Match.Pos, "route %q: %s stands here again (first on line %d); keep one", r.Name, strings.TrimSuffix(key, "/"), at.Line)
		}
		first[key] = g.Match.Pos
	}
}

func (b *builder) consumerNames() (names []string) {
	for i := range b.file.Consumers {
		names = append(names, b.file.Consumers[i].Name.V)
	}
	return names
}

// hostname checks that a client can ask for a name: it asks without the dot at
// the end, and for labels of 1 to 63 bytes (RFC 1035 section 2.3.4).
func (b *builder) hostname(r *Route, name config.Field[string]) {
	for label := range strings.SplitSeq(strings.TrimSuffix(name.V, "."), ".") {
		if label == "" || len(label) > 63 {
			b.problems.Addf(name.Pos, "route %q: %s is no host's name: a part of it has %d bytes; write 1 to 63 between dots", r.Name, name.V, len(label))
			return
		}
	}
}

// consumers fills in who may use which route.
func (b *builder) consumers(p *Plan) {
	byLink, byEndpoint, byNet := map[uint32]string{}, map[string]string{}, map[netip.Prefix]string{}
	for i := range b.file.Consumers {
		c := &b.file.Consumers[i]
		v := &Consumer{
			Name: c.Name.V, LinkIDs: values(c.LinkID, nil), EndpointIDs: values(c.EndpointID, nil),
			From: values(c.From, nil), Routes: values(c.Routes, nil),
			Limits: Limits{c.MaxConnections.V, c.Rate.V},
		}
		p.Consumers = append(p.Consumers, v)
		known := len(v.LinkIDs)+len(v.EndpointIDs)+len(v.From) > 0
		if !known && !c.Broken {
			b.problems.Addf(c.Name.Pos, "consumer %q cannot be told from others; give it a link_id, an endpoint_id or `from`", v.Name)
		}
		for _, id := range c.LinkID {
			unique(b, byLink, id, v.Name)
		}
		for _, id := range c.EndpointID {
			unique(b, byEndpoint, id, v.Name)
		}
		for _, n := range c.From {
			unique(b, byNet, n, v.Name)
		}
		for _, f := range c.Routes {
			b.knownRoute(p, f, v.Name)
		}
		for j, r := range p.Routes {
			if v.MayUse(r.Name) && (len(v.Routes) > 0 || r.Engine == Relay && r.Mode != UDP) {
				if r.Guarded = true; known && !c.Broken {
					b.guarded(c, v, &b.file.Routes[j], r)
				}
				b.servedBy(c, v, r)
			}
		}
	}
	for j, r := range p.Routes {
		b.reachable(p, &b.file.Routes[j], r)
		if r.Guarded && r.Proxy.Mode == ProxyRequired && len(r.Proxy.From) == 0 {
			c := &b.file.Routes[j]
			b.warnings.Addf(firstSet(c.Proxy.Mode.Pos, c.Name.Pos), "route %q: whoever reaches this port can write a PROXY header and be any consumer; write proxy_protocol: { from: [the NAT subnet of the Private Link Service] }", r.Name)
		}
	}
}

// reachable refuses servers for a consumer that no connection can be of.
func (b *builder) reachable(p *Plan, c *config.Route, r *Route) {
	for i := range c.Groups {
		name := c.Groups[i].Match
		at := slices.IndexFunc(p.Consumers, func(v *Consumer) bool { return r.Mode == TCP && v.Name == name.V })
		if at < 0 {
			continue
		}
		byID := len(p.Consumers[at].LinkIDs)+len(p.Consumers[at].EndpointIDs) > 0
		switch v := p.Consumers[at]; {
		case r.Guarded && !v.MayUse(r.Name):
			b.problems.Addf(name.Pos, "route %q: consumer %q may not use it, so these servers get nothing; add it to the consumer's routes", r.Name, v.Name)
		case !r.Guarded && byID && len(v.From) == 0 && r.Proxy.Mode != ProxyRequired:
			b.problems.Addf(name.Pos, "route %q: consumer %q is known by its id, which comes in a PROXY header, and the route takes none; write proxy_protocol: required", r.Name, v.Name)
		}
	}
}

// servedBy looks for servers of a route for a consumer that may use it.
func (b *builder) servedBy(c *config.Consumer, v *Consumer, r *Route) {
	if r.Mode != TCP || len(r.Groups) == 0 || len(r.Default) > 0 ||
		slices.ContainsFunc(r.Groups, func(g Group) bool { return g.Match == v.Name }) {
		return
	}
	const text = "consumer %q: route %q has no servers for it, so its connections are reset; add it or `default` to the route's `to`"
	if len(v.Routes) > 0 {
		b.problems.Addf(posOf(c.Routes), text+", or take the route out here", v.Name, r.Name)
		return
	}
	b.warnings.Addf(c.Name.Pos, text+", or list the consumer's routes", v.Name, r.Name)
}

func unique[K comparable](b *builder, seen map[K]string, id config.Field[K], consumer string) {
	if other, taken := seen[id.V]; taken {
		b.problems.Addf(id.Pos, "consumer %q: %v is consumer %q already; an id or a network is one consumer's", consumer, id.V, other)
	}
	seen[id.V] = consumer
}

func (b *builder) knownRoute(p *Plan, f config.Field[string], consumer string) {
	names := slices.Clone(b.file.BrokenRoutes)
	for _, r := range p.Routes {
		names = append(names, r.Name)
	}
	if slices.Contains(names, f.V) {
		return
	}
	hint := config.Closest(f.V, names)
	if hint == "" {
		hint = "write the name of one"
	}
	b.problems.Addf(f.Pos, "consumer %q: there is no route %q; %s", consumer, f.V, hint)
}

// guarded checks that a consumer can be known on a route that is for it.
func (b *builder) guarded(c *config.Consumer, v *Consumer, cr *config.Route, r *Route) {
	pos := firstSet(posOf(c.Routes), c.Name.Pos)
	switch {
	case r.Engine != Relay:
		b.problems.Addf(pos, "consumer %q: route %q is carried by engine %s, which knows no consumers; write engine: relay there, or `allow`", v.Name, r.Name, r.Engine)
	case len(v.From) == 0 && r.Proxy.Mode != ProxyRequired:
		what := "take the route out of the consumer's"
		if len(v.Routes) == 0 {
			what = "list the consumer's routes"
		}
		b.problems.Addf(pos, "consumer %q is known by its id, which comes in a PROXY header, and route %q (line %d) takes none; write proxy_protocol: required there, or %s",
			v.Name, r.Name, cr.Name.Pos.Line, what)
	}
}

// warnLayers is warnRoute for what has to do with PROXY headers and with who speaks first.
func (b *builder) warnLayers(c *config.Route, r *Route) {
	k := r.Check
	if r.Warm > 0 && (k.Kind == CheckMySQL || k.Kind == CheckExpect && k.Send == "") {
		b.warnings.Addf(firstSet(c.Warm.Pos, c.Name.Pos), "route %q: by its check the server speaks first, and closes the connections that `warm` keeps ready when no client answers in time; take `warm` out", r.Name)
	}
	if limits := len(r.Allow) > 0 || r.PerSource != (Limits{}); limits && r.Proxy.Mode == ProxyRequired && len(r.Proxy.From) == 0 {
		b.warnings.Addf(firstSet(c.Proxy.Mode.Pos, c.Name.Pos), "route %q: `allow` and per_source go by the client's address in the PROXY header, and whoever reaches this port can write one; write proxy_protocol: { from: [NETWORK] }", r.Name)
	}
}
