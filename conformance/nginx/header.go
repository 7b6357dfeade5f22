package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// header is the PROXY protocol header that midspan's route puts before a
// connection to a server of the front's. It is read by code of this program's
// own: midspan's would believe midspan.
type header struct {
	source, dest netip.AddrPort // invalid: LOCAL, or no addresses
	tlvs         map[byte]string
	peer         netip.AddrPort // who sent the header that the client came with
}

// signature begins a header of version 2 (proxy-protocol.txt, section 2.2).
const signature = "\r\n\r\n\x00\r\nQUIT\n"

var errNoHeader = errors.New("the connection does not begin with a PROXY header of version 2")

// readHeader reads one header.
func readHeader(r *bufio.Reader) (*header, error) {
	var fixed [16]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return nil, err
	}
	if string(fixed[:12]) != signature || fixed[12]>>4 != 2 {
		return nil, errNoHeader
	}
	body := make([]byte, binary.BigEndian.Uint16(fixed[14:]))
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	h := &header{tlvs: map[byte]string{}}
	size := 0
	switch family := fixed[13] >> 4; family {
	case 1:
		size = 4
	case 2:
		size = 16
	case 0:
	default:
		return nil, fmt.Errorf("address family %d in a PROXY header", family)
	}
	if len(body) < 2*size+4 && size > 0 {
		return nil, errors.New("a PROXY header is too short for its addresses")
	}
	if size > 0 {
		from, _ := netip.AddrFromSlice(body[:size])
		to, _ := netip.AddrFromSlice(body[size : 2*size])
		if fixed[12]&15 == 1 { // PROXY, not LOCAL
			h.source = netip.AddrPortFrom(from, binary.BigEndian.Uint16(body[2*size:]))
			h.dest = netip.AddrPortFrom(to, binary.BigEndian.Uint16(body[2*size+2:]))
		}
		body = body[2*size+4:]
	}
	return h, h.read(body, 0)
}

// TLV types of section 2.2.3 and on.
const (
	tlvALPN      = 0x01
	tlvAuthority = 0x02
	tlvSSL       = 0x20
)

// read takes type, length and value of each; in is added to nothing, the inner
// ones of tlvSSL have types of their own.
func (h *header) read(body []byte, depth int) error {
	for len(body) > 0 {
		if len(body) < 3 || len(body) < 3+int(binary.BigEndian.Uint16(body[1:])) {
			return errors.New("a TLV of a PROXY header is cut off")
		}
		n := int(binary.BigEndian.Uint16(body[1:]))
		kind, value := body[0], body[3:3+n]
		h.tlvs[kind] = string(value)
		if kind == tlvSSL && depth == 0 && n >= 5 { // a byte of flags and four of a result are before the inner ones
			if err := h.read(value[5:], 1); err != nil {
				return err
			}
		}
		body = body[3+n:]
	}
	return nil
}
