package h1

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// request reads a whole request head.
func request(text string) (*Request, error) {
	r := new(Request)
	end, _, err := End([]byte(text), 0)
	if err == nil && end == 0 {
		err = errors.New("incomplete")
	}
	if err == nil {
		err = r.Parse([]byte(text)[:end])
	}
	return r, err
}

func response(text string, head bool) (*Response, error) {
	r := new(Response)
	end, _, err := End([]byte(text), 0)
	if err == nil && end == 0 {
		err = errors.New("incomplete")
	}
	if err == nil {
		err = r.Parse([]byte(text)[:end], head)
	}
	return r, err
}

// show is what is of interest in a head, in one line.
func (h *Head) show() string {
	s := [...]string{"none", "length", "chunked", "until close"}[h.Body]
	if h.Body == Length {
		s += fmt.Sprint(" ", h.Length)
	}
	for _, x := range []struct {
		is   bool
		text string
	}{{h.Persist, "persist"}, {h.Old, "old"}, {h.Upgrade, "upgrade"}, {h.Trailers, "trailers"}} {
		if x.is {
			s += ", " + x.text
		}
	}
	return s
}

// TestRequests: what a request is understood as. In the texts, | is the end of
// a line, and the empty line is added.
func TestRequests(t *testing.T) {
	for text, want := range map[string]string{
		"GET / HTTP/1.1|Host: a":                                        "GET a / none, persist",
		"|GET / HTTP/1.1|Host: a":                                       "GET a / none, persist",
		"get /x?y=z HTTP/1.1|host:\ta:80 \t":                            "get a:80 /x?y=z none, persist",
		"GET / HTTP/1.0":                                                "GET  / none, old",
		"GET / HTTP/1.0|Connection: keep-alive":                         "GET  / none, persist, old",
		"GET / HTTP/1.0|Connection: keep-alive, close":                  "GET  / none, old",
		"GET / HTTP/1.1|Connection: close|Connection: keep-alive|Host:": "GET  / none",
		"GET / HTTP/1.1|Host: a|Connection: , Upgrade ,TE|TE: x, trailers;q=1|Upgrade: websocket":      "GET a / none, persist, upgrade, trailers",
		"POST /a HTTP/1.1|Host: a|Content-Length: 012":                                                 "POST a /a length 12, persist",
		"POST /a HTTP/1.1|Host: a|Content-Length: 5|content-length: 5":                                 "POST a /a length 5, persist",
		"POST /a HTTP/1.1|Host: a|Transfer-Encoding: Chunked ":                                         "POST a /a chunked, persist",
		"GET http://A.example/x HTTP/1.1|Host: a.example":                                              "GET A.example /x none, persist",
		"GET https://a?x HTTP/1.1|Host: a":                                                             "GET a ?x none, persist",
		"GET http://a HTTP/1.0":                                                                        "GET a  none, old",
		"OPTIONS * HTTP/1.1|Host: [::1]:80":                                                            "OPTIONS [::1]:80 * none, persist",
		"GET /\xc3\xbc HTTP/1.1|Host: a|X: \xff\xfe":                                                   "GET a /\xc3\xbc none, persist",
		"GET / HTTP/1.1|Host: a|Connection: content-length, host, transfer-encoding|Content-Length: 3": "GET a / length 3, persist",
	} {
		r, err := request(strings.ReplaceAll(text+"||", "|", "\r\n"))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := fmt.Sprintf("%s %s %s %s", r.Method, r.Authority, r.Path, r.show()); got != want {
			t.Errorf("%s\nis    %s\nwants %s", text, got, want)
		}
	}
}

