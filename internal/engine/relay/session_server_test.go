package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"midspan/internal/engine"
)

// TestTLSWithServers: who is at the other end is checked by name and authority,
// and the endpoint's error says what is wrong.
func TestTLSWithServers(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	a.leaf("good.pem", "db.test", "127.0.0.1")
	a.leaf("named.pem", "db.test")
	other.leaf("other.pem", "127.0.0.1")
	old := template("127.0.0.1")
	old.NotBefore, old.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	a.issue(a.cert, a.key, old, "old.pem", false)
	a.leaf("c.pem", "midspan")
	ca := a.file("ca.pem")
	for _, c := range []struct {
		name, settings string
		server         tls.Certificate
		more           *tls.Config
		err            string
	}{
		{"an address", "ca: " + ca, a.pair("good.pem"), &tls.Config{}, ""},
		{"a name", "name: db.test, ca: " + ca, a.pair("named.pem"), &tls.Config{}, ""},
		{"another name", "name: web.test, ca: " + ca, a.pair("named.pem"), &tls.Config{}, "TLS: x509: certificate is valid for db.test, not web.test"},
		{"no address in it", "ca: " + ca, a.pair("named.pem"), &tls.Config{}, "TLS: x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs; if that is the right server, write upstream_tls: {name: db.test}"},
		{"another authority", "ca: " + ca, other.pair("other.pem"), &tls.Config{}, "TLS: x509: certificate signed by unknown authority"},
		{"another authority, not verified", "verify: false", other.pair("other.pem"), &tls.Config{}, ""},
		{"expired", "ca: " + ca, a.pair("old.pem"), &tls.Config{}, "TLS: x509: certificate has expired or is not yet valid"},
		{"too old a version", `min: "1.3", ca: ` + ca, a.pair("good.pem"), &tls.Config{MaxVersion: tls.VersionTLS12}, "TLS: remote error: protocol version not supported"},
		{"with our certificate", "ca: " + ca + ", cert: " + a.file("c.pem"), a.pair("good.pem"), &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.pool()}, ""},
		{"without ours, 1.2", "ca: " + ca, a.pair("good.pem"), &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}, "TLS: remote error: handshake failure"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := c.more.Clone()
			config.Certificates = []tls.Certificate{c.server}
			name := make(chan string, 1)
			config.VerifyConnection = func(s tls.ConnectionState) error {
				name <- s.ServerName
				return nil
			}
			s := newTheatre(t, serveTLS(t, config, echoTLS), "upstream_tls: {"+c.settings+"}")
			got, err := answer(s.addr, "hello")
			e := s.Status().Routes[0].Endpoints[0]
			if c.err == "" {
				if string(got) != "hello" || err != nil {
					t.Errorf("%q, %v", got, err)
				}
				if want := strings.Contains(c.settings, "name: db.test"); want != (<-name == "db.test") {
					t.Errorf("the server's name was asked for: %v", !want)
				}
				return
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%q, %v; want a reset", got, err)
			}
			if r := s.end(1); r.Reason != engine.ConnectFailed || !strings.Contains(r.Err, c.err) || r.Server == "" {
				t.Errorf("%s, server %q, %q; want %q", r.Reason, r.Server, r.Err, c.err)
			}
			if !strings.HasPrefix(e.LastError, c.err) || e.Failures != 1 || len(s.dials) != 1 || s.dials[0].Err == nil || !s.dials[0].Late || strings.Contains(e.LastError, "unknown authority") != strings.HasSuffix(e.LastError, "upstream_tls: {ca: file.pem}") {
				t.Errorf("the endpoint: %+v; dials %+v", e, s.dials)
			}
		})
	}
}

// answer is what addr sends back to text and its end, and the first error. A
// forwarder that resets a connection may do so before any of the steps, even before
// the dial has looked whether it is connected.
func answer(addr, text string) ([]byte, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err = io.WriteString(conn, text); err != nil {
		return nil, err
	}
	_ = conn.(*net.TCPConn).CloseWrite() // not connected, after a reset: the read says which
	return io.ReadAll(conn)
}

