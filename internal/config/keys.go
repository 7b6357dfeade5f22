package config

import (
	"net/netip"
	"time"
)

// The words that a value may be. The first is the default.
var (
	Modes      = []string{"tcp", "udp", "sni", "http", "kafka"}
	Engines    = []string{"relay", "nft", "auto"}
	OnDowns    = []string{"keep", "cut"}
	Balances   = []string{"roundrobin", "leastconn", "source", "first"}
	DownWhens  = []string{"no_route", "self", "any_route"}
	LogFormats = []string{"json", "tcplog", "off"}

	ProxyModes    = []string{"off", "required", "pass"}
	SendProxies   = []string{"off", "v1", "v2"}
	WhenFulls     = []string{"queue", "reset"}
	Fallbacks     = []string{"default", "reset"}
	NoNames       = []string{"default", "alert", "reset"}
	ClientCerts   = []string{"required", "optional"}
	TLSVersions   = []string{"1.2", "1.3"}
	HTTPProtocols = []string{"http1", "h2"}
	Forwardeds    = []string{"replace", "append", "off"}
	UnknownAPIs   = []string{"hide", "pass"}
)

// ipPattern is near enough to an IP address; what it lets pass is looked at again.
const ipPattern = `^([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9a-fA-F]*:[0-9a-fA-F:.]*)`

var (
	kPort    = integer("port", 1, 65535)
	kWeight  = integer("weight", 0, 256)
	kConns   = integer("number of connections", 1, 10_000_000)
	kTimeout = duration(time.Millisecond, time.Hour)
	kIdle    = offOr(duration(time.Second, 30*24*time.Hour))
	kFin     = offOr(duration(10*time.Millisecond, 30*24*time.Hour))
	kListen  = orPort(scalar("a listen address", `^([0-9]+(-[0-9]+)?|(\*|[0-9.]+|\[[0-9a-fA-F:.]+\])?(%[^/:\s%\[\]]{1,15})?:[0-9]+(-[0-9]+)?)$`, ParseListen, Listen.String))
	kPorts   = orPort(scalar("a range of ports", `^[0-9]+(-[0-9]+)?$`, parsePortRange, Ports.String))
	kTarget  = scalar("a server (HOST:PORT)", `^[^\s/]+$`, ParseTarget, Target.String)
	kAddr    = scalar("an IP address", ipPattern+`$`, parseAddr, netip.Addr.String)
	kNet     = scalar("a network", ipPattern+`(/[0-9]{1,3})?$`, parseNetwork, netip.Prefix.String)
	kDNS     = scalar("a DNS server's address", `^\[?[0-9a-fA-F.:]+(%[^\s]+)?\]?(:[0-9]+)?$`, ParseNameserver, Nameserver.String)
	kPath    = path("/healthz")
	kPrefix  = path("/api/")
	kRate    = scalar("a rate (100/s)", `^[0-9]+/(s|m|h)$`, ParseRate, Rate.String)
	kSize    = scalar("a size (32KiB)", `^[0-9]+(KiB|MiB)$`, ParseSize, Size.String)
	kFile    = text("a path")
	kCert    = certFile()
	kCookie  = token("the name of a cookie")
	kHost    = scalar("a host", hostPort, parseHost, func(s string) string { return s })
	kName    = scalar("a name", `^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`, parseWord, func(s string) string { return s })
	kToken   = token("a header's name")
)

var fileKeys = []key[File]{
	embed("health", "The endpoint that the cloud's load balancer probes: 200 while this machine should get new connections, 503 otherwise. A PROXY header before the request is accepted. Default: port 8080.",
		shorthand(offOr(kListen), func(h *Health) *Field[OffOr[Listen]] { return &h.Listen }, healthKeys),
		func(f *File) *Health { return &f.Health }),
	field("admin", "Status and metrics over HTTP. Default: 127.0.0.1:9600.", offOr(kListen), func(f *File) *Field[OffOr[Listen]] { return &f.Admin }),
	field("control", "The Unix socket for status, conns, kill, reload and drain. Default: $MIDSPAN_CONTROL, or control.sock in /run/midspan (root) or in the user's own runtime directory.", offOr(text("a path")), func(f *File) *Field[OffOr[string]] { return &f.Control }),
	embed("log", "The access log. Default: json, to stdout.",
		shorthand(enum("log format", LogFormats), func(l *Log) *Field[string] { return &l.Format }, logKeys),
		func(f *File) *Log { return &f.Log }),
	embed("dns", "How names are looked up. Default: as the system does (hosts file, resolv.conf), by TTL.", object(dnsKeys), func(f *File) *DNS { return &f.DNS }),
	embed("drain", "How the daemon ends on SIGTERM.", object(drainKeys), func(f *File) *Drain { return &f.Drain }),
	embed("nft", "The kernel's forwarding, for routes with engine: nft.", object(nftKeys), func(f *File) *NFT { return &f.NFT }),
	field("max_connections", "Connections at one time, over all routes of the relay; more wait in the listen queue. Default: what the limit of open files allows.", kConns, func(f *File) *Field[int] { return &f.MaxConnections }),
	consumersKey(),
	embed("defaults", "Settings of every route that does not have its own.", object(settingsKeys(func(s *Settings) *Settings { return s })), func(f *File) *Settings { return &f.Defaults }),
	routesKey(),
}

