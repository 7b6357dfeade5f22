package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"midspan/internal/config"
	"midspan/internal/plan"
)

// tls writes the certificate and what belongs to it, with paths as midspan can
// have them.
func (t *translation) tls(on bool) func(*route) error {
	return func(r *route) error {
		if !on {
			return nil
		}
		of := r
		if r.arg("ssl_certificate") == "" { // a server of many on an address: it has the default one's
			of = &route{unit: r.bind.def, name: r.name}
		}
		cert, key, err := t.pair(of, "ssl_certificate", "ssl_certificate_key", "ssl_password_file")
		if err != nil {
			return err
		}
		if cert == "" {
			return r.server.errorf("no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive")
		}
		r.params += " ssl"
		r.lines = append(r.lines, "ssl_certificate "+quoted(cert), "ssl_certificate_key "+quoted(key))
		for _, d := range slices.Concat(r.all("ssl_alpn"), r.all("ssl_protocols")) {
			r.lines = append(r.lines, quoteAll(d))
		}
		switch verify := r.arg("ssl_verify_client"); verify {
		case "on", "optional":
			r.lines = append(r.lines, "ssl_verify_client "+verify, "ssl_client_certificate "+quoted(t.ends.path(r.arg("ssl_client_certificate"))))
		case "optional_no_ca":
			t.notes = append(t.notes, "not carried over: ssl_verify_client optional_no_ca")
		}
		resume := set(r.resumes())
		r.patch = append(r.patch, func(c *config.Route) { c.TLS.Resume = resume })
		return nil
	}
}

// resumes tells whether clients may go on with a session. midspan keeps sessions
// in tickets alone, and gives those where nginx would keep them itself, too.
func (r *route) resumes() bool {
	cache := r.arg("ssl_session_cache")
	return r.arg("ssl_session_tickets") != "off" || cache != "" && cache != "off" && cache != "none"
}

// upstreamTLS writes proxy_ssl and what belongs to it into r.
func (t *translation) upstreamTLS(r *route) error {
	if _, answers := r.returns(); answers || !r.on("proxy_ssl") {
		return nil
	}
	cert, key, err := t.pair(r, "proxy_ssl_certificate", "proxy_ssl_certificate_key", "proxy_ssl_password_file")
	if err != nil {
		return err
	}
	r.lines = append(r.lines, "proxy_ssl on")
	verify := r.on("proxy_ssl_verify")
	if cert != "" {
		r.lines = append(r.lines, "proxy_ssl_certificate "+quoted(cert), "proxy_ssl_certificate_key "+quoted(key))
	}
	if ca := r.arg("proxy_ssl_trusted_certificate"); ca != "" && verify {
		r.lines = append(r.lines, "proxy_ssl_verify on", "proxy_ssl_trusted_certificate "+quoted(t.ends.path(ca)))
	}
	name, known := expand(r.arg("proxy_ssl_name"), r.static)
	if name == "" && known {
		name = r.passes
	}
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	// Without proxy_ssl_server_name nginx does not send the name, but looks for
	// it in the certificate; midspan does both or none.
	if _, err := netip.ParseAddr(name); err != nil && (r.on("proxy_ssl_server_name") || verify) {
		r.lines = append(r.lines, "proxy_ssl_server_name on", "proxy_ssl_name "+quoted(name))
	}
	resume := set(r.arg("proxy_ssl_session_reuse") != "off")
	r.patch = append(r.patch, func(c *config.Route) { c.UpstreamTLS.Resume = resume })
	return nil
}

// pair are the files of a certificate and its key; "" where there is none. An
// encrypted key is decrypted into a file of the front's: midspan has no
// passwords.
func (t *translation) pair(r *route, cert, key, password string) (certFile, keyFile string, err error) {
	c, known := expand(r.arg(cert), r.static)
	k, known2 := expand(r.arg(key), r.static)
	if !known || !known2 {
		return "", "", r.server.errorf("certificates by variables of a connection are not possible")
	}
	if c == "" {
		return "", "", nil
	}
	certFile, keyFile = t.ends.path(c), t.ends.path(k)
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return "", "", fmt.Errorf("cannot load certificate key %q: %w", keyFile, err)
	}
	if !strings.Contains(string(text), "ENCRYPTED") {
		return certFile, keyFile, nil
	}
	passwords, err := t.passwords(r.arg(password))
	if err != nil {
		return "", "", err
	}
	plain := filepath.Join(t.ends.temp, r.name+"-"+key+".pem")
	for _, p := range passwords {
		cmd := exec.Command("openssl", "pkey", "-in", keyFile, "-out", plain, "-passin", "stdin")
		cmd.Stdin = strings.NewReader(p + "\n")
		if err = cmd.Run(); err == nil {
			return certFile, plain, nil
		}
	}
	return "", "", fmt.Errorf("cannot load certificate key %q: no password fits: %v", keyFile, err)
}

