package enginetest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"

	"midspan/internal/engine"
)

func transferCases() []testCase {
	return []testCase{
		{"echo", testEcho},
		{"bulk up", func(r *rig) { testBulk(r, true, false) }},
		{"bulk down", func(r *rig) { testBulk(r, false, true) }},
		{"bulk both ways at once", func(r *rig) { testBulk(r, true, true) }},
		{"one byte at a time", testSingleBytes},
		{"many short connections", testShortConnections},
		{"many idle connections", testIdleConnections},
	}
}

// amount is full, or less where that would take too long.
func amount(full, less int) int {
	if testing.Short() || raceFactor > 1 {
		return less
	}
	return full
}

func testEcho(r *rig) {
	at := r.route("", r.serve(echo))
	c := r.dial(at)
	for _, text := range []string{"a", "bc", "the quick brown fox"} {
		if err := c.ping([]byte(text)); err != nil {
			r.Fatalf("%q: %v", text, err)
		}
	}
	if err := c.bye(); err != nil {
		r.Fatal(err)
	}
	r.wantBytes(r.endsFor(c.local, engine.ClosedByClient), 22, 22)
}

// testBulk moves much, and both ends hash it.
func testBulk(r *rig, up, down bool) {
	size := map[bool]int{true: amount(256<<20, 64<<20), false: 0}
	backend := r.serve(nil)
	client, server := r.pair(r.route("", backend), backend)
	err := together(
		func() error { return pump(client, server, size[up]) },
		func() error { return pump(server, client, size[down]) },
	)
	if err != nil {
		r.Fatal(err)
	}
	r.wantBytes(r.ended(client.local), size[up], size[down])
}

// pump sends size bytes and the end from one end to the other, where they must
// have the same hash.
func pump(from, to *peer, size int) error {
	sent, came := sha256.New(), sha256.New()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(hashing{from, sent}, io.LimitReader(from.out, int64(size)))
		done <- errors.Join(err, from.CloseWrite())
	}()
	n, err := io.Copy(came, struct{ io.Reader }{to})
	return errors.Join(err, <-done, sameStream(size, int(n), sent, came))
}

func sameStream(size, n int, sent, came hash.Hash) error {
	if n != size {
		return fmt.Errorf("%d bytes came of %d", n, size)
	}
	if !bytes.Equal(sent.Sum(nil), came.Sum(nil)) {
		return fmt.Errorf("%d bytes came, but not those that were sent", n)
	}
	return nil
}

// hashing is w with a hash of what was written to it. It also hides the faster
// ways that io.Copy knows.
type hashing struct {
	w   io.Writer
	sum hash.Hash
}

func (h hashing) Write(p []byte) (int, error) {
	h.sum.Write(p)
	return h.w.Write(p)
}

// testSingleBytes is what a terminal does: first turn by turn, then both ways at
// once.
func testSingleBytes(r *rig) {
	backend := r.serve(nil)
	client, server := r.pair(r.route("", backend), backend)
	turn := func(from, to *peer) {
		if s := from.send(1); s != "sent" {
			r.Fatalf("sending one byte: %s", s)
		}
		if g := to.get(1); g.end != "" {
			r.Fatalf("one byte was sent; there came %s", g)
		}
	}
	for range 1000 {
		turn(client, server)
		turn(server, client)
	}
	dribble := func(p *peer) func() error {
		return func() error {
			for range 1000 {
				if s := p.send(1); s != "sent" {
					return errors.New(s)
				}
			}
			return p.CloseWrite()
		}
	}
	drink := func(p *peer) func() error {
		return func() error { return p.all().want(1000, "end") }
	}
	if err := together(dribble(client), dribble(server), drink(client), drink(server)); err != nil {
		r.Fatal(err)
	}
	r.wantBytes(r.ended(client.local), 2000, 2000)
}

func testShortConnections(r *rig) {
	const workers = 64
	each := amount(10_000, 2_000) / workers
	at := r.route("", r.serve(echo))
	err := parallel(workers, func(i int) error {
		const most = 64 << 10
		rng, noise := rand.New(rand.NewPCG(uint64(i), 1)), make([]byte, 2*most)
		rand.NewChaCha8([32]byte{byte(i)}).Read(noise)
		for range each {
			payload := noise[rng.IntN(most):][:1+rng.IntN(most)]
			if err := r.once(at, payload); err != nil {
				return fmt.Errorf("%d bytes: %w", len(payload), err)
			}
		}
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
	r.until("all connections have ended by themselves", func() bool {
		return r.log.reasons()[engine.ClosedByClient] == workers*each
	})
}

// once makes a connection to an echo, has payload back, and ends it.
func (r *rig) once(at netip.AddrPort, payload []byte) error {
	c, err := r.connect(at)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.ping(payload); err != nil {
		return err
	}
	return c.bye()
}

func testIdleConnections(r *rig) {
	n := 500
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil && limit.Cur/10 < uint64(n) {
		n = int(limit.Cur / 10) // each has four ends, and an engine may need more
	}
	at := r.route("", r.serve(echo))
	conns := make([]*peer, n)
	if err := parallel(n, func(i int) (err error) {
		conns[i], err = r.connect(at)
		return err
	}); err != nil {
		r.Fatal(err)
	}
	for _, text := range []string{"first", "second"} {
		for i, c := range conns {
			if err := c.ping([]byte(text)); err != nil {
				r.Fatalf("connection %d of %d, %s message: %v", i, n, text, err)
			}
		}
	}
	r.until(fmt.Sprintf("Status has %d connections", n), func() bool { return r.engine.Status().Connections == n })
	r.until(fmt.Sprintf("Conns has %d connections", n), func() bool { return len(r.engine.Conns()) == n })
	for _, c := range conns {
		c.Close()
	}
	r.until("no connection is left", func() bool { return r.engine.Status().Connections == 0 })
}
