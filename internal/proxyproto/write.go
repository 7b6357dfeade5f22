package proxyproto

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"net/netip"
	"strconv"
)

// Append appends a header of version 1 or 2 to b. TLVs are those of the headers
// that came in, the outermost first; version 1 has none. A checksum among them
// is made anew. Where an address is not known the header says so (UNKNOWN, LOCAL).
// A source and a destination of different families are both written as IPv6.
//
// TLVs that do not fit into a header's 65535 bytes are left out.
func Append(b []byte, version int, src, dst netip.AddrPort, tlvs ...[]byte) []byte {
	if version == 1 {
		return appendV1(b, src, dst)
	}
	return appendV2(b, src, dst, tlvs)
}

// oneFamily is IPv4 for two IPv4 addresses, else IPv6 for both.
func oneFamily(src, dst netip.AddrPort) (s, d netip.AddrPort, is4 bool) {
	a, z := src.Addr().Unmap(), dst.Addr().Unmap()
	if is4 = a.Is4() && z.Is4(); !is4 {
		a, z = netip.AddrFrom16(a.As16()), netip.AddrFrom16(z.As16())
	}
	return netip.AddrPortFrom(a, src.Port()), netip.AddrPortFrom(z, dst.Port()), is4
}

func appendV1(b []byte, src, dst netip.AddrPort) []byte {
	if !src.IsValid() || !dst.IsValid() {
		return append(b, "PROXY UNKNOWN\r\n"...)
	}
	src, dst, is4 := oneFamily(src, dst)
	if is4 {
		b = append(b, "PROXY TCP4 "...)
	} else {
		b = append(b, "PROXY TCP6 "...)
	}
	b = append(src.Addr().AppendTo(b), ' ')
	b = append(dst.Addr().AppendTo(b), ' ')
	b = append(strconv.AppendUint(b, uint64(src.Port()), 10), ' ')
	return append(strconv.AppendUint(b, uint64(dst.Port()), 10), '\r', '\n')
}

func appendV2(b []byte, src, dst netip.AddrPort, tlvs [][]byte) []byte {
	begin := len(b)
	b = append(b, signatureV2...)
	switch {
	case !src.IsValid() || !dst.IsValid():
		b = append(b, localV2, unspec, 0, 0)
	default:
		b = appendAddresses(b, src, dst)
	}
	sum := false
	for _, raw := range tlvs {
		for kind, value := range All(raw) {
			switch {
			case kind == crc32c:
				sum = true
			case kind == noop:
			case len(b)-begin-v2Fixed+3+len(value)+3+4 <= math.MaxUint16:
				b = append(binary.BigEndian.AppendUint16(append(b, kind), uint16(len(value))), value...)
			}
		}
	}
	if sum {
		b = append(b, crc32c, 0, 4, 0, 0, 0, 0)
	}
	header := b[begin:]
	binary.BigEndian.PutUint16(header[v2Fixed-2:], uint16(len(header)-v2Fixed))
	if sum {
		binary.BigEndian.PutUint32(header[len(header)-4:], crc32.Checksum(header, castagnoli))
	}
	return b
}

func appendAddresses(b []byte, src, dst netip.AddrPort) []byte {
	src, dst, is4 := oneFamily(src, dst)
	if is4 {
		s, d := src.Addr().As4(), dst.Addr().As4()
		b = append(append(append(b, proxyV2, tcp4, 0, 0), s[:]...), d[:]...)
	} else {
		s, d := src.Addr().As16(), dst.Addr().As16()
		b = append(append(append(b, proxyV2, tcp6, 0, 0), s[:]...), d[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, src.Port())
	return binary.BigEndian.AppendUint16(b, dst.Port())
}
