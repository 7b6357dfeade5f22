package foreign

import (
	"fmt"
	"slices"
)

// midspan does not decrypt. A `bind` with `ssl` can stay only where every
// server takes TLS as well, so that it passes through unread.

const (
	whyNoDecrypt    = "midspan does not decrypt"
	whereTLS        = "give the servers certificates for the name that clients ask for, and write a route to their TLS port"
	whyNoClientCert = moreMark + isGone + "midspan asks clients for no certificate; let the servers ask"
)

// bindTLS is what a `bind` line says about TLS.
type bindTLS struct {
	ssl    bool
	words  []word
	verify []word // that clients need a certificate
}

// take takes a parameter that is about TLS.
func (t *bindTLS) take(w, value word) (args int, is bool) {
	p := bindParams[w.text]
	if p.note != whyTLSBind {
		return 0, false
	}
	words := []word{w, value}[:1+p.args]
	if w.text == "verify" && value.text != "none" {
		t.verify = words
		return p.args, true
	}
	t.ssl = t.ssl || w.text == "ssl"
	t.words = append(t.words, words...)
	return p.args, true
}

// withoutSSL notes parameters that have no effect.
func (h *haproxy) withoutSSL(s *stmt, t *bindTLS) {
	if words := slices.Concat(t.words, t.verify); !t.ssl && len(words) > 0 {
		h.because(s, words[0].pos, quote(phrase(words)), isNone+"it has no effect without `ssl`")
		*t = bindTLS{}
	}
}

// passing is binds without those whose TLS the servers of b would not
// understand.
func (h *haproxy) passing(binds []bind, b *proxy) []bind {
	plain := slices.IndexFunc(b.servers, func(s server) bool { return !s.ssl.Set() })
	var out []bind
	for _, l := range binds {
		if l.tls.ssl && plain >= 0 {
			h.lost(l.line, fmt.Sprintf("%s, and server %s of %s has no `ssl`; %s", whyNoDecrypt, printable(b.servers[plain].name), b.sec, whereTLS))
			continue
		}
		if l.tls.ssl {
			h.because(l.line, l.tls.words[0].pos, quote(phrase(l.tls.words)), whyTLSBind)
		}
		if v := l.tls.verify; v != nil {
			h.because(l.line, v[0].pos, quote(phrase(v)), whyNoClientCert)
		}
		out = append(out, l)
	}
	return out
}

// endsTLS tells, before anything of sec is read, whether all that it does is
// end TLS for plaintext servers: notes on its lines would be about a route that
// there is not.
func (h *haproxy) endsTLS(sec, target *section) bool {
	const most = 16 // `defaults` may name each other in a circle
	if !sec.has("bind") || !target.has("server", "server-template") {
		return false
	}
	for _, s := range sec.body {
		if s.arg(0) == "bind" && !takesTLS(s) {
			return false
		}
	}
	for n := 0; target != nil; n++ {
		if n == most || slices.ContainsFunc(target.body, mayGiveTLS) {
			return false
		}
		target = h.defaultsOf(target)
	}
	return true
}

// takesTLS tells whether a `bind` line has the parameter ssl.
func takesTLS(s *stmt) bool {
	for i := 2; i < len(s.words); i++ {
		if s.arg(i) == "ssl" {
			return true
		}
		i += bindParams[s.arg(i)].args
	}
	return false
}

// mayGiveTLS tells whether a line may be that of a server that takes TLS.
func mayGiveTLS(s *stmt) bool {
	return slices.Contains([]string{"server", "server-template", "default-server"}, s.arg(0)) &&
		slices.ContainsFunc(s.words, func(w word) bool { return w.text == "ssl" })
}