// TestBadRequests: what is refused, and why. Here | is a line's end, too.
func TestBadRequests(t *testing.T) {
	for text, want := range map[string]error{
		"GET /\r\n":                         ErrRequestLine, // HTTP/0.9
		"GET / HTTP/1.1\nHost: a":           ErrBareLF,
		"\n":                                ErrBareLF,
		"GET / HTTP/1.1|Host: a\n":          ErrBareLF,
		"||GET / HTTP/1.1|Host: a":          ErrRequestLine,
		" GET / HTTP/1.1|Host: a":           ErrRequestLine,
		"GET  / HTTP/1.1|Host: a":           ErrRequestLine,
		"GET / HTTP/1.1 |Host: a":           ErrRequestLine,
		"GET /a b HTTP/1.1|Host: a":         ErrRequestLine,
		"GET / HTTP/1.1\rHost: a|":          ErrRequestLine,
		"GET\t/ HTTP/1.1|Host: a":           ErrRequestLine,
		"G(T / HTTP/1.1|Host: a":            ErrRequestLine,
		"GET / http/1.1|Host: a":            ErrRequestLine,
		"GET / HTTP/1.10|Host: a":           ErrRequestLine,
		"GET / HTTP/1.2|Host: a":            ErrVersion,
		"GET / HTTP/2.0|Host: a":            ErrVersion,
		"GET /\x00 HTTP/1.1|Host: a":        ErrRequestLine,
		"GET /#a HTTP/1.1|Host: a":          ErrTarget,
		"GET a HTTP/1.1|Host: a":            ErrTarget,
		"GET * HTTP/1.1|Host: a":            ErrTarget,
		"GET ftp://a/ HTTP/1.1|Host: a":     ErrTarget,
		"GET http:/// HTTP/1.1|Host: a":     ErrTarget,
		"GET http://u@a/ HTTP/1.1|Host: a":  ErrTarget,
		"GET http://b/ HTTP/1.1|Host: a":    ErrHost,
		"GET http://a/ HTTP/1.1|Host: a:80": ErrHost,
		"CONNECT a:443 HTTP/1.1|Host: a":    ErrMethod,
		"CONNECT / HTTP/1.1|Host: a":        ErrMethod,

		"GET / HTTP/1.1":                    ErrHost,
		"GET / HTTP/1.1|Host: a|Host: a":    ErrHost,
		"GET / HTTP/1.0|Host: a|Host: b":    ErrHost,
		"GET / HTTP/1.1|Host: a b":          ErrHost,
		"GET / HTTP/1.1|Host: a/b":          ErrHost,
		"GET / HTTP/1.1|Host: u@a":          ErrHost,
		"GET / HTTP/1.1|Host: a:b":          ErrHost,
		"GET / HTTP/1.1|Host: :80":          ErrHost,
		"GET / HTTP/1.1|Host: ::1":          ErrHost,
		"GET / HTTP/1.1|Host: [::1":         ErrHost,
		"GET / HTTP/1.1|Host: []":           ErrHost,
		"GET / HTTP/1.1|Host: [::1]x":       ErrHost,
		"GET / HTTP/1.1|Host: a, b|Host: c": ErrHost,
		"GET / HTTP/1.1|Host : a":           ErrName,
		"GET / HTTP/1.1| Host: a":           ErrName,
		"GET / HTTP/1.1|Host: a|X: b|\tc":   ErrName,
		"GET / HTTP/1.1|Host: a|: b":        ErrName,
		"GET / HTTP/1.1|Host: a|X":          ErrName,
		"GET / HTTP/1.1|Host: a|X\x00: b":   ErrName,
		"GET / HTTP/1.1|Host: a|X(: b":      ErrName,
		"GET / HTTP/1.1|Host: a|X\xff: b":   ErrName,
		"GET / HTTP/1.1|Host: a|X: a\x00b":  ErrValue,
		"GET / HTTP/1.1|Host: a|X: a\rb":    ErrValue,
		"GET / HTTP/1.1|Host: a|X: a\r|":    ErrValue,
		"GET / HTTP/1.1|Host: a|X: a\x7f":   ErrValue,
		"GET / HTTP/1.1|Host: a|X: a\x0bb|": ErrValue,
		"GET / HTTP/1.1|Host: a|\rX: a":     ErrValue,

		"POST / HTTP/1.1|Host: a|Content-Length:":                                 ErrLength,
		"POST / HTTP/1.1|Host: a|Content-Length: -1":                              ErrLength,
		"POST / HTTP/1.1|Host: a|Content-Length: +1":                              ErrLength,
		"POST / HTTP/1.1|Host: a|Content-Length: 0x1":                             ErrLength,
		"POST / HTTP/1.1|Host: a|Content-Length: 1 1":                             ErrLength,
		"POST / HTTP/1.1|Host: a|Content-Length: 5, 5":                            ErrLength,
		"POST / HTTP/1.1|Host: a|Content-Length: 18446744073709551617":            ErrLength,
		"POST / HTTP/1.1|Host: a|Content-Length: 5|Content-Length: 6":             ErrLengths,
		"POST / HTTP/1.1|Host: a|Content-Length: 5|Transfer-Encoding: chunked":    ErrBoth,
		"POST / HTTP/1.1|Host: a|Transfer-Encoding: gzip":                         ErrCoding,
		"POST / HTTP/1.1|Host: a|Transfer-Encoding: gzip, chunked":                ErrCoding,
		"POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked, chunked":             ErrCoding,
		"POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked|Transfer-Encoding: x": ErrCoding,
		"POST / HTTP/1.1|Host: a|Transfer-Encoding:":                              ErrCoding,
		"POST / HTTP/1.1|Host: a|Transfer-Encoding: \x0bchunked":                  ErrValue,
		"POST / HTTP/1.1|Host: a|Transfer-Encoding: xchunked":                     ErrCoding,
		"POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked;a=b":                  ErrCoding,
		"POST / HTTP/1.0|Transfer-Encoding: chunked":                              ErrOldCoding,
		"POST / HTTP/1.1|Host: a|Expect: 200-ok":                                  ErrExpect,
		"GET / HTTP/1.1|Host: a|Connection: a b":                                  ErrConnection,
		"GET / HTTP/1.1|Host: a|Connection: " + strings.Repeat("x,", maxListed+1): ErrConnection,
		"GET / HTTP/1.1|Host: a|" + strings.Repeat("x: y|", maxFields):            ErrTooMany,
	} {
		if _, err := request(strings.ReplaceAll(text+"||", "|", "\r\n")); !errors.Is(err, want) {
			t.Errorf("%.100q: %v; want %v", text, err, want)
		}
	}
}

