package foreign

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"midspan/internal/config"
)

// server is one `server` line of a backend.
type server struct {
	name   string
	target config.Field[config.Target]
	serverOptions
}

// serverOptions are the parameters that `default-server` can give.
type serverOptions struct {
	check, backup, disabled           config.Field[bool]
	checkSSL                          config.Field[bool]
	checkName                         config.Field[string] // check-sni
	inter, slowStart                  config.Field[time.Duration]
	rise, fall, port, weight, maxconn config.Field[int]
	tls                               config.UpstreamTLS
	sni, verifyHost                   config.Field[string]
	h2                                config.Field[bool]   // HTTP/2 to the server
	onDown                            config.Field[string] // on-marked-down
	sendProxy                         config.Field[string]
	source                            config.Field[netip.Addr] // to connect from
	checkProxy                        config.Field[bool]       // check-send-proxy
}

// config is the server of a route; what is midspan's default stays unset.
func (s server) config() config.Server {
	c := config.Server{Target: s.target, Backup: s.backup, MaxConnections: s.maxconn}
	if s.weight.Or(1) != 1 {
		c.Weight = s.weight
	}
	return c
}

const (
	whyServerName = isNone + "midspan looks names up by their TTL, keeps the last good addresses, and starts without them"
	whyInter      = "has no counterpart: midspan tests at the same interval whatever a server's state"
	whyAgent      = isGone + "midspan asks no agents"
	whyHTTPPool   = isNone + "each client connection has its own connection to a server"
	whyNoNo       = isNone + "midspan does none of this"
	whyCheckPlain = isGone + "midspan's check speaks the protocol that `check` names, to the server's address"
	whyProxyTLV   = isGone + "the header has the client's addresses and what came in a header of its own, and nothing about TLS here"
)

var serverParams = map[string]param{
	"init-addr": {1, whyServerName}, "resolvers": {1, whyServerName}, "init-state": {1, whyServerName},
	"resolve-prefer": {1, isGone + "midspan uses all addresses of a name, IPv4 and IPv6"},
	"resolve-opts":   {1, isGone + "midspan uses all addresses of a name"},
	"resolve-net":    {1, isGone + "midspan uses all addresses of a name"},
	"fastinter":      {1, whyInter}, "downinter": {1, whyInter},
	"addr":        {1, isGone + "midspan tests the address that connections go to"},
	"agent-check": {0, whyAgent}, "agent-send": {1, whyAgent}, "agent-inter": {1, whyAgent}, "agent-addr": {1, whyAgent}, "agent-port": {1, whyAgent}, "no-agent-check": {0, whyAgent},
	"observe":        {1, isNone + "failed connects count like failed tests"},
	"error-limit":    {1, isNone + "`fall` is the limit"},
	"on-error":       {1, "has no counterpart: failed connects count like failed tests"},
	"on-marked-up":   {1, isGone + "connections to a backup server go on until they end"},
	"maxqueue":       {1, isGone + "any number of connections over the limit waits, for connect_timeout"},
	"minconn":        {1, isGone + "a server's limit does not depend on the load of the route"},
	"strict-maxconn": {0, isNone + "a server's limit counts its live connections"},
	"track":          {1, isGone + "each route tests its own servers"},
	"source":         {1, isGone + "`source` of a route is one of this machine's addresses"},
	"usesrc":         {1, isGone + "servers see midspan's address as the client's"},
	"interface":      {1, isGone + "midspan connects by the interface that the kernel picks"},
	"namespace":      {1, isGone + "start midspan in the network namespace"},
	"socks4":         {1, isGone + "midspan connects directly"},
	"tcp-ut":         {1, isGone + "write user_timeout for the route"},
	"tcp-md5sig":     {1, isGone + "midspan does not sign segments"},
	"tfo":            {0, isGone + "midspan does not use TCP Fast Open"}, "no-tfo": {0, isNone + "midspan does not use TCP Fast Open"},
	"cookie": {1, isNone + "the cookie's values are midspan's own"},
	"stick":  {0, isGone + whyStick}, "non-stick": {0, isNone + whyStick},
	"redir":   {1, isGone + whyHTTP},
	"ws":      {1, isNone + whyHTTP},
	"enabled": {0, isNone + "every server is"},
	"id":      {1, isNone + "it only numbers"}, "guid": {1, isNone + "it only names"},
	"shard":     {1, "has no counterpart: there are no stick tables to share"},
	"hash-key":  {1, isNone + "`balance: source` hashes the server's name"},
	"log-proto": {1, "has no counterpart: it is for log servers"}, "log-bufsize": {1, "has no counterpart: it is for log servers"},
	"proto":     {1, isGone + whyHTTP},
	"max-reuse": {1, whyHTTPPool}, "pool-low-conn": {1, whyHTTPPool}, "pool-max-conn": {1, whyHTTPPool}, "pool-purge-delay": {1, whyHTTPPool},
	"pool-conn-name": {1, whyHTTPPool}, "idle-ping": {1, whyHTTPPool},

	"proxy-v2-options": {1, whyProxyTLV}, "set-proxy-v2-tlv-fmt": {1, whyProxyTLV},

	"check-alpn": {1, whyCheckPlain}, "check-proto": {1, whyCheckPlain},
	"check-via-socks4": {0, whyCheckPlain}, "check-reuse-pool": {0, whyCheckPlain}, "check-pool-conn-name": {1, whyCheckPlain},

	// Those for TLS that are carried over are in serverTLS.
	"npn": {1, isNone + "midspan uses ALPN"}, "allow-0rtt": {0, isNone + "midspan sends no early data"},
	"ciphers": {1, whyTLSGo}, "ciphersuites": {1, whyTLSGo}, "curves": {1, whyTLSGo}, "sigalgs": {1, whyTLSGo}, "client-sigalgs": {1, whyTLSGo},
	"crl-file": {1, isGone + "midspan reads no revocation lists"}, "ssl-max-ver": {1, whyTLSNew}, "ssl-reuse": {0, whyNoNo}, "no-ssl-reuse": {0, whyNoNo},
	"tls-tickets": {0, whyNoNo}, "no-tls-tickets": {0, whyNoNo}, "renegotiate": {0, whyNoNo}, "no-verifyhost": {0, whyNoNo},
	"force-sslv3": {0, whyTLSOld}, "force-tlsv10": {0, whyTLSOld}, "force-tlsv11": {0, whyTLSOld}, "force-tlsv12": {0, whyTLSNew},
	"no-sslv3": {0, whyTLSOld}, "no-tlsv10": {0, whyTLSOld}, "no-tlsv11": {0, whyTLSOld}, "no-tlsv13": {0, whyTLSNew},
}

