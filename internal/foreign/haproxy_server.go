package foreign

import (
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
	ssl, checkSSL                     config.Field[bool]
	inter                             config.Field[time.Duration]
	rise, fall, port, weight, maxconn config.Field[int]
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
	whyCheckPlain = isGone + "midspan's check is plain TCP or plain HTTP"
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
	"on-marked-down": {1, isGone + "connections to a server that went down go on until they end"},
	"on-marked-up":   {1, isGone + "connections to a backup server go on until they end"},
	"slowstart":      {1, isGone + "a server that comes up gets its share at once"},
	"maxqueue":       {1, isGone + "any number of connections over the limit waits, for connect_timeout"},
	"minconn":        {1, isGone + "a server's limit does not depend on the load of the route"},
	"strict-maxconn": {0, isNone + "a server's limit counts its live connections"},
	"track":          {1, isGone + "each route tests its own servers"},
	"source":         {1, isGone + "midspan connects from the address that the kernel picks"},
	"usesrc":         {1, isGone + "servers see midspan's address as the client's"},
	"interface":      {1, isGone + "midspan connects by the interface that the kernel picks"},
	"namespace":      {1, isGone + "start midspan in the network namespace"},
	"socks4":         {1, isGone + "midspan connects directly"},
	"tcp-ut":         {1, isGone + "write user_timeout for the route"},
	"tcp-md5sig":     {1, isGone + "midspan does not sign segments"},
	"tfo":            {0, isGone + "midspan does not use TCP Fast Open"}, "no-tfo": {0, isNone + "midspan does not use TCP Fast Open"},
	"cookie": {1, isNone + "it belongs to the `cookie` line of the backend"},
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

	"send-proxy": {0, whyPROXYOut}, "send-proxy-v2": {0, whyPROXYOut}, "send-proxy-v2-ssl": {0, whyPROXYOut}, "send-proxy-v2-ssl-cn": {0, whyPROXYOut},
	"proxy-v2-options": {1, whyPROXYOut}, "set-proxy-v2-tlv-fmt": {1, whyPROXYOut}, "check-send-proxy": {0, whyPROXYOut},
	"no-send-proxy": {0, whyNoNo}, "no-send-proxy-v2": {0, whyNoNo},
	"no-send-proxy-v2-ssl": {0, whyNoNo}, "no-send-proxy-v2-ssl-cn": {0, whyNoNo},

	"check-ssl": {0, whyCheckPlain}, "check-sni": {1, whyCheckPlain}, "check-alpn": {1, whyCheckPlain}, "check-proto": {1, whyCheckPlain},
	"check-via-socks4": {0, whyCheckPlain}, "no-check-ssl": {0, whyNoNo}, "check-reuse-pool": {0, whyCheckPlain}, "check-pool-conn-name": {1, whyCheckPlain},

	"ssl": {0, whyTLSServer}, "alpn": {1, whyTLSServer}, "npn": {1, whyTLSServer}, "allow-0rtt": {0, whyTLSServer}, "ca-file": {1, whyTLSServer},
	"ciphers": {1, whyTLSServer}, "ciphersuites": {1, whyTLSServer}, "crl-file": {1, whyTLSServer}, "crt": {1, whyTLSServer}, "sni": {1, whyTLSServer},
	"ssl-max-ver": {1, whyTLSServer}, "ssl-min-ver": {1, whyTLSServer}, "ssl-reuse": {0, whyTLSServer}, "tls-tickets": {0, whyTLSServer}, "verify": {1, whyTLSServer},
	"verifyhost": {1, whyTLSServer}, "curves": {1, whyTLSServer}, "sigalgs": {1, whyTLSServer}, "client-sigalgs": {1, whyTLSServer}, "renegotiate": {0, whyTLSServer},
	"force-sslv3": {0, whyTLSServer}, "force-tlsv10": {0, whyTLSServer}, "force-tlsv11": {0, whyTLSServer}, "force-tlsv12": {0, whyTLSServer}, "force-tlsv13": {0, whyTLSServer},
	"no-ssl": {0, whyNoNo}, "no-ssl-reuse": {0, whyTLSServer}, "no-sslv3": {0, whyTLSServer}, "no-tlsv10": {0, whyTLSServer},
	"no-tlsv11": {0, whyTLSServer}, "no-tlsv12": {0, whyTLSServer}, "no-tlsv13": {0, whyTLSServer}, "no-tls-tickets": {0, whyTLSServer}, "no-verifyhost": {0, whyTLSServer},
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
	numbers := map[string]struct {
		at     *config.Field[int]
		lo, hi int
	}{
		"rise": {&o.rise, 1, 100}, "fall": {&o.fall, 1, 100}, "port": {&o.port, 1, 65535},
		"weight": {&o.weight, 0, 256}, "maxconn": {&o.maxconn, 0, connsMax},
	}
	switches := map[string]func(w word){
		"check":       func(w word) { o.check = config.At(true, w.pos) },
		"no-check":    func(word) { o.check = config.Field[bool]{} },
		"backup":      func(w word) { o.backup = config.At(true, w.pos) },
		"no-backup":   func(word) { o.backup = config.Field[bool]{} },
		"disabled":    func(w word) { o.disabled = config.At(true, w.pos) },
		"no-disabled": func(word) { o.disabled = config.Field[bool]{} },
	}
	// Those for TLS are noted as well.
	also := map[string]func(w word){
		"ssl":          func(w word) { o.ssl = config.At(true, w.pos) },
		"no-ssl":       func(word) { o.ssl = config.Field[bool]{} },
		"check-ssl":    func(w word) { o.checkSSL = config.At(true, w.pos) },
		"no-check-ssl": func(word) { o.checkSSL = config.Field[bool]{} },
	}
	h.params(s, words, serverParams, func(w, value word) (int, bool) {
		if set := switches[w.text]; set != nil {
			set(w)
			return 0, true
		}
		if set := also[w.text]; set != nil {
			set(w)
			return 0, false
		}
		if w.text == "inter" {
			if d, ok := h.time(s, value, time.Millisecond); ok {
				o.inter = config.At(d, value.pos)
			}
			return 1, true
		}
		n, is := numbers[w.text]
		if is {
			h.serverNumber(s, w, value, n.at, n.lo, n.hi)
			return 1, true
		}
		return 0, false
	})
}

// serverNumber reads the value of rise, fall, port, weight or maxconn. HAProxy
// refuses ports and weights out of range; the others have no bound there.
func (h *haproxy) serverNumber(s *stmt, w, value word, at *config.Field[int], lo, hi int) {
	n, err := strconv.Atoi(value.text)
	strict := w.text == "port" || w.text == "weight"
	switch {
	case err != nil || n < lo || (strict && n > hi):
		h.problem(value.pos, "%s: %s %s is not a number from %d to %d", s, w.text, quote(value.text), lo, hi)
	case w.text == "maxconn" && n == 0:
		*at = config.Field[int]{} // no limit
	default:
		*at = config.At(h.withinInt(value.pos, n, lo, hi), value.pos)
	}
}
