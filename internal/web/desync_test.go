package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http/httptest"
	"testing"
	"time"
)

// tlsFront is a front that speaks TLS to its one server.
func tlsFront(t *testing.T, version uint16, serve func(*wire, net.Conn)) *front {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	certs, roots := s.TLS.Certificates, x509.NewCertPool()
	roots.AddCert(s.Certificate())
	s.Close()
	addr := rawServer(t, func(w *wire) {
		c := tls.Server(w.TCPConn, &tls.Config{Certificates: certs, MaxVersion: version})
		w.r.Reset(c)
		serve(w, c)
	})
	f := newFront(t, route(addr), addr)
	f.mu.Lock() // which whoever serves a connection takes first
	defer f.mu.Unlock()
	f.servers.all[0].dial = func(ctx context.Context) (net.Conn, error) {
		d := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: "example.com"}}
		return d.DialContext(ctx, "tcp", addr)
	}
	return f
}

// TestLeftOverTLS: what a server sends beyond its response is nobody's response,
// whether it was read together with that or has come since. A connection on which
// there is nothing is used again, whatever TLS itself has sent on it.
func TestLeftOverTLS(t *testing.T) {
	const good, evil = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	for name, c := range map[string]struct {
		records []string
		dials   int64
	}{
		"nothing":        {[]string{good}, 1},
		"two records":    {[]string{good[:38], good[38:]}, 1},
		"another record": {[]string{good, evil}, 2},
		"in one record":  {[]string{good[:38], good[38:] + evil}, 2},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(name+", "+tls.VersionName(version), func(t *testing.T) {
				f := tlsFront(t, version, func(w *wire, nc net.Conn) {
					for {
						if _, err := w.head(); err != nil {
							return
						}
						for _, text := range c.records {
							io.WriteString(nc, text)
						}
					}
				})
				for i := range 2 {
					if head, body := f.dial().roundTrip("POST / HTTP/1.1\r\nHost: a\r\n\r\n"); body != "ok" {
						t.Errorf("%s%s", head, body)
					}
					f.recorded(i + 1)
					if c.dials == 2 {
						waitFor(t, "what is on its way", func() bool { return f.idleAlive() == 0 })
					}
				}
				if n := f.servers.all[0].dials.Load(); n != c.dials {
					t.Errorf("%d connections, want %d", n, c.dials)
				}
			})
		}
	}
}

// stalled is a connection whose reader gets to read long after it has set a deadline,
// as on a machine that has other things to do.
type stalled struct{ *tls.Conn }

func (s stalled) SetReadDeadline(t time.Time) error {
	err := s.Conn.SetReadDeadline(t)
	if time.Until(t) > 0 {
		time.Sleep(2 * time.Until(t))
	}
	return err
}

// TestLeftOverLate: what has come in TLS counts too where the time to read it is
// over before it is read.
func TestLeftOverLate(t *testing.T) {
	answered, sent := make(chan bool), make(chan bool)
	f := tlsFront(t, tls.VersionTLS13, func(w *wire, nc net.Conn) {
		for {
			if _, err := w.head(); err != nil {
				return
			}
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			<-answered
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			sent <- true
		}
	})
	f.mu.Lock()
	dial := f.servers.all[0].dial
	f.servers.all[0].dial = func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return stalled{c.(*tls.Conn)}, nil
	}
	f.mu.Unlock()
	for i := range 2 {
		if head, body := f.dial().roundTrip("POST / HTTP/1.1\r\nHost: a\r\n\r\n"); body != "ok" {
			t.Errorf("%s%s", head, body)
		}
		f.recorded(i + 1)
		answered <- true
		<-sent
	}
	if n := f.servers.all[0].dials.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// TestNoContinue: a server that answers without having asked for the body may take
// it for the next request. Nobody gets what it answers to that.
func TestNoContinue(t *testing.T) {
	addr := rawServer(t, func(w *wire) {
		for {
			if _, err := w.head(); err != nil {
				return
			}
			w.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	f := newFront(t, route(addr), addr)
	for i, request := range []string{get, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 28\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n", get} {
		f.dial().roundTrip(request)
		f.recorded(i + 1)
	}
	if n := f.servers.all[0].dials.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}
