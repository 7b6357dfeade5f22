package foreign

import (
	"path"
	"slices"
	"strings"

	"midspan/internal/config"
)

// Words of the file.
const (
	proxyRequired = "required"
	tls13         = "1.3"
)

// bindTLS reads what a `bind` line says about TLS.
type bindTLS struct {
	*haproxy
	config.TLS
	line     *stmt
	ssl      bool
	needless []word // about TLS, of a line without ssl
	verify   config.Field[string]
	caFile   config.Field[string]
}

// takesTLS tells whether parameters of a `bind` have ssl among them.
func takesTLS(words []word) bool {
	for i := 1; i < len(words); i++ {
		switch w := words[i].text; w {
		case "ssl":
			return true
		case "crt", "alpn", "ssl-min-ver", "interface", "tcp-ut":
			i++
		default:
			i += bindParams[w].args
		}
	}
	return false
}

// bindTLSArgs are the parameters that are carried over, with the number of
// their words.
var bindTLSArgs = map[string]int{"ssl": 0, "crt": 1, "ca-file": 1, "verify": 1, "alpn": 1, "ssl-min-ver": 1, "no-tlsv12": 0, "force-tlsv13": 0}

// take takes a parameter that is about TLS.
func (t *bindTLS) take(w, value word) (args int, is bool) {
	args, is = bindTLSArgs[w.text]
	if !t.ssl {
		if is {
			t.needless = append(t.needless, []word{w, value}[:1+args]...)
		}
		return args, is
	}
	at := func() config.Field[string] { return config.At(value.text, value.pos) }
	switch w.text {
	case "crt":
		t.certificate(value)
	case "ca-file":
		t.caFile = config.At(t.under(t.caBase, value.text), value.pos)
	case "verify":
		t.verify = at()
	case "alpn":
		for name := range strings.SplitSeq(value.text, ",") {
			if plainText(name) {
				t.ALPN = append(t.ALPN, config.At(name, value.pos))
			}
		}
	case "ssl-min-ver":
		t.minVersion(value)
	case "no-tlsv12", "force-tlsv13":
		t.Min = config.At(tls13, w.pos)
	}
	return args, is
}

func (t *bindTLS) minVersion(value word) {
	t.Min = t.version(t.line, value)
}

// version is a value of ssl-min-ver; what is older than 1.2 is 1.2, midspan's
// own oldest.
func (h *haproxy) version(s *stmt, value word) (min config.Field[string]) {
	switch strings.ToLower(value.text) {
	case "tlsv1.3":
		min = config.At(tls13, value.pos)
	case "tlsv1.2": // midspan's default
	default:
		h.note(s, "%s: the oldest version of TLS is 1.2 in midspan", s)
	}
	return min
}

// under is a path as HAProxy looks it up below ca-base or crt-base.
func (h *haproxy) under(base, name string) string {
	if base == "" || path.IsAbs(name) || strings.HasPrefix(name, "@") {
		return name
	}
	return path.Join(base, name)
}

// certificate reads the value of crt: a file, or a directory of them.
func (t *bindTLS) certificate(value word) {
	name := t.under(t.crtBase, value.text)
	switch {
	case !plainText(name) || strings.HasPrefix(name, "@"):
		t.note(t.line, "%s: %s is not a file, and is not carried over", t.line, quote(value.text))
		return
	case strings.HasSuffix(name, "/"):
		t.noteAt(t.line, value.pos, "%s is a directory and is not carried over: write its files as `tls: { cert: [FILE, …] }`", quote(value.text))
		return
	case path.Ext(name) == "":
		t.noteAt(t.line, value.pos, "%s: if it is a directory, write its files as `tls: { cert: [FILE, …] }`", quote(value.text))
	}
	t.Cert = append(t.Cert, config.At(name, value.pos))
}

// finish checks what was read. false: no route can be made of the line.
func (t *bindTLS) finish() bool {
	if len(t.needless) > 0 {
		t.because(t.line, t.needless[0].pos, quote(phrase(t.needless)), isNone+"it has no effect without `ssl`")
	}
	if !t.ssl {
		return true
	}
	if len(t.Cert) == 0 {
		t.lost(t.line, "it has no certificate that midspan can read; write `tls: { cert: FILE }` for a route")
		return false
	}
	if !t.Min.Set() && t.minTLS.Set() {
		t.Min = t.minTLS
	}
	wants := t.verify.V == "required" || t.verify.V == "optional"
	switch {
	case wants && !t.caFile.Set():
		t.lost(t.line, "clients need a certificate and it does not say of whom (`ca-file`); write `tls: { client_ca: FILE }` for a route")
		return false
	case wants && !plainText(t.caFile.V):
		t.lost(t.line, quote(t.caFile.V)+" is not a file")
		return false
	case wants:
		t.ClientCA, t.ClientCert = t.caFile, t.verify
	case t.caFile.Set():
		t.because(t.line, t.caFile.Pos, quote("ca-file "+t.caFile.V), isNone+"clients are asked for no certificate")
	}
	return true
}