// passwords are the lines of a file, which may be a pipe and is read once.
func (t *translation) passwords(name string) ([]string, error) {
	if name == "" {
		return nil, nil
	}
	if known, read := t.ends.passwords[name]; read {
		return known, nil
	}
	text, err := os.ReadFile(t.ends.path(name))
	if err != nil {
		return nil, err
	}
	t.ends.passwords[name] = strings.Split(strings.ReplaceAll(strings.TrimRight(string(text), "\r\n"), "\r", ""), "\n")
	return t.ends.passwords[name], nil
}

// names makes b a route that chooses by the name in the ClientHello, with a
// route for each of the servers behind it. A server that rejects handshakes is
// one that the names do not lead to.
func (t *translation) names(b *bind) error {
	r := route{unit: b.def, name: b.def.route + "-names", listen: t.ends.address(b)}
	type group struct {
		match string
		to    netip.AddrPort
	}
	var groups []group
	var def netip.AddrPort // zero, as those of groups: rejected
	for _, u := range b.units {
		var to netip.AddrPort
		if !u.on("ssl_reject_handshake") {
			to = t.ends.inner()
			if err := t.unit(u, to, true, b.ssl); err != nil {
				return err
			}
		}
		if u == b.def {
			def = to
		}
		for _, n := range u.names {
			if n.pattern != nil || strings.HasSuffix(n.text, ".*") {
				return u.server.errorf("a pattern in server_name cannot choose a route")
			}
			if suffix, dot := strings.CutPrefix(n.text, "."); dot {
				groups = append(groups, group{suffix, to}, group{"*." + suffix, to})
				continue
			}
			groups = append(groups, group{n.text, to})
		}
	}
	rejecting := netip.AddrPort{}
	if slices.ContainsFunc(groups, func(g group) bool { return !g.to.IsValid() }) && def.IsValid() {
		// A name that must be rejected although there is a default: it leads to
		// a route that knows no name.
		rejecting = t.ends.inner()
		t.rejecting(b, rejecting)
	}
	t.emit(&r, []string{"server 127.0.0.1:1"})
	r.patch = append(r.patch, func(c *config.Route) {
		c.Mode, c.SendProxy = set(string(plan.ModeSNI)), set(string(plan.SendV2))
		if !def.IsValid() {
			c.SNI.NoName = set(string(plan.Alert))
		}
		if b.proxy {
			c.Proxy.Mode = set(string(plan.ProxyRequired))
		}
		c.To = nil
		if def.IsValid() {
			c.To = []config.Server{serverAt(def)}
		}
		for _, g := range groups {
			if !g.to.IsValid() {
				g.to = rejecting
			}
			if g.to.IsValid() {
				c.Groups = append(c.Groups, config.Group{Match: set(g.match), To: []config.Server{serverAt(g.to)}})
			}
		}
	})
	t.routes = append(t.routes, r)
	return nil
}

// rejecting makes a route that refuses every name.
func (t *translation) rejecting(b *bind, listen netip.AddrPort) {
	r := route{unit: b.def, name: b.def.route + "-reject", listen: listen}
	t.emit(&r, []string{"server 127.0.0.1:1"})
	r.patch = append(r.patch, func(c *config.Route) {
		c.Mode, c.Proxy.Mode = set(string(plan.ModeSNI)), set(string(plan.ProxyRequired))
		c.To = nil
		c.Groups = []config.Group{{Match: set("rejected.invalid"), To: []config.Server{serverAt(netip.MustParseAddrPort("127.0.0.1:1"))}}}
	})
	t.routes = append(t.routes, r)
}

func serverAt(a netip.AddrPort) config.Server {
	return config.Server{Target: set(config.Target{Host: a.Addr().String(), Port: a.Port()})}
}
