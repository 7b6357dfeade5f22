package relay

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"midspan/internal/engine"
)

// TestClientCertificates: who has none, or one of another authority, is turned
// away with TLS's own words, and the record says why.
func TestClientCertificates(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	pem := a.leaf("s.pem", "a.test")
	a.leaf("c.pem", "client")
	other.leaf("c.pem", "client")
	base := &tls.Config{RootCAs: a.pool(), ServerName: "a.test"}
	try := func(s *theatre, n int, pairs ...tls.Certificate) (string, *engine.Record) {
		t.Helper()
		c := base.Clone()
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(pairs) == 0 {
				return &tls.Certificate{}, nil
			}
			return &pairs[0], nil
		}
		conn, err := s.dial(c)
		if err == nil {
			// After an alert of TLS 1.3, which comes after the client's handshake, these
			// may fail. The read says why.
			_, _ = conn.Write([]byte("x"))
			_ = conn.CloseWrite()
			_, err = io.ReadAll(conn)
		}
		return fmt.Sprint(err), s.end(n)
	}
	for _, v := range []string{"1.2", "1.3"} {
		base.MaxVersion = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}[v]
		s := newTheatre(t, echoServer(t), fmt.Sprintf("tls: {cert: %s, client_ca: %s}", pem, a.file("ca.pem")))
		for i, c := range []struct {
			pairs   []tls.Certificate
			alert   string
			reason  engine.Reason
			details string
		}{
			{[]tls.Certificate{a.pair("c.pem")}, "<nil>", engine.ClosedByClient, ""},
			{nil, map[string]string{"1.2": "handshake failure", "1.3": "certificate required"}[v], engine.TLSFailed, "client sent no certificate"},
			{[]tls.Certificate{other.pair("c.pem")}, "unknown certificate authority", engine.TLSFailed, "x509: certificate signed by unknown authority"},
		} {
			got, r := try(s, i+1, c.pairs...)
			if !strings.Contains(got, c.alert) || r.Reason != c.reason || !strings.HasPrefix(r.Err, c.details) {
				t.Errorf("TLS %s: client: %s; record: %s, %q; want %q, %q, %q", v, got, r.Reason, r.Err, c.alert, c.reason, c.details)
			}
			if r.ServerName != "a.test" {
				t.Errorf("server name %q", r.ServerName)
			}
		}
	}
	s := newTheatre(t, echoServer(t), fmt.Sprintf("tls: {cert: %s, client_ca: %s, client_cert: optional}", pem, a.file("ca.pem")))
	if got, r := try(s, 1); got != "<nil>" || r.Reason != engine.ClosedByClient {
		t.Errorf("optional, without: %s, %+v", got, r)
	}
	if got, r := try(s, 2, other.pair("c.pem")); !strings.Contains(got, "unknown") || r.Reason != engine.TLSFailed {
		t.Errorf("optional, a wrong one: %s, %+v", got, r)
	}
}

