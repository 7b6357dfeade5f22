package enginetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"midspan/internal/engine"
)

const (
	// pushLimit is more than all socket buffers of a path hold together (Linux
	// lets a receive buffer grow to 32 MiB on some machines); who can push more
	// to a reader that sleeps is not held back.
	pushLimit = 256 << 20
	// rssLimit is what a stalled connection may cost this process, in which the
	// engine is.
	rssLimit = raceFactor * 16 << 20
)

func stallCases() []testCase {
	return []testCase{
		{"stalled reader", testStalledReader},
		{"stalled writer", testStalledWriter},
		{"reset of a stalled transfer", testStalledReset},
	}
}

// stall is how long a stalled end stays so.
func stall() time.Duration {
	if os.Getenv("MIDSPAN_SLOW") != "" {
		return 10 * time.Second
	}
	return 2 * time.Second
}

// testStalledReader has a client and, on another connection, a server that stop
// reading while the other end pushes. The pushing must come to a halt, nothing
// may pile up in the engine, and once they read again all must arrive.
func testStalledReader(r *rig) {
	backend := r.serve(nil)
	at := r.route("", backend)
	client1, server1 := r.pair(at, backend)
	client2, server2 := r.pair(at, backend)
	pushes := []*push{{from: client1, to: server1}, {from: server2, to: client2}}

	debug.FreeOSMemory()
	before := rss()
	for _, p := range pushes {
		p.begin()
	}
	for _, p := range pushes {
		if err := p.untilBlocked(); err != nil {
			r.Fatal(err)
		}
	}
	time.Sleep(stall()) // the stall is the case, nothing is awaited
	grown := rss() - before
	if testing.Verbose() {
		r.Logf("two stalled connections cost %d KiB of memory", grown>>10)
	}
	if grown > rssLimit {
		r.Errorf("memory grew by %d KiB while two readers slept, want at most %d KiB", grown>>10, rssLimit>>10)
	}
	if n := len(r.engine.Conns()); n != 2 {
		r.Fatalf("%d connections are left of 2 that were only slow", n)
	}
	if err := parallel(len(pushes), func(i int) error { return pushes[i].finish() }); err != nil {
		r.Fatal(err)
	}
}

// push is a transfer to a reader that sleeps.
type push struct {
	from, to *peer
	pushed   atomic.Int64
	enough   atomic.Bool // the sender may end
	sum      chan []byte
}

func (p *push) begin() {
	p.sum = make(chan []byte, 1)
	p.from.r.wg.Go(func() {
		sum, buf := sha256.New(), make([]byte, 64<<10)
		for !p.enough.Load() && p.pushed.Load() < pushLimit {
			p.from.out.Read(buf)
			n, err := p.from.Write(buf)
			sum.Write(buf[:n])
			p.pushed.Add(int64(n))
			if err != nil {
				break
			}
		}
		p.from.CloseWrite()
		p.sum <- sum.Sum(nil)
	})
}

// untilBlocked returns when nothing was sent for a while.
func (p *push) untilBlocked() error {
	last, since := int64(-1), time.Now()
	for {
		now := p.pushed.Load()
		switch {
		case now >= pushLimit:
			return fmt.Errorf("%d MiB were sent to a reader that sleeps: there is no back-pressure", now>>20)
		case now != last:
			last, since = now, time.Now()
		case now > 0 && time.Since(since) > 500*time.Millisecond:
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (p *push) finish() error {
	stuck := p.pushed.Load()
	p.enough.Store(true)
	came := sha256.New()
	n, err := io.Copy(came, struct{ io.Reader }{p.to})
	sum := <-p.sum
	total := p.pushed.Load()
	switch {
	case err != nil:
		return fmt.Errorf("after the stall %d bytes came of %d: %w", n, total, err)
	case n != total || total < stuck:
		return fmt.Errorf("after the stall %d bytes came of %d", n, total)
	case string(came.Sum(nil)) != string(sum):
		return fmt.Errorf("after the stall %d bytes came, but not those that were sent", n)
	}
	return nil
}

// rss is the resident memory of this process.
func rss() int {
	var size, resident int
	text, _ := os.ReadFile("/proc/self/statm")
	fmt.Sscan(string(text), &size, &resident)
	return resident * os.Getpagesize()
}

// testStalledWriter rests in the middle of transfers both ways: a pause is not
// an end.
func testStalledWriter(r *rig) {
	const half = 1 << 20
	backend := r.serve(nil)
	client, server := r.pair(r.route("", backend), backend)
	write := func(p *peer) func() error {
		return func() error {
			first := p.send(half)
			time.Sleep(stall())
			if second := p.send(half); first != "sent" || second != "sent" {
				return errors.New(strings.Join([]string{first, "then", second}, " "))
			}
			return p.CloseWrite()
		}
	}
	read := func(p *peer) func() error {
		return func() error { return p.all().want(2*half, "end") }
	}
	if err := together(write(client), write(server), read(client), read(server)); err != nil {
		r.Fatal(err)
	}
	r.wantBytes(r.ended(client.local), 2*half, 2*half)
}

// testStalledReset has senders that give up because nobody reads. What the
// reader finds later must not look complete.
func testStalledReset(r *rig) {
	backend := r.serve(nil)
	at := r.route("", backend)
	client1, server1 := r.pair(at, backend)
	client2, server2 := r.pair(at, backend)
	pushes := []*push{{from: client1, to: server1}, {from: server2, to: client2}}
	for _, p := range pushes {
		p.begin()
	}
	for _, p := range pushes {
		if err := p.untilBlocked(); err != nil {
			r.Fatal(err)
		}
		p.from.reset()
		<-p.sum
	}
	for i, want := range []engine.Reason{engine.ResetByClient, engine.ResetByServer} {
		g := pushes[i].to.all()
		if g.end != "reset" || int64(g.bytes) > pushes[i].pushed.Load() {
			r.Errorf("after a reset over %d unread bytes the reader finds %s; want no more, and a reset", pushes[i].pushed.Load(), g)
		}
		r.endsFor([]*peer{client1, client2}[i].local, want)
	}
}
