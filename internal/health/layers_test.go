package health

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"midspan/internal/plan"
)

// certificate is one that signs itself, for the given name, with its file.
func certificate(t *testing.T, name string) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cert.pem")
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// seen is what a TLS server has seen of a test.
type seen struct {
	state tls.ConnectionState
	first string // line
	err   error  // of the handshake, or of the end
}

// secure is a server that answers each line with +PONG, over TLS.
func secure(c *tls.Config, done chan<- seen) func(net.Conn) {
	return func(raw net.Conn) {
		raw.SetDeadline(time.Now().Add(10 * time.Second))
		conn := tls.Server(raw, c)
		var s seen
		if s.err = conn.Handshake(); s.err == nil {
			s.state = conn.ConnectionState()
			r := bufio.NewReader(conn)
			if s.first, _ = r.ReadString('\n'); s.first != "" {
				io.WriteString(conn, "+PONG\r\n")
			}
			// A test that leaves without close_notify gives io.ErrUnexpectedEOF.
			_, s.err = io.Copy(io.Discard, r)
		}
		done <- s
		conn.Close()
	}
}

func TestTLS(t *testing.T) {
	own, file := certificate(t, "sql.example")
	_, other := certificate(t, "sql.example")
	dir := filepath.Dir(file)
	on := func(u plan.UpstreamTLS) plan.UpstreamTLS {
		u.On = true
		return u
	}
	for _, c := range []struct {
		name  string
		serve *tls.Config
		check plan.Check
		want  string
		sni   string
	}{
		{"any certificate will do", &tls.Config{}, plan.Check{Kind: plan.CheckTLS}, "", "web.example"},
		{"TLS 1.0", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}, plan.Check{Kind: plan.CheckTLS}, "", "web.example"},
		{"another name", &tls.Config{}, plan.Check{Kind: plan.CheckTLS, Host: "sql.example"}, "", "sql.example"},
		{"as the route does", &tls.Config{}, plan.Check{Kind: plan.CheckTLS, TLS: on(plan.UpstreamTLS{Name: "sql.example", CA: file})}, "", "sql.example"},
		{"the route does not verify", &tls.Config{}, plan.Check{Kind: plan.CheckTLS, TLS: on(plan.UpstreamTLS{Insecure: true})}, "", "web.example"},
		{"not by that name", &tls.Config{}, plan.Check{Kind: plan.CheckTLS, TLS: on(plan.UpstreamTLS{CA: file})}, "tls: handshake: certificate is valid for sql.example, not web.example; if that is the right server, write upstream_tls: {name: sql.example}", ""},
		{"signed by somebody else", &tls.Config{}, plan.Check{Kind: plan.CheckTLS, TLS: on(plan.UpstreamTLS{Name: "sql.example", CA: other})}, "tls: handshake: certificate signed by unknown authority", ""},
		{"too old", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12}, plan.Check{Kind: plan.CheckTLS, TLS: on(plan.UpstreamTLS{Insecure: true, Min: "1.3"})}, "tls: the server refuses the handshake: protocol version not supported", ""},
		{"wants a certificate in 1.2", &tls.Config{MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert}, plan.Check{Kind: plan.CheckTLS}, "", ""},
		{"wants a certificate in 1.3", &tls.Config{ClientAuth: tls.RequireAnyClientCert}, plan.Check{Kind: plan.CheckTLS}, "", ""},
		{"wants one of a route that encrypts, in 1.2", &tls.Config{MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert}, plan.Check{Kind: plan.CheckTLS, TLS: on(plan.UpstreamTLS{Insecure: true})}, "tls: the server refuses the handshake: ", ""},
		{"wants one of a route that encrypts, in 1.3", &tls.Config{ClientAuth: tls.RequireAnyClientCert}, plan.Check{Kind: plan.CheckTLS, TLS: on(plan.UpstreamTLS{Insecure: true})}, "tls: the server refuses the handshake: ", ""},
		{"would like one of a route that encrypts", &tls.Config{ClientAuth: tls.RequestClientCert}, plan.Check{Kind: plan.CheckTLS, TLS: on(plan.UpstreamTLS{Insecure: true})}, "", "web.example"},
		{"gets a certificate", &tls.Config{ClientAuth: tls.RequireAnyClientCert}, plan.Check{Kind: plan.CheckRedis, TLS: on(plan.UpstreamTLS{Insecure: true, Cert: file})}, "", "web.example"},
		{"gets none, for more than a handshake", &tls.Config{MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert}, plan.Check{Kind: plan.CheckRedis, TLS: on(plan.UpstreamTLS{Insecure: true})}, "redis: the server refuses the handshake: ", ""},
		{"no authority", &tls.Config{}, plan.Check{Kind: plan.CheckRedis, TLS: on(plan.UpstreamTLS{CA: dir + "/none.pem"})}, "redis: " + dir + "/none.pem: as CA: there is no such file", ""},
		{"no certificate in the file", &tls.Config{}, plan.Check{Kind: plan.CheckRedis, TLS: on(plan.UpstreamTLS{CA: "/dev/null"})}, "redis: /dev/null: as CA: the file is empty", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.serve.Certificates = []tls.Certificate{own}
			done := make(chan seen, 1)
			_, err := probeOnce(serve(t, secure(c.serve, done)), c.check, 5*time.Second)
			switch {
			case c.want == "" && err != nil:
				t.Fatalf("failed: %v", err)
			case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
				t.Fatalf("error is %v, want %s", err, c.want)
			}
			s := <-done
			if c.sni == "" {
				return
			}
			if s.err != nil || s.state.ServerName != c.sni {
				t.Errorf("the server was asked for %q; the connection ended with %v", s.state.ServerName, s.err)
			}
			if c.check.Kind == plan.CheckRedis && (s.first != "*1\r\n" || len(s.state.PeerCertificates) != 1) {
				t.Errorf("the server got %q, and %d certificates", s.first, len(s.state.PeerCertificates))
			}
		})
	}
	for name, c := range map[string]struct {
		handle   func(net.Conn)
		patience time.Duration
	}{
		`tls: expected TLS, got "SSH-2"`: {func(c net.Conn) { io.WriteString(c, "SSH-2.0-OpenSSH_9.2p1\r\n"); hang(c) }, 9 * time.Second},
		"tls: closed without an answer":  {answer(""), 9 * time.Second},
		"tls: connection reset by peer":  {reset, 9 * time.Second},
		"tls: no answer in ":             {hang, 500 * time.Millisecond},
	} {
		if _, err := probeOnce(serve(t, c.handle), plan.Check{Kind: plan.CheckTLS}, c.patience); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("error is %v, want %s", err, name)
		}
	}
}

