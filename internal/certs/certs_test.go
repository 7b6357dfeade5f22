package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/internal/plan"
)

// issued is a certificate, and its key, in PEM.
type issued struct {
	cert, key []byte
	x         *x509.Certificate
	private   *ecdsa.PrivateKey
}

// issue makes a certificate for name, signed by ca; nil: by itself.
func issue(t *testing.T, ca *issued, name string, until time.Time) *issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: until.Add(-24 * time.Hour), NotAfter: until, IsCA: ca == nil, BasicConstraintsValid: true,
	}
	i := &issued{private: key}
	parent, signer := template, key
	if ca != nil {
		parent, signer = ca.x, ca.private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if i.x, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	i.cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	i.key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	return i
}

// put writes the parts into a file of dir and returns its name. Before Linux 6.13 two
// writes within some milliseconds have the same time.
func put(t *testing.T, dir, name string, parts ...[]byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	for before := stampOf(path); before == stampOf(path); {
		if err := os.WriteFile(path, bytes.Join(parts, nil), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func planOf(c *plan.TLS, s plan.UpstreamTLS) *plan.Plan {
	return &plan.Plan{Routes: []*plan.Route{{Name: "r", TLS: c, UpstreamTLS: s}}}
}

func tomorrow() time.Time { return time.Now().Add(24 * time.Hour) }

// TestProblems: each thing that can be wrong with a file, in words that say what.
func TestProblems(t *testing.T) {
	dir := t.TempDir()
	ca := issue(t, nil, "ca", tomorrow())
	a, b, old := issue(t, ca, "a", tomorrow()), issue(t, ca, "b", tomorrow()), issue(t, ca, "old", time.Now().Add(-time.Hour))
	early := issue(t, ca, "early", time.Now().Add(72*time.Hour))
	secret := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})
	good := put(t, dir, "good.pem", a.cert, ca.cert, a.key)
	caFile := put(t, dir, "ca.pem", ca.cert)
	huge := put(t, dir, "huge.pem", a.cert, a.key, bytes.Repeat([]byte("#"), maxFile))
	for _, c := range []struct {
		name          string
		tls           plan.TLS
		problem, warn string // "" none
	}{
		{"good", plan.TLS{Certs: []string{good}, ClientCA: caFile}, "", ""},
		{"key apart", plan.TLS{Certs: []string{put(t, dir, "alone.pem", a.cert)}, Key: put(t, dir, "a.key", a.key)}, "", ""},
		{"none", plan.TLS{Certs: []string{dir + "/none"}}, "/none: there is no such file", ""},
		{"a directory", plan.TLS{Certs: []string{dir}}, ": this is a directory; write the name of a PEM file in it", ""},
		{"empty", plan.TLS{Certs: []string{put(t, dir, "empty.pem", []byte("\n"))}}, "empty.pem: the file is empty", ""},
		{"large", plan.TLS{Certs: []string{huge}}, "huge.pem: larger than 4 MiB", ""},
		{"a key only", plan.TLS{Certs: []string{put(t, dir, "key.pem", a.key)}}, "key.pem: no certificate in it, only a private key", ""},
		{"no PEM", plan.TLS{Certs: []string{put(t, dir, "text.pem", []byte("hello"))}}, "text.pem: no certificate in it (there is no line", ""},
		{"DER", plan.TLS{Certs: []string{put(t, dir, "der.pem", ca.x.Raw)}}, "der.pem: no PEM: this looks like DER; convert it", ""},
		{"damaged", plan.TLS{Certs: []string{put(t, dir, "bad.pem", a.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), a.key)}}, "bad.pem: certificate 2 in it: x509: malformed certificate", ""},
		{"no key", plan.TLS{Certs: []string{caFile}}, "ca.pem: no private key in it; append it, or write key: FILE", ""},
		{"no key in its file", plan.TLS{Certs: []string{caFile}, Key: caFile}, "ca.pem: no private key in it (there is no line", ""},
		{"key with a password", plan.TLS{Certs: []string{put(t, dir, "secret.pem", a.cert, secret)}}, "secret.pem: the private key has a password", ""},
		{"another's key", plan.TLS{Certs: []string{put(t, dir, "mixed.pem", a.cert, b.key)}}, "mixed.pem: the private key is not that of the certificate in " + dir + "/mixed.pem (CN=a)", ""},
		{"upside down", plan.TLS{Certs: []string{put(t, dir, "chain.pem", ca.cert, a.cert, a.key)}}, "chain.pem: the certificate of this key, CN=a, is not the first in", ""},
		{"no CA", plan.TLS{Certs: []string{good}, ClientCA: dir + "/ca"}, "/ca: as CA: there is no such file", ""},
		{"no CA in it", plan.TLS{Certs: []string{good}, ClientCA: put(t, dir, "x.key", a.key)}, "x.key: as CA: no certificate in it, only a private key", ""},
		{"expired", plan.TLS{Certs: []string{put(t, dir, "old.pem", old.cert, old.key)}}, "", "old.pem: expired on "},
		{"an old chain", plan.TLS{Certs: []string{put(t, dir, "oldchain.pem", a.cert, old.cert, a.key)}}, "", "oldchain.pem: expired on "},
		{"early", plan.TLS{Certs: []string{put(t, dir, "early.pem", early.cert, early.key)}}, "", "early.pem: not valid before "},
	} {
		t.Run(c.name, func(t *testing.T) {
			problems, warnings := Check(planOf(&c.tls, plan.UpstreamTLS{}))
			for _, x := range []struct {
				got  Problems
				want string
			}{{problems, c.problem}, {warnings, c.warn}} {
				if (x.want == "") != (len(x.got) == 0) || x.want != "" && !strings.Contains(x.got[0].String(), x.want) {
					t.Errorf("%q, want %q", x.got, x.want)
				}
			}
			if c.tls.ClientCA == "" && len(c.tls.Certs) == 1 {
				up := plan.UpstreamTLS{On: true, Cert: c.tls.Certs[0], Key: c.tls.Key}
				if again, _ := Check(planOf(nil, up)); !slices.Equal(again, problems) {
					t.Errorf("with servers: %q", again)
				}
			}
		})
	}
	both, _ := Check(planOf(&plan.TLS{Certs: []string{dir + "/1", dir + "/2"}, ClientCA: dir + "/3"}, plan.UpstreamTLS{On: true, CA: dir + "/4", Cert: dir + "/5"}))
	if len(both) != 5 {
		t.Errorf("not all at once: %q", both)
	}
}