// TestResponses: what a response is understood as, or why it is not.
func TestResponses(t *testing.T) {
	for text, want := range map[string]string{
		"HTTP/1.1 200 OK|Content-Length: 5":                             "200 OK length 5, persist",
		"HTTP/1.1 200 |Content-Length: 0":                               "200  length 0, persist",
		"HTTP/1.1 200|Transfer-Encoding: chunked":                       "200  chunked, persist",
		"HTTP/1.1 200 Very OK\xff":                                      "200 Very OK\xff until close",
		"HTTP/1.0 200 OK|Content-Length: 5":                             "200 OK length 5, old",
		"HTTP/1.0 200 OK|Content-Length: 5|Connection: Keep-Alive":      "200 OK length 5, persist, old",
		"HTTP/1.1 200 OK|Content-Length: 5|Connection: close":           "200 OK length 5",
		"HTTP/1.1 204 No Content":                                       "204 No Content none, persist",
		"HTTP/1.1 304 Not Modified|Content-Length: 5":                   "304 Not Modified none, persist",
		"HTTP/1.1 100 Continue":                                         "100 Continue none, persist",
		"HTTP/1.1 101 Switching|Upgrade: websocket|Connection: upgrade": "101 Switching none, persist, upgrade",
		"HEAD HTTP/1.1 200 OK|Content-Length: 5":                        "200 OK none, persist",
		"HEAD HTTP/1.1 200 OK":                                          "200 OK none, persist",
		"HTTP/1.1 999 x|Content-Length: 5|Content-Length: 5":            "999 x length 5, persist",
		"HTTP/1.1 099 x":                                                ErrStatusLine.Text,
		"HTTP/1.1 20 x":                                                 ErrStatusLine.Text,
		"HTTP/1.1 2000":                                                 ErrStatusLine.Text,
		"HTTP/1.1  200 x":                                               ErrStatusLine.Text,
		"HTTP/1.1 200 a\x00":                                            ErrStatusLine.Text,
		"HTTP/1.1 200 a\rb":                                             ErrStatusLine.Text,
		"HTTP/2.0 200 OK":                                               ErrStatusLine.Text,
		"ICY 200 OK":                                                    ErrStatusLine.Text,
		"|HTTP/1.1 200 OK":                                              ErrStatusLine.Text,
		"x":                                                             ErrStatusLine.Text,

		"HTTP/1.1 200 OK|Transfer-Encoding: chunked|Content-Length: 5":     ErrBoth.Text,
		"HTTP/1.1 200 OK|Transfer-Encoding: gzip":                          ErrCoding.Text,
		"HTTP/1.0 200 OK|Transfer-Encoding: chunked":                       ErrOldCoding.Text,
		"HTTP/1.1 200 OK|Content-Length: 5|Content-Length: 6":              ErrLengths.Text,
		"HTTP/1.1 200 OK|A: b| c":                                          ErrName.Text,
		"HTTP/1.1 200 OK|A : b":                                            ErrName.Text,
		"HTTP/1.1 200 OK|Location: a\rSet-Cookie: b":                       ErrValue.Text,
		"HTTP/1.1 200 OK|" + strings.Repeat("Set-Cookie: b|", maxFields+1): ErrTooMany.Text,
	} {
		plain, head := strings.CutPrefix(text, "HEAD ")
		r, err := response(strings.ReplaceAll(plain+"||", "|", "\r\n"), head)
		got := fmt.Sprintf("%d %s %s", r.Status, r.Reason, r.show())
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%.100q\nis    %s\nwants %s", text, got, want)
		}
	}
}

