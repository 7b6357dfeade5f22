package web

import (
	"sync/atomic"
	"time"

	"midspan/internal/web/h1"
)

// strict follows the bytes of a client's connection that net/http serves, and finds
// what package h1 refuses: net/http takes lines that end in LF alone, and both
// Content-Length and Transfer-Encoding, which another proxy in front may understand
// in another way. It is of no use for HTTP/2, which frames in one way only.
type strict struct {
	c       *conn
	max     int    // bytes of a head; net/http has an answer of its own before
	head    []byte // what has come of one
	next    int    // see h1.End
	begun   bool   // there was a head
	off     bool   // it is HTTP/2
	req     h1.Request
	left    int64 // of a body with a length
	chunked bool  // it is in such a body
	chunks  h1.Chunks
	refused atomic.Bool // a head was
}

// netHeader is what net/http allows in a head beyond MaxHeaderBytes, with some more.
const netHeader = 8 << 10

// noRequest is read in place of what is refused: net/http answers it with 400, and
// in a body it is an error.
const noRequest = "\x00\r\n\r\n"

// pass tells how much of b is to be read, and whether what follows is refused.
func (g *strict) pass(b []byte) (n int, refused bool) {
	for n < len(b) && !g.off {
		m, err := g.step(b[n:])
		if err != nil {
			return n, true
		}
		n += m
	}
	return len(b), false
}

// step looks at the next piece of b.
func (g *strict) step(b []byte) (n int, err error) {
	switch {
	case g.left > 0:
		n = int(min(int64(len(b)), g.left))
		g.left -= int64(n)
		return n, nil
	case g.chunked:
		n, _, err = g.chunks.Next(b)
		g.chunked = !g.chunks.Done()
		return n, err
	}
	had := len(g.head)
	g.head = append(g.head, b...)
	end := 0
	if end, g.next, err = h1.End(g.head, g.next); err == nil && end == 0 {
		if len(g.head) <= g.max {
			return len(b), nil
		}
		err = h1.ErrTooLarge
	}
	if err == nil {
		err = g.whole(g.head[:end])
	}
	if err != nil {
		g.record(err)
		return 0, err
	}
	g.head, g.next = nil, 0
	return end - had, nil
}

// whole takes a whole head.
func (g *strict) whole(head []byte) error {
	if g.off = !g.begun && string(head) == preface; g.off {
		return nil
	}
	g.begun = true
	if err := g.req.Parse(head); err != nil {
		return err
	}
	switch g.req.Body {
	case h1.Length:
		g.left = g.req.Length
	case h1.Chunked:
		g.chunked, g.chunks = true, h1.Chunks{}
	}
	return nil
}

// record reports a head that is refused, of which ServeHTTP never hears.
func (g *strict) record(err error) {
	g.refused.Store(true)
	if record := g.c.p.record; record != nil {
		record(&Exchange{From: g.c.from, Protocol: "HTTP/1.1", Status: 400, Start: time.Now(), Reason: BadRequest, Err: err})
	}
}
