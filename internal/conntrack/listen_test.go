package conntrack

import (
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// story collects what a listener tells, by the flow's ID.
type story struct {
	mu     sync.Mutex
	events []told
}

type told struct {
	event Event
	flow  Flow
}

func follow(t *testing.T, mark uint32, events ...Event) *story {
	t.Helper()
	l, err := Listen(mark, ^uint32(0), 1<<20, events...)
	if err != nil {
		t.Fatal(err)
	}
	s := &story{}
	done := make(chan error)
	go func() {
		for {
			err := l.Receive(func(e Event, f *Flow) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.events = append(s.events, told{e, *f})
			})
			if err != nil {
				done <- err
				return
			}
		}
	}()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("receive: %v", err)
		}
	})
	return s
}

// of returns what was told of the flow from source port p.
func (s *story) of(p uint16) (events []told) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.flow.Orig.Src.Port() == p {
			events = append(events, e)
		}
	}
	return events
}

func (s *story) has(p uint16, e Event, state State) bool {
	return slices.ContainsFunc(s.of(p), func(x told) bool { return x.event == e && x.flow.State == state })
}

func port(c *net.TCPConn) uint16 { return addrOf(c.LocalAddr()).Port() }

func TestEvents(t *testing.T) {
	if !alone(t) {
		return
	}
	nft(t, loopback)
	sysctl(t, "net/netfilter/nf_conntrack_tcp_timeout_close", "1")
	all, ends, other := follow(t, 0x101), follow(t, 0x101, Destroy), follow(t, 0x202)
	c := open(t)
	for _, address := range []string{"127.0.0.1:9001", "[::1]:9001"} {
		l := listen(t, address)
		for _, clientFirst := range []bool{true, false} {
			client, server := pair(t, address, l)
			p := port(client)
			first, second := client, server
			if !clientFirst {
				first, second = server, client
			}
			within(t, 30*time.Second, "established", func() bool { return all.has(p, Update, Established) })
			if err := first.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := second.Read(make([]byte, 1)); err == nil {
				t.Fatal("no end")
			}
			fins := func(e told) bool {
				return e.flow.State == FinWait && e.flow.ClientFin == clientFirst && e.flow.ServerFin != clientFirst
			}
			within(t, 30*time.Second, "FIN_WAIT with who closed", func() bool { return slices.ContainsFunc(all.of(p), fins) })
			second.Close()
			within(t, 30*time.Second, "TIME_WAIT", func() bool { return all.has(p, Update, TimeWait) })
			if f, err := c.Get(all.of(p)[0].flow.Orig); err != nil || f.State != TimeWait || f.ClientFin != clientFirst || f.ServerFin == clientFirst {
				t.Errorf("after both FINs: %+v, %v", f, err)
			}
		}

		client, server := pair(t, address, l)
		p := port(client)
		if err := server.SetLinger(0); err != nil {
			t.Fatal(err)
		}
		server.Close()
		within(t, 30*time.Second, "CLOSE", func() bool { return all.has(p, Update, Close) })
		l.Close()
	}

	// A flow with an end that is told in full.
	sysctl(t, "net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1")
	l := listen(t, "127.0.0.1:9001")
	client, server := pair(t, "127.0.0.1:9001", l)
	if _, err := client.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	p := port(client)
	client.Close()
	server.Close()
	// A dump clears away what has run out of time.
	within(t, 30*time.Second, "destroy", func() bool { dump(t, c, 0x101, 0x101); return len(ends.of(p)) == 1 })
	end := ends.of(p)[0]
	whole := all.of(p)
	if whole[0].event != New || whole[0].flow.State != SynSent || whole[len(whole)-1].event != Destroy || whole[0].flow.ID != end.flow.ID {
		t.Errorf("story %+v", whole)
	}
	if f := end.flow; end.event != Destroy || f.Mark != 0x101 || f.Up.Bytes < 1000 || f.Down.Packets < 2 || f.Stop.Sub(f.Start) < time.Second/2 || f.State == 0 {
		t.Errorf("end %+v", end)
	}
	if len(other.of(p)) != 0 {
		t.Errorf("another mark's listener got %+v", other.of(p))
	}
}

// With nf_conntrack_events=1 a listener hears of flows older than itself.
func TestEventsOfOlderFlows(t *testing.T) {
	if !alone(t) {
		return
	}
	nft(t, loopback)
	sysctl(t, "net/netfilter/nf_conntrack_events", "1")
	c := open(t)
	client, _ := pair(t, "127.0.0.1:9001", listen(t, "127.0.0.1:9001"))
	all := follow(t, 0x101)
	if err := c.Delete(&dump(t, c, 0x101, 0x101)[0]); err != nil {
		t.Fatal(err)
	}
	within(t, 30*time.Second, "destroy", func() bool { return len(all.of(port(client))) == 1 })
}

// A listener that is slow hears that it missed something, and goes on.
func TestOverrun(t *testing.T) {
	if !alone(t) {
		return
	}
	nft(t, loopback)
	l, err := Listen(0, 0, 4096, New)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	target := listen(t, "127.0.0.1:9001")
	flood := func() {
		for range 50 {
			pair(t, "127.0.0.1:9001", target)
		}
	}
	for range 2 {
		flood()
		got := 0
		for err = nil; err == nil; {
			err = l.Receive(func(Event, *Flow) { got++ })
		}
		if !errors.Is(err, ErrOverrun) || got >= 50 {
			t.Fatalf("%d events, then %v", got, err)
		}
		for { // what came before the overrun is still there
			before := got
			pair(t, "127.0.0.1:9001", target)
			if err := l.Receive(func(Event, *Flow) { got++ }); err == nil && got == before+1 {
				break
			}
		}
	}
}

func TestCloseDuringReceive(t *testing.T) {
	if !alone(t) {
		return
	}
	fds := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	var before int
	for i := range 20 {
		if i == 1 { // the poller has its descriptors now
			before = fds()
		}
		c, err := Open()
		if err != nil {
			t.Fatal(err)
		}
		l, err := Listen(0, 0, 1<<16)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- l.Receive(func(Event, *Flow) {}) }()
		time.Sleep(time.Duration(i%3) * time.Millisecond)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		select {
		case err := <-done:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("receive: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("Receive still waits")
		}
		if err := l.Receive(func(Event, *Flow) {}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("receive after close: %v", err)
		}
		c.Close()
	}
	if after := fds(); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	within(t, 30*time.Second, "no goroutines left", func() bool { return runtime.NumGoroutine() <= 3 })
}
