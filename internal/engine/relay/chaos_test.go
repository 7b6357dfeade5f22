package relay

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestOpeningChaos sends what nobody should: openings that are changed at random,
// cut at random and ended in any way. Afterwards nothing may be left of any, on
// no counter and in no table, and a good one still comes through.
func TestOpeningChaos(t *testing.T) {
	server := echoServer(t)
	e, err := New(Options{Loops: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	port := freePort(t)
	text := fmt.Sprintf(`
consumers: {one: {link_id: 1, max_connections: 20, routes: [plain, names]}, two: {from: 192.0.2.0/24, routes: [plain, names]}}
defaults: {proxy_protocol: {timeout: 300ms}}
routes:
  plain: {listen: "127.0.0.1:%[1]d", send_proxy: v2, to: {one: %[4]q, default: %[4]q}}
  names: {listen: "127.0.0.1:%[2]d", mode: sni, sni: {timeout: 300ms}, to: {a.example.com: %[4]q, default: %[4]q}}
  bare: {listen: "127.0.0.1:%[3]d", mode: sni, proxy_protocol: off, sni: {timeout: 300ms, not_tls: reset}, to: {a.example.com: %[4]q}}
`, port, freePort(t), freePort(t), server)
	p, err := planFor(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	var addrs []string
	for _, r := range p.Routes {
		addrs = append(addrs, fmt.Sprintf("127.0.0.1:%d", r.Listen[0].From))
	}
	good := linkHeader(1)
	seeds := []string{
		good, linkHeader(9), "PROXY TCP4 192.0.2.7 198.51.100.9 40000 1433\r\n", "PROXY UNKNOWN\r\n", good[:12] + "\x20\x00\x00\x05hello",
		clientHello("a.example.com"), clientHello("nobody.example.com"), "GET / HTTP/1.1\r\n\r\n", strings.Repeat("x", 70_000),
	}
	before := openFDs(t, os.Getpid())
	n := 3000
	if testing.Short() || raceDetector {
		n = 600
	}
	var workers sync.WaitGroup
	for w := range 24 {
		rnd := rand.New(rand.NewPCG(5, uint64(w)))
		workers.Go(func() {
			for range n / 24 {
				if err := mess(rnd, addrs[rnd.IntN(len(addrs))], seeds); err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	eventually(t, "all have ended", func() bool {
		s := e.Status()
		left := s.Connections
		for _, c := range s.Consumers {
			left += c.Active
		}
		for _, r := range s.Routes {
			left += r.Counters.Active
			for _, ep := range r.Endpoints {
				left += ep.Active
			}
		}
		return left == 0
	})
	if n := e.Status().Panics; n > 0 {
		t.Errorf("%d panics", n)
	}
	for _, l := range e.loops {
		l.call(func() {
			if len(l.timers) > 0 || len(l.ready) > 0 {
				t.Errorf("%d timers and %d flows are left", len(l.timers), len(l.ready))
			}
		})
	}
	c := dialTo(t, addrs[0])
	if _, err := io.WriteString(c, good+"hello"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(good)+5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != good+"hello" {
		t.Errorf("at the end %q comes back, %v", b, err)
	}
	c.Close()
	eventually(t, "no descriptor is left", func() bool { return openFDs(t, os.Getpid()) <= before+int(e.extra.Load()) })
}

// mess makes one connection.
func mess(rnd *rand.Rand, addr string, seeds []string) error {
	conn, err := net.Dial("tcp", addr)
	if errors.Is(err, syscall.ECONNRESET) {
		return nil // it was accepted, waited for longer than its opening may, and was refused, all before Dial looked
	}
	if err != nil {
		return err
	}
	c := conn.(*net.TCPConn)
	defer c.Close()
	stream := ""
	for range 1 + rnd.IntN(3) {
		stream += seeds[rnd.IntN(len(seeds))]
	}
	b := []byte(stream)
	for range rnd.IntN(3) {
		b[rnd.IntN(min(len(b), 400))] = byte(rnd.Uint32())
	}
	b = b[:rnd.IntN(len(b)+1)]
	for len(b) > 0 {
		piece := b[:1+rnd.IntN(len(b))]
		if _, err := c.Write(piece); err != nil {
			return nil // it was refused
		}
		b = b[len(piece):]
		if rnd.IntN(2) == 0 {
			time.Sleep(time.Duration(rnd.IntN(2000)) * time.Microsecond)
		}
	}
	switch rnd.IntN(4) {
	case 0:
		_ = c.SetLinger(0) // reset, unless that has happened
		return nil
	case 1:
		return nil
	case 2:
		if err := c.CloseWrite(); err != nil {
			return nil
		}
	}
	for got := make([]byte, 64<<10); ; { // until it is over, or rests
		if err := c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			return err
		}
		if _, err := c.Read(got); err != nil {
			return nil
		}
	}
}
