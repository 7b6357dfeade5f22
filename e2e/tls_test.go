package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// tlsLab is midspan with TLS on both sides, each with certificates of its own CA
// for both ends.
type tlsLab struct {
	clients, servers *rig.CA
	addr             string
	m                *rig.Midspan
}

// newTLSLab has a route to the server at to. front and back are more settings of
// `tls` and `upstream_tls`.
func newTLSLab(t *testing.T, to, front, back string) *tlsLab {
	t.Helper()
	l := &tlsLab{clients: rig.NewCA(t, "clients"), servers: rig.NewCA(t, "servers"), addr: rig.Addr(t, "127.0.0.1")}
	l.run(t, to, front, back)
	return l
}

func (l *tlsLab) run(t *testing.T, to, front, back string) {
	t.Helper()
	f := rig.NewFile(t)
	f.Log = "json"
	own, client := l.clients.Issue("db.example.com"), l.servers.Issue("midspan.example.com")
	f.Write(`routes:
  db:
    listen: %q
    to: %q
    tls: { cert: %q, client_ca: %q%s }
    upstream_tls: { name: server.internal, ca: %q, cert: %q%s }
`, l.addr, to, own.Cert, l.clients.File, front, l.servers.File, client.Cert, back)
	l.m = rig.Run(t, f)
}

// TestTLSOpenSSL has OpenSSL on both sides: midspan ends the one TLS and begins
// the other, and certificates are asked for and checked on all four ends.
func TestTLSOpenSSL(t *testing.T) {
	back := rig.Addr(t, "127.0.0.1")
	l := newTLSLab(t, back, "", "")
	// It answers each line backwards, up to CLOSE, and only to who has a certificate.
	rig.OpenSSLServer(t, back, l.servers.Issue("server.internal"), "-rev", "-Verify", "1", "-CAfile", l.servers.File, "-verify_return_error")
	stranger := rig.NewCA(t, "strangers").Issue("client.example.com")
	known := l.clients.Issue("client.example.com")
	base := []string{"-servername", "db.example.com", "-verify_hostname", "db.example.com", "-CAfile", l.clients.File, "-verify_return_error"}
	n := 0
	for _, c := range []struct {
		name   string
		args   []string
		says   string
		reason string
	}{
		{"TLS 1.3", []string{"-cert", known.Cert, "-key", known.Key, "-tls1_3"}, "olleh", ""},
		{"TLS 1.2", []string{"-cert", known.Cert, "-key", known.Key, "-tls1_2"}, "olleh", ""},
		{"no certificate", nil, "alert", "TLS handshake failed"},
		{"a stranger's certificate", []string{"-cert", stranger.Cert, "-key", stranger.Key}, "alert", "TLS handshake failed"},
		{"too old", []string{"-cert", known.Cert, "-key", known.Key, "-tls1_1", "-cipher", "ALL@SECLEVEL=0"}, "alert protocol version", "TLS handshake failed"},
	} {
		n++
		said, err := rig.OpenSSLClient(t, l.addr, "hello\nCLOSE\n", append(c.args, base...)...)
		if !strings.Contains(said, c.says) || c.reason != "" && strings.Contains(said, "olleh") {
			t.Errorf("%s: no %q: %v: %.2000s", c.name, c.says, err, said)
		}
		if r := lastRecord(t, l.m, "db", n); c.reason != "" && r.Reason != c.reason {
			t.Errorf("%s: logged as %+v", c.name, r)
		}
	}
}

// TestTLSWrongServer: midspan sends nothing to a server that is not the one, and
// its log says why.
func TestTLSWrongServer(t *testing.T) {
	for _, c := range []struct {
		name, back, want string
		identity         func(l *tlsLab, t *testing.T) rig.Identity
	}{
		{"another name", "", "server.internal", func(l *tlsLab, t *testing.T) rig.Identity { return l.servers.Issue("other.internal") }},
		{"another CA", "", "certificate", func(_ *tlsLab, t *testing.T) rig.Identity { return rig.NewCA(t, "else").Issue("server.internal") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			back := rig.Addr(t, "127.0.0.1")
			l := newTLSLab(t, back, ", client_cert: optional", c.back)
			server := rig.OpenSSLServer(t, back, c.identity(l, t), "-rev")
			said, _ := rig.OpenSSLClient(t, l.addr, "hello\nCLOSE\n", "-CAfile", l.clients.File, "-quiet")
			if strings.Contains(said, "olleh") {
				t.Errorf("the wrong server has answered: %s", said)
			}
			if strings.Contains(server.Stdout(), "hello") {
				t.Error("the wrong server has the client's bytes")
			}
			if r := lastRecord(t, l.m, "db", 1); r.Reason != "connect failed" || !strings.Contains(r.Error, c.want) {
				t.Errorf("logged as %q: %q", r.Reason, r.Error)
			}
		})
	}
}

