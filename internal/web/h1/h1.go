// Package h1 reads the heads of HTTP/1.1 messages and the framing of their
// bodies, for a proxy: in place, without allocating, and strictly. Whatever two
// programs could understand in two ways is refused, since the server behind the
// proxy may be the other one: that is what request smuggling lives on.
//
// The rules are those of RFC 9110 and RFC 9112; where these leave a choice
// between repairing a message and refusing it, it is refused.
//
// Limits: HTTP/1.0 and HTTP/1.1 only. The one transfer coding is chunked.
// Values are passed on as they are and not decoded.
package h1

import "bytes"

// Error is why a message is refused.
type Error struct {
	Status int    // what to answer, where it is a request that is refused
	Text   string // in plain words, without anything the peer has sent
}

// Error implements error.
func (e *Error) Error() string { return e.Text }

func bad(text string) *Error { return &Error{400, text} }

// The refusals.
var (
	ErrBareLF        = bad("a line that ends in LF without CR")
	ErrRequestLine   = bad("malformed request line")
	ErrTarget        = bad("malformed request target")
	ErrMethod        = &Error{501, "the method CONNECT is for forward proxies"}
	ErrVersion       = &Error{505, "HTTP version other than 1.0 and 1.1"}
	ErrStatusLine    = bad("malformed status line")
	ErrName          = bad("malformed field name, or space before a colon, or a folded line")
	ErrValue         = bad("control character in a field value")
	ErrTooLarge      = &Error{431, "the head is too large"}
	ErrTooMany       = &Error{431, "too many fields"}
	ErrHost          = bad("Host is missing, repeated, malformed or not that of the target")
	ErrLength        = bad("malformed Content-Length")
	ErrLengths       = bad("several Content-Length that differ")
	ErrBoth          = bad("both Content-Length and Transfer-Encoding")
	ErrCoding        = &Error{501, "Transfer-Encoding other than chunked"}
	ErrOldCoding     = bad("Transfer-Encoding in HTTP/1.0")
	ErrConnection    = bad("malformed Connection")
	ErrExpect        = &Error{417, "Expect other than 100-continue"}
	ErrChunk         = bad("malformed chunk")
	ErrChunkSize     = bad("chunk size is too large")
	ErrExtension     = bad("chunk extension is too long")
	ErrTrailer       = bad("malformed trailer")
	ErrTrailerFields = bad("a trailer field that belongs to the head")
	ErrTrailerSize   = bad("trailers are too large")
)

// Bounds on what is accepted, whatever the caller's own bound on a head's size.
const (
	maxFields    = 128
	maxListed    = 32       // options in Connection
	maxDigits    = 18       // of a Content-Length: below 2^63
	maxHexDigits = 15       // of a chunk size: below 2^60
	maxExtension = 1 << 10  // bytes after the size in a chunk's first line
	maxTrailers  = 16 << 10 // bytes
)

// End looks for the end of the head that begins at b[0]. The search goes on at
// from, which is 0 at first and then what the last call returned as next. While
// the head is not complete, end is 0.
//
// A line that ends in LF alone is an error: some end a head there, and some do
// not.
func End(b []byte, from int) (end, next int, err error) {
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0, from, nil
		}
		at := from + i
		if at == 0 || b[at-1] != '\r' {
			return 0, from, ErrBareLF
		}
		if i == 1 && from > 0 {
			return at + 1, at + 1, nil
		}
		from = at + 1
	}
}

// Framing is how a body is delimited.
type Framing uint8

// The framings (RFC 9112, section 6.3).
const (
	None Framing = iota
	Length
	Chunked
	UntilClose // of responses only
)

// Kind is a field that the proxy knows.
type Kind uint8

// The kinds.
const (
	Other Kind = iota
	Host
	Connection
	KeepAlive
	ProxyConnection
	TransferEncoding
	TE
	Upgrade
	ContentLength
	Expect
	Cookie
	Forwarded   // and whatever begins with X-Forwarded-, but for those that follow
	XFor        // X-Forwarded-For
	XProto      // X-Forwarded-Proto
	XHost       // X-Forwarded-Host
	Settings    // HTTP2-Settings
	Challenge   // WWW-Authenticate, Proxy-Authenticate
	Credentials // Authorization
	Listed      // named in Connection: for this hop only
	Duplicate   // a Content-Length that says again what the first one said
	kindsCount  // none: how many there are
)

// Kinds is how many kinds there are, for tables that are indexed by them.
const Kinds = int(kindsCount)

// Field is a field line, as offsets into the head: the name is
// [At, Colon), the value without white space around it [Value, Stop), and End is
// behind the line's CRLF.
type Field struct {
	Kind                        Kind
	At, Colon, Value, Stop, End uint32
}

// Head is what requests and responses have in common. Its slices point into the
// bytes that were parsed.
type Head struct {
	Bytes  []byte
	Fields []Field
	Start  uint32 // of the first field

	Body   Framing
	Length int64 // of a body with Body == Length

	// Persist says that the sender leaves the connection open after this
	// message; Old that it speaks HTTP/1.0.
	Persist, Old bool
	closes       bool // Connection: close was there

	// Upgrade says that Connection names it; the values are in fields of that
	// kind.
	Upgrade bool
	// Trailers: the sender takes trailers (TE: trailers).
	Trailers bool
}

// Name is the name of f, as it was sent.
func (h *Head) Name(f *Field) []byte { return h.Bytes[f.At:f.Colon] }

// Value is the value of f.
func (h *Head) Value(f *Field) []byte { return h.Bytes[f.Value:f.Stop] }

// Find returns the first field of that kind, or nil.
func (h *Head) Find(k Kind) *Field {
	for i := range h.Fields {
		if h.Fields[i].Kind == k {
			return &h.Fields[i]
		}
	}
	return nil
}

// Hop tells whether a field of that kind is for one hop only (RFC 9110, section
// 7.6.1) and never passed on as it is.
func (k Kind) Hop() bool {
	switch k {
	case Connection, KeepAlive, ProxyConnection, TE, Upgrade, Settings, Listed, Duplicate:
		return true
	}
	return false
}