var healthKeys = []key[Health]{
	field("listen", "Where the probe is answered.", offOr(kListen), func(h *Health) *Field[OffOr[Listen]] { return &h.Listen }),
	field("down_when", "no_route: 503 when not one route has a server that is up. self: only for this machine's own faults. any_route: as soon as one route has no server.", enum("policy", DownWhens), func(h *Health) *Field[string] { return &h.DownWhen }),
}

var logKeys = []key[Log]{
	field("format", "json, tcplog (HAProxy's) or off.", enum("log format", LogFormats), func(l *Log) *Field[string] { return &l.Format }),
	field("to", "stdout, stderr or the path of a file (reopened on reload).", text("a path"), func(l *Log) *Field[string] { return &l.To }),
	field("start", "Also write a record when a connection starts (json only). Default: true.", boolean(), func(l *Log) *Field[bool] { return &l.Start }),
}

var dnsKeys = []key[DNS]{
	list("servers", "Asked in turn. Default: those of /etc/resolv.conf.", kDNS, func(d *DNS) *[]Field[Nameserver] { return &d.Servers }),
	field("min_ttl", "An answer is kept at least this long. Default: 1s.", duration(100*time.Millisecond, time.Hour), func(d *DNS) *Field[time.Duration] { return &d.MinTTL }),
	field("max_ttl", "An answer is asked for again at least this often. Default: 5m.", duration(100*time.Millisecond, 24*time.Hour), func(d *DNS) *Field[time.Duration] { return &d.MaxTTL }),
	field("timeout", "For one question to one server. Default: 2s.", kTimeout, func(d *DNS) *Field[time.Duration] { return &d.Timeout }),
}

var drainKeys = []key[Drain]{
	field("detection", "The probe answers 503 this long before listeners close: the load balancer's interval times its threshold. Default: 15s.", duration(0, time.Hour), func(d *Drain) *Field[time.Duration] { return &d.Detection }),
	field("timeout", "Live connections get this long to end. Default: 10m.", duration(0, 7*24*time.Hour), func(d *Drain) *Field[time.Duration] { return &d.Timeout }),
}

var nftKeys = []key[NFT]{
	field("keep", "Rules and live connections stay when the daemon ends: the kernel forwards on without it. Default: false, the daemon drains and leaves nothing behind.", boolean(), func(n *NFT) *Field[bool] { return &n.Keep }),
	field("ports", "Ports to connect to servers from. Default: 1024-65535.", kPorts, func(n *NFT) *Field[Ports] { return &n.Ports }),
}