// TestUnreadable: a file of somebody else's is told from one that is not there. Root
// may read everything, so the error is made here.
func TestUnreadable(t *testing.T) {
	denied := plain(&fs.PathError{Op: "open", Path: "a.pem", Err: syscall.EACCES})
	if want := fmt.Sprintf("not readable for this user (uid %d)", os.Geteuid()); denied.Error() != want {
		t.Errorf("%q, want %q", denied, want)
	}
	path := put(t, t.TempDir(), "a.pem", []byte("x"))
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	want := "not readable for this user"
	if os.Geteuid() == 0 {
		want = "no certificate"
	}
	if problems, _ := Check(planOf(&plan.TLS{Certs: []string{path}}, plan.UpstreamTLS{})); !strings.Contains(problems.Error(), want) {
		t.Error(problems)
	}
}

// TestChanges: what has changed is read when it has rested for a look, once, or at
// once at a Use; what is wrong is logged once and leaves the old in force.
func TestChanges(t *testing.T) {
	dir := t.TempDir()
	a, b := issue(t, nil, "a", tomorrow()), issue(t, nil, "b", tomorrow())
	cert, key := put(t, dir, "a.pem", a.cert), put(t, dir, "a.key", a.key)
	var log bytes.Buffer
	s := NewStore(slog.New(slog.NewTextHandler(&log, nil)))
	p := planOf(&plan.TLS{Certs: []string{cert}, Key: key}, plan.UpstreamTLS{On: true, Cert: cert, Key: key})
	set, err := s.Load(p)
	if err != nil {
		t.Fatal(err)
	}
	s.now = set // and nobody watches
	name := func() string {
		c, err := set["r"].Clients.inForce.Load().GetCertificate(hello())
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf.Subject.CommonName
	}
	look := func() { s.refresh(false) }
	look()
	put(t, dir, "a.pem", b.cert)
	look() // the key is still to come
	put(t, dir, "a.key", b.key)
	look()
	if name() != "a" || log.Len() != 0 {
		t.Fatalf("taken up too early: %s", log.String())
	}
	look()
	if name() != "b" || strings.Count(log.String(), "are in force") != 2 {
		t.Fatalf("%s, %s", name(), log.String())
	}
	log.Reset()
	put(t, dir, "a.key", a.key)
	for range 4 {
		look()
	}
	if name() != "b" || strings.Count(log.String(), "cannot be used") != 2 {
		t.Errorf("%s, %s", name(), log.String())
	}
	if f := s.Files(); len(f) != 2 || !strings.Contains(f[0].Problem, "is not that of the certificate") || !f[0].Expires.Equal(b.x.NotAfter) {
		t.Errorf("%+v", f)
	}
	again, err := s.Load(p)
	if err != nil || again["r"] != set["r"] {
		t.Errorf("made anew: %v", err)
	}
	log.Reset()
	put(t, dir, "a.pem", a.cert)
	s.Use(again)
	defer s.Close()
	if name() != "a" {
		t.Error("a Use waits")
	}
	if f := s.Files(); f[0].Problem != "" || !f[0].Expires.Equal(a.x.NotAfter) {
		t.Errorf("%+v", f)
	}
	other, err := s.Load(planOf(&plan.TLS{Certs: []string{cert}, Key: key, Min: "1.3"}, p.Routes[0].UpstreamTLS))
	if err != nil || other["r"].Clients == set["r"].Clients || other["r"].Servers != set["r"].Servers {
		t.Errorf("what is set otherwise is to be made anew, and nothing else: %v", err)
	}
}

// hello is one of a client that can do all there is.
func hello() *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		SupportedVersions: []uint16{tls.VersionTLS13},
		SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		SupportedCurves:   []tls.CurveID{tls.CurveP256},
		CipherSuites:      []uint16{tls.TLS_AES_128_GCM_SHA256},
	}
}
