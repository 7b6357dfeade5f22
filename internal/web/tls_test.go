package web

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// certificates are those of net/http/httptest.
func certificates(t *testing.T) *tls.Config {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return &tls.Config{Certificates: s.TLS.Certificates, InsecureSkipVerify: true}
}

// overTLS has the front speak TLS with its clients and its server.
func overTLS(t *testing.T, f *front) *tls.Config {
	config := certificates(t)
	f.as(func(c net.Conn) (net.Conn, *Client) { return tls.Server(c, config), &Client{TLS: true} })
	e := f.servers.all[0]
	e.dial = func(ctx context.Context) (net.Conn, error) {
		d := tls.Dialer{Config: config}
		return d.DialContext(ctx, "tcp", e.addr.String())
	}
	return config
}

// secured is a server that speaks TLS, by hand.
func secured(t *testing.T, serve func(c *tls.Conn, w *wire)) string {
	config := certificates(t)
	return rawServer(t, func(w *wire) {
		c := tls.Server(w.TCPConn, config)
		w.r.Reset(c)
		serve(c, w)
	})
}

// TestTLS: all is the same with TLS on both sides: connections are kept, one that
// the server has closed is noticed, and bodies are whole.
func TestTLS(t *testing.T) {
	addr := secured(t, func(c *tls.Conn, w *wire) {
		for range 3 { // then it closes
			if _, err := w.head(); err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"+strings.Repeat("x", 300000))
		}
		c.Close()
	})
	f := newFront(t, route(addr), addr)
	tr := &http.Transport{TLSClientConfig: overTLS(t, f)}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr}
	for i := range 6 {
		if i == 3 {
			waitFor(t, "the end of the kept connection", func() bool {
				f.pool.mu.Lock()
				defer f.pool.mu.Unlock()
				for _, all := range f.pool.idle {
					return !all[0].alive()
				}
				return false
			})
		}
		resp, err := c.Post("https://"+f.addr, "", nil)
		if err != nil {
			t.Fatal(i, err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != 200 || n != 300000 || err != nil {
			t.Fatal(i, resp.StatusCode, n, err)
		}
		f.recorded(i + 1)
	}
	if n := f.servers.all[0].dials.Load(); n != 2 {
		t.Error(n, "connections")
	}
}

// TestTLSTruncated: where a body ends with the connection, and the server's is
// reset, the client's TLS does not say that the end was meant.
func TestTLSTruncated(t *testing.T) {
	for _, orderly := range []bool{true, false} {
		proceed := make(chan bool)
		addr := secured(t, func(c *tls.Conn, w *wire) {
			w.head()
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nabc")
			if orderly {
				c.CloseWrite()
				return
			}
			<-proceed
			w.reset()
		})
		f := newFront(t, route(addr), addr)
		c, err := tls.Dial("tcp", f.addr, overTLS(t, f))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, get)
		const want = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"
		all := make([]byte, len(want))
		io.ReadFull(c, all)
		close(proceed)
		rest, err := io.ReadAll(c)
		if string(all) != want || len(rest) > 0 || (err == nil) != orderly {
			t.Errorf("orderly %v: %q, %v", orderly, all, err)
		}
		c.Close()
		f.shut()
	}
}

// TestTLSLeaves: under TLS, too, it is noticed that a client has gone.
func TestTLSLeaves(t *testing.T) {
	begun, gone := make(chan bool, 1), make(chan error, 1)
	addr := secured(t, func(_ *tls.Conn, w *wire) {
		w.head()
		begun <- true
		_, err := w.r.ReadByte()
		gone <- err
	})
	f := newFront(t, route(addr), addr)
	c, err := tls.Dial("tcp", f.addr, overTLS(t, f))
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, get)
	<-begun
	c.Close()
	if err := <-gone; err != io.EOF {
		t.Error(err)
	}
}
