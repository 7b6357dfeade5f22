package enginetest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
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

// route is a plan with one route from a free port to servers, and its listener's
// address is the result.
func (r *rig) route(settings string, servers ...*server) peerAddr {
	r.Helper()
	at := r.freePort()
	to := make([]string, len(servers))
	for i, s := range servers {
		to[i] = fmt.Sprintf("%q", s.addr)
	}
	r.apply("route: { listen: %q, to: [%s] %s }", at, join(to), settings)
	return at
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
	end := r.endsFor(c.local, engine.ClosedByClient)
	if end.BytesUp != 22 || end.BytesDown != 22 {
		r.Errorf("the record says %d bytes up and %d down, want 22 and 22", end.BytesUp, end.BytesDown)
	}
}

// testBulk moves much, and both ends hash it.
func testBulk(r *rig, up, down bool) {
	size := int64(256 << 20)
	if testing.Short() {
		size = 64 << 20
	}
	backend := r.serve(nil)
	client, server := r.pair(r.route("", backend), backend)
	move := func(from, to *peer, wanted bool) error {
		if !wanted {
			size := int64(0)
			return pump(from, to, size)
		}
		return pump(from, to, size)
	}
	err := parallel(2, func(i int) error {
		if i == 0 {
			return move(client, server, up)
		}
		return move(server, client, down)
	})
	if err != nil {
		r.Fatal(err)
	}
	end := r.ended(client.local)
	if want := [2]uint64{uint64(size) * b2u(up), uint64(size) * b2u(down)}; end.BytesUp != want[0] || end.BytesDown != want[1] {
		r.Errorf("the record says %d bytes up and %d down, want %d and %d", end.BytesUp, end.BytesDown, want[0], want[1])
	}
}

// pump sends size bytes and the end from one end to the other, where they must
// have the same hash.
func pump(from, to *peer, size int64) error {
	sent, came := sha256.New(), sha256.New()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(onlyWriter{from, sent}, io.LimitReader(from.out, size))
		done <- errors.Join(err, from.CloseWrite())
	}()
	n, err := io.Copy(came, onlyReader{to})
	err = errors.Join(err, <-done)
	switch {
	case err != nil:
		return fmt.Errorf("%d of %d bytes came: %w", n, size, err)
	case n != size:
		return fmt.Errorf("%d of %d bytes came", n, size)
	case !bytes.Equal(sent.Sum(nil), came.Sum(nil)):
		return fmt.Errorf("%d bytes came, but not those that were sent", n)
	}
	return nil
}

// onlyWriter hides what io.Copy would do faster without seeing the bytes, and
// hashes them.
type onlyWriter struct {
	w   io.Writer
	sum hash.Hash
}

func (w onlyWriter) Write(p []byte) (int, error) {
	w.sum.Write(p)
	return w.w.Write(p)
}

type onlyReader struct{ io.Reader }

// testSingleBytes is what a terminal does: first turn by turn, then both ways at
// once.
func testSingleBytes(r *rig) {
	backend := r.serve(nil)
	client, server := r.pair(r.route("", backend), backend)
	for i := range 1000 {
		if s := client.send(1); s != "sent" {
			r.Fatalf("byte %d up: %s", i, s)
		}
		if g := server.get(1); g.end != "" {
			r.Fatalf("byte %d up: %s", i, g)
		}
		if s := server.send(1); s != "sent" {
			r.Fatalf("byte %d down: %s", i, s)
		}
		if g := client.get(1); g.end != "" {
			r.Fatalf("byte %d down: %s", i, g)
		}
	}
	dribble := func(p *peer) error {
		for range 2000 {
			if s := p.send(1); s != "sent" {
				return errors.New(s)
			}
		}
		return p.CloseWrite()
	}
	drink := func(p *peer) error {
		if g := p.all(); g != (got{2000, "end"}) {
			return errors.New(g.String())
		}
		return nil
	}
	err := parallel(4, func(i int) error {
		return [4]error{0: nil}[0] // replaced below
	})
	_ = err
	work := []func() error{
		func() error { return dribble(client) }, func() error { return drink(server) },
		func() error { return dribble(server) }, func() error { return drink(client) },
	}
	if err := parallel(len(work), func(i int) error { return work[i]() }); err != nil {
		r.Fatal(err)
	}
}