// settingsKeys are the keys of a Settings inside an S.
func settingsKeys[S any](in func(*S) *Settings) []key[S] {
	return []key[S]{
		field("engine", "relay: in user space. nft: in the kernel (NAT), the fastest, for tcp and udp. auto: nft where it can do all that the route asks for, which includes sending no keepalive. Default: relay.", enum("engine", Engines), func(s *S) *Field[string] { return &in(s).Engine }),
		list("allow", "Networks whose clients may connect; others are reset. Default: all.", kNet, func(s *S) *[]Field[netip.Prefix] { return &in(s).Allow }),
		list("source", "Addresses of this machine to connect to servers from, in turn; each has its own ports for one server (nft: 64,512). Default: that of the interface.", kAddr, func(s *S) *[]Field[netip.Addr] { return &in(s).Source }),
		field("on_down", "What becomes of live connections to a server that goes down. keep: they are let alone. cut: they are reset. Default: keep.", enum("policy", OnDowns), func(s *S) *Field[string] { return &in(s).OnDown }),
		field("balance", "Which server gets the next connection. Default: roundrobin.", enum("balance", Balances), func(s *S) *Field[string] { return &in(s).Balance }),
		field("connect_timeout", "For all attempts to reach a server, together. Default: 3s.", kTimeout, func(s *S) *Field[time.Duration] { return &in(s).ConnectTimeout }),
		field("tries", "Addresses of servers that are tried for one connection, at most, within connect_timeout. Default: 64.", integer("number of tries", 1, 64), func(s *S) *Field[int] { return &in(s).Tries }),
		field("idle_timeout", "Cut a connection on which nothing has moved for this long. Default: off.", kIdle, func(s *S) *Field[OffOr[time.Duration]] { return &in(s).IdleTimeout }),
		field("fin_timeout", "Cut a connection that one side has ended and on which nothing has moved for this long. Default: 1h.", kFin, func(s *S) *Field[OffOr[time.Duration]] { return &in(s).FinTimeout }),
		field("user_timeout", "TCP_USER_TIMEOUT on both legs: how long sent bytes may stay unacknowledged, and how long a peer may take no more. Default: 5m.", offOr(duration(time.Second, 24*24*time.Hour)), func(s *S) *Field[OffOr[time.Duration]] { return &in(s).UserTimeout }),
		embed("keepalive", "TCP keepalive on both legs, below the 240 s after which Private Link cuts an idle flow. Default: 60s, then 4 probes 15s apart.",
			switchable(duration(time.Second, 9*time.Hour), func(k *Keepalive) *Field[bool] { return &k.Off }, func(k *Keepalive) *Field[time.Duration] { return &k.Idle }, keepaliveKeys),
			func(s *S) *Keepalive { return &in(s).Keepalive }),
		embed("check", "How servers are tested. Default: off (mode kafka: kafka); failed connects count all the same.", checkKind(), func(s *S) *Check { return &in(s).Check }),
		field("warm", "Connections to keep ready to each address of a server, so that a client's need not wait for a handshake. Only for protocols in which the client speaks first. Default: 0.", integer("number of connections", 0, 1000), func(s *S) *Field[int] { return &in(s).Warm }),
		field("max_connections", "Connections at one time on the route; see when_full.", kConns, func(s *S) *Field[int] { return &in(s).MaxConnections }),
		field("rate", "New connections on the route, such as 100/s, with bursts of one second's worth; see when_full.", kRate, func(s *S) *Field[Rate] { return &in(s).Rate }),
		field("when_full", "What becomes of connections above max_connections or rate. queue: they wait in the listen queue. reset: they are reset. Default: queue.", enum("policy", WhenFulls), func(s *S) *Field[string] { return &in(s).WhenFull }),
		embed("per_source", "Limits for one client address (of IPv6, one /64); connections above them are reset.", object(limitKeys(func(l *Limits) *Limits { return l })), func(s *S) *Limits { return &in(s).PerSource }),
		field("slow_start", "A server that has come up gets its share of new connections little by little, over this time. Default: off.", offOr(duration(time.Second, time.Hour)), func(s *S) *Field[OffOr[time.Duration]] { return &in(s).SlowStart }),
		embed("proxy_protocol", "PROXY protocol headers from clients. off: refused. required: every connection starts with one, which says who the client is. pass: forwarded as they are. Default: off.",
			shorthand(enum("word", ProxyModes), func(p *Proxy) *Field[string] { return &p.Mode }, proxyKeys), func(s *S) *Proxy { return &in(s).Proxy }),
		field("send_proxy", "Begin connections to servers with a PROXY protocol header of this version; v2 passes on what the client's had. Default: off.", enum("version", SendProxies), func(s *S) *Field[string] { return &in(s).SendProxy }),
	}
}

// limitKeys are the keys of Limits inside an S.
func limitKeys[S any](in func(*S) *Limits) []key[S] {
	return []key[S]{
		field("max_connections", "Connections at one time.", kConns, func(s *S) *Field[int] { return &in(s).MaxConnections }),
		field("rate", "New connections, such as 5/s, with bursts of one second's worth.", kRate, func(s *S) *Field[Rate] { return &in(s).Rate }),
	}
}

var proxyKeys = []key[Proxy]{
	field("mode", "off, required or pass. Default here: required.", enum("word", ProxyModes), func(p *Proxy) *Field[string] { return &p.Mode }),
	list("from", "Networks that may send headers, such as the Private Link Service's NAT subnet; others are reset. Default: all.", kNet, func(p *Proxy) *[]Field[netip.Prefix] { return &p.From }),
	field("timeout", "For the whole header. Default: 5s.", kTimeout, func(p *Proxy) *Field[time.Duration] { return &p.Timeout }),
}