// listeners are binds in groups of those that a route can have together: with
// the same TLS, and with or without PROXY headers.
func listeners(binds []bind) [][]bind {
	var out [][]bind
	for _, b := range binds {
		i := slices.IndexFunc(out, func(g []bind) bool { return sameTLS(g[0].tls, b.tls) && g[0].proxy.V == b.proxy.V })
		if i < 0 {
			out = append(out, nil)
			i = len(out) - 1
		}
		out[i] = append(out[i], b)
	}
	return out
}

func sameTLS(a, b config.TLS) bool {
	return sameList(a.Cert, b.Cert) && a.Key.V == b.Key.V && a.ClientCA.V == b.ClientCA.V && a.ClientCert.V == b.ClientCert.V && a.Min.V == b.Min.V && sameList(a.ALPN, b.ALPN)
}

// sameUpstreamTLS compares without the places.
func sameUpstreamTLS(a, b config.UpstreamTLS) bool {
	return a.On.V == b.On.V && (!a.On.V || a.Name.V == b.Name.V && a.CA.V == b.CA.V && a.Cert.V == b.Cert.V && a.Key.V == b.Key.V && a.Verify.Or(true) == b.Verify.Or(true) && a.Min.V == b.Min.V)
}

// serverTLS reads the parameters of a `server` line about TLS into o.
func (h *haproxy) serverTLS(s *stmt, o *serverOptions) map[string]func(w, value word) int {
	file := func(base *string, at *config.Field[string]) func(w, value word) int {
		return func(_, value word) int {
			if name := h.under(*base, value.text); plainText(name) && !strings.HasPrefix(name, "@") {
				*at = config.At(name, value.pos)
			} else if value.text != "@system-ca" {
				h.noteAt(s, value.pos, "%s: %s is not a file, and is not carried over", s, quote(value.text))
			}
			return 1
		}
	}
	t := &o.tls
	return map[string]func(w, value word) int{
		"ssl":         func(w, _ word) int { t.On = config.At(true, w.pos); return 0 },
		"no-ssl":      func(word, word) int { t.On = config.Field[bool]{}; return 0 },
		"ca-file":     file(&h.caBase, &t.CA),
		"crt":         file(&h.crtBase, &t.Cert),
		"ssl-min-ver": func(_, value word) int { t.Min = h.version(s, value); return 1 },
		"verify":      func(_, value word) int { t.Verify = config.At(value.text != "none", value.pos); return 1 },
		"no-tlsv12":   func(w, _ word) int { t.Min = config.At(tls13, w.pos); return 0 },
		"verifyhost":  func(_, value word) int { h.tlsName(s, value, &o.verifyHost); return 1 },
		"sni":         func(_, value word) int { h.tlsName(s, value, &o.sni); return 1 },
		"alpn": func(_, value word) int {
			o.h2 = config.At(strings.HasPrefix(value.text, "h2"), value.pos)
			return 1
		},
		"proto": func(_, value word) int {
			o.h2 = config.At(value.text == "h2", value.pos)
			return 1
		},
		"force-tlsv13": func(w, _ word) int { t.Min = config.At(tls13, w.pos); return 0 },
	}
}

// tlsName reads the name that is asked for or checked: NAME, or str(NAME).
func (h *haproxy) tlsName(s *stmt, value word, at *config.Field[string]) {
	name := value.text
	if inner, is := strings.CutPrefix(name, "str("); is {
		name = strings.Trim(strings.TrimSuffix(inner, ")"), "\"'")
	}
	if lower, ok := matchName(name); ok && !strings.HasPrefix(lower, "*") {
		*at = config.At(lower, value.pos)
		return
	}
	h.noteAt(s, value.pos, "%s: %s is not carried over: midspan asks servers for one name, that of `upstream_tls` or their own host", s, quote(value.text))
}

// upstreamTLS is how midspan speaks TLS with a server, and says what differs.
func (h *haproxy) upstreamTLS(s server) config.UpstreamTLS {
	t := s.tls
	if !t.On.V {
		return config.UpstreamTLS{}
	}
	t.Name = s.sni
	if s.verifyHost.Set() {
		if t.Name.Set() && t.Name.V != s.verifyHost.V {
			h.notes.Addf(t.Name.Pos, "the name that server %s is asked for (%s) is not the one that its certificate must have (%s): midspan has one, the latter", printable(s.name), t.Name.V, s.verifyHost.V)
		}
		t.Name = s.verifyHost
	}
	if !t.Verify.Set() && h.noVerify {
		t.Verify = config.At(false, t.On.Pos)
	}
	switch {
	case !t.Verify.Or(true):
		t.CA = config.Field[string]{}
		t.Verify = config.At(false, t.Verify.Pos)
	default:
		if !t.Name.Set() {
			h.notes.Addf(t.On.Pos, "the certificate of server %s must also have its host (%s): midspan always looks at the name; write `upstream_tls: { name: … }` where it has another", printable(s.name), s.target.V.Host)
		}
		t.Verify = config.Field[bool]{}
	}
	return t
}
