package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/engine"
)

// serveTLS is a TLS server on loopback that gives each connection to serve, once
// the handshake is done.
func serveTLS(t *testing.T, c *tls.Config, serve func(*tls.Conn)) string {
	return newGuests(t, func(raw net.Conn) {
		conn := tls.Server(raw, c)
		if conn.Handshake() == nil {
			serve(conn)
		}
	}).addr
}

// echoTLS answers what a client sends with itself, and its end with its own.
func echoTLS(c *tls.Conn) {
	echo(c)
	_ = c.CloseWrite()
}

// routes are a plain route's two ways to have TLS: with clients, with servers,
// and both. Each gives a client's connection and the server's end of it.
type way struct {
	front, back bool
}

func (w way) String() string { return fmt.Sprintf("front-%v-back-%v", w.front, w.back) }

var ways = []way{{true, false}, {false, true}, {true, true}}

// halfCloser is a connection that can end its flow alone.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// end is one end of a connection through the relay, and what is beneath it.
type end struct {
	halfCloser
	raw *net.TCPConn
}

// open is a connection through the relay by way w.
func (w way) open(t *testing.T, more string) (client, server end, s *theatre) {
	t.Helper()
	a := newAuthority(t)
	accepted := make(chan end, 1)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	back := &tls.Config{Certificates: []tls.Certificate{}}
	settings := ""
	if w.front {
		settings += fmt.Sprintf("tls: %s, ", a.leaf("front.pem", "front.test"))
	}
	if w.back {
		a.leaf("back.pem", "127.0.0.1")
		back.Certificates = append(back.Certificates, a.pair("back.pem"))
		settings += fmt.Sprintf("upstream_tls: {ca: %s}, ", a.file("ca.pem"))
	}
	to := newGuests(t, func(raw net.Conn) {
		e := end{raw.(*net.TCPConn), raw.(*net.TCPConn)}
		if w.back {
			conn := tls.Server(raw, back)
			if err := conn.Handshake(); err != nil {
				t.Error(err)
				return
			}
			e.halfCloser = conn
		}
		accepted <- e
		<-release
	}).addr
	s = newTheatre(t, to, settings+more)
	raw, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	client = end{raw.(*net.TCPConn), raw.(*net.TCPConn)}
	if w.front {
		conn := tls.Client(raw, &tls.Config{RootCAs: a.pool(), ServerName: "front.test"})
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		client.halfCloser = conn
	}
	select {
	case server = <-accepted:
	case <-time.After(30 * time.Second):
		t.Fatal("no connection reached the server")
	}
	for _, e := range []end{client, server} {
		t.Cleanup(func() { e.raw.Close() })
		if err := e.raw.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return client, server, s
}

// TestTLSFlows: bytes go both ways at once, whole, and half-close is passed on
// both ways: with each of the ways to have TLS.
func TestTLSFlows(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcdef"), 256<<10) // 4 MiB
	for _, w := range ways {
		t.Run(w.String(), func(t *testing.T) {
			client, server, s := w.open(t, "")
			var wg sync.WaitGroup
			for _, e := range []end{client, server} {
				wg.Go(func() {
					if _, err := e.Write(want); err != nil {
						t.Error(err)
					}
				})
				wg.Go(func() {
					got := make([]byte, len(want))
					if _, err := io.ReadFull(e, got); err != nil || !bytes.Equal(got, want) {
						t.Error("the flow is not what was sent", err)
					}
				})
			}
			wg.Wait()
			// The client ends first; the server has a last word.
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if n, err := server.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("server read %d, %v; want the end", n, err)
			}
			if _, err := server.Write([]byte("bye")); err != nil {
				t.Error(err)
			}
			if err := server.CloseWrite(); err != nil {
				t.Error(err)
			}
			if got, err := io.ReadAll(client); err != nil || string(got) != "bye" {
				t.Errorf("client read %q, %v", got, err)
			}
			r := s.end(1)
			if r.Reason != engine.ClosedByClient || r.BytesUp != uint64(len(want)) || r.BytesDown != uint64(len(want)+3) || r.Err != "" {
				t.Errorf("record %+v", r)
			}
			s.settled()
		})
	}
}

// TestTLSSlowReader: the end of a flow reaches a reader that takes nothing for
// longer than crypto/tls waits to say close_notify, and nothing is cut off.
func TestTLSSlowReader(t *testing.T) {
	t.Parallel()
	client, server, s := way{front: true}.open(t, "")
	const size = 16 << 20
	go func() {
		_, err := io.CopyN(server, zeros{}, size)
		if err == nil {
			err = server.CloseWrite()
		}
		if err != nil {
			t.Error(err)
		}
	}()
	time.Sleep(7 * time.Second)
	if n, err := io.Copy(io.Discard, client); n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	client.Close()
	if r := s.end(1); r.Reason != engine.ClosedByServer {
		t.Errorf("%+v", r)
	}
}

// TestTLSTruncation: a TLS connection that ends without close_notify is a reset
// for the other side, never an end.
func TestTLSTruncation(t *testing.T) {
	for _, byClient := range []bool{true, false} {
		for _, w := range ways {
			if byClient && !w.front || !byClient && !w.back {
				continue
			}
			one, other, s := w.open(t, "")
			want := engine.ResetByClient
			if !byClient {
				one, other, want = other, one, engine.ResetByServer
			}
			if _, err := one.Write([]byte("half of it")); err != nil {
				t.Fatal(err)
			}
			if err := one.raw.CloseWrite(); err != nil { // TCP's end alone
				t.Fatal(err)
			}
			got, err := io.ReadAll(other)
			if string(got) != "half of it" || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s, by client %v: %q, %v; want all and a reset", w, byClient, got, err)
			}
			if r := s.end(1); r.Reason != want || !strings.Contains(r.Err, "close_notify") {
				t.Errorf("%s: %s, %q", w, r.Reason, r.Err)
			}
		}
	}
}

// TestTLSReset: a reset is passed on as one, both ways.
func TestTLSReset(t *testing.T) {
	for _, byClient := range []bool{true, false} {
		for _, w := range ways {
			one, other, s := w.open(t, "")
			want := engine.ResetByClient
			if !byClient {
				one, other, want = other, one, engine.ResetByServer
			}
			// A server that resets before our connect is known to have worked is
			// one that could not be reached.
			eventually(t, "it is open", func() bool { c := s.Conns(); return len(c) == 1 && c[0].State == "open" })
			if err := one.raw.SetLinger(0); err != nil {
				t.Fatal(err)
			}
			one.raw.Close()
			if n, err := other.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s, by client %v: read %d, %v", w, byClient, n, err)
			}
			if r := s.end(1); r.Reason != want {
				t.Errorf("%s: %s, %q", w, r.Reason, r.Err)
			}
		}
	}
}

// waiting is how many bytes c has to read.
func waiting(t *testing.T, c *net.TCPConn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestTLSLastWords: what a server sent before it was found reset, such as an
// error message, still reaches the client.
func TestTLSLastWords(t *testing.T) {
	client, server, s := way{front: true}.open(t, "")
	if _, err := server.Write([]byte("no")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	// With bytes unread, the close is a reset.
	if _, err := client.Write([]byte("a request")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the request is there, and unread", func() bool { return waiting(t, server.raw) > 0 })
	if _, err := server.Write([]byte("refused")); err != nil {
		t.Fatal(err)
	}
	server.Close()
	got, err := io.ReadAll(client)
	if string(got) != "refused" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%q, %v", got, err)
	}
	if r := s.end(1); r.Reason != engine.ResetByServer {
		t.Errorf("%s", r.Reason)
	}
}