// TestKinds: every kind is known by its name, in any case, and what only looks
// alike is not.
func TestKinds(t *testing.T) {
	names := map[string]Kind{
		"Host": Host, "Connection": Connection, "Keep-Alive": KeepAlive, "Proxy-Connection": ProxyConnection,
		"Transfer-Encoding": TransferEncoding, "TE": TE, "Upgrade": Upgrade, "Content-Length": ContentLength,
		"Expect": Expect, "Cookie": Cookie, "Forwarded": Forwarded, "X-Forwarded-For": XFor, "X-Forwarded-Proto": XProto,
		"X-Forwarded-Host": XHost, "X-Forwarded-Port": Forwarded, "X-Forwarded-Proto-Version": Forwarded, "X-Forwarded-Server": Forwarded,
		"X-Forwarded-Prefix": Forwarded, "HTTP2-Settings": Settings, "WWW-Authenticate": Challenge, "Proxy-Authenticate": Challenge,
		"Authorization": Credentials, "X-Forwarded-1": Forwarded, "X-Forwarded-": Other, "X-Forward-For": Other, "Content_Length": Other, "Hos": Other, "Transfer-Encodinx": Other, "Cookie2": Other,
	}
	seen := map[Kind]bool{Listed: true, Duplicate: true}
	for name, want := range names {
		seen[want] = true
		for _, n := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			if got := KindOf([]byte(n)); got != want {
				t.Errorf("%s is %d, want %d", n, got, want)
			}
		}
	}
	if len(seen) != Kinds {
		t.Errorf("%d kinds of %d are tested", len(seen), Kinds)
	}
}

