package clienthello

import (
	"errors"
	"fmt"
	"strings"
)

// Extensions that are read (IANA, TLS ExtensionType Values).
const (
	extServerName = 0
	extALPN       = 16
	extVersions   = 43
	extECH        = 0xfe0d
)

var errCut = errors.New("a ClientHello whose parts do not fill it")

// reader takes values off the front of b. Once something is missing, failed is
// set and all that follows is empty.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.b, r.failed = nil, true
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

// number is one of n bytes, big endian.
func (r *reader) number(n int) (v int) {
	for _, b := range r.take(n) {
		v = v<<8 | int(b)
	}
	return v
}

// vector is one whose length stands in front of it, in n bytes.
func (r *reader) vector(n int) reader {
	v := r.take(r.number(n))
	return reader{b: v, failed: r.failed}
}

// done tells whether r was taken to its end, and no further.
func (r *reader) done() bool { return !r.failed && len(r.b) == 0 }

// parse reads the body of the message (RFC 8446 section 4.1.2) into h, which has
// nothing but room.
func (h *Hello) parse(body []byte) error {
	r := reader{b: body}
	version := r.number(2)
	r.take(32) // random
	session := r.vector(1)
	ciphers := r.vector(2)
	compression := r.vector(1)
	switch {
	case r.failed:
		return errCut
	case len(session.b) > 32:
		return fmt.Errorf("a session id of %d bytes", len(session.b))
	case len(ciphers.b) == 0 || len(ciphers.b)%2 != 0 || len(compression.b) == 0:
		return errors.New("a ClientHello without cipher suites or compression methods")
	}
	if len(r.b) > 0 {
		extensions := r.vector(2)
		if err := h.extensions(extensions); err != nil {
			return err
		}
	}
	if !r.done() {
		return errCut
	}
	if len(h.Versions) == 0 {
		h.Versions = append(h.Versions, uint16(version))
	}
	return nil
}

func (h *Hello) extensions(r reader) error {
	var low uint64         // those below 64 that were there: nearly all
	high := map[int]bool{} // the others; small ones cost no memory
	for !r.failed && len(r.b) > 0 {
		kind := r.number(2)
		data := r.vector(2)
		if r.failed {
			break
		}
		// Two servers may take one each; so none is the right one.
		if low>>kind&1 != 0 || high[kind] {
			return fmt.Errorf("extension %d twice", kind)
		}
		if kind < 64 {
			low |= 1 << kind
		} else {
			high[kind] = true
		}
		var err error
		switch kind {
		case extServerName:
			h.ServerName, err = serverName(data)
		case extALPN:
			h.ALPN, err = protocols(h.ALPN, data)
		case extVersions:
			h.Versions, err = versions(h.Versions, data)
		case extECH:
			h.Encrypted = true
		}
		if err != nil {
			return err
		}
	}
	if !r.done() {
		return errCut
	}
	return nil
}

// serverName reads the list of names, of which one kind is known and one of that
// kind allowed (RFC 6066 section 3).
func serverName(r reader) (string, error) {
	const hostName = 0
	list := r.vector(2)
	if !r.done() || len(list.b) == 0 {
		return "", errors.New("a server name that does not fill its extension")
	}
	name, found := "", false
	for !list.failed && len(list.b) > 0 {
		kind := list.number(1)
		value := list.vector(2)
		if kind != hostName || list.failed {
			continue
		}
		if found {
			return "", errors.New("two server names")
		}
		found = true
		var err error
		if name, err = hostname(value.b); err != nil {
			return "", err
		}
	}
	if !list.done() {
		return "", errors.New("a server name that is cut off")
	}
	return name, nil
}

// hostname checks a name and writes it as routes are looked up by. The RFC wants
// no dot at the end; some clients send it.
func hostname(b []byte) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(string(b), "."))
	if name == "" || len(name) > 253 {
		return "", fmt.Errorf("a server name of %d bytes", len(b))
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return "", fmt.Errorf("server name %q: a label of %d bytes", name, len(label))
		}
	}
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return "", fmt.Errorf("server name %q: byte %#02x is none of a name", name, c)
		}
	}
	return name, nil
}

// protocols appends what is offered to all.
func protocols(all []string, r reader) ([]string, error) {
	list := r.vector(2)
	if !r.done() || len(list.b) == 0 {
		return nil, errors.New("a list of protocols that does not fill its extension")
	}
	for !list.failed && len(list.b) > 0 {
		name := list.vector(1)
		if len(name.b) == 0 {
			return nil, errors.New("a protocol without a name")
		}
		if len(name.b) != 2 || !isGREASE(int(name.b[0])<<8|int(name.b[1])) {
			all = append(all, protocol(name.b))
		}
	}
	if list.failed {
		return nil, errors.New("a list of protocols that is cut off")
	}
	return all, nil
}

// protocol is a protocol's name; the usual ones cost no memory.
func protocol(name []byte) string {
	for _, usual := range [...]string{"h2", "http/1.1"} {
		if string(name) == usual {
			return usual
		}
	}
	return string(name)
}

// versions appends what is offered to all.
func versions(all []uint16, r reader) ([]uint16, error) {
	list := r.vector(1)
	if !r.done() || len(list.b) == 0 || len(list.b)%2 != 0 {
		return nil, errors.New("a list of versions that does not fill its extension")
	}
	for len(list.b) > 0 {
		if v := list.number(2); !isGREASE(v) {
			all = append(all, uint16(v))
		}
	}
	return all, nil
}

// isGREASE tells whether v is one of 0x0a0a, 0x1a1a … 0xfafa: clients offer them
// so that servers do not fail at what they do not know (RFC 8701).
func isGREASE(v int) bool { return v>>8 == v&0xff && v&0xf == 0xa }
