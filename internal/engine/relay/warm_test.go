package relay

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"midspan/internal/engine"
)

func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	const patience = 30 * time.Second // a machine may be slow
	for deadline := time.Now().Add(patience); !happened(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// warmed is an engine of two loops that keeps four connections to a server.
func warmed(t *testing.T, to string, log *slog.Logger) (e *Engine, addr string) {
	t.Helper()
	e, err := New(Options{Loops: 2, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	addr = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	warmApply(t, e, warmText(addr, to, 4))
	return e, addr
}

func warmText(addr, to string, n int) string {
	return fmt.Sprintf("routes: {r: {listen: %q, to: %q, warm: %d}}", addr, to, n)
}

func warmApply(t *testing.T, e *Engine, text string) {
	t.Helper()
	p, err := planFor(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(context.Background(), p); err != nil {
		t.Fatal(err)
	}
}

// TestWarm: a client gets a connection that is there already, and it is replaced.
func TestWarm(t *testing.T) {
	g := newGuests(t, echo)
	e, addr := warmed(t, g.addr, nil)
	eventually(t, "four connections are ready", func() bool { return g.count() == 4 })
	if s := e.Status(); s.Connections != 0 || s.Routes[0].Endpoints[0].Active != 0 || s.Routes[0].Endpoints[0].Warm != 4 {
		t.Errorf("warm connections are counted as connections: %+v", s)
	}
	var clients []net.Conn
	for i := range 6 {
		c := ping(t, addr)
		defer c.Close()
		clients = append(clients, c)
		eventually(t, "there are four more than clients", func() bool { return g.count() == 4+i+1 })
	}
	for _, c := range clients {
		if err := exchange(c); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	eventually(t, "those of the clients have ended", func() bool { return g.count() == 4 })
	if got := e.Status().Routes[0].Endpoints[0].Connects; got != 6 {
		t.Errorf("%d connects counted, want those of 6 clients", got)
	}

	g.closeAll()
	eventually(t, "those that the server ended are replaced", func() bool { return g.accepted.Load() >= 14 && g.count() == 4 })
	ping(t, addr).Close()

	warmApply(t, e, warmText(addr, g.addr, 0))
	eventually(t, "none are kept when none are wanted", func() bool { return g.count() == 0 })
	eventually(t, "all descriptors are given back", func() bool { return e.extra.Load() <= 1 }) // a spare socket
	ping(t, addr).Close()
}

// TestWarmDrain: a route that no longer listens needs no connections ready, and
// an engine that is closed leaves none.
func TestWarmDrain(t *testing.T) {
	g := newGuests(t, echo)
	e, addr := warmed(t, g.addr, nil)
	eventually(t, "four connections are ready", func() bool { return g.count() == 4 })
	p, err := planFor(warmText(addr, g.addr, 4))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(context.Background(), p.WithoutListeners()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "none are kept in a drain", func() bool { return g.count() == 0 })
	warmApply(t, e, warmText(addr, g.addr, 2))
	eventually(t, "two connections are ready", func() bool { return g.count() == 2 })
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "none are left", func() bool { return g.count() == 0 })
}

// TestWarmDrainBusy: a drain may begin while connections are being accepted.
func TestWarmDrainBusy(t *testing.T) {
	g := newGuests(t, echo)
	for range 5 {
		e, addr := warmed(t, g.addr, nil)
		stop := make(chan struct{})
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if c, err := net.Dial("tcp", addr); err == nil {
						_ = exchange(c) // it may have been made too late
						c.Close()
					}
				}
			})
		}
		time.Sleep(50 * time.Millisecond) // of load
		p, err := planFor(warmText(addr, g.addr, 4))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Apply(context.Background(), p.WithoutListeners()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // of load
		close(stop)
		clients.Wait()
		eventually(t, "none are kept in a drain", func() bool { return g.count() == 0 })
		if n := e.Status().Panics; n > 0 {
			t.Errorf("%d panics", n)
		}
		e.Close()
	}
}

// TestWarmRecord: a connection over a warm one is one that was made, in the log.
func TestWarmRecord(t *testing.T) {
	g := newGuests(t, echo)
	records := make(chan *engine.Record, 10)
	e, err := New(Options{Loops: 1, Hooks: engine.Hooks{Record: func(r *engine.Record) { records <- r }, Wants: func(end bool) bool { return end }}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	warmApply(t, e, warmText(addr, g.addr, 1))
	eventually(t, "the loop knows of one that is ready", func() (ready bool) {
		e.loops[0].call(func() {
			for _, w := range e.loops[0].warm.conns {
				ready = ready || w != nil && w.connected
			}
		})
		return ready
	})
	ping(t, addr).Close()
	if r := <-records; r.Connect <= 0 || r.Connect > time.Millisecond || r.Listener.String() != addr {
		t.Errorf("connect %s, listener %s", r.Connect, r.Listener)
	}
	select {
	case r := <-records:
		t.Errorf("a record that nobody wants: %+v", r)
	default:
	}
}

// TestWarmMoves: connections to an address that is no server's any more go.
func TestWarmMoves(t *testing.T) {
	before, after := newGuests(t, echo), newGuests(t, echo)
	e, addr := warmed(t, before.addr, nil)
	eventually(t, "four connections are ready", func() bool { return before.count() == 4 })
	warmApply(t, e, warmText(addr, after.addr, 4))
	eventually(t, "they have moved", func() bool { return before.count() == 0 && after.count() == 4 })
	n := before.accepted.Load()
	for range 8 {
		ping(t, addr).Close()
	}
	if before.accepted.Load() != n {
		t.Error("a client reached the former server")
	}
}

// TestWarmServerFirst: with a server that speaks first it is said that this is
// of no use, and clients get what they would get without.
func TestWarmServerFirst(t *testing.T) {
	g := newGuests(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "hello\n")
		echo(c)
	})
	var said lockedBuffer
	_, addr := warmed(t, g.addr, slog.New(slog.NewTextHandler(&said, nil)))
	eventually(t, "it is said", func() bool { return strings.Contains(said.String(), "speaks on a connection") })
	eventually(t, "no connection is kept", func() bool { return g.count() == 0 })
	time.Sleep(2 * warmEvery) // in which no more are to be made than were under way
	if n := g.accepted.Load(); n > 4 {
		t.Errorf("%d connections were made to a server that speaks first", n)
	}
	made := g.accepted.Load()
	time.Sleep(warmEvery + warmEvery/2)
	if n := g.accepted.Load(); n != made {
		t.Errorf("%d connections were made to a server that speaks first, then %d more", made, n-made)
	}
	for range 5 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // it cannot fail on an open socket
		b := make([]byte, 6)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello\n" {
			t.Errorf("%q, %v", b, err)
		}
	}
}

// TestWarmNoServer: what cannot be reached is asked for again, gently.
func TestWarmNoServer(t *testing.T) {
	g := newGuests(t, echo)
	port := freePort(t)
	e, addr := warmed(t, fmt.Sprintf("127.0.0.1:%d", port), nil)
	time.Sleep(1200 * time.Millisecond) // more than one attempt
	eventually(t, "no descriptor is held for a server that is not there", func() bool { return e.extra.Load() == 0 })
	warmApply(t, e, warmText(addr, g.addr, 4))
	eventually(t, "four connections are ready", func() bool { return g.count() == 4 })
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
