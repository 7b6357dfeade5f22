package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"midspan/internal/engine"
)

// TestHTTP2: HTTP/2 with clients by ALPN, with servers over TLS and without.
func TestHTTP2(t *testing.T) {
	a := newAuthority(t)
	pem := a.leaf("s.pem", "127.0.0.1")
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			_, _ = fmt.Fprintf(w, "%s %d %s", r.Proto, len(body), r.Header.Get("X-Forwarded-Proto"))
		}
	})
	clear := httptest.NewUnstartedServer(handler)
	clear.Config.Protocols = new(http.Protocols)
	clear.Config.Protocols.SetUnencryptedHTTP2(true)
	clear.Start()
	t.Cleanup(clear.Close)
	secure := httptest.NewUnstartedServer(handler)
	secure.EnableHTTP2 = true
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{a.pair("s.pem")}}
	secure.StartTLS()
	t.Cleanup(secure.Close)
	old := httptest.NewUnstartedServer(handler)
	old.TLS = &tls.Config{Certificates: []tls.Certificate{a.pair("s.pem")}, NextProtos: []string{"http/1.1"}}
	old.StartTLS()
	t.Cleanup(old.Close)
	for _, c := range []struct{ to, settings, want string }{
		{clear.Listener.Addr().String(), "http: {protocol: h2}", "200 HTTP/2.0 3 https"},
		{secure.Listener.Addr().String(), fmt.Sprintf("http: {protocol: h2}, upstream_tls: {ca: %s}", a.file("ca.pem")), "200 HTTP/2.0 3 https"},
		{old.Listener.Addr().String(), fmt.Sprintf("upstream_tls: {ca: %s}", a.file("ca.pem")), "200 HTTP/1.1 3 https"},
		{old.Listener.Addr().String(), fmt.Sprintf("http: {protocol: h2}, upstream_tls: {ca: %s}", a.file("ca.pem")), "502"},
	} {
		s := newTheatre(t, c.to, fmt.Sprintf("mode: http, tls: %s, %s", pem, c.settings))
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.pool()}, ForceAttemptHTTP2: true}, Timeout: 20 * time.Second}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				r, err := client.Post("https://"+s.addr+"/p", "text/plain", strings.NewReader("abc"))
				if err != nil {
					t.Error(err)
					return
				}
				defer r.Body.Close()
				b, err := io.ReadAll(r.Body)
				if got := fmt.Sprintf("%d %s", r.StatusCode, b); err != nil || r.ProtoMajor != 2 || !strings.HasPrefix(got, c.want) {
					t.Errorf("%s: %s %q, %v; want %q", c.settings, r.Proto, got, err, c.want)
				}
			})
		}
		wg.Wait()
		r := s.end(8)
		if r.HTTP == nil || r.HTTP.Protocol != "HTTP/2.0" || r.HTTP.Path != "/p" || r.TLS == nil || r.TLS.Protocol != "h2" {
			t.Errorf("%+v, %+v", r, r.HTTP)
		}
		if c.want == "502" && !strings.Contains(r.Err, "the server does not offer h2 by ALPN") && !strings.Contains(r.Err, "no application protocol") {
			t.Errorf("%q", r.Err)
		}
		// Of connections that were made at once, one may be put aside only now.
		eventually(t, "no connection is left", func() bool {
			client.CloseIdleConnections()
			return s.Status().Connections == 0
		})
		s.settled()
	}
}

// TestHTTPUpgrade: after an upgrade bytes go both ways, with half-close, and are
// counted; kill ends it.
func TestHTTPUpgrade(t *testing.T) {
	a := newAuthority(t)
	to := newGuests(t, func(c net.Conn) {
		b := make([]byte, 4096)
		for n := 0; !bytes.Contains(b[:n], []byte("\r\n\r\n")); {
			m, err := c.Read(b[n:])
			if err != nil {
				return
			}
			n += m
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		echo(c)
		_ = c.(*net.TCPConn).CloseWrite()
	}).addr
	for _, front := range []string{"", "tls: {cert: " + a.leaf("s.pem", "127.0.0.1") + ", alpn: [http/1.1]}"} {
		s := newTheatre(t, to, "mode: http, "+front)
		open := func() halfCloser {
			raw, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { raw.Close() })
			var c halfCloser = raw.(*net.TCPConn)
			if front != "" {
				c = tls.Client(raw, &tls.Config{RootCAs: a.pool(), ServerName: "127.0.0.1"})
			}
			if _, err := io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			for head := ""; !strings.HasSuffix(head, "\r\n\r\n"); {
				b := make([]byte, 1)
				if _, err := io.ReadFull(c, b); err != nil {
					t.Fatalf("%v after %q", err, head)
				}
				head += string(b)
			}
			return c
		}
		c := open()
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if r := s.end(1); r.HTTP == nil || r.HTTP.Status != 101 || r.BytesUp != 5 || r.BytesDown != 5 {
			t.Errorf("%+v, %+v", r, r.HTTP)
		}
		c = open()
		s.settledBut(1)
		s.Kill(s.Conns()[0].ID)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset", err)
		}
		if r := s.end(2); r.Reason != engine.Killed {
			t.Errorf("%s", r.Reason)
		}
	}
}

// settledBut waits until n connections are left.
func (s *theatre) settledBut(n int) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); s.Status().Connections != n; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("connections: %+v", s.Conns())
		}
	}
}
