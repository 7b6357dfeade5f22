package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// sniLab are TLS servers of which each has a certificate for its own name alone,
// behind one port: who has a handshake with one has reached the right one.
type sniLab struct {
	addr   string
	ca     *rig.CA
	m      *rig.Midspan
	byGo   []string // names whose servers are for many connections at a time
	single string   // the name of an openssl s_server: one at a time
}

func newSNILab(t *testing.T) *sniLab {
	t.Helper()
	l := &sniLab{addr: rig.Addr(t, "127.0.0.1"), ca: rig.NewCA(t, "e2e"), byGo: []string{"kafka1.example.com", "a.b.dev.example.com"}, single: "kafka3.example.com"}
	servers := map[string]string{}
	for _, name := range l.byGo {
		i, addr := l.ca.Issue(name), rig.Addr(t, "127.0.0.1")
		rig.Web(t, addr, fmt.Sprintf("server { listen %s ssl backlog=4096; ssl_certificate %s; ssl_certificate_key %s; ssl_protocols TLSv1.2 TLSv1.3; "+
			"keepalive_timeout 0; location / { return 200 %q; } }", addr, i.Cert, i.Key, name))
		servers[name] = addr
	}
	servers[l.single] = rig.Addr(t, "127.0.0.1")
	rig.OpenSSLServer(t, servers[l.single], l.ca.Issue(l.single), "-www", "-quiet")
	f := rig.NewFile(t)
	f.Log = "json"
	f.Write("routes:\n  tls:\n    mode: sni\n    listen: %q\n    to: { %s: %q, \"*.dev.example.com\": %q, %s: %q }\n",
		l.addr, l.byGo[0], servers[l.byGo[0]], servers[l.byGo[1]], l.single, servers[l.single])
	l.m = rig.Run(t, f)
	return l
}

// cutter is a connection whose first message goes out in pieces.
type cutter struct {
	net.Conn
	cut  func(hello []byte) [][]byte
	done bool
}

func (c *cutter) Write(b []byte) (int, error) {
	if c.done {
		return c.Conn.Write(b)
	}
	c.done = true
	begin := time.Now()
	for _, piece := range c.cut(b) {
		if _, err := c.Conn.Write(piece); err != nil {
			return 0, err
		}
		// So that the pieces are read one by one; but on a busy machine a thousand of
		// them would take longer than a client may.
		if time.Since(begin) < 2*time.Second {
			time.Sleep(50 * time.Microsecond)
		}
	}
	return len(b), nil
}

// segments cuts the stream at a position: into two segments of TCP.
func segments(at int) func([]byte) [][]byte {
	return func(b []byte) [][]byte {
		at := 1 + at%(len(b)-1)
		return [][]byte{b[:at], b[at:]}
	}
}

// recordHead is the size of what is before each record. Source: RFC 8446, 5.1.
const recordHead = 5

// records cuts the message at a position: into two records of TLS, which go out
// together.
func records(at int) func([]byte) [][]byte {
	return func(b []byte) [][]byte { return [][]byte{twoRecords(b, at)} }
}

func twoRecords(b []byte, at int) []byte {
	message := b[recordHead:]
	at = 1 + at%(len(message)-1)
	var all []byte
	for _, part := range [][]byte{message[:at], message[at:]} {
		all = append(all, b[:3]...)
		all = binary.BigEndian.AppendUint16(all, uint16(len(part)))
		all = append(all, part...)
	}
	return all
}

// both cuts into two records, and the stream anywhere.
func both(at int) func([]byte) [][]byte {
	return func(b []byte) [][]byte { return segments(at * 7)(twoRecords(b, at)) }
}

// bytewise sends every byte by itself.
func bytewise(b []byte) [][]byte { return slices.Collect(slices.Chunk(b, 1)) }

// ask makes a handshake, with the first message cut, and has the server say its
// name.
func (l *sniLab) ask(name string, config *tls.Config, cut func([]byte) [][]byte) error {
	raw, err := net.DialTimeout("tcp", l.addr, 20*time.Second)
	if err != nil {
		return err
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
		return err
	}
	config = config.Clone()
	config.ServerName, config.RootCAs = name, l.ca.Pool
	c := tls.Client(&cutter{Conn: raw, cut: cut}, config)
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err != nil && name != l.single { // s_server ends without a closing message
		return err
	}
	if name != l.single && !bytes.HasSuffix(answer, []byte("\r\n\r\n"+name)) || name == l.single && !bytes.Contains(answer, []byte("s_server")) {
		return fmt.Errorf("%s answers %.100q", name, answer)
	}
	return nil
}

