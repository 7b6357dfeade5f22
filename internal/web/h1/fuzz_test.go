package h1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

// message is what somebody takes the bytes for.
type message struct {
	ok     bool // the head is accepted
	whole  bool // and the body is complete
	body   string
	left   int // bytes behind the message
	length int64
	err    error
}

// body reads the body that h announces from rest.
func (h *Head) body(rest []byte) (m message) {
	m.ok, m.length = true, -1
	switch h.Body {
	case None:
		m.whole, m.left, m.length = true, len(rest), 0
	case UntilClose:
		m.whole, m.body = true, string(rest)
	case Length:
		m.length = h.Length
		if int64(len(rest)) >= h.Length {
			m.whole, m.body, m.left = true, string(rest[:h.Length]), len(rest)-int(h.Length)
		}
	case Chunked:
		content, taken, c, err := chunks(string(rest), 7)
		m.whole, m.body, m.left, m.err = c.Done(), content, len(rest)-taken, err
	}
	return m
}

// theirs reads the body as net/http delimits it.
func theirs(body io.ReadCloser, length int64, b *bufio.Reader) message {
	m := message{ok: true, length: length}
	content, err := io.ReadAll(body)
	m.whole, m.body, m.left, m.err = err == nil, string(content), b.Buffered(), err
	return m
}

// compare fails where both accept a message and see different ones, or where
// ours is complete although theirs is not.
func compare(t *testing.T, us, them message) {
	t.Helper()
	if us.length >= 0 && them.length >= 0 && us.length != them.length {
		t.Fatalf("length %d, theirs %d", us.length, them.length)
	}
	if us.whole && !them.whole && !excused(them.err) {
		t.Fatalf("complete here, not there: %v", them.err)
	}
	if us.whole && them.whole && (us.body != them.body || us.left != them.left) {
		t.Fatalf("body %q and %d bytes more; theirs %q and %d", us.body, us.left, them.body, them.left)
	}
}

// excused: net/http reads trailers as fields and refuses some that are well
// formed: what its own Trailer rules forbid, and header keys that it cannot
// canonicalize. We pass trailers on and do not merge them into anything. That it
// does not see their end is no excuse. And it bounds what extensions come to in a
// whole body; we bound each.
func excused(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	endless := strings.Contains(text, "suspiciously long") || strings.Contains(text, "unexpected EOF")
	return strings.Contains(text, "trailer") && !endless || strings.Contains(text, "too much non-data")
}

// buffered makes a reader that holds all of b, so that what is left can be
// counted.
func buffered(b []byte) *bufio.Reader {
	r := bufio.NewReaderSize(bytes.NewReader(b), len(b)+16)
	r.Peek(len(b))
	return r
}

// FuzzRequest compares with net/http.ReadRequest. We may refuse more; what we
// accept and it refuses is named here.
func FuzzRequest(f *testing.F) {
	for _, s := range seedRequests {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		end := endInSteps(t, b)
		if end == 0 {
			return
		}
		var r Request
		if err := r.Parse(b[:end]); err != nil {
			return
		}
		checkFields(t, &r.Head)
		// RFC 9112, section 2.2: an empty line before the request line is left
		// out. net/http does not do so.
		plain := bytes.TrimPrefix(b, []byte("\r\n"))
		reader := buffered(plain)
		req, err := http.ReadRequest(reader)
		if err != nil {
			// It parses the target as a URL, and we pass it on: a bad %-escape,
			// or a host in absolute form that is none.
			if !strings.Contains(err.Error(), "parse ") {
				t.Fatalf("accepted, theirs: %v", err)
			}
			return
		}
		if req.Method != string(r.Method) || req.Close == r.Persist {
			t.Fatalf("method %q close %v, ours %q persist %v", req.Method, req.Close, r.Method, r.Persist)
		}
		if req.Host != string(r.Authority) {
			t.Fatalf("host %q, ours %q", req.Host, r.Authority)
		}
		us := r.body(b[end:])
		compare(t, us, theirs(req.Body, req.ContentLength, reader))
	})
}

