package relay

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// TestSessionChaos: clients that break off anywhere, servers that come and go,
// kills, plans and certificates that change, all at once: no panic, and in the
// end nothing is left in the books, of goroutines and of descriptors.
func TestSessionChaos(t *testing.T) {
	a := newAuthority(t)
	pem := a.leaf("s.pem", "127.0.0.1")
	back := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{a.pair("s.pem")}}, echoTLS)
	dead := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	config := &tls.Config{RootCAs: a.pool(), ServerName: "127.0.0.1"}
	both := fmt.Sprintf("connect_timeout: 500ms, on_down: cut, tls: %s, upstream_tls: {ca: %s}", pem, a.file("ca.pem"))
	for _, settings := range []string{both, "mode: http, " + both} {
		goroutines, files := runtime.NumGoroutine(), openFDs(t, os.Getpid())
		s := newTheatre(t, back, settings)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						breakOff(s.addr, config)
					}
				}
			})
		}
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(3 * time.Millisecond):
				}
				if all := s.Conns(); len(all) > 0 {
					s.Kill(all[rand.IntN(len(all))].ID)
				}
			}
		})
		for i := range 20 {
			time.Sleep(50 * time.Millisecond)
			to := [...]string{back, dead, fmt.Sprintf("[%s, %s]", dead, back)}[i%3]
			s.apply(to, settings)
			a.leaf("s.pem", "127.0.0.1")
		}
		close(stop)
		wg.Wait()
		s.settled()
		if n := s.Status().Panics; n > 0 {
			t.Errorf("%d panics", n)
		}
		s.Close()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			g, f := runtime.NumGoroutine()-goroutines, openFDs(t, os.Getpid())-files
			if g <= 0 && f <= 0 {
				break
			}
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<16)
				t.Fatalf("%d goroutines and %d descriptors are left\n%s", g, f, stacks[:runtime.Stack(stacks, true)])
			}
		}
	}
}

// breakOff is a client that goes some way and then ends, in one way or another.
func breakOff(addr string, config *tls.Config) {
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(5 * time.Second))
	if rand.IntN(3) == 0 {
		_ = raw.(*net.TCPConn).SetLinger(0)
	}
	if rand.IntN(6) == 0 {
		_, _ = raw.Write([]byte{22, 3, 1}[:rand.IntN(4)])
		return
	}
	c := tls.Client(raw, config)
	if rand.IntN(6) == 0 {
		go func() {
			time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
			raw.Close()
		}()
	}
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 50000\r\n\r\n"); err != nil {
		return
	}
	go func() { _, _ = io.CopyN(c, zeros{}, int64(rand.IntN(100_000))) }()
	_, _ = io.CopyN(io.Discard, c, int64(rand.IntN(10_000)))
	if rand.IntN(3) == 0 {
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}
}