// TestTLSFallsBack: a server whose handshake fails is passed by for another one,
// as one that cannot be reached; so is one that is silent.
func TestTLSFallsBack(t *testing.T) {
	a := newAuthority(t)
	a.leaf("good.pem", "127.0.0.1")
	plain := echoServer(t)
	silent := newGuests(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }).addr
	good := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{a.pair("good.pem")}}, echoTLS)
	for _, bad := range []string{plain, silent, fmt.Sprintf("127.0.0.1:%d", freePort(t))} {
		s := newTheatre(t, fmt.Sprintf("[%s, %s]", bad, good), fmt.Sprintf("balance: first, connect_timeout: 15s, upstream_tls: {ca: %s}", a.file("ca.pem")))
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Errorf("%s: %v", bad, err)
		}
		c.Close()
		if r := s.end(1); r.Server != good {
			t.Errorf("served by %s", r.Server)
		}
		e := s.Status().Routes[0].Endpoints
		if e[0].Failures != 1 || e[0].Active != 0 || e[1].Connects != 1 {
			t.Errorf("%+v", e)
		}
	}
	s := newTheatre(t, silent, fmt.Sprintf("connect_timeout: 300ms, upstream_tls: {ca: %s}", a.file("ca.pem")))
	if got, err := answer(s.addr, ""); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%q, %v; want a reset", got, err)
	}
	if r := s.end(1); r.Reason != engine.ConnectFailed || !strings.Contains(r.Err, "no answer to a connect in ") {
		t.Errorf("%s, %q", r.Reason, r.Err)
	}
}

// TestSessionEnds: a session is seen, and ends at the word of kill, a server that
// is cut off, an idle timeout, and the engine's end; both legs are reset.
func TestSessionEnds(t *testing.T) {
	for _, c := range []struct {
		settings string
		end      func(*theatre)
		want     engine.Reason
	}{
		{"", func(s *theatre) { s.Kill(s.Conns()[0].ID) }, engine.Killed},
		{"", func(s *theatre) { s.Close() }, engine.Stopped},
		{"idle_timeout: 3s", func(*theatre) {}, engine.IdleTimeout},
		{"on_down: cut", func(s *theatre) { s.apply("127.0.0.1:1", "on_down: cut") }, engine.ServerDown},
	} {
		client, server, s := way{front: true, back: true}.open(t, c.settings)
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(server, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		// What the server has read may not be counted yet.
		eventually(t, "the bytes are counted", func() bool { return s.Status().Routes[0].Counters.BytesUp == 5 })
		conns := s.Conns()
		if len(conns) != 1 || conns[0].State != "open" || conns[0].BytesUp != 5 || conns[0].Server == "" || conns[0].ServerName != "front.test" {
			t.Errorf("%+v", conns)
		}
		if n := s.Status().Routes[0].Counters; n.Active != 1 || n.Accepted != 1 || n.BytesUp != 5 {
			t.Errorf("%+v", n)
		}
		c.end(s)
		for _, e := range []end{client, server} {
			if _, err := e.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: %v; want a reset", c.want, err)
			}
		}
		if r := s.end(1); r.Reason != c.want {
			t.Errorf("%s, want %s", r.Reason, c.want)
		}
	}
}

