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
	tls         bindTLS
}

// param is what becomes of a parameter of a `bind` or `server` line and of the
// args words after it.
type param struct {
	args int
	note string // after the parameter, if it is only noted
}

// What several parameters say.
const (
	whyTLSBind   = isGone + "midspan does not decrypt; TLS passes through unread, so the servers' certificates must fit the name that clients ask for"
	whyTLSServer = isGone + "midspan does not encrypt; what the client sends goes to the server as it is"
	whyPROXYIn   = "is NOT carried over: this version neither reads nor writes the PROXY protocol: a header would reach the server as data; switch it off at the sender (Private Link Service, load balancer)"
	whyPROXYOut  = "is NOT carried over: this version neither reads nor writes the PROXY protocol: set the server not to expect a header"
	whyUnix      = isNone + "it is for Unix sockets"
)

var bindParams = map[string]param{
	"accept-proxy":         {0, whyPROXYIn},
	"accept-netscaler-cip": {1, whyPROXYIn},
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

	// Those for TLS are noted when the servers are known: see passing.
	"ssl": {0, whyTLSBind}, "crt": {1, whyTLSBind}, "crt-list": {1, whyTLSBind}, "alpn": {1, whyTLSBind}, "npn": {1, whyTLSBind},
	"ca-file": {1, whyTLSBind}, "ca-ignore-err": {1, whyTLSBind}, "ca-sign-file": {1, whyTLSBind}, "ca-sign-pass": {1, whyTLSBind},
	"ca-verify-file": {1, whyTLSBind}, "ciphers": {1, whyTLSBind}, "ciphersuites": {1, whyTLSBind}, "crl-file": {1, whyTLSBind},
	"crt-ignore-err": {1, whyTLSBind}, "curves": {1, whyTLSBind}, "ecdhe": {1, whyTLSBind}, "allow-0rtt": {0, whyTLSBind},
	"force-sslv3": {0, whyTLSBind}, "force-tlsv10": {0, whyTLSBind}, "force-tlsv11": {0, whyTLSBind}, "force-tlsv12": {0, whyTLSBind},
	"force-tlsv13": {0, whyTLSBind}, "no-sslv3": {0, whyTLSBind}, "no-tlsv10": {0, whyTLSBind}, "no-tlsv11": {0, whyTLSBind},
	"no-tlsv12": {0, whyTLSBind}, "no-tlsv13": {0, whyTLSBind}, "no-tls-tickets": {0, whyTLSBind}, "no-ca-names": {0, whyTLSBind},
	"generate-certificates": {0, whyTLSBind}, "prefer-client-ciphers": {0, whyTLSBind}, "ssl-max-ver": {1, whyTLSBind},
	"ssl-min-ver": {1, whyTLSBind}, "strict-sni": {0, whyTLSBind}, "tls-ticket-keys": {1, whyTLSBind}, "verify": {1, whyTLSBind},
	"sigalgs": {1, whyTLSBind}, "client-sigalgs": {1, whyTLSBind},
}

func (h *haproxy) bindLine(p *proxy, s *stmt) { h.bind(p, s, s.words[1:]) }

// bind reads the addresses in words[0] and the parameters after them.
func (h *haproxy) bind(p *proxy, s *stmt, words []word) {
	var iface string
	var userTimeout config.Field[config.OffOr[time.Duration]]
	var tls bindTLS
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
		}
		return tls.take(w, value)
	})
	h.withoutSSL(s, &tls)
	for addr := range strings.SplitSeq(words[0].text, ",") {
		l, err := haproxyListen(addr, iface)
		if err != nil {
			h.noteAt(s, words[0].pos, "%s: %s", s, printable(err.Error()))
			continue
		}
		p.binds = append(p.binds, bind{s, config.At(l, words[0].pos), userTimeout, tls})
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
