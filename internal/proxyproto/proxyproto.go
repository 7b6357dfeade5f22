// Package proxyproto reads and writes PROXY protocol headers, versions 1 and 2
// (haproxy.org, proxy-protocol.txt): where one ends in a stream that comes in
// pieces, what it says, who is behind it, and how to write one.
//
// Whether a header's addresses are right is left to go-proxyproto's codec, but for
// TCP in version 2, which nearly all headers are: the codec makes a dozen objects of
// it. The codec reads from a stream, too, but refuses a header of version 1 that
// does not come in one piece, and a LOCAL one of more than 4096 bytes.
//
// Limits: one TLV of each kind is looked at, the first; what is inside the TLV
// of a TLS connection (0x20) is passed on and not read.
package proxyproto

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	codec "github.com/pires/go-proxyproto"
)

// Sizes of headers, in bytes (proxy-protocol.txt, sections 2.1 and 2.2).
const (
	maxV1   = 107 // with its CR LF
	v2Fixed = 16  // of version 2: what stands in front of addresses and TLVs

	// maxV2Rest is what may follow those 16 where addresses and TLVs are read.
	// They have to be kept until all is there, and 4096 is what the codec takes:
	// addresses need 12, 36 or 216, a link id 8, a client's certificate 2000.
	maxV2Rest = 4096

	// MaxSize is the longest header that Scan wants kept, in bytes. The rest of a
	// LOCAL header, of up to 65535 bytes, means nothing and is not kept: the
	// receiver "must not assume zero is presented" and must skip it (section 2.2).
	MaxSize = v2Fixed + maxV2Rest
)

// The byte of version and command, and address families with the transport
// (section 2.2).
const (
	localV2 = 0x20
	proxyV2 = 0x21

	unspec = 0x00
	tcp4   = 0x11
	tcp6   = 0x21
	unix   = 0x31
)

const (
	signatureV1 = "PROXY "
	signatureV2 = "\r\n\r\n\x00\r\nQUIT\n"
)

// ErrNone is Scan's answer to a stream that does not start with a header.
var ErrNone = errors.New("no PROXY header")

// Header is one header.
type Header struct {
	Version int // 1 or 2
	// Local: the header is about no client. Its sender speaks for itself, as a
	// load balancer does that probes. (Version 1 says UNKNOWN for that.)
	Local bool
	// Source and Destination are the client's connection; zero where the header
	// does not tell, or not of a TCP connection: then those of the connection
	// that the header came on hold. IPv4 comes unmapped.
	Source, Destination netip.AddrPort
	TLVs                []byte // of version 2, as they came, where they came; see All
	Link                string // who is calling: "azure:553665985"; see link
}

// Scan looks at the begin of a stream for a header.
//
// n > 0: b[:n] is one, for Parse; the stream goes on after the skip bytes that
// follow it, of which b may have none yet. n == 0 without an error: there may be
// one, when there is more. ErrNone: there is none, whatever may come. Any other
// error: there is one that is wrong, and why.
//
// It may be called again with more of the same stream: it looks at no more than
// 107 bytes.
func Scan(b []byte) (n, skip int, err error) {
	switch {
	case len(b) == 0:
		return 0, 0, nil
	case startsAs(b, signatureV1):
		return scanV1(b)
	case startsAs(b, signatureV2):
		return scanV2(b)
	}
	return 0, 0, ErrNone
}

// startsAs tells whether b, as far as it goes, starts with signature.
func startsAs(b []byte, signature string) bool {
	n := min(len(b), len(signature))
	return string(b[:n]) == signature[:n]
}

func scanV1(b []byte) (n, skip int, err error) {
	if i := bytes.IndexByte(b[:min(len(b), maxV1)], '\n'); i >= 0 {
		return i + 1, 0, nil
	}
	if len(b) >= maxV1 {
		return 0, 0, fmt.Errorf("a header of version 1 without an end in %d bytes", maxV1)
	}
	return 0, 0, nil
}