// lateAlert is a connection on which our last word, close_notify of TLS 1.3, comes
// after the server has gone.
type lateAlert struct {
	net.Conn
	gone <-chan bool
}

func (l lateAlert) Write(p []byte) (int, error) {
	if len(p) == 5+2+1+16 {
		<-l.gone
	}
	return l.Conn.Write(p)
}

// TestRefusedAndGone: a server's refusal is told also where the connection was reset
// before we had said our last word.
func TestRefusedAndGone(t *testing.T) {
	own, _ := certificate(t, "sql.example")
	gone := make(chan bool)
	at := serve(t, func(c net.Conn) {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		tls.Server(c, &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAnyClientCert}).Handshake()
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
		close(gone)
	})
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return lateAlert{c, gone}, err
	}
	check := plan.Check{Kind: plan.CheckTLS, TLS: plan.UpstreamTLS{On: true, Insecure: true}}
	_, err := (&wire{dial: dial, linger: patient}).probe(t.Context(), Target{Addr: at, Check: check, Host: "web.example"})
	if err == nil || !strings.HasPrefix(err.Error(), "tls: the server refuses the handshake: ") {
		t.Errorf("error is %v", err)
	}
}

// TestTLSFiles: files that change are taken up, and those that come to be wrong
// change nothing.
func TestTLSFiles(t *testing.T) {
	_, one := certificate(t, "sql.example")
	_, other := certificate(t, "sql.example")
	synctest.Test(t, func(t *testing.T) {
		var c tlsConfigs
		u := plan.UpstreamTLS{On: true, CA: one}
		get := func() *tls.Config {
			config, err := c.get(u)
			if err != nil {
				t.Fatal(err)
			}
			return config
		}
		replace := func(text []byte, err error) {
			if err := errors.Join(err, os.WriteFile(one, text, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		first := get()
		replace(os.ReadFile(other))
		if get() != first {
			t.Error("the files are read for every test")
		}
		time.Sleep(readAgain)
		second := get()
		if second.RootCAs.Equal(first.RootCAs) {
			t.Error("a change is not taken up")
		}
		replace([]byte("rubbish"), nil)
		time.Sleep(readAgain)
		if get() != second {
			t.Error("a file that is wrong is taken up")
		}
		if _, err := c.get(plan.UpstreamTLS{On: true, CA: one, Name: "x"}); err == nil {
			t.Error("a file that is wrong from the start is no error")
		}
	})
}

// TestPostgresTLS: where the server encrypts, the session is encrypted.
func TestPostgresTLS(t *testing.T) {
	own, _ := certificate(t, "sql.example")
	done := make(chan seen, 1)
	at := serve(t, func(c net.Conn) {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		io.ReadFull(c, make([]byte, 8))
		io.WriteString(c, "S")
		conn := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{own}, NextProtos: []string{"postgresql"}})
		start := make([]byte, 0x47)
		var s seen
		if _, s.err = io.ReadFull(conn, start); s.err == nil {
			s.state, s.first = conn.ConnectionState(), string(start[4:])
			io.WriteString(conn, pgBytes('R', "\x00\x00\x00\x03"))
			_, s.err = io.Copy(io.Discard, conn)
		}
		done <- s
	})
	if _, err := probeOnce(at, plan.Check{Kind: plan.CheckPostgres}, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	s := <-done
	if s.err != nil || s.state.ServerName != "web.example" || s.state.NegotiatedProtocol != "postgresql" || !strings.HasPrefix(s.first, "\x00\x03\x00\x00user\x00midspan\x00") {
		t.Errorf("the server was asked for %q by %q, got %q, and the connection ended with %v", s.state.ServerName, s.state.NegotiatedProtocol, s.first, s.err)
	}
}

// TestSendProxy: a server that wants a PROXY header gets one that names nobody,
// in front of TLS and of everything else.
func TestSendProxy(t *testing.T) {
	const v1, v2 = "PROXY UNKNOWN\r\n", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
	playAll(t, plan.Check{Kind: plan.CheckRedis, SendProxy: plan.SendV1}, []exchange{{"v1", []step{{v1 + ping, "+PONG\r\n"}}, ""}})
	playAll(t, plan.Check{Kind: plan.CheckRedis, SendProxy: plan.SendV2}, []exchange{{"v2", []step{{v2 + ping, "+PONG\r\n"}}, ""}})
	playAll(t, plan.Check{Kind: plan.CheckTCP, SendProxy: plan.SendV2}, []exchange{{"connect", []step{{v2, ""}}, ""}})
	playAll(t, plan.Check{Kind: plan.CheckMySQL, SendProxy: plan.SendV2}, []exchange{
		{"the server speaks first", []step{{v2, mysqlBytes(0, mysqlErrBytes(1040, "Too many connections"))}}, "mysql: the server says: Too many"},
	})
	own, _ := certificate(t, "sql.example")
	done := make(chan seen, 1)
	at := serve(t, func(c net.Conn) {
		head := make([]byte, len(v2))
		if _, err := io.ReadFull(c, head); err != nil || string(head) != v2 {
			t.Errorf("the server got %q, %v", head, err)
		}
		secure(&tls.Config{Certificates: []tls.Certificate{own}}, done)(c)
	})
	check := plan.Check{Kind: plan.CheckRedis, SendProxy: plan.SendV2, TLS: plan.UpstreamTLS{On: true, Insecure: true}}
	if _, err := probeOnce(at, check, 5*time.Second); err != nil {
		t.Error(err)
	}
	if s := <-done; s.err != nil {
		t.Errorf("the connection ended with %v", s.err)
	}
}

func TestPageAndStatus(t *testing.T) {
	page := func(status, body string) func(net.Conn) {
		return answer("HTTP/1.1 " + status + "\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body))
	}
	var any plan.StatusSet
	only := func(codes ...int) (s plan.StatusSet) {
		for _, code := range codes {
			s[(code-200)/64] |= 1 << ((code - 200) % 64)
		}
		return s
	}
	for _, c := range []struct {
		name   string
		handle func(net.Conn)
		status plan.StatusSet
		expect plan.Bytes
		want   string
	}{
		{"the text", page("200 OK", "all is ready."), any, "ready", ""},
		{"not the text", page("200 OK", "wait"), any, "ready", `http: expected "ready", got "wait"`},
		{"no body", page("200 OK", ""), any, "ready", `http: expected "ready", got ""`},
		{"the text over two chunks", answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nre\r\n3\r\nady\r\n0\r\n\r\n"), any, "ready", ""},
		{"the text in a head", answer("HTTP/1.1 200 OK\r\nX-Ready: ready\r\nContent-Length: 2\r\n\r\nno"), any, "ready", `http: expected "ready", got "no"`},
		{"the text beyond the bound", page("200 OK", strings.Repeat("x", maxAnswer)+"ready"), any, "ready", `http: expected "ready", got "xxx`},
		{"the text of a bad status", page("500 Oops", "ready"), any, "ready", "http: status 500, not 200-399"},
		{"a status that is wanted", page("401 Who", ""), only(200, 401), "", ""},
		{"a status that is not wanted", page("200 OK", ""), only(204, 401), "", "http: status 200, not 204,401"},
		{"a status out of every range", answer("HTTP/1.1 999 Go away\r\n\r\n"), only(204), "", "http: status 999, not 204"},
	} {
		_, err := probeOnce(serve(t, c.handle), plan.Check{Kind: plan.CheckHTTP, Path: "/", Status: c.status, Expect: c.expect}, 5*time.Second)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: failed: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
			t.Errorf("%s: error is %v, want %s", c.name, err, c.want)
		}
	}
}

// TestHTTPS: the request of a route that encrypts, by its own settings.
func TestHTTPS(t *testing.T) {
	own, file := certificate(t, "sql.example")
	got := make(chan *http.Request, 1)
	server := &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "fine"); got <- r }),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{own}},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.ServeTLS(l, "", "")
	defer server.Close()
	check := plan.Check{Kind: plan.CheckHTTP, Path: "/x", Expect: "fine", TLS: plan.UpstreamTLS{On: true, Name: "sql.example", CA: file}}
	if _, err := probeOnce(addr(l.Addr().String()), check, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if r := <-got; r.TLS == nil || r.TLS.ServerName != "sql.example" || r.Host != "web.example" || r.ProtoMajor != 1 {
		t.Errorf("the request is %+v", r)
	}
}

