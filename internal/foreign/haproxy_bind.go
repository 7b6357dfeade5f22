package foreign

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"midspan/internal/config"
)

// bind is one listen address of a proxy.
type bind struct {
	line        *stmt
	listen      config.Field[config.Listen]
	userTimeout config.Field[config.OffOr[time.Duration]]
	tls         config.TLS
	proxy       config.Field[string] // accept-proxy
}

// param is what becomes of a parameter of a `bind` or `server` line and of the
// args words after it.
type param struct {
	args int
	note string // after the parameter, if it is only noted
}

// What several parameters say.
const (
	whyTLSGo   = isGone + "ciphers, curves and signatures are left to Go's crypto/tls, which has only strong ones"
	whyTLSOld  = isNone + "midspan speaks TLS 1.2 and 1.3 only"
	whyTLSNew  = isGone + "midspan also speaks TLS 1.3; `min` is the oldest version"
	whyTLSMake = isGone + "midspan makes no certificates"
	whyTickets = isNone + "session tickets are midspan's own"
	whyRevoked = moreMark + isGone + "midspan reads no revocation lists; short-lived client certificates need none"
	whyErrors  = isGone + "midspan refuses every certificate that is not right"
	whyUnix    = isNone + "it is for Unix sockets"
)

var bindParams = map[string]param{
	"accept-netscaler-cip": {1, isGone + "midspan reads headers of the PROXY protocol only"},
	"transparent":          {0, isGone + "midspan binds to addresses of this machine only"},
	"v4v6":                 {0, isNone + "a bare port is IPv4 and IPv6"},
	"v6only":               {0, isGone + "whether an IPv6 address also takes IPv4 is the kernel's setting"},
	"backlog":              {1, isNone + "midspan asks for the longest listen queue that the kernel allows"},
	"maxconn":              {1, isGone + "write max_connections for the route"},
	"defer-accept":         {0, isGone + "midspan connects to the server at once, since the server may speak first"},
	"tfo":                  {0, isGone + "midspan does not use TCP Fast Open"},
	"mss":                  {1, isGone + "midspan takes the kernel's segment size"},
	"name":                 {1, isNone + "it only names"},
	"id":                   {1, isNone + "it only numbers"},
	"guid-prefix":          {1, isNone + "it only names"},
	"nice":                 {1, isNone + whyTune},
	"process":              {1, isNone + whyTune},
	"thread":               {1, isNone + whyTune},
	"shards":               {1, isNone + whyTune},
	"namespace":            {1, isGone + "start midspan in the network namespace"},
	"expose-fd":            {1, isNone + "`midspan upgrade` hands listeners over"},
	"proto":                {1, isGone + whyHTTP},
	"user":                 {1, whyUnix},
	"group":                {1, whyUnix},
	"uid":                  {1, whyUnix},
	"gid":                  {1, whyUnix},
	"mode":                 {1, whyUnix},
	"level":                {1, whyUnix},
	"severity-output":      {1, whyUnix},

	// Those for TLS; ssl, crt, ca-file, verify, alpn and the versions are carried
	// over, see bindTLS.
	"crt-list":      {1, isGone + "write the certificates that it lists as `tls: { cert: [FILE, …] }`"},
	"npn":           {1, isNone + "clients use ALPN"},
	"ca-file":       {1, isNone + "clients are asked for no certificate"},
	"verify":        {1, isGone + "write client_ca and client_cert"}, // where it can stay; see bindTLS
	"ca-ignore-err": {1, whyErrors}, "crt-ignore-err": {1, whyErrors}, "ca-sign-file": {1, whyTLSMake}, "ca-sign-pass": {1, whyTLSMake},
	"generate-certificates": {0, whyTLSMake}, "ca-verify-file": {1, isGone + "write all that clients' certificates are signed by into client_ca"},
	"ciphers": {1, whyTLSGo}, "ciphersuites": {1, whyTLSGo}, "curves": {1, whyTLSGo}, "ecdhe": {1, whyTLSGo}, "sigalgs": {1, whyTLSGo}, "client-sigalgs": {1, whyTLSGo},
	"prefer-client-ciphers": {0, whyTLSGo}, "crl-file": {1, whyRevoked}, "allow-0rtt": {0, isNone + "midspan accepts no early data"},
	"force-sslv3": {0, whyTLSOld}, "force-tlsv10": {0, whyTLSOld}, "force-tlsv11": {0, whyTLSOld}, "force-tlsv12": {0, whyTLSNew},
	"no-sslv3": {0, whyTLSOld}, "no-tlsv10": {0, whyTLSOld}, "no-tlsv11": {0, whyTLSOld}, "no-tlsv13": {0, whyTLSNew}, "ssl-max-ver": {1, whyTLSNew},
	"no-tls-tickets": {0, whyTickets}, "tls-ticket-keys": {1, whyTickets}, "no-ca-names": {0, isNone + "it saves bytes of the handshake"},
	"strict-sni": {0, isGone + "a client that asks for another name is shown the first certificate"},
}