func (h *haproxy) serverLine(p *proxy, s *stmt) {
	srv := server{name: s.arg(1), serverOptions: p.server}
	addr := s.word(2)
	t, why := haproxyTarget(addr.text)
	h.serverOptions(s, s.words[3:], &srv.serverOptions)
	if why != "" {
		h.noteAt(s, addr.pos, "%s: the server is not carried over: %s", s, why)
		return
	}
	srv.target = config.At(t, addr.pos)
	if srv.disabled.Set() {
		h.noteAt(s, srv.disabled.Pos, "%s: the server is `disabled` and not carried over", s)
		return
	}
	p.servers = append(p.servers, srv)
}

func (h *haproxy) defaultServer(p *proxy, s *stmt) { h.serverOptions(s, s.words[1:], &p.server) }

// serverTemplate reads `server-template PREFIX NUM FQDN[:PORT] …`: HAProxy
// spreads the addresses of the name over NUM servers, midspan uses them all.
func (h *haproxy) serverTemplate(p *proxy, s *stmt) {
	srv := server{name: s.arg(1), serverOptions: p.server}
	addr := s.word(3)
	h.serverOptions(s, s.words[4:], &srv.serverOptions)
	t, why := haproxyTarget(addr.text)
	switch {
	case strings.HasPrefix(addr.text, "_"):
		h.lost(s, "midspan does not look up SRV records; write a `server` for each, then import again")
	case why != "":
		h.lost(s, why)
	default:
		h.note(s, "%s is carried over as one server: midspan uses all addresses of the name", s)
		srv.target = config.At(t, addr.pos)
		p.servers = append(p.servers, srv)
	}
}

// haproxyTarget is the address of a server, or why it cannot be one.
func haproxyTarget(addr string) (config.Target, string) {
	plain := addr
	for _, family := range []string{"ipv4@", "ipv6@", "tcp4@", "tcp6@", "tcp@"} {
		plain = strings.TrimPrefix(plain, family)
	}
	host, port, _ := splitPort(plain)
	switch {
	case strings.HasPrefix(plain, "/") || strings.Contains(plain, "@"):
		return config.Target{}, "midspan connects to TCP addresses"
	case host == "*" || host == "0.0.0.0" || host == "":
		return config.Target{}, "it stands for the address that the client asked for, and midspan goes to named servers only"
	}
	t, err := target(host, port)
	if err != nil {
		return t, printable(err.Error())
	}
	return t, ""
}