// TestServerNames: the certificate is the one of the name that is asked for.
func TestServerNames(t *testing.T) {
	a := newAuthority(t)
	wild, exact := a.leaf("wild.pem", "*.b.test"), a.leaf("exact.pem", "x.b.test")
	first := a.leaf("first.pem", "a.test")
	a.issue(a.cert, a.key, template("rsa.test"), "rsa.pem", true)
	a.issue(a.cert, a.key, template("rsa.test"), "ec.pem", false)
	s := newTheatre(t, echoServer(t), fmt.Sprintf("tls: {cert: [%s, %s, %s, %s, %s]}", first, wild, exact, a.file("rsa.pem"), a.file("ec.pem")))
	for name, want := range map[string]string{
		"a.test": "a.test", "x.b.test": "x.b.test", "y.b.test": "*.b.test", "X.B.test": "x.b.test",
		"z.y.b.test": "a.test", "unknown": "a.test", "": "a.test", "rsa.test": "rsa.test",
	} {
		c, err := s.dial(&tls.Config{InsecureSkipVerify: true, ServerName: name})
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if got := c.ConnectionState().PeerCertificates[0].Subject.CommonName; got != want {
			t.Errorf("%q gets the certificate of %q, want %q", name, got, want)
		}
	}
	for suite, want := range map[uint16]x509.PublicKeyAlgorithm{
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: x509.RSA, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: x509.ECDSA,
	} {
		c, err := s.dial(&tls.Config{InsecureSkipVerify: true, ServerName: "rsa.test", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.ConnectionState().PeerCertificates[0].PublicKeyAlgorithm; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestTLSVersionsAndProtocols: min is kept to; ALPN takes the route's order, and
// the server is offered what the client got.
func TestTLSVersionsAndProtocols(t *testing.T) {
	a := newAuthority(t)
	pem := a.leaf("s.pem", "127.0.0.1")
	offered := make(chan []string, 8)
	to := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{a.pair("s.pem")}, NextProtos: []string{"two", "one"}, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		offered <- h.SupportedProtos
		return nil, nil
	}}, echoTLS)
	s := newTheatre(t, to, fmt.Sprintf(`tls: {cert: %s, min: "1.3", alpn: [one, two]}, upstream_tls: {ca: %s}`, pem, a.file("ca.pem")))
	_, err := s.dial(&tls.Config{RootCAs: a.pool(), ServerName: "127.0.0.1", MaxVersion: tls.VersionTLS12})
	if err == nil || !strings.Contains(err.Error(), "protocol version not supported") {
		t.Errorf("TLS 1.2 where 1.3 is the least: %v", err)
	}
	if r := s.end(1); r.Reason != engine.TLSFailed || !strings.Contains(r.Err, "client offered only unsupported versions: TLS 1.2") {
		t.Errorf("%s, %q", r.Reason, r.Err)
	}
	c, err := s.dial(&tls.Config{RootCAs: a.pool(), ServerName: "127.0.0.1", NextProtos: []string{"two", "one"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.ConnectionState().NegotiatedProtocol; got != "one" {
		t.Errorf("ALPN %q", got)
	}
	if got := <-offered; len(got) != 1 || got[0] != "one" {
		t.Errorf("the server was offered %q", got)
	}
	_, err = s.dial(&tls.Config{RootCAs: a.pool(), ServerName: "127.0.0.1", NextProtos: []string{"three"}})
	if err == nil || !strings.Contains(err.Error(), "no application protocol") {
		t.Errorf("%v", err)
	}
}

// TestNotTLS: a client that speaks something else is told apart in the record;
// one that says nothing is a probe, and in no record.
func TestNotTLS(t *testing.T) {
	a := newAuthority(t)
	s := newTheatre(t, echoServer(t), fmt.Sprintf("tls: %s", a.leaf("s.pem", "a.test")))
	for range 2 {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("%v; want an end", err)
	}
	r := s.end(1)
	if want := `first record does not look like a TLS handshake; it begins with "GET /"`; r.Reason != engine.TLSFailed || r.Err != want {
		t.Errorf("%s, %q", r.Reason, r.Err)
	}
	eventually(t, "the probes are counted", func() bool { return s.Status().Routes[0].Counters.Ended[engine.Probe] == 2 })
}

// TestSlowHandshake: a client that sends one byte at a time is let in if it is
// done in time, and else cut off; meanwhile others are served.
func TestSlowHandshake(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	s := newTheatre(t, echoServer(t), fmt.Sprintf("tls: %s", a.leaf("s.pem", "a.test")))
	raw, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(dribble{raw, 0}, &tls.Config{RootCAs: a.pool(), ServerName: "a.test"})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(bytes.Repeat([]byte("x"), 1000)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	slow, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	err = tls.Client(dribble{slow, 100 * time.Millisecond}, &tls.Config{RootCAs: a.pool(), ServerName: "a.test"}).Handshake()
	if took := time.Since(began); err == nil || took < handshakeTime-time.Second || took > 2*handshakeTime {
		t.Errorf("%v after %s", err, took)
	}
	if r := s.end(1); r.Reason != engine.OpeningTimeout {
		t.Errorf("%s, %q", r.Reason, r.Err)
	}
}

// dribble writes one byte at a time.
type dribble struct {
	net.Conn
	pause time.Duration
}

func (d dribble) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := d.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
		time.Sleep(d.pause)
	}
	return len(b), nil
}