var consumerKeys = append([]key[Consumer]{
	list("link_id", "Azure: the private endpoint's link id (linkIdentifier of the Private Link Service's connection).", kLink, func(c *Consumer) *[]Field[uint32] { return &c.LinkID }),
	list("endpoint_id", "AWS: the VPC endpoint id. Google Cloud: the PSC connection id. Alibaba Cloud: the endpoint id.", text("an endpoint id"), func(c *Consumer) *[]Field[string] { return &c.EndpointID }),
	list("from", "Networks of its clients.", kNet, func(c *Consumer) *[]Field[netip.Prefix] { return &c.From }),
	list("routes", "Routes that it may use. Default: all.", kName, func(c *Consumer) *[]Field[string] { return &c.Routes }),
}, limitKeys(func(c *Consumer) *Limits { return &c.Limits })...)

var sniKeys = []key[SNI]{
	field("no_name", "A ClientHello without a server name. default: to the default server. alert: refused as a name that is not known, with the TLS alert unrecognized_name. reset: reset. Default: default where there is such a server, else reset.", enum("policy", NoNames), func(s *SNI) *Field[string] { return &s.NoName }),
	field("not_tls", "What is not TLS. Default: reset.", enum("policy", Fallbacks), func(s *SNI) *Field[string] { return &s.NotTLS }),
	field("max_hello", "How long a ClientHello may be. Default: 64KiB, which is the most.", kSize, func(s *SNI) *Field[Size] { return &s.MaxHello }),
	field("timeout", "For the whole ClientHello. Default: 5s.", kTimeout, func(s *SNI) *Field[time.Duration] { return &s.Timeout }),
}

var tlsKeys = []key[TLS]{
	list("cert", "Files (PEM) of certificates with their chain; the one for the name that the client asks for is shown, else the first.", kCert, func(t *TLS) *[]Field[string] { return &t.Cert }),
	field("key", "The private key's file. Default: it is in the certificate's.", kFile, func(t *TLS) *Field[string] { return &t.Key }),
	field("client_ca", "Certificates (PEM) of who signs the clients'.", kFile, func(t *TLS) *Field[string] { return &t.ClientCA }),
	field("client_cert", "required or optional. Default, with client_ca: required.", enum("word", ClientCerts), func(t *TLS) *Field[string] { return &t.ClientCert }),
	field("min", "Oldest version. Default: 1.2.", enum("version", TLSVersions), func(t *TLS) *Field[string] { return &t.Min }),
	field("resume", "Let clients go on with an earlier session, by ticket. Default: true.", boolean(), func(t *TLS) *Field[bool] { return &t.Resume }),
	list("alpn", "Protocols to agree on, the best first. Default for mode http: h2, http/1.1.", text("a protocol"), func(t *TLS) *[]Field[string] { return &t.ALPN }),
}

var upstreamTLSKeys = []key[UpstreamTLS]{
	field("name", "The name that is asked for and that the certificate must have. Default: the server's host.", text("a name"), func(t *UpstreamTLS) *Field[string] { return &t.Name }),
	field("ca", "Certificates (PEM) of who signs the servers'. Default: the system's.", kFile, func(t *UpstreamTLS) *Field[string] { return &t.CA }),
	field("cert", "Our certificate (PEM), for servers that want one.", kFile, func(t *UpstreamTLS) *Field[string] { return &t.Cert }),
	field("key", "Its private key's file. Default: it is in the certificate's.", kFile, func(t *UpstreamTLS) *Field[string] { return &t.Key }),
	field("verify", "Refuse servers whose certificate is not right. Default: true.", boolean(), func(t *UpstreamTLS) *Field[bool] { return &t.Verify }),
	field("min", "Oldest version. Default: 1.2.", enum("version", TLSVersions), func(t *UpstreamTLS) *Field[string] { return &t.Min }),
	field("resume", "Go on with an earlier session where the server lets us. Default: true.", boolean(), func(t *UpstreamTLS) *Field[bool] { return &t.Resume }),
}

