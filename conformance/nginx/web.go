package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// web are the servers of the `http` block: what tests have as servers behind the
// proxy, or as clients before it. They serve files, set headers and hand
// requests on, with the standard library; nothing of midspan is in them.
type web struct {
	servers []*http.Server
}

// site is one server of the block.
type site struct {
	prefix string
	root   string
	server *directive
	pass   string // host:port of proxy_pass
}

// checkHTTP tells whether the servers could be made.
func (f *front) checkHTTP(c *conf) error {
	for _, s := range webServers(c) {
		if _, err := f.site(c, s); err != nil {
			return err
		}
	}
	return nil
}

func webServers(c *conf) (all []*directive) {
	if h := find(c.tree, "http"); h != nil {
		for _, d := range h.block {
			if d.name == "server" {
				all = append(all, d)
			}
		}
	}
	return all
}

func (f *front) site(c *conf, d *directive) (*site, error) {
	s := &site{prefix: f.options.prefix, root: "html", server: d}
	if r := find(find(c.tree, "http").block, "root"); r != nil {
		s.root = r.arg(0)
	}
	if !filepath.IsAbs(s.root) {
		s.root = filepath.Join(s.prefix, s.root)
	}
	if p := s.directive("proxy_pass"); p != nil {
		to, err := url.Parse(p.arg(0))
		if err != nil {
			return nil, p.errorf("%v", err)
		}
		s.pass = to.Host
	}
	return s, nil
}

// directive is the server's or its location's.
func (s *site) directive(name string) *directive {
	for _, d := range s.server.block {
		if d.name == "location" {
			if in := find(d.block, name); in != nil {
				return in
			}
		}
	}
	return find(s.server.block, name)
}

// openWeb starts the servers.
func (f *front) openWeb(c *conf) (*web, error) {
	w := &web{}
	for _, d := range webServers(c) {
		s, err := f.site(c, d)
		if err != nil {
			return w, errors.Join(err, w.shut())
		}
		for _, l := range d.block {
			if l.name != "listen" {
				continue
			}
			if err := w.listen(s, l); err != nil {
				return w, errors.Join(err, w.shut())
			}
		}
	}
	return w, nil
}

func (w *web) listen(s *site, d *directive) error {
	l, err := net.Listen("tcp", d.arg(0))
	if err != nil {
		return d.errorf("bind() to %s failed: %v", d.arg(0), err)
	}
	for _, p := range d.args[1:] {
		if p == "ssl" {
			c, err := s.tls()
			if err != nil {
				return errors.Join(d.errorf("%v", err), l.Close())
			}
			l = tls.NewListener(l, c)
		}
	}
	server := &http.Server{Handler: s, ErrorLog: log.New(discard{}, "", 0)}
	w.servers = append(w.servers, server)
	go func() { _ = server.Serve(l) }() // until it is closed
	return nil
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func (s *site) path(name string) string {
	if d := s.directive(name); d != nil && !filepath.IsAbs(d.arg(0)) {
		return filepath.Join(s.prefix, d.arg(0))
	} else if d != nil {
		return d.arg(0)
	}
	return ""
}

func (s *site) tls() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(s.path("ssl_certificate"), s.path("ssl_certificate_key"))
	c := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
	if s.directive("ssl_verify_client") != nil {
		c.ClientAuth = tls.RequestClientCert
	}
	return c, err
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for _, from := range s.server.block {
		for _, d := range append([]*directive{from}, from.block...) {
			if d.name == "add_header" {
				v, _ := expand(d.arg(1), func(name string) (string, bool) { return s.variable(name, r), true })
				w.Header()[d.arg(0)] = []string{v}
			}
		}
	}
	if s.pass != "" {
		s.proxy(w, r)
		return
	}
	path := filepath.Join(s.root, filepath.Clean("/"+r.URL.Path))
	if strings.HasSuffix(r.URL.Path, "/") {
		path = filepath.Join(path, "index.html")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(text) // the client may have gone
}

// proxy hands a request without a body on, and the answer back as it is.
func (s *site) proxy(w http.ResponseWriter, r *http.Request) {
	to, err := net.Dial("tcp", s.pass)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = to.Close() }()
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = client.Close() }()
	if _, err := fmt.Fprintf(to, "%s %s HTTP/1.0\r\nHost: %s\r\n\r\n", r.Method, r.URL.RequestURI(), s.pass); err == nil {
		_, _ = io.Copy(client, to) // either end may go
	}
}

// variable is what add_header may want to know of a request.
func (s *site) variable(name string, r *http.Request) string {
	if name == "remote_addr" {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		return host
	}
	if r.TLS == nil {
		return ""
	}
	switch name {
	case "ssl_protocol":
		return strings.Replace(tls.VersionName(r.TLS.Version), "TLS ", "TLSv", 1)
	case "ssl_server_name":
		return r.TLS.ServerName
	case "ssl_client_verify":
		return s.verify(r.TLS.PeerCertificates)
	case "ssl_client_s_dn":
		if len(r.TLS.PeerCertificates) > 0 {
			return r.TLS.PeerCertificates[0].Subject.String()
		}
	}
	return ""
}

// verify is $ssl_client_verify.
func (s *site) verify(certs []*x509.Certificate) string {
	if len(certs) == 0 {
		return "NONE"
	}
	roots := x509.NewCertPool()
	text, err := os.ReadFile(s.path("ssl_trusted_certificate"))
	if err != nil || !roots.AppendCertsFromPEM(text) {
		return "FAILED:no trusted certificate"
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Sprintf("FAILED:%v", err)
	}
	return "SUCCESS"
}

// close stops listening; requests under way get a moment.
func (w *web) close() {
	if w == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, s := range w.servers {
		_ = s.Shutdown(ctx)
	}
	_ = w.shut()
}

func (w *web) shut() (err error) {
	for _, s := range w.servers {
		err = errors.Join(err, s.Close())
	}
	return err
}
