package main

import (
	"encoding/binary"
	"slices"
	"strings"
)

// What `return` may want of a ClientHello that was forwarded to the front's
// server as it is: the version, the name, the protocols. Written for this
// program alone; midspan's own reading of ClientHellos is not asked here.

// record types and lengths of RFC 8446 section 5.1.
const (
	recordHandshake = 22
	recordHeader    = 5
	helloClient     = 1
)

// complete tells whether b has all that will be looked at.
func complete(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	if b[0]&0x80 != 0 { // a ClientHello of SSL 2.0 has a length of two bytes
		return len(b) >= 5
	}
	if b[0] != recordHandshake {
		return true
	}
	msg, whole := handshake(b)
	return whole || len(msg) > 1<<16
}

// handshake are the bytes of the records that b begins with, and whether the
// first message in them is whole.
func handshake(b []byte) (msg []byte, whole bool) {
	for len(b) >= recordHeader && b[0] == recordHandshake {
		n := int(binary.BigEndian.Uint16(b[3:]))
		end := min(len(b), recordHeader+n)
		msg = append(msg, b[recordHeader:end]...)
		b = b[end:]
		if len(msg) >= 4 && len(msg) >= 4+int(msg[1])<<16+int(msg[2])<<8+int(msg[3]) {
			return msg[:4+int(msg[1])<<16+int(msg[2])<<8+int(msg[3])], true
		}
	}
	return msg, len(b) > 0 && b[0] != recordHandshake
}

// clientHello is what is read of one.
type clientHello struct {
	version uint16
	name    string
	alpn    []string
}

func parseHello(b []byte) (h clientHello, ok bool) {
	if len(b) >= 5 && b[0]&0x80 != 0 && b[2] == helloClient {
		return clientHello{version: binary.BigEndian.Uint16(b[3:])}, true
	}
	msg, whole := handshake(b)
	if !whole || len(msg) < 6 || msg[0] != helloClient {
		return h, false
	}
	h.version = binary.BigEndian.Uint16(msg[4:])
	rest := msg[6:]
	skip := func(width int) bool { // a random of 32 bytes, or a vector with a length
		if width == 0 {
			if len(rest) < 32 {
				return false
			}
			rest = rest[32:]
			return true
		}
		if len(rest) < width {
			return false
		}
		n := int(rest[width-1])
		if width == 2 {
			n |= int(rest[0]) << 8
		}
		if len(rest) < width+n {
			return false
		}
		rest = rest[width+n:]
		return true
	}
	if !skip(0) || !skip(1) || !skip(2) || !skip(1) || len(rest) < 2 {
		return h, true // no extensions
	}
	h.extensions(rest[2:])
	return h, true
}

// extensions reads those it knows (RFC 6066, 7301, 8446).
func (h *clientHello) extensions(b []byte) {
	for len(b) >= 4 {
		kind, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		n = min(n, len(b)-4) // of one that promises more than there is, what there is
		value := b[4 : 4+n]
		b = b[4+n:]
		switch {
		case kind == 0 && n > 5 && int(binary.BigEndian.Uint16(value[3:])) == n-5: // list length, type of the name, its length
			h.name = string(value[5:])
		case kind == 16 && n > 2:
			for list := value[2:]; len(list) > 0 && len(list) > int(list[0]); list = list[1+int(list[0]):] {
				h.alpn = append(h.alpn, string(list[1:1+int(list[0])]))
			}
		case kind == 43 && n > 1:
			for list := value[1:]; len(list) >= 2; list = list[2:] {
				v := binary.BigEndian.Uint16(list)
				if v>>8 == 0x7f { // drafts of TLS 1.3
					v = 0x0304
				}
				if v <= 0x0304 {
					h.version = max(h.version, v)
				}
			}
		}
	}
}

// versionNames are nginx's.
var versionNames = map[uint16]string{2: "SSLv2", 0x0300: "SSLv3", 0x0301: "TLSv1", 0x0302: "TLSv1.1", 0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}

// preread are variables of the ClientHello.
func (s *session) preread(name string) (string, bool) {
	rest, is := strings.CutPrefix(name, "ssl_preread_")
	if !is || !slices.Contains([]string{"protocol", "server_name", "alpn_protocols"}, rest) {
		return "", false
	}
	h, ok := parseHello(s.hello)
	switch {
	case !ok:
		return "", true
	case rest == "protocol":
		return versionNames[h.version], true
	case rest == "server_name":
		return h.name, true
	}
	return strings.Join(h.alpn, ","), true
}
