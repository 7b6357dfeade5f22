package relay

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"midspan/internal/engine"
)

// authority signs certificates for tests, and keeps them in files.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  any
	n    int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.issue(nil, nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, "ca.pem", false)
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// issue signs template and writes certificate and key into one file.
func (a *authority) issue(parent *x509.Certificate, signer any, template *x509.Certificate, file string, useRSA bool) (*x509.Certificate, any) {
	a.t.Helper()
	a.n++
	var private, public any
	if useRSA {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			a.t.Fatal(err)
		}
		private, public = k, k.Public()
	} else {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			a.t.Fatal(err)
		}
		private, public = k, k.Public()
	}
	template.SerialNumber = big.NewInt(a.n)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	if parent == nil {
		parent, signer = template, private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	if err := os.WriteFile(a.file(file), text, 0o600); err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, private
}

// leaf is the file of a certificate for these names.
func (a *authority) leaf(file string, names ...string) string {
	a.issue(a.cert, a.key, template(names...), file, false)
	return a.file(file)
}

func template(names ...string) *x509.Certificate {
	t := &x509.Certificate{
		Subject:     pkix.Name{CommonName: names[0]},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	return t
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) pair(file string) tls.Certificate {
	a.t.Helper()
	c, err := tls.LoadX509KeyPair(a.file(file), a.file(file))
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// theatre is an engine with one route, and what it said.
type theatre struct {
	*Engine
	t       *testing.T
	addr    string
	mu      sync.Mutex
	records []*engine.Record
	dials   []engine.Dial
}

func newTheatre(t *testing.T, to, settings string) *theatre {
	t.Helper()
	s := &theatre{t: t, addr: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	e, err := New(Options{Hooks: engine.Hooks{
		Record: func(r *engine.Record) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.records = append(s.records, r)
		},
		Dial: func(d engine.Dial) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.dials = append(s.dials, d)
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.Engine = e
	t.Cleanup(func() { e.Close() })
	s.apply(to, settings)
	return s
}

func (s *theatre) apply(to, settings string) {
	s.t.Helper()
	p, err := planFor(fmt.Sprintf("routes: {r: {listen: %q, to: %s, %s}}", s.addr, to, settings))
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.Apply(context.Background(), p); err != nil {
		s.t.Fatal(err)
	}
}

// end waits for the n-th end record.
func (s *theatre) end(n int) *engine.Record {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		s.mu.Lock()
		ends := 0
		for _, r := range s.records {
			if !r.End.IsZero() {
				if ends++; ends == n {
					s.mu.Unlock()
					return r
				}
			}
		}
		s.mu.Unlock()
	}
	s.t.Fatalf("no %d. end record", n)
	return nil
}

func (s *theatre) dial(c *tls.Config) (*tls.Conn, error) {
	raw, err := net.Dial("tcp", s.addr)
	if err != nil {
		return nil, err
	}
	s.t.Cleanup(func() { raw.Close() })
	if err := raw.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return nil, err
	}
	conn := tls.Client(raw, c)
	return conn, conn.Handshake()
}