// serverOptions reads the parameters of a server into o.
func (h *haproxy) serverOptions(s *stmt, words []word, o *serverOptions) {
	switches, tls := h.serverSwitches(s, o), h.serverTLS(s, o)
	h.params(s, words, serverParams, func(w, value word) (int, bool) {
		if set := switches[w.text]; set != nil {
			set(w)
			return 0, true
		}
		if set := tls[w.text]; set != nil {
			return set(w, value), true
		}
		switch w.text {
		case "inter":
			return 1, h.serverTime(s, value, &o.inter)
		case "slowstart":
			return 1, h.serverTime(s, value, &o.slowStart)
		case "on-marked-down":
			o.onDown = config.At("cut", w.pos) // shutdown-sessions, the only action there is
			return 1, true
		case "check-sni":
			h.tlsName(s, value, &o.checkName)
			return 1, true
		case "source":
			return 1, h.sourceAddr(value, &o.source)
		}
		return 1, h.serverNumber(s, w, value, o)
	})
}

// serverSwitches are the parameters of one word.
func (h *haproxy) serverSwitches(s *stmt, o *serverOptions) map[string]func(w word) {
	switches := map[string]func(w word){
		"check":            func(w word) { o.check = config.At(true, w.pos) },
		"no-check":         func(word) { o.check = config.Field[bool]{} },
		"backup":           func(w word) { o.backup = config.At(true, w.pos) },
		"no-backup":        func(word) { o.backup = config.Field[bool]{} },
		"disabled":         func(w word) { o.disabled = config.At(true, w.pos) },
		"no-disabled":      func(word) { o.disabled = config.Field[bool]{} },
		"check-send-proxy": func(w word) { o.checkProxy = config.At(true, w.pos) },
		"check-ssl":        func(w word) { o.checkSSL = config.At(true, w.pos) },
		"no-check-ssl":     func(word) { o.checkSSL = config.Field[bool]{} },
	}
	for name, version := range map[string]string{"send-proxy": "v1", "send-proxy-v2": "v2", "send-proxy-v2-ssl": "v2", "send-proxy-v2-ssl-cn": "v2"} {
		switches[name] = func(w word) {
			o.sendProxy = config.At(version, w.pos)
			if strings.Contains(name, "ssl") {
				h.because(s, w.pos, quote(name), whyProxyTLV)
			}
		}
		switches["no-"+name] = func(word) { o.sendProxy = config.Field[string]{} }
	}
	return switches
}

func (h *haproxy) serverTime(s *stmt, value word, at *config.Field[time.Duration]) bool {
	if d, ok := h.time(s, value, time.Millisecond); ok {
		*at = config.At(d, value.pos)
	}
	return true
}

// sourceAddr reads ADDRESS[:PORT…] to connect from; false: it is none.
func (h *haproxy) sourceAddr(value word, at *config.Field[netip.Addr]) bool {
	host, port, _ := splitPort(value.text)
	a, err := netip.ParseAddr(host)
	if err != nil || a.Zone() != "" || a.IsUnspecified() || (port != "" && port != "0") {
		return false
	}
	*at = config.At(a.Unmap(), value.pos)
	return true
}

// serverNumber reads rise, fall, port, weight or maxconn. HAProxy refuses ports
// and weights out of range; the others have no bound there.
func (h *haproxy) serverNumber(s *stmt, w, value word, o *serverOptions) bool {
	numbers := map[string]struct {
		at     *config.Field[int]
		lo, hi int
	}{
		"rise": {&o.rise, 1, 100}, "fall": {&o.fall, 1, 100}, "port": {&o.port, 1, 65535},
		"weight": {&o.weight, 0, 256}, "maxconn": {&o.maxconn, 0, connsMax},
	}
	of, is := numbers[w.text]
	if !is {
		return false
	}
	n, err := strconv.Atoi(value.text)
	strict := w.text == "port" || w.text == "weight"
	switch {
	case err != nil || n < of.lo || (strict && n > of.hi):
		h.problem(value.pos, "%s: %s %s is not a number from %d to %d", s, w.text, quote(value.text), of.lo, of.hi)
	case w.text == "maxconn" && n == 0:
		*of.at = config.Field[int]{} // no limit
	default:
		*of.at = config.At(h.withinInt(value.pos, n, of.lo, of.hi), value.pos)
	}
	return true
}
