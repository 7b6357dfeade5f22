package h1

import "bytes"

// Request is the head of a request.
type Request struct {
	Head
	Method []byte
	// Path is the target from its first slash on, with the query; or "*". Of a
	// target in absolute form it is what follows the authority, and "" where
	// nothing does.
	Path []byte
	// Authority is who the request is for, as "host" or "host:port": from Host,
	// or from a target in absolute form. Empty where Host is empty, or HTTP/1.0
	// has none.
	Authority []byte

	Continue bool // Expect: 100-continue
}

// Parse reads a whole head, as far as End found it. b must not change while r is
// in use.
func (r *Request) Parse(b []byte) error {
	at, target, err := r.requestLine(b)
	if err != nil {
		return err
	}
	if err := r.fields(b, at); err != nil {
		return err
	}
	if err := r.common(); err != nil {
		return err
	}
	r.Continue = false
	hosts := 0
	r.Authority = nil
	for i := range r.Fields {
		f := &r.Fields[i]
		switch f.Kind {
		case Host:
			hosts++
			r.Authority = r.Value(f)
		case Expect:
			if !Equal(r.Value(f), "100-continue") {
				return ErrExpect
			}
			r.Continue = !r.Old // RFC 9110, section 10.1.1: HTTP/1.0 knows nothing of it
		}
	}
	if hosts > 1 || hosts == 0 && !r.Old || !ValidHost(r.Authority) {
		return ErrHost
	}
	return r.target(target, hosts > 0)
}

// requestLine cuts the first line up, and returns where the next one begins.
// One empty line before it is left out (RFC 9112, section 2.2).
func (r *Request) requestLine(b []byte) (next int, target []byte, err error) {
	at := 0
	if b[0] == '\r' && b[1] == '\n' {
		at = 2
	}
	p := at
	for isToken[b[p]] {
		p++
	}
	if p == at || b[p] != ' ' {
		return 0, nil, ErrRequestLine
	}
	r.Method = b[at:p]
	p++
	begin := p
	for isTarget[b[p]] {
		p++
	}
	target = b[begin:p]
	const version = len(" HTTP/1.1\r\n")
	if p == begin || b[p] != ' ' || len(b) < p+version {
		return 0, nil, ErrRequestLine
	}
	old, err := versionOf(b[p+1 : p+9])
	if err != nil {
		return 0, nil, err
	}
	if b[p+9] != '\r' || b[p+10] != '\n' {
		return 0, nil, ErrRequestLine
	}
	r.Old = old
	return p + version, target, nil
}

// versionOf reads "HTTP/1.1", eight bytes.
func versionOf(b []byte) (old bool, err error) {
	switch string(b) {
	case "HTTP/1.1":
		return false, nil
	case "HTTP/1.0":
		return true, nil
	}
	if string(b[:5]) == "HTTP/" && '0' <= b[5] && b[5] <= '9' && b[6] == '.' && '0' <= b[7] && b[7] <= '9' {
		return false, ErrVersion
	}
	return false, ErrRequestLine
}

// target reads the request target (RFC 9112, section 3.2). A fragment is none:
// servers differ on whether it belongs to the path.
func (r *Request) target(t []byte, hasHost bool) error {
	if !ValidTarget(t) {
		return ErrTarget
	}
	switch {
	case string(r.Method) == "CONNECT": // whatever its target: a server that accepts it has a tunnel
		return ErrMethod
	case t[0] == '/':
		r.Path = t
		return nil
	case len(t) == 1 && t[0] == '*':
		if string(r.Method) != "OPTIONS" {
			return ErrTarget
		}
		r.Path = t
		return nil
	}
	return r.absolute(t, hasHost)
}

// absolute reads "http://authority/path". Its authority must be what Host says:
// RFC 9112 has the target win, but not every server does as it says.
func (r *Request) absolute(t []byte, hasHost bool) error {
	rest, ok := cutScheme(t)
	if !ok {
		return ErrTarget
	}
	end := bytes.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	authority := rest[:end]
	if len(authority) == 0 || !ValidHost(authority) {
		return ErrTarget
	}
	if hasHost && !bytes.EqualFold(authority, r.Authority) {
		return ErrHost
	}
	r.Authority, r.Path = authority, rest[end:]
	return nil
}

// ValidTarget tells whether t can stand in a request line, and has no fragment.
func ValidTarget(t []byte) bool {
	for _, c := range t {
		if !isTarget[c] || c == '#' {
			return false
		}
	}
	return true
}

func cutScheme(t []byte) (rest []byte, ok bool) {
	for _, scheme := range []string{"http://", "https://"} {
		if len(t) > len(scheme) && Equal(t[:len(scheme)], scheme) {
			return t[len(scheme):], true
		}
	}
	return nil, false
}

// ValidHost tells whether h is a host, maybe with a port, or empty. It is strict
// about what would make two readers see two hosts, and no more.
func ValidHost(h []byte) bool {
	for _, c := range h {
		if !isHost[c] {
			return false
		}
	}
	name, port := SplitHost(h)
	for _, c := range port {
		if c < '0' || c > '9' {
			return false
		}
	}
	if len(name) > 0 && name[0] == '[' {
		return len(name) > 2 && bytes.IndexByte(name, ']') == len(name)-1 && bytes.IndexByte(name[1:], '[') < 0
	}
	return !bytes.ContainsAny(name, ":[]") && (len(name) > 0 || len(h) == 0)
}

// SplitHost cuts the port off "host:port"; an IPv6 address keeps its brackets.
func SplitHost(h []byte) (name, port []byte) {
	i := bytes.LastIndexByte(h, ':')
	if i < 0 || bytes.IndexByte(h[i:], ']') >= 0 {
		return h, nil
	}
	return h[:i], h[i+1:]
}

// Idempotent tells whether a request may be sent again when it is not known
// whether the server has got it (RFC 9110, section 9.2.2).
func (r *Request) Idempotent() bool {
	switch string(r.Method) {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}