func (h *haproxy) bindLine(p *proxy, s *stmt) { h.bind(p, s, s.words[1:]) }

// bind reads the addresses in words[0] and the parameters after them.
func (h *haproxy) bind(p *proxy, s *stmt, words []word) {
	var iface string
	var userTimeout config.Field[config.OffOr[time.Duration]]
	var proxy config.Field[string]
	tls := bindTLS{haproxy: h, line: s, ssl: takesTLS(words)}
	h.params(s, words[1:], bindParams, func(w, value word) (int, bool) {
		switch w.text {
		case "interface":
			iface = value.text
			return 1, true
		case "tcp-ut":
			if d, ok := h.time(s, value, time.Millisecond); ok {
				userTimeout = h.offOr(config.At(d, value.pos))
			}
			return 1, true
		case "accept-proxy":
			proxy = config.At(proxyRequired, w.pos)
			return 0, true
		}
		return tls.take(w, value)
	})
	if !tls.finish() {
		return
	}
	for addr := range strings.SplitSeq(words[0].text, ",") {
		l, err := haproxyListen(addr, iface)
		if err != nil {
			h.noteAt(s, words[0].pos, "%s: %s", s, printable(err.Error()))
			continue
		}
		p.binds = append(p.binds, bind{s, config.At(l, words[0].pos), userTimeout, tls.TLS, proxy})
	}
}

// haproxyListen is one address of a `bind` line.
func haproxyListen(addr, iface string) (config.Listen, error) {
	plain := addr
	for _, family := range []string{"ipv4@", "ipv6@", "tcp4@", "tcp6@", "tcp@"} {
		plain = strings.TrimPrefix(plain, family)
	}
	host, ports, found := splitPort(plain)
	switch {
	case strings.HasPrefix(plain, "/") || strings.Contains(plain, "@"):
		return config.Listen{}, fmt.Errorf("%s is not carried over: midspan listens on TCP addresses", quote(addr))
	case !found:
		return config.Listen{}, fmt.Errorf("%s has no port", quote(addr))
	}
	return listenOn(host, iface, ports)
}

// listenOn is the Listen for a host as foreign files write it: empty, *, an
// address with or without brackets, or a name, which midspan does not take.
// The IPv4 wildcard becomes midspan's own, which also takes IPv6.
func listenOn(host, iface, ports string) (config.Listen, error) {
	text := ports
	if bare := strings.Trim(host, "[]"); host != "" && host != "*" && host != "0.0.0.0" {
		a, err := netip.ParseAddr(bare)
		if err != nil {
			return config.Listen{}, fmt.Errorf("%s is not an IP address of this machine, and midspan looks up no names to listen on", quote(host))
		}
		text = a.String() + ":" + ports
		if a.Is6() {
			text = "[" + a.String() + "]:" + ports
		}
	}
	l, err := config.ParseListen(text)
	if err != nil {
		return l, err
	}
	if !writable(l, config.ParseListen) {
		return l, fmt.Errorf("%s is not an IP address of this machine", quote(host))
	}
	l.Interface = iface
	if !writable(l, config.ParseListen) {
		return l, fmt.Errorf("the interface %s cannot be combined with %s", quote(iface), quote(text))
	}
	return l, nil
}

// params goes through the parameters of a line. own handles those that are
// carried over, and tells how many words they have after them; the others are
// noted, those with the same reason together.
func (h *haproxy) params(s *stmt, words []word, table map[string]param, own func(w, value word) (int, bool)) {
	var reasons []string
	noted := map[string][]word{}
	for i := 0; i < len(words); i++ {
		w, value := words[i], word{pos: s.pos}
		if i+1 < len(words) {
			value = words[i+1]
		}
		if n, is := own(w, value); is {
			i += n
			if i >= len(words) {
				h.problem(w.pos, "%s: %s needs a value", s, quote(w.text))
			}
			continue
		}
		name, _, _ := strings.Cut(w.text, "(")
		p, known := table[name]
		if !known {
			p.note = "is not known to this importer and is not carried over"
		}
		if noted[p.note] == nil {
			reasons = append(reasons, p.note)
		}
		last := min(i+p.args, len(words)-1)
		noted[p.note] = append(noted[p.note], words[i:last+1]...)
		i = last
	}
	for _, why := range reasons {
		h.because(s, noted[why][0].pos, quote(phrase(noted[why])), why)
	}
}

func phrase(words []word) string {
	texts := make([]string, len(words))
	for i, w := range words {
		texts[i] = w.text
	}
	return strings.Join(texts, " ")
}
