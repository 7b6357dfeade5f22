package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"sync/atomic"

	"midspan/internal/plan"
)

// Clients is the TLS of a route with its clients.
type Clients struct {
	want  plan.TLS
	files files
	ca    []byte
	// config is what connections are made with: it has the keys of session
	// tickets, and looks up inForce for all else.
	config  atomic.Pointer[tls.Config]
	inForce atomic.Pointer[tls.Config]
}

// NameSeer is a net.Conn that is told the server name that a client asks for, as
// soon as it has: also where the handshake fails after that.
type NameSeer interface{ SawServerName(string) }

// Config is for a connection that begins now. All connections share the keys of
// its session tickets; they change when other CAs may sign clients'
// certificates, so that no session goes on that would not begin.
func (c *Clients) Config() *tls.Config { return c.config.Load() }

func (c *Clients) paths() []string {
	all := append([]string(nil), c.want.Certs...)
	for _, p := range []string{c.want.Key, c.want.ClientCA} {
		if p != "" {
			all = append(all, p)
		}
	}
	return all
}

func newClients(route string, want plan.TLS, m made) *Clients {
	c := &Clients{want: want}
	c.files = files{route: route, paths: c.paths(), shown: want.Certs}
	c.put(m)
	return c
}

func (c *Clients) put(m made) {
	c.files.take(m)
	old := c.config.Load()
	c.inForce.Store(m.config)
	if old == nil || !bytes.Equal(m.ca, c.ca) {
		c.config.Store(&tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if s, is := h.Conn.(NameSeer); is {
				s.SawServerName(h.ServerName)
			}
			return c.inForce.Load(), nil
		}})
	}
	c.ca = m.ca
}

// reread makes it anew of files that have changed.
func (c *Clients) reread() made {
	m := readClients(c.files.route, &c.want)
	if len(m.problems) == 0 {
		c.put(m)
	}
	return m
}

func (c *Clients) appendTo(all []Shown) []Shown { return c.files.appendTo(all) }

// readClients reads the files of want.
func readClients(route string, want *plan.TLS) made {
	c := Clients{want: *want}
	r := begin(route, c.paths())
	var list []*tls.Certificate
	for _, path := range want.Certs {
		if x := r.pair(path, want.Key); x != nil {
			list = append(list, x)
		}
	}
	config := &tls.Config{
		MinVersion: version(want.Min),
		NextProtos: want.ALPN,

		SessionTicketsDisabled: want.NoResume,
		// Small records at the start of a stream would save a browser some
		// milliseconds, and cost a bulk transfer a quarter of its speed.
		DynamicRecordSizingDisabled: true,
	}
	if len(list) > 0 {
		config.GetCertificate = newChooser(list).choose
	}
	if want.ClientCA != "" {
		config.ClientCAs = r.pool(want.ClientCA)
		config.ClientAuth = tls.RequireAndVerifyClientCert
		if want.ClientCert == "optional" {
			config.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	r.config = config
	return r.made
}

// chooser finds the certificate for a server name: one that has the name, then
// one with a wildcard for it, then the first. Of several that have it (of RSA
// and ECDSA, say) it takes the first that the client can check.
type chooser struct {
	all    []*tls.Certificate
	byName map[string][]*tls.Certificate
}

func newChooser(all []*tls.Certificate) *chooser {
	c := &chooser{all, map[string][]*tls.Certificate{}}
	for _, x := range all {
		for _, name := range names(x.Leaf) {
			c.byName[name] = append(c.byName[name], x)
		}
	}
	return c
}

// names are what a certificate is for, in lower case.
func names(x *x509.Certificate) (all []string) {
	for _, n := range x.DNSNames {
		all = append(all, strings.ToLower(n))
	}
	return all
}

// errNoCertificate leads to the alert unrecognized_name in crypto/tls; it cannot
// be, since no settings are made without a certificate.
var errNoCertificate = errors.New("no certificate")

func (c *chooser) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	_, parent, _ := strings.Cut(name, ".")
	for _, list := range [][]*tls.Certificate{c.byName[name], c.byName["*."+parent]} {
		for _, x := range list {
			if hello.SupportsCertificate(x) == nil {
				return x, nil
			}
		}
	}
	anyName := *hello
	anyName.ServerName = ""
	for _, x := range c.all {
		if anyName.SupportsCertificate(x) == nil {
			return x, nil
		}
	}
	if len(c.all) == 0 {
		return nil, errNoCertificate
	}
	return c.all[0], nil // crypto/tls says what is wrong with it
}