// TestKey: targets share a prober when the test cannot tell them apart.
func TestKey(t *testing.T) {
	on := plan.UpstreamTLS{On: true}
	named := plan.UpstreamTLS{On: true, Name: "x"}
	for _, c := range []struct {
		check plan.Check
		kept  bool // the host
	}{
		{plan.Check{Kind: plan.CheckOff}, false},
		{plan.Check{Kind: plan.CheckTCP}, false},
		{plan.Check{Kind: plan.CheckMySQL}, false},
		{plan.Check{Kind: plan.CheckTDS}, false},
		{plan.Check{Kind: plan.CheckExpect, Expect: "x"}, false},
		{plan.Check{Kind: plan.CheckPostgres}, true},
		{plan.Check{Kind: plan.CheckHTTP}, true},
		{plan.Check{Kind: plan.CheckHTTP, Host: "x"}, false},
		{plan.Check{Kind: plan.CheckHTTP, Host: "x", TLS: on}, true},
		{plan.Check{Kind: plan.CheckHTTP, Host: "x", TLS: named}, false},
		{plan.Check{Kind: plan.CheckTLS}, true},
		{plan.Check{Kind: plan.CheckTLS, Host: "x"}, false},
		{plan.Check{Kind: plan.CheckTLS, TLS: on}, true},
		{plan.Check{Kind: plan.CheckTLS, TLS: named}, false},
		{plan.Check{Kind: plan.CheckRedis, TLS: on}, true},
		{plan.Check{Kind: plan.CheckRedis, TLS: named}, false},
	} {
		key := Target{Addr: addr("[::ffff:10.0.0.5]:80"), Check: c.check, Host: "web"}.Key()
		if key.Addr != addr("10.0.0.5:80") || key.Check != c.check || (key.Host == "web") != c.kept {
			t.Errorf("key of %+v is %+v", c.check, key)
		}
	}
}
