package rig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// Postgres is a PostgreSQL cluster of its own.
type Postgres struct {
	*Proc
	Addr string
	t    testing.TB
	dir  string
	spec Spec
}

// StartPostgres starts one at addr of a namespace. Who may log in is said by
// hba, in lines of pg_hba.conf; over its Unix socket everybody may, as anybody.
// Settings are NAME=VALUE. It has a certificate, for ssl=on.
func StartPostgres(t testing.TB, in *Net, addr, hba string, settings ...string) *Postgres {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) == 0 {
		Missing(t, "PostgreSQL is not on this machine; it is in the Debian package postgresql")
	}
	program := found[len(found)-1]
	dir, err := os.MkdirTemp("", "pg") // a socket's path has 107 characters at the most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data := filepath.Join(dir, "data")
	spec := Spec{In: in}
	// The server refuses root.
	switch account, err := user.Lookup("postgres"); {
	case os.Geteuid() != 0:
	case os.Getenv(ownUsers) != "" || err != nil:
		spec.OwnUser = true
	default:
		if spec.User, err = give(dir, account); err != nil {
			t.Fatal(err)
		}
	}
	init := spec
	init.Program = filepath.Join(filepath.Dir(program), "initdb")
	init.Args = []string{"-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C"}
	if code := Start(t, init).Exit(2 * time.Minute); code != 0 {
		t.Fatalf("initdb ended with code %d", code)
	}
	certificate, key := SelfSigned(t)
	for name, text := range map[string][]byte{
		"pg_hba.conf": []byte("local all all trust\n" + hba), "server.crt": certificate, "server.key": key,
	} {
		file := filepath.Join(data, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if u := spec.User; u != nil {
			if err := os.Chown(file, int(u.Uid), int(u.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	spec.Program = program
	spec.Args = []string{"-D", data, "-k", dir}
	for _, s := range slices.Concat([]string{"listen_addresses=" + host, "port=" + port, "fsync=off"}, settings) {
		spec.Args = append(spec.Args, "-c", s)
	}
	p := &Postgres{Addr: addr, t: t, dir: dir, spec: spec}
	p.Restart()
	return p
}

// Stop ends the server at once (SIGQUIT, immediate shutdown). After a kill its
// other processes would be there a while longer, and keep a new one from
// starting.
func (p *Postgres) Stop() {
	p.t.Helper()
	p.Signal(syscall.SIGQUIT)
	p.Exit(Patience)
}

// Restart starts a server that has ended, with the data that it had.
func (p *Postgres) Restart() {
	p.t.Helper()
	p.Proc = Start(p.t, p.spec)
	Until(p.t, Patience, "postgres takes connections at "+p.Addr, func() bool {
		if !p.Alive() {
			p.t.Fatalf("postgres has ended:\n%s", p.Stderr())
		}
		_, err := p.ask("SELECT 1")
		return err == nil
	})
}

// Query runs SQL as the superuser, and returns what psql prints of it.
func (p *Postgres) Query(sql string) string {
	p.t.Helper()
	out, err := p.ask(sql)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

func (p *Postgres) ask(sql string) (string, error) {
	return p.spec.In.Run(Need(p.t, "psql", "postgresql-client"), p.client(sql)...)
}

// Hold keeps a connection busy until the returned process ends.
func (p *Postgres) Hold() *Proc {
	return Start(p.t, Spec{In: p.spec.In, Program: Need(p.t, "psql", "postgresql-client"), Args: p.client("SELECT pg_sleep(600)")})
}

func (p *Postgres) client(sql string) []string {
	_, port, _ := net.SplitHostPort(p.Addr)
	return []string{"-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", p.dir, "-p", port, "-U", "postgres", "-d", "postgres", "-c", sql}
}

// SelfSigned is a certificate that nobody has reason to trust, and its key, in
// PEM.
func SelfSigned(t testing.TB) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(fmt.Errorf("make a certificate: %w", err))
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}