// FuzzResponse compares with net/http.ReadResponse.
func FuzzResponse(f *testing.F) {
	for _, s := range seedResponses {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, head bool) {
		end := endInSteps(t, b)
		if end == 0 {
			return
		}
		var r Response
		if err := r.Parse(b[:end], head); err != nil {
			return
		}
		checkFields(t, &r.Head)
		reader := buffered(b)
		req := &http.Request{Method: "GET"}
		if head {
			req.Method = "HEAD"
		}
		resp, err := http.ReadResponse(reader, req)
		if err != nil {
			t.Fatalf("accepted, theirs: %v", err)
		}
		if resp.StatusCode != r.Status {
			t.Fatalf("status %d, ours %d", resp.StatusCode, r.Status)
		}
		us := r.body(b[end:])
		if r.Body == None {
			us.length = -1 // theirs is what the field says
		}
		compare(t, us, theirs(resp.Body, resp.ContentLength, reader))
	})
}

// FuzzChunks: however a body is cut, the outcome is the same, and what is
// accepted net/http reads in the same way.
func FuzzChunks(f *testing.F) {
	for _, s := range seedChunks {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, piece uint8) {
		content, taken, c, err := chunks(string(b), len(b)+1)
		content2, taken2, c2, err2 := chunks(string(b), int(piece)+1)
		if err != err2 || c.Done() != c2.Done() || err == nil && (content != content2 || taken != taken2) {
			t.Fatalf("%q %d %v; by %d: %q %d %v", content, taken, err, piece, content2, taken2, err2)
		}
		if !c.Done() {
			return
		}
		text := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
		reader := buffered(append([]byte(text), b...))
		req, err := http.ReadRequest(reader)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, message{whole: true, body: content, left: len(b) - taken, length: -1}, theirs(req.Body, -1, reader))
	})
}

// endInSteps finds the end of the head in growing pieces, and at once.
func endInSteps(t *testing.T, b []byte) int {
	end, _, err := End(b, 0)
	next := 0
	for n := 0; n <= len(b); n += 5 {
		e, to, stepErr := End(b[:n], next)
		if e != 0 || stepErr != nil {
			if e != end && end != 0 || stepErr != err {
				t.Fatalf("end %d %v, in steps %d %v", end, err, e, stepErr)
			}
			break
		}
		next = to
	}
	if err != nil {
		return 0
	}
	return end
}

// checkFields: the lines of a head are all of it, and no value has a line's end
// in it.
func checkFields(t *testing.T, h *Head) {
	at := h.Start
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.At != at || f.Colon <= f.At || f.Value <= f.Colon || f.Stop < f.Value || f.End < f.Stop+2 {
			t.Fatalf("field %d: %+v", i, f)
		}
		if bytes.ContainsAny(h.Value(f), "\r\n\x00") || bytes.ContainsAny(h.Name(f), "\r\n\x00: \t") {
			t.Fatalf("field %q: %q", h.Name(f), h.Value(f))
		}
		at = f.End
	}
	if int(at)+2 != len(h.Bytes) {
		t.Fatalf("fields end at %d of %d", at, len(h.Bytes))
	}
}

var seedRequests = []string{
	"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\n",
	"\r\nGET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcd",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabcd",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\nrest",
	"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x\r\nTE: trailers\r\nX: y\r\n z\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\n\r\n",
	"GET / HTTP/1.1\nHost: a\n\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
}

var seedResponses = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\n\r\n",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
	"HTTP/1.0 200 OK\r\n\r\nuntil the end",
	"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabc",
	"HTTP/1.1 204\r\nTransfer-Encoding: chunked\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
}

var seedChunks = []string{
	"0\r\n\r\n",
	"3\r\nabc\r\n00a \r\n0123456789\r\n0;x=y\r\nA: b\r\nTrailer-That-Has-A-Very-Long-Name:\r\n\r\nrest",
	"ffffffffffffffff\r\n",
	"1\nx\n0\n\n",
	strings.Repeat("1;"+strings.Repeat("x", maxExtension-1)+"\r\na\r\n", 20) + "0\r\n\r\n",
}