func scanV2(b []byte) (n, skip int, err error) {
	const command = len(signatureV2)
	if len(b) > command && b[command] != localV2 && b[command] != proxyV2 {
		return 0, 0, fmt.Errorf("version and command 0x%02x, want 0x20 (LOCAL) or 0x21 (PROXY)", b[command])
	}
	if len(b) < v2Fixed {
		return 0, 0, nil
	}
	rest := int(binary.BigEndian.Uint16(b[v2Fixed-2:]))
	switch {
	case b[command] == localV2:
		return v2Fixed, rest, nil
	case rest > maxV2Rest:
		return 0, 0, fmt.Errorf("a header of %d bytes; up to %d are taken", v2Fixed+rest, MaxSize)
	case len(b) < v2Fixed+rest:
		return 0, 0, nil
	}
	return v2Fixed + rest, 0, nil
}

// Starts tells whether b starts with what only a header starts with. It is for
// data that should have none: it takes a header that is cut within its first
// bytes for data, as it takes data that nobody would send but a proxy.
func Starts(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	switch b[0] {
	case signatureV1[0]:
		return bytes.HasPrefix(b, []byte("PROXY TCP4 ")) || bytes.HasPrefix(b, []byte("PROXY TCP6 ")) || bytes.HasPrefix(b, []byte("PROXY UNKNOWN"))
	case signatureV2[0]:
		return bytes.HasPrefix(b, []byte(signatureV2))
	}
	return false
}

// Parse reads a header that Scan has found: b is all of it, and no more. TLVs of
// what it returns are a part of b.
func Parse(b []byte) (Header, error) {
	if len(b) >= v2Fixed && startsAs(b, signatureV2) {
		return parseV2(b)
	}
	h := Header{Version: 1}
	parsed, err := decode(b)
	if err != nil {
		return h, err
	}
	h.Local = parsed.Command.IsLocal()
	h.Source, h.Destination = addresses(parsed)
	return h, nil
}

func parseV2(b []byte) (Header, error) {
	h := Header{Version: 2}
	family := b[len(signatureV2)+1]
	switch b[len(signatureV2)] {
	case localV2:
		h.Local = true
		return h, nil
	case proxyV2:
	default:
		return h, errors.New("unknown version or command")
	}
	if !h.tcp(b) && family != unspec {
		parsed, err := decode(b)
		if err != nil {
			return h, err
		}
		h.Source, h.Destination = addresses(parsed)
	} // The codec refuses unspec; but TLVs may tell who is calling even so.
	h.TLVs = b[v2Fixed+addressSize(family):]
	if err := checkTLVs(h.TLVs); err != nil {
		return h, err
	}
	if err := checkSum(b, h.TLVs); err != nil {
		return h, err
	}
	h.Link = link(h.TLVs)
	return h, nil
}

// tcp reads the addresses of b, of version 2, if they are whole and of TCP.
func (h *Header) tcp(b []byte) bool {
	family, rest := b[len(signatureV2)+1], b[v2Fixed:]
	size := addressSize(family)
	if (family != tcp4 && family != tcp6) || len(rest) < size || int(binary.BigEndian.Uint16(b[v2Fixed-2:])) != len(rest) {
		return false
	}
	ports := rest[size-4 : size]
	ips := rest[:size-4]
	src, _ := netip.AddrFromSlice(ips[:len(ips)/2])
	dst, _ := netip.AddrFromSlice(ips[len(ips)/2:])
	h.Source = netip.AddrPortFrom(src.Unmap(), binary.BigEndian.Uint16(ports))
	h.Destination = netip.AddrPortFrom(dst.Unmap(), binary.BigEndian.Uint16(ports[2:]))
	return true
}

// addressSize is how many bytes the addresses of a family take (section 2.2).
func addressSize(family byte) int {
	switch family >> 4 {
	case tcp4 >> 4:
		return 12
	case tcp6 >> 4:
		return 36
	case unix >> 4:
		return 216
	}
	return 0
}

// decode has the codec read a header.
func decode(b []byte) (*codec.Header, error) {
	r := bufio.NewReaderSize(bytes.NewReader(b), 256)
	h, err := codec.Read(r)
	if err != nil {
		return nil, err
	}
	if _, err := r.Peek(1); err == nil {
		return nil, errors.New("the header does not fill its length")
	}
	return h, nil
}

// addresses are those of a TCP connection; zero where h is of another kind.
func addresses(h *codec.Header) (src, dst netip.AddrPort) {
	from, to, ok := h.TCPAddrs()
	if !ok {
		return src, dst
	}
	s, d := from.AddrPort(), to.AddrPort()
	return netip.AddrPortFrom(s.Addr().Unmap(), s.Port()), netip.AddrPortFrom(d.Addr().Unmap(), d.Port())
}
