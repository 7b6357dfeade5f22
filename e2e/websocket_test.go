package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"midspan/e2e/rig"
)

// echoWebSocket is a server that sends every message back, as it came.
func echoWebSocket(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"e2e"}})
		if err != nil {
			return // the client tells
		}
		defer c.CloseNow()
		c.SetReadLimit(4 << 20)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if string(b) == "bye" {
				_ = c.Close(websocket.StatusGoingAway, "as you wish")
				return
			}
			if c.Write(r.Context(), kind, b) != nil {
				return
			}
		}
	})}
	go func() { _ = server.Serve(l) }() // it ends by Close
	t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

// TestWebSocket has a library's client and server exchange messages of all sizes,
// with and without TLS to midspan; either ends in order.
func TestWebSocket(t *testing.T) {
	ca := rig.NewCA(t, "e2e")
	own := ca.Issue("ws.example.com")
	server := echoWebSocket(t)
	f := rig.NewFile(t)
	plain, secure := rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1")
	f.Write("routes:\n  plain: { mode: http, listen: %q, to: %q }\n  secure: { mode: http, listen: %q, to: %[2]q, tls: %[4]q }\n", plain, server, secure, own.Cert)
	m := rig.Run(t, f)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool, ServerName: "ws.example.com"}}}
	for _, url := range []string{"ws://" + plain, "wss://" + secure} {
		var all sync.WaitGroup
		for i := range 32 {
			all.Go(func() {
				if err := webSocketVisit(client, url, i); err != nil {
					t.Errorf("%s, client %d: %v", url, i, err)
				}
			})
		}
		all.Wait()
	}
	rig.Until(t, rig.Patience, "no connection is left", func() bool { return metrics(t, m)["midspan_connections"] == 0 })
}

func webSocketVisit(client *http.Client, url string, seed int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*rig.Patience)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"e2e"}})
	if err != nil {
		return err
	}
	defer c.CloseNow()
	if resp.StatusCode != http.StatusSwitchingProtocols || c.Subprotocol() != "e2e" {
		return fmt.Errorf("%s, subprotocol %q", resp.Status, c.Subprotocol())
	}
	c.SetReadLimit(4 << 20)
	for _, size := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20} {
		out := rig.Bytes(uint64(seed), size)
		if err := c.Write(ctx, websocket.MessageBinary, out); err != nil {
			return err
		}
		kind, in, err := c.Read(ctx)
		if err != nil || kind != websocket.MessageBinary || !bytes.Equal(in, out) {
			return fmt.Errorf("a message of %d bytes: %d came back, %v", size, len(in), err)
		}
	}
	if seed%2 == 0 {
		return c.Close(websocket.StatusNormalClosure, "")
	}
	if err := c.Write(ctx, websocket.MessageText, []byte("bye")); err != nil {
		return err
	}
	if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		return fmt.Errorf("the server's end is seen as %w", err)
	}
	return nil
}

// TestWebSocketCut: when a WebSocket's server dies, its client is told by a cut
// connection; and one that is quiet is left alone.
func TestWebSocketCut(t *testing.T) {
	var server *http.Server
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 1)
	server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: e2e\r\n\r\n")
		rw.Flush()
		conns <- c
	})}
	go func() { _ = server.Serve(l) }() // it ends by Close
	t.Cleanup(func() { server.Close() })
	f, addr := httpFile(t, "    to: %q\n    http: { keepalive_timeout: 2s, header_timeout: 2s, response_timeout: 2s }\n", l.Addr().String())
	rig.Run(t, f)
	c := dial(t, addr)
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: e2e\r\n\r\n")
	head := make([]byte, 12)
	if _, err := io.ReadFull(c, head); err != nil || string(head) != "HTTP/1.1 101" {
		t.Fatalf("%q, %v", head, err)
	}
	up := <-conns
	time.Sleep(3500 * time.Millisecond) // longer than any time above
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	_ = up.SetReadDeadline(time.Now().Add(rig.Patience))
	if _, err := io.ReadFull(up, b); err != nil || string(b) != "ping" {
		t.Errorf("after a rest the server gets %q, %v", b, err)
	}
	_ = up.(*net.TCPConn).SetLinger(0)
	up.Close()
	if err := drain(c); err == nil {
		t.Error("a server's reset looks like an orderly end")
	}
}

// drain reads to the end, and tells which it was.
func drain(c net.Conn) error {
	b := make([]byte, 1<<16)
	for {
		if _, err := c.Read(b); err != nil {
			return endOf(err)
		}
	}
}