var httpKeys = []key[HTTP]{
	field("protocol", "To servers: http1, or h2 (HTTP/2; where upstream_tls is off without TLS). Default: http1.", enum("protocol", HTTPProtocols), func(h *HTTP) *Field[string] { return &h.Protocol }),
	field("host", "The Host header to servers: keep, server (its own host and port), or a host. Default: keep.", kHost, func(h *HTTP) *Field[string] { return &h.Host }),
	field("forwarded", "X-Forwarded-For, -Proto and -Host. replace: what clients send in them is dropped. append: is added to. off: passed on as it is. Default: replace.", enum("word", Forwardeds), func(h *HTTP) *Field[string] { return &h.Forwarded }),
	field("sticky", "The name of a cookie that keeps a client on its server. Default: none.", kCookie, func(h *HTTP) *Field[string] { return &h.Sticky }),
	field("header_timeout", "For the whole head of a request. Default: 10s.", kTimeout, func(h *HTTP) *Field[time.Duration] { return &h.HeaderTimeout }),
	field("keepalive_timeout", "How long a client's connection may rest between requests. Default: 75s.", kTimeout, func(h *HTTP) *Field[time.Duration] { return &h.KeepaliveTimeout }),
	field("response_timeout", "For the head of a server's response, for each try. Default: off.", offOr(kTimeout), func(h *HTTP) *Field[OffOr[time.Duration]] { return &h.ResponseTimeout }),
	field("max_header", "The largest head of a request or response, 1KiB to 1MiB. Default: 32KiB.", kSize, func(h *HTTP) *Field[Size] { return &h.MaxHeader }),
	embed("request_headers", "Changes of requests.", object(headersKeys), func(h *HTTP) *Headers { return &h.RequestHeaders }),
	embed("response_headers", "Changes of responses.", object(headersKeys), func(h *HTTP) *Headers { return &h.ResponseHeaders }),
}

var keepaliveKeys = []key[Keepalive]{
	field("idle", "Silence before the first probe. Default: 60s.", duration(time.Second, 9*time.Hour), func(k *Keepalive) *Field[time.Duration] { return &k.Idle }),
	field("interval", "Between probes. Default: 15s.", duration(time.Second, 9*time.Hour), func(k *Keepalive) *Field[time.Duration] { return &k.Interval }),
	field("count", "Unanswered probes that end the connection. Default: 4.", integer("number of probes", 1, 127), func(k *Keepalive) *Field[int] { return &k.Count }),
}

var routeKeys = append([]key[Route]{
	field("mode", "tcp forwards the bytes unread; udp forwards datagrams (engine: nft); sni chooses the server by the TLS server name, without decryption; http forwards requests; kafka forwards a cluster of brokers behind one name.", enum("mode", Modes), func(r *Route) *Field[string] { return &r.Mode }),
	required(list("listen", "PORT, FROM-TO, ADDRESS:PORT or %INTERFACE:PORT; or a list of them.", kListen, func(r *Route) *[]Field[Listen] { return &r.Listen })),
	toKey(),
	hostsKey(),
	embed("sni", "mode sni: clients that name no server.", object(sniKeys), func(r *Route) *SNI { return &r.SNI }),
	embed("tls", "Speak TLS with clients.", listShorthand(kCert, func(t *TLS) *[]Field[string] { return &t.Cert }, tlsKeys), func(r *Route) *TLS { return &r.TLS }),
	embed("upstream_tls", "Speak TLS with servers.", onKind(func(t *UpstreamTLS) *Field[bool] { return &t.On }, upstreamTLSKeys), func(r *Route) *UpstreamTLS { return &r.UpstreamTLS }),
	embed("http", "mode http.", object(httpKeys), func(r *Route) *HTTP { return &r.HTTP }),
	embed("advertise", "mode kafka: what clients are told of where the brokers are. Node n gets the port FROM + n - first_node.", object(advertiseKeys), func(r *Route) *Advertise { return &r.Advertise }),
	nodesKey(),
	embed("kafka", "mode kafka.", object(kafkaKeys), func(r *Route) *Kafka { return &r.Kafka }),
}, settingsKeys(func(r *Route) *Settings { return &r.Settings })...)

var serverKeys = []key[Server]{
	required(field("server", "HOST:PORT.", kTarget, func(s *Server) *Field[Target] { return &s.Target })),
	field("weight", "Share of new connections relative to the others'; 0: none. Default: 1.", kWeight, func(s *Server) *Field[int] { return &s.Weight }),
	field("backup", "Used only when no other server is up.", boolean(), func(s *Server) *Field[bool] { return &s.Backup }),
	field("max_connections", "Connections at one time to this server.", kConns, func(s *Server) *Field[int] { return &s.MaxConnections }),
}
