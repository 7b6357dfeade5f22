package foreign

import (
	"slices"
	"strings"

	"midspan/internal/config"
)

// nginxTLS is what ssl_… directives say of clients.
type nginxTLS struct {
	certs, keys       inherited
	clientCA, trusted config.Field[string]
	verify            config.Field[string]
	tickets           config.Field[bool]
	protocols         *node
	alpn              *node
	own               []*node // of the block itself
	password, reject  *node
}

// nginxProxySSL is what proxy_ssl_… directives say of servers.
type nginxProxySSL struct {
	on, verify, serverName config.Field[bool]
	reuse                  config.Field[bool]
	name, ca, cert, key    config.Field[string]
	protocols              *node
	own                    []*node // of the block itself
}

// tlsSetting is setting for TLS.
func (x *nginx) tlsSetting(c *nginxSettings, n *node) bool {
	name := strings.Replace(n.name(), "grpc_ssl", "proxy_ssl", 1)
	files := map[string]*config.Field[string]{
		"ssl_client_certificate": &c.tls.clientCA, "ssl_trusted_certificate": &c.tls.trusted,
		"proxy_ssl_trusted_certificate": &c.up.ca, "proxy_ssl_certificate": &c.up.cert, "proxy_ssl_certificate_key": &c.up.key,
	}
	words := map[string]*config.Field[string]{"ssl_verify_client": &c.tls.verify, "proxy_ssl_name": &c.up.name}
	switches := map[string]*config.Field[bool]{"proxy_ssl": &c.up.on, "proxy_ssl_verify": &c.up.verify, "proxy_ssl_server_name": &c.up.serverName, "proxy_ssl_session_reuse": &c.up.reuse, "ssl_session_tickets": &c.tls.tickets}
	nodes := map[string]**node{"ssl_protocols": &c.tls.protocols, "proxy_ssl_protocols": &c.up.protocols, "ssl_alpn": &c.tls.alpn, "ssl_password_file": &c.tls.password, "ssl_reject_handshake": &c.tls.reject}
	switch {
	case files[name] != nil && len(n.words) == 2:
		if why := notAFile(n.arg(1)); why != "" {
			x.lost(n.stmt, why)
			return true
		}
		*files[name] = config.At(x.pathOf(n.arg(1)), n.pos)
	case words[name] != nil:
		*words[name] = config.At(n.arg(1), n.pos)
	case switches[name] != nil:
		*switches[name] = config.At(n.arg(1) == "on", n.pos)
	case nodes[name] != nil:
		*nodes[name] = n
	default:
		return false
	}
	switch {
	case name == "proxy_ssl":
	case strings.HasPrefix(name, "proxy_"):
		c.up.own = append(c.up.own, n)
	default:
		c.tls.own = append(c.tls.own, n)
	}
	x.carry(n.stmt)
	return true
}

// notAFile is why a path of nginx's cannot be one of midspan's, or "".
func notAFile(name string) string {
	switch {
	case strings.Contains(name, "$"):
		return "variables are not evaluated"
	case strings.Contains(name, ":") || !plainText(name):
		return quote(name) + " is not the path of a file"
	}
	return ""
}

// oldest is `min` for a list of protocols; not set for midspan's own, 1.2.
func (x *nginx) oldest(n *node) (min config.Field[string]) {
	if n == nil {
		return min
	}
	has := func(name string) bool {
		return slices.ContainsFunc(n.words[1:], func(w word) bool { return w.text == name })
	}
	switch {
	case has("TLSv1.3") && !has("TLSv1.2"):
		min = config.At(tls13, n.pos)
	case !has("TLSv1.3"):
		x.note(n.stmt, "%s: midspan also speaks TLS 1.3; `min` is the oldest version", n)
	}
	if has("TLSv1") || has("TLSv1.1") || has("SSLv3") || has("SSLv2") {
		x.note(n.stmt, "%s: the oldest version of TLS is 1.2 in midspan", n)
	}
	return min
}

// clientTLS is `tls` of a listener that all of cs share, or why it cannot be
// one. What certificates do not say is the first one's.
func (x *nginx) clientTLS(cs ...nginxSettings) (t config.TLS, why string) {
	if why = x.certificates(cs, &t); why != "" {
		return t, why
	}
	c := cs[0].tls
	if c.reject != nil && c.reject.arg(1) == "on" {
		return t, "it refuses every handshake (`ssl_reject_handshake`)"
	}
	if c.password != nil {
		x.lost(c.password.stmt, "midspan reads keys without a password; decrypt them")
	}
	t.Min = x.oldest(c.protocols)
	if c.tickets.Set() && !c.tickets.V {
		t.Resume = c.tickets
	}
	if c.alpn != nil {
		for _, w := range c.alpn.words[1:] {
			if plainText(w.text) {
				t.ALPN = append(t.ALPN, config.At(w.text, c.alpn.pos))
			}
		}
	}
	return t, x.clientCerts(c, &t)
}