// echoTLS is an echoing server behind TLS.
func echoTLS(t *testing.T, config *tls.Config) *rig.Server {
	t.Helper()
	return rig.Serve(t, nil, "127.0.0.1:0", func(raw *net.TCPConn) {
		c := tls.Server(raw, config)
		defer c.Close()
		_, _ = io.Copy(struct{ io.Writer }{c}, c) // the client's end sees errors
	})
}

// TestTLSReload changes certificates while clients come and stay: none of them
// may fail, new ones see the new certificate, and one that is broken changes
// nothing.
func TestTLSReload(t *testing.T) {
	l := &tlsLab{clients: rig.NewCA(t, "clients"), servers: rig.NewCA(t, "servers"), addr: rig.Addr(t, "127.0.0.1")}
	serverID := l.servers.Issue("server.internal")
	echo := echoTLS(t, &tls.Config{Certificates: []tls.Certificate{serverID.Load(t)}, ClientCAs: l.servers.Pool, ClientAuth: tls.RequireAndVerifyClientCert})
	l.run(t, echo.Addr, ", client_cert: optional", "")
	var mu sync.Mutex
	serials := map[string]bool{}
	var exchanged atomic.Int64
	stop := make(chan struct{})
	var all sync.WaitGroup
	config := &tls.Config{RootCAs: l.clients.Pool, ServerName: "db.example.com"}
	for i := range 8 {
		stays := i%2 == 0
		all.Go(func() {
			for {
				c, err := tls.Dial("tcp", l.addr, config)
				if err != nil {
					t.Errorf("handshake: %v", err)
					return
				}
				mu.Lock()
				serials[c.ConnectionState().PeerCertificates[0].SerialNumber.String()] = true
				mu.Unlock()
				for more := true; more; more = stays {
					select {
					case <-stop:
						c.Close()
						return
					default:
					}
					_ = c.SetDeadline(time.Now().Add(20 * time.Second))
					if err := rig.Exchange(c, uint64(i), 2000); err != nil {
						t.Errorf("exchange: %v", err)
						c.Close()
						return
					}
					exchanged.Add(1)
				}
				c.Close()
			}
		})
	}
	shown := func() *big.Int {
		c, err := tls.Dial("tcp", l.addr, config)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber
	}
	first := shown()
	last := first
	for range 2 {
		file := l.clients.Issue("db.example.com").Cert
		want := last
		rig.Until(t, rig.Patience, "the new certificate is shown", func() bool { last = shown(); return last.Cmp(want) != 0 })
		if err := os.WriteFile(file, []byte("-----BEGIN CERTIFICATE-----\nbroken\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		l.m.AwaitLog(file, rig.Patience)
		if now := shown(); now.Cmp(last) != 0 {
			t.Errorf("with a broken file certificate %s is shown, before %s", now, last)
		}
	}
	close(stop)
	all.Wait()
	if len(serials) < 3 || exchanged.Load() < 100 {
		t.Errorf("clients saw the certificates %v in %d exchanges", sortedKeys(serials), exchanged.Load())
	}
	t.Logf("%d exchanges, certificates %v", exchanged.Load(), sortedKeys(serials))
}

// TestTLSTruncation: a server that dies in the middle must not look like one that
// has finished, although TLS is between.
func TestTLSTruncation(t *testing.T) {
	l := &tlsLab{clients: rig.NewCA(t, "clients"), servers: rig.NewCA(t, "servers"), addr: rig.Addr(t, "127.0.0.1")}
	id := l.servers.Issue("server.internal")
	config := &tls.Config{Certificates: []tls.Certificate{id.Load(t)}}
	const half = 1 << 20
	for _, c := range []struct {
		name  string
		end   func(raw *net.TCPConn, c *tls.Conn)
		whole bool
	}{
		{"closed in order", func(_ *net.TCPConn, c *tls.Conn) { c.Close() }, true},
		{"no closing message", func(raw *net.TCPConn, _ *tls.Conn) { raw.Close() }, false},
		{"reset", func(raw *net.TCPConn, _ *tls.Conn) { _ = raw.SetLinger(0); raw.Close() }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := rig.Serve(t, nil, "127.0.0.1:0", func(raw *net.TCPConn) {
				s := tls.Server(raw, config)
				line, err := bufio.NewReader(s).ReadString('\n')
				if err == nil && line == "go\n" {
					_, _ = rig.Send(s, 1, half)
				}
				c.end(raw, s)
			})
			l := &tlsLab{clients: l.clients, servers: l.servers, addr: rig.Addr(t, "127.0.0.1")}
			l.run(t, server.Addr, ", client_cert: optional", "")
			conn, err := tls.Dial("tcp", l.addr, &tls.Config{RootCAs: l.clients.Pool, ServerName: "db.example.com"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(rig.Patience))
			if _, err := fmt.Fprintln(conn, "go"); err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, conn)
			if (err == nil) != c.whole || c.whole && n != half {
				t.Errorf("%d bytes, then %v; an orderly end: %v", n, err, c.whole)
			}
		})
	}
}