// TestSNICuts makes ten thousand handshakes with real TLS servers. The first
// message, of four kinds, is cut at every position: into segments, into records,
// into both.
func TestSNICuts(t *testing.T) {
	l := newSNILab(t)
	kinds := map[string]*tls.Config{
		"TLS 1.2":         {MaxVersion: tls.VersionTLS12},
		"TLS 1.3":         {CurvePreferences: []tls.CurveID{tls.X25519}},
		"TLS 1.3, large":  {}, // with a key share of two packets' size
		"TLS 1.3, longer": {CurvePreferences: []tls.CurveID{tls.X25519}, NextProtos: []string{"h2", "http/1.1", strings.Repeat("x", 200)}},
	}
	type job struct {
		name, kind, how string
		cut             func([]byte) [][]byte
	}
	jobs := make(chan job)
	var done, failed atomic.Int64
	var all sync.WaitGroup
	for range 24 {
		all.Go(func() {
			for j := range jobs {
				if err := l.ask(j.name, kinds[j.kind], j.cut); err != nil {
					if failed.Add(1) < 10 {
						t.Errorf("%s, %s, %s: %v", j.name, j.kind, j.how, err)
					}
				}
				done.Add(1)
			}
		})
	}
	begin := time.Now()
	send := func(n int, kind, how string, cut func([]byte) [][]byte) {
		jobs <- job{l.byGo[n%len(l.byGo)], kind, fmt.Sprintf("%s %d", how, n), cut}
	}
	// More positions than any of the messages has.
	for kind, positions := range map[string]int{"TLS 1.2": 400, "TLS 1.3": 400, "TLS 1.3, longer": 650, "TLS 1.3, large": 1900} {
		for n := range positions {
			send(n, kind, "segments at", segments(n))
			send(n, kind, "records at", records(n))
			send(n, kind, "both at", both(n))
		}
		for n := range 2 {
			send(n, kind, "bytes", bytewise)
		}
	}
	close(jobs)
	all.Wait()
	t.Logf("%d handshakes, %d failed, in %s", done.Load(), failed.Load(), time.Since(begin).Round(time.Millisecond))
	if done.Load() < 10_000 {
		t.Errorf("%d handshakes, which are fewer than ten thousand", done.Load())
	}
	if n := metrics(t, l.m)[`midspan_route_accepted_total{route="tls"}`]; n != float64(done.Load()) {
		t.Errorf("%v connections are counted", n)
	}
}

// TestSNIOpenSSL has OpenSSL's own client and server, with the client's first
// message cut at every position between it and midspan.
func TestSNIOpenSSL(t *testing.T) {
	l := newSNILab(t)
	const positions = 330 // OpenSSL's is of 310 to 325 bytes with these names
	var position atomic.Int64
	var size atomic.Int64
	between := rig.Serve(t, nil, "127.0.0.1:0", func(c *net.TCPConn) {
		hello, err := firstRecord(c)
		if err != nil {
			return // the client tells
		}
		size.Store(int64(len(hello)))
		up, err := net.Dial("tcp", l.addr)
		if err != nil {
			return
		}
		defer up.Close()
		first := &cutter{Conn: up, cut: segments(int(position.Add(1)))}
		if _, err := first.Write(hello); err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(up, c)
			_ = up.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(c, up)
	})
	names := []string{l.byGo[0], l.byGo[1], l.single}
	jobs := make(chan int)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for n := range jobs {
				name := names[n%len(names)]
				said, err := rig.OpenSSLClient(t, between.Addr, "GET / HTTP/1.0\r\n\r\n",
					"-servername", name, "-verify_hostname", name, "-CAfile", l.ca.File, "-verify_return_error", "-quiet")
				want := name
				if name == l.single {
					want = "s_server"
				}
				if !strings.Contains(said, want) {
					t.Errorf("%s, run %d: %v: %.300s", name, n, err, said)
				}
			}
		})
	}
	for n := range positions {
		jobs <- n
	}
	close(jobs)
	all.Wait()
	if n := size.Load(); n == 0 || n > positions {
		t.Errorf("OpenSSL's first message has %d bytes, so that not every position was cut at", n)
	}
}

// firstRecord reads the first record of TLS.
func firstRecord(c net.Conn) ([]byte, error) {
	head := make([]byte, recordHead)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, err
	}
	record := slices.Concat(head, make([]byte, binary.BigEndian.Uint16(head[3:])))
	_, err := io.ReadFull(c, record[recordHead:])
	return record, err
}

// TestSNIRefused: what clients are told who ask for a name that is not there, for
// none, or not in TLS.
func TestSNIRefused(t *testing.T) {
	l := newSNILab(t)
	said, err := rig.OpenSSLClient(t, l.addr, "", "-servername", "nobody.example.com")
	if err == nil || !strings.Contains(said, "alert number 112") {
		t.Errorf("a name that is not there: %v: %.500s", err, said)
	}
	if said, err := rig.OpenSSLClient(t, l.addr, "", "-noservername"); err == nil || strings.Contains(said, "BEGIN CERTIFICATE") {
		t.Errorf("no name: %v: %.500s", err, said)
	}
	c := dial(t, l.addr)
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("not TLS: %d bytes, %v; want a reset", n, err)
	}
	// What the client sees comes a moment before it is booked.
	rig.Until(t, rig.Patience, "each is counted once, by its reason", func() bool {
		now := metrics(t, l.m)
		for _, reason := range []string{"unknown server name", "no server name", "not TLS"} {
			if now[`midspan_route_ended_total{reason="`+reason+`",route="tls"}`] != 1 {
				return false
			}
		}
		return true
	})
}

// TestSNISlow: clients that never finish their first message hold up nobody, and
// are turned away in time.
func TestSNISlow(t *testing.T) {
	l := newSNILab(t)
	const limit = 5 * time.Second // the default
	var all sync.WaitGroup
	for range 200 {
		begin := time.Now()
		c := dial(t, l.addr)
		if _, err := c.Write([]byte{22, 3, 1, 2, 0, 1, 0}); err != nil { // a record of 512 bytes begins
			t.Fatal(err)
		}
		all.Go(func() { wantSentAway(t, c, begin, limit) })
	}
	var worst time.Duration
	for range 50 {
		begin := time.Now()
		if err := l.ask(l.byGo[0], &tls.Config{}, segments(100)); err != nil {
			t.Error(err)
		}
		worst = max(worst, time.Since(begin))
	}
	if worst > limit*4/5 { // it would be all of it, or the slow ones are gone
		t.Errorf("one of 50 others took %s", worst)
	}
	all.Wait()
}