// TestSessionOutlivesReload: a drain and the end of its route leave a session
// alone, and it stays in the books.
func TestSessionOutlivesReload(t *testing.T) {
	client, server, s := way{front: true}.open(t, "")
	p, err := planFor(fmt.Sprintf("routes: {other: {listen: '127.0.0.1:%d', to: '127.0.0.1:1'}}", freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.Connections != 1 || len(st.Routes) != 2 || !st.Routes[1].Removed {
		t.Errorf("%+v", st)
	}
}

// TestSessionLimit: at max_connections of the route sessions wait in the
// listen queue, and go on when there is room.
func TestSessionLimit(t *testing.T) {
	a := newAuthority(t)
	s := newTheatre(t, echoServer(t), fmt.Sprintf("max_connections: 1, tls: %s", a.leaf("s.pem", "a.test")))
	config := &tls.Config{RootCAs: a.pool(), ServerName: "a.test"}
	first, err := s.dial(config)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		_, err := s.dial(config)
		second <- err
	}()
	select {
	case err := <-second:
		t.Fatalf("two at once: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	first.Close()
	if err := <-second; err != nil {
		t.Error(err)
	}
}

// TestCertificateReload: under load, a certificate that changes is taken up, by an
// Apply or without; no handshake fails and no connection ends. One that is wrong
// is not, and the status says so.
func TestCertificateReload(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	file := a.leaf("s.pem", "a.test", "n0")
	settings := "tls: " + file
	to := echoServer(t)
	s := newTheatre(t, to, settings)
	config := &tls.Config{RootCAs: a.pool(), ServerName: "a.test"}
	old, err := s.dial(config)
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop.Store(true)
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				c, err := s.dial(config)
				if err == nil {
					if _, err = c.Write([]byte("x")); err == nil {
						_, err = io.ReadFull(c, make([]byte, 1))
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
				c.Close()
			}
		})
	}
	shown := func() string {
		t.Helper()
		c, err := s.dial(config)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].DNSNames[1]
	}
	await := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); shown() != want; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("shown is %s, want %s", shown(), want)
			}
		}
	}
	a.leaf("s.pem", "a.test", "n1")
	await("n1")
	a.leaf("s.pem", "a.test", "n2")
	s.apply(to, settings) // nothing else has changed
	if got := shown(); got != "n2" {
		t.Errorf("after an Apply: %s", got)
	}
	if err := os.WriteFile(file, []byte("oops"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.apply(to, settings) // it must not fail: health brings one at any time
	if got := s.Status().Certificates; shown() != "n2" || len(got) != 1 || !strings.Contains(got[0].Problem, "no certificate in it") {
		t.Errorf("%+v", got)
	}
	a.leaf("s.pem", "a.test", "n3")
	await("n3")
	if got := s.Status().Certificates[0]; got.Problem != "" || got.File != file || time.Until(got.Expires) > time.Hour {
		t.Errorf("%+v", got)
	}
	if err := old.SetDeadline(time.Now().Add(20 * time.Second)); err != nil { // the dial's may be over by now
		t.Fatal(err)
	}
	if _, err := old.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(old, make([]byte, 1)); err != nil {
		t.Error("the first connection:", err)
	}
}

// TestApplyWithoutFiles: an Apply whose files are wrong changes nothing, and says
// all that is wrong.
func TestApplyWithoutFiles(t *testing.T) {
	a := newAuthority(t)
	to := echoServer(t)
	s := newTheatre(t, to, "max_connections: 5")
	p, err := planFor(fmt.Sprintf("routes: {r: {listen: %q, to: %s, tls: {cert: /no/such.pem, client_ca: %s}}, q: {listen: '127.0.0.1:%d', to: %s, upstream_tls: {ca: /no/ca.pem}}}",
		s.addr, to, a.dir, freePort(t), to))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Apply(context.Background(), p)
	if err == nil {
		t.Fatal("it worked")
	}
	for _, want := range []string{`route "r": /no/such.pem: there is no such file`, `route "r": ` + a.dir + ": as CA: this is a directory", `route "q": /no/ca.pem: as CA: there is no such file`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
	if st := s.Status(); len(st.Routes) != 1 || st.Routes[0].Name != "r" {
		t.Errorf("%+v", st.Routes)
	}
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "plain"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Error("the route is not what it was:", err)
	}
}

// TestSessionResumption: a client goes on with its TLS session after an Apply,
// with a certificate taken up meanwhile; and not when other authorities may sign
// its certificate.
func TestSessionResumption(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	a.leaf("c.pem", "client")
	ca, err := os.ReadFile(a.file("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	clientCA := a.file("client-ca.pem")
	if err := os.WriteFile(clientCA, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	settings := fmt.Sprintf("tls: {cert: %s, client_ca: %s}", a.leaf("s.pem", "a.test"), clientCA)
	to := echoServer(t)
	s := newTheatre(t, to, settings)
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	config := &tls.Config{RootCAs: roots, ServerName: "a.test", Certificates: []tls.Certificate{a.pair("c.pem")}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	resumed := func() (bool, error) {
		c, err := s.dial(config)
		if err != nil {
			return false, err
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			return false, err
		}
		_, err = io.ReadFull(c, make([]byte, 1)) // the ticket comes with it
		return c.ConnectionState().DidResume, err
	}
	for i := range 4 {
		if i == 2 {
			a.leaf("s.pem", "a.test")
		}
		s.apply(to, settings)
		if yes, err := resumed(); err != nil || yes != (i > 0) {
			t.Errorf("%d: resumed %v, %v", i, yes, err)
		}
	}
	if c := s.end(4).TLS; c == nil || c.Version != "1.3" || c.Cipher == "" || !c.Resumed {
		t.Errorf("the record says of TLS: %+v", c)
	}
	s.apply(to, settings[:len(settings)-1]+", resume: false}")
	for range 2 {
		if yes, err := resumed(); err != nil || yes {
			t.Errorf("with resume: false: resumed %v, %v", yes, err)
		}
	}
	s.apply(to, settings)
	if _, err := resumed(); err != nil {
		t.Error(err)
	}
	if ca, err = os.ReadFile(other.file("ca.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(clientCA, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	s.apply(to, settings)
	if yes, err := resumed(); err == nil {
		t.Errorf("resumed %v although nobody trusts the client's authority", yes)
	}
}