// certificates fills in those of cs with their keys, each once.
func (x *nginx) certificates(cs []nginxSettings, t *config.TLS) (why string) {
	known, apart := map[string]bool{}, false
	for _, c := range cs {
		for i, n := range c.tls.certs.nodes {
			if why := notAFile(n.arg(1)); why != "" {
				return n.String() + ": " + why
			}
			cert, key := x.pathOf(n.arg(1)), ""
			if i < len(c.tls.keys.nodes) {
				k := c.tls.keys.nodes[i]
				if why := notAFile(k.arg(1)); why != "" {
					return k.String() + ": " + why
				}
				key = x.pathOf(k.arg(1))
			}
			if known[cert+"\x00"+key] {
				continue
			}
			known[cert+"\x00"+key] = true
			t.Cert = append(t.Cert, config.At(cert, n.pos))
			if key != "" && key != cert {
				apart, t.Key = true, config.At(key, n.pos)
			}
		}
	}
	switch {
	case len(t.Cert) == 0:
		return "it has no certificate (`ssl_certificate`)"
	case apart && len(t.Cert) > 1:
		x.notes.Addf(t.Cert[0].Pos, "put each key into the file of its certificate: midspan has one `key`, for a single certificate")
		t.Key = config.Field[string]{}
	}
	return ""
}

// sameCallers takes those servers out that ask other clients for a certificate than
// the first one does: a route has that once, and the rule of one server must not
// open another.
func (x *nginx) sameCallers(all []*httpServer) []*httpServer {
	wants := func(s *httpServer) (c [3]string) {
		if t := s.settings.tls; t.verify.V != "" && t.verify.V != "off" {
			c = [...]string{t.verify.V, t.clientCA.V, t.trusted.V}
		}
		return c
	}
	first := all[0]
	return slices.DeleteFunc(all, func(s *httpServer) bool {
		if wants(s) == wants(first) {
			return false
		}
		x.note(s.node.stmt, "%s is not carried over: it asks other clients for a certificate (`ssl_verify_client`) than the one of line %d, and midspan has that once for a route, whatever name they ask for; give it a port of its own", s.node, first.node.pos.Line)
		return true
	})
}

// clientCerts carries over whom clients' certificates are from.
func (x *nginx) clientCerts(c nginxTLS, t *config.TLS) (why string) {
	ca := firstSetAt(c.clientCA, c.trusted)
	switch c.verify.V {
	case "", "off":
		return ""
	case "optional_no_ca":
		x.notes.Addf(c.verify.Pos, "`ssl_verify_client optional_no_ca` is not carried over: midspan asks for certificates that `client_ca` has signed, or for none")
		return ""
	case "on", "optional":
		if !ca.Set() {
			return "clients need a certificate and it does not say of whom (`ssl_client_certificate`)"
		}
	default:
		return quote("ssl_verify_client "+c.verify.V) + " is not known"
	}
	if c.clientCA.Set() && c.trusted.Set() && c.clientCA.V != c.trusted.V {
		x.notes.Addf(c.trusted.Pos, "`ssl_trusted_certificate` is not carried over: clients' certificates must be signed by `ssl_client_certificate`; put all into one file")
	}
	t.ClientCA, t.ClientCert = ca, config.At(map[string]string{"on": "required", "optional": "optional"}[c.verify.V], c.verify.Pos)
	return ""
}

// serverTLS is `upstream_tls` for servers that nginx calls by a name: that of
// an upstream, or a host. nginx looks at no certificate unless it is told to.
func (x *nginx) serverTLS(up nginxProxySSL, on bool, upstream, name string, pos config.Pos) (t config.UpstreamTLS) {
	if !on {
		return t
	}
	t.On = config.At(true, firstSetAt(up.on, config.At(true, pos)).Pos)
	if !up.verify.V {
		t.Verify = config.At(false, t.On.Pos)
	} else {
		t.CA = up.ca
	}
	t.Cert, t.Key, t.Min = up.cert, up.key, x.oldest(up.protocols)
	if up.reuse.Set() && !up.reuse.V {
		t.Resume = up.reuse
	}
	if !t.Cert.Set() || t.Key.V == t.Cert.V {
		t.Key = config.Field[string]{}
	}
	written := up.name
	if !written.Set() && upstream != "" && (up.verify.V || up.serverName.V) {
		written = config.At(name, pos)
	}
	if !written.Set() {
		return t
	}
	host, _, _ := splitPort(written.V)
	if lower, ok := matchName(host); ok {
		t.Name = config.At(lower, written.Pos)
	} else if up.name.Set() {
		x.notes.Addf(written.Pos, "`proxy_ssl_name %s` is not carried over: midspan asks servers for one name, that of `upstream_tls` or their own host", printable(written.V))
	}
	return t
}
