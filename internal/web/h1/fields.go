package h1

import "bytes"

// isToken are the bytes of a token (RFC 9110, section 5.6.2).
var isToken = table("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

// isHost are the bytes of an authority without user (RFC 3986, section 3.2):
// of names, IP literals, and a port.
var isHost = table("-._~!$&'()*+,;=%:[]0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

// isValue are the bytes of a field value (RFC 9110, section 5.5), with white
// space; isTarget those of a request target. Bytes above 0x7f are none by RFC
// 3986, but are sent by clients that do not encode names, and end nothing.
var (
	isValue  = between(' ', '\t')
	isTarget = between('!', '!')
)

func table(set string) *[256]bool {
	var t [256]bool
	for i := range len(set) {
		t[set[i]] = true
	}
	return &t
}

func between(from byte, also byte) *[256]bool {
	var t [256]bool
	for c := int(from); c < 256; c++ {
		t[c] = c != 0x7f
	}
	t[also] = true
	return &t
}

// fields reads the field lines from b[at:] to the empty line that ends the head.
// End has been there: every LF has its CR, and the empty line is the last one.
func (h *Head) fields(b []byte, at int) error {
	h.Bytes, h.Fields, h.Start = b, h.Fields[:0], uint32(at)
	h.Body, h.Length, h.Upgrade, h.Trailers = None, 0, false, false
	for b[at] != '\r' {
		if len(h.Fields) == maxFields {
			return ErrTooMany
		}
		p := at
		for isToken[b[p]] {
			p++
		}
		if p == at || b[p] != ':' {
			return ErrName
		}
		f := Field{At: uint32(at), Colon: uint32(p)}
		for p++; b[p] == ' ' || b[p] == '\t'; p++ {
		}
		f.Value = uint32(p)
		for isValue[b[p]] {
			p++
		}
		if b[p] != '\r' || b[p+1] != '\n' {
			return ErrValue
		}
		f.End = uint32(p + 2)
		for p > int(f.Value) && (b[p-1] == ' ' || b[p-1] == '\t') {
			p--
		}
		f.Stop = uint32(p)
		f.Kind = KindOf(b[at:f.Colon])
		h.Fields = append(h.Fields, f)
		at = int(f.End)
	}
	if at+2 != len(b) || b[at+1] != '\n' {
		return ErrValue // a CR by itself
	}
	return nil
}

// KindOf knows a name by its length first, which leaves at most two to compare
// with.
func KindOf(name []byte) Kind {
	switch len(name) {
	case 2:
		return is(name, "te", TE)
	case 4:
		return is(name, "host", Host)
	case 6:
		return is(name, "cookie", Cookie) | is(name, "expect", Expect)
	case 7:
		return is(name, "upgrade", Upgrade)
	case 9:
		return is(name, "forwarded", Forwarded)
	case 10:
		return is(name, "connection", Connection) | is(name, "keep-alive", KeepAlive)
	case 13:
		return is(name, "authorization", Credentials) | prefixed(name)
	case 14:
		return is(name, "content-length", ContentLength) | is(name, "http2-settings", Settings)
	case 15:
		return is(name, "x-forwarded-for", XFor) | prefixed(name)
	case 16:
		return is(name, "proxy-connection", ProxyConnection) | is(name, "www-authenticate", Challenge) | is(name, "x-forwarded-host", XHost) | prefixed(name)
	case 17:
		return is(name, "transfer-encoding", TransferEncoding) | is(name, "x-forwarded-proto", XProto) | prefixed(name)
	case 18:
		return is(name, "proxy-authenticate", Challenge) | prefixed(name)
	}
	return prefixed(name)
}

// prefixed knows the fields that begin with X-Forwarded-, and those that servers
// take for one which do not tell an underscore from a hyphen (CGI and what comes
// from it).
func prefixed(name []byte) Kind {
	const prefix = "x-forwarded-"
	if len(name) <= len(prefix) || name[1] != '-' && name[1] != '_' || !Alike(name[:len(prefix)], prefix) {
		return Other
	}
	switch rest := name[len(prefix):]; {
	case !Equal(name[:len(prefix)], prefix):
	case Equal(rest, "for"), Equal(rest, "host"), Equal(rest, "proto"):
		return Other // they have kinds of their own
	}
	return Forwarded
}

func is(name []byte, lower string, k Kind) Kind {
	if Equal(name, lower) {
		return k
	}
	return Other
}

// Equal tells whether b is the text, which is in lower case, in any case of
// letters.
func Equal(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// Alike is Equal for names that may be one to a server: an underscore is a hyphen
// to it. The name in lower case has hyphens only.
func Alike(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case c == '_':
			c = '-'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// common reads what is the same in requests and responses: framing and
// connection. What it says of Persist holds before Connection is looked at.
func (h *Head) common() error {
	lengths, codings := 0, 0
	h.Persist, h.closes = !h.Old, false
	for i := range h.Fields {
		f := &h.Fields[i]
		var err error
		switch f.Kind {
		case ContentLength:
			err = h.contentLength(f, lengths)
			lengths++
		case TransferEncoding:
			codings++
			if codings > 1 || !Equal(h.Value(f), "chunked") {
				return ErrCoding
			}
		case Connection:
			err = h.connection(h.Value(f))
		case TE:
			h.Trailers = h.Trailers || HasToken(h.Value(f), "trailers")
		}
		if err != nil {
			return err
		}
	}
	switch {
	case codings > 0 && lengths > 0:
		return ErrBoth
	case codings > 0 && h.Old:
		return ErrOldCoding
	case codings > 0:
		h.Body = Chunked
	case lengths > 0:
		h.Body = Length
	}
	return nil
}

func (h *Head) contentLength(f *Field, before int) error {
	v := h.Value(f)
	if len(v) == 0 || len(v) > maxDigits {
		return ErrLength
	}
	n := int64(0)
	for _, c := range v {
		if c < '0' || c > '9' {
			return ErrLength
		}
		n = n*10 + int64(c-'0')
	}
	if before > 0 {
		// The same number in other digits is refused, too: nobody means that.
		if !bytes.Equal(v, h.Value(h.Find(ContentLength))) {
			return ErrLengths
		}
		f.Kind = Duplicate
	}
	h.Length = n
	return nil
}

// connection reads the options of a Connection field. "close" wins over
// "keep-alive", wherever they stand.
func (h *Head) connection(v []byte) error {
	listed := 0
	for len(v) > 0 {
		var option []byte
		option, v = nextOption(v)
		if len(option) == 0 {
			continue // empty elements are to be ignored (RFC 9110, section 5.6.1)
		}
		for _, c := range option {
			if !isToken[c] {
				return ErrConnection
			}
		}
		switch {
		case Equal(option, "close"):
			h.closes = true
		case Equal(option, "keep-alive"):
			h.Persist = !h.closes
		case Equal(option, "upgrade"):
			h.Upgrade = true
		case Equal(option, "te"):
		default:
			if listed++; listed > maxListed {
				return ErrConnection
			}
			h.list(option)
		}
	}
	h.Persist = h.Persist && !h.closes
	return nil
}

// list marks the fields of that name as being for this hop only. A field that
// the proxy reads itself keeps its kind: nobody can have a length or a Host
// taken out in this way.
func (h *Head) list(name []byte) {
	for i := range h.Fields {
		f := &h.Fields[i]
		if k := f.Kind; (k == Other || k == Cookie || k == Credentials) && bytes.EqualFold(h.Name(f), name) {
			f.Kind = Listed
		}
	}
}

// nextOption cuts the first element off a comma-separated list.
func nextOption(v []byte) (option, rest []byte) {
	if i := bytes.IndexByte(v, ','); i >= 0 {
		option, rest = v[:i], v[i+1:]
	} else {
		option = v
	}
	return bytes.Trim(option, " \t"), rest
}

// HasToken tells whether a comma-separated list has that element, which is in lower
// case; parameters behind a semicolon are left out.
func HasToken(list []byte, lower string) bool {
	for len(list) > 0 {
		var option []byte
		option, list = nextOption(list)
		option, _, _ = bytes.Cut(option, []byte(";"))
		if Equal(bytes.Trim(option, " \t"), lower) {
			return true
		}
	}
	return false
}