// TestListed: what Connection names is for this hop, but nobody can take out what
// a message is delimited by, or what the proxy itself goes by.
func TestListed(t *testing.T) {
	r, err := request("POST / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nConnection: x-a, cookie, Host, content-length, x-forwarded-for\r\nCookie: c\r\n" +
		"Content-Length: 1\r\nX-Forwarded-For: b\r\nx-A: 2\r\nX-B: 3\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	var passed []string
	for i := range r.Fields {
		if f := &r.Fields[i]; !f.Kind.Hop() {
			passed = append(passed, string(r.Name(f))+"="+string(r.Value(f)))
		}
	}
	if got := strings.Join(passed, " "); got != "Host=a Content-Length=1 X-Forwarded-For=b X-B=3" {
		t.Error(got)
	}
}

// TestEnd: a head that comes byte by byte is found at the same place, and no
// byte is looked at again and again.
func TestEnd(t *testing.T) {
	text := "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nrest\r\n\r\n"
	want := len(text) - len("rest\r\n\r\n")
	next := 0
	for n := range len(text) {
		end, to, err := End([]byte(text[:n]), next)
		if err != nil || to < next || (end != 0) != (n >= want) || end != 0 && end != want {
			t.Fatal(n, end, to, err)
		}
		if end != 0 {
			break
		}
		next = to
	}
}

// chunks reads a body in pieces of that size, and returns the content and how
// many bytes of text it took.
func chunks(text string, piece int) (content string, taken int, c *Chunks, err error) {
	c = new(Chunks)
	for taken < len(text) && !c.Done() {
		b := []byte(text[taken:min(len(text), taken+piece)])
		n, data, err := c.Next(b)
		if err != nil {
			return content, taken, c, err
		}
		if data {
			content += string(b[:n])
		}
		taken += n
	}
	return content, taken, c, nil
}

// TestChunks: bodies are followed, however they are cut.
func TestChunks(t *testing.T) {
	for text, want := range map[string]string{
		"0\r\n\r\n":             "",
		"3\r\nabc\r\n0\r\n\r\n": "abc",
		"3\r\nabc\r\n00a \t\r\n0123456789\r\n0\r\n\r\n":                   "abc0123456789",
		"3;a=\"b;c\"\r\na\r\n\r\n0;x\r\nA: b\r\nC:\r\n\r\n":               "a\r\n",
		"1 ; a\r\nx\r\n0\r\nTrailer-That-Has-A-Very-Long-Name: b\r\n\r\n": "x",
	} {
		for piece := 1; piece <= len(text)+1; piece++ {
			content, taken, c, err := chunks(text+"GET", piece)
			if err != nil || content != want || taken != len(text) || !c.Done() {
				t.Errorf("%q by %d: %q, %d of %d bytes, %v", text, piece, content, taken, len(text), err)
			}
		}
		for cut := range len(text) {
			if _, _, c, err := chunks(text[:cut], 4); err != nil || c.Done() {
				t.Errorf("%q: %v, done %v", text[:cut], err, c.Done())
			}
		}
	}
}

// TestBadChunks: what is refused, and that no byte from there on is passed on.
func TestBadChunks(t *testing.T) {
	long := strings.Repeat("x", maxTrailers)
	for text, want := range map[string]struct {
		at  int
		err error
	}{
		"\r\n":                           {0, ErrChunk},
		"g\r\n":                          {0, ErrChunk},
		"-1\r\n":                         {0, ErrChunk},
		"0x1\r\n":                        {1, ErrChunk},
		" 1\r\n":                         {0, ErrChunk},
		"1\n":                            {1, ErrChunk},
		"1\r1":                           {2, ErrChunk},
		"1 1\r\n":                        {2, ErrChunk},
		"1;a\nb\r\n":                     {3, ErrChunk},
		"1;a\x00\r\n":                    {3, ErrChunk},
		"1;a\rb\r\n":                     {4, ErrChunk},
		"1\r\nab\r\n":                    {4, ErrChunk},
		"1\r\na\n":                       {4, ErrChunk},
		"1\r\na\rb":                      {5, ErrChunk},
		"0\r\n\n":                        {3, ErrTrailer},
		"0\r\nA : b\r\n":                 {4, ErrTrailer},
		"0\r\n A: b\r\n":                 {3, ErrTrailer},
		"0\r\nA: b\n":                    {7, ErrTrailer},
		"0\r\nA: b\r\n c: ":              {9, ErrTrailer},
		"0\r\nA: \x00\r\n":               {6, ErrTrailer},
		"0\r\n\rx":                       {4, ErrChunk},
		"0\r\ncontent-length: 5\r\n\r\n": {17, ErrTrailerFields},
		"0\r\nHost: 5\r\n\r\n":           {7, ErrTrailerFields},
		"0\r\nX-Forwarded-For: 5\r\n":    {18, ErrTrailerFields},
		"0\r\nAuthorization: 5\r\n":      {16, ErrTrailerFields},
		"0\r\ncookie: 5\r\n":             {9, ErrTrailerFields},
		"1000000000000000\r\n":           {maxHexDigits, ErrChunkSize},
		"0000000000000001\r\n":           {maxHexDigits, ErrChunkSize},
		"1;" + long + "\r\n":             {1 + maxExtension, ErrExtension},
		"0\r\nA: " + long + "\r\n\r\n":   {3 + maxTrailers, ErrTrailerSize},
	} {
		if _, taken, _, err := chunks(text, 1); !errors.Is(err, want.err) || taken != want.at {
			t.Errorf("%.40q: %v at %d, want %v at %d", text, err, taken, want.err, want.at)
		}
	}
}

// TestSkip: data that went by in another way counts.
func TestSkip(t *testing.T) {
	var c Chunks
	b := []byte("ff\r\n")
	if n, _, err := c.Next(b); n != 4 || err != nil || c.Rest() != 255 {
		t.Fatal(n, err, c.Rest())
	}
	c.Skip(255)
	if n, _, err := c.Next([]byte("\r\n0\r\n\r\n")); n != 7 || err != nil || !c.Done() || c.Rest() != 0 {
		t.Fatal(n, err)
	}
}

// TestReuse: nothing of one head is left in the next, and reading allocates
// nothing.
func TestReuse(t *testing.T) {
	full := []byte("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: upgrade, x, te\r\nTE: trailers\r\nExpect: 100-continue\r\n\r\n")
	plain := []byte("GET /b HTTP/1.1\r\nHost: b\r\n\r\n")
	var r Request
	allocs := testing.AllocsPerRun(100, func() {
		if r.Parse(full) != nil || r.Body != Length || !r.Continue || !r.Upgrade || !r.Trailers {
			t.Error(r.show())
		}
		if r.Parse(plain) != nil || r.Body != None || r.Length != 0 || r.Continue || r.Upgrade || r.Trailers || len(r.Fields) != 1 || !bytes.Equal(r.Authority, []byte("b")) {
			t.Error(r.show())
		}
	})
	if allocs > 0 {
		t.Error(allocs, "allocations")
	}
}

func BenchmarkRequest(b *testing.B) {
	text := []byte("GET /index.html HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\nCookie: a=b; c=d\r\nConnection: keep-alive\r\n\r\n")
	var r Request
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		end, _, _ := End(text, 0)
		if r.Parse(text[:end]) != nil {
			b.Fatal()
		}
	}
}
