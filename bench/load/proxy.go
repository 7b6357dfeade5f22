package load

import (
	"bytes"
	"context"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// ServeProxy is Serve where every connection begins with a header of the PROXY
// protocol, of version 1 or 2, that says who connects.
func ServeProxy(ctx context.Context, addr string) error {
	return serve(ctx, addr, func(t *target) { t.proxy = true })
}

// Constants of the PROXY protocol's specification, sections 2.1 and 2.2.
const (
	signature = "\r\n\r\n\x00\r\nQUIT\n"
	fixedSize = 16  // of a header of version 2, before its length's bytes
	maxLine   = 107 // of version 1, with its end
)

// introduce reads the header, and returns what is behind it.
func (c *served) introduce(b []byte) ([]byte, unix.Errno) {
	c.request = append(c.request, b...)
	size := 0
	switch {
	case bytes.HasPrefix(c.request, []byte(signature)) && len(c.request) >= fixedSize:
		size = fixedSize + int(binary.BigEndian.Uint16(c.request[14:]))
	case bytes.HasPrefix(c.request, []byte("PROXY TCP4 ")):
		size = bytes.IndexByte(c.request, '\n') + 1
	}
	switch {
	case size == 0 && (len(c.request) > maxLine || !begins(c.request)):
		return nil, unix.EPROTO
	case size == 0 || len(c.request) < size:
		return nil, 0
	}
	rest := c.request[size:]
	c.known, c.request = true, nil
	return rest, 0
}

// begins tells whether b is, or may become, a header.
func begins(b []byte) bool {
	for _, word := range []string{signature, "PROXY TCP4 "} {
		if n := min(len(b), len(word)); string(b[:n]) == word[:n] {
			return true
		}
	}
	return false
}

// introduction is a header of version 2 as a Private Link Service of Azure sends
// it: addresses of TCP over IPv4, and the link's id in a TLV.
func introduction() []byte {
	const (
		proxyTCP4 = "\x21\x11"                                         // version 2 and PROXY; TCP over IPv4
		addresses = "\x0a\x09\x01\x01\x0a\x09\x01\x02\x9c\x40\x1f\x40" // 10.9.1.1:40000 to 10.9.1.2:8000
		link      = "\xee\x00\x05\x01\x21\x01\x02\x21"
	)
	b := []byte(signature + proxyTCP4)
	b = binary.BigEndian.AppendUint16(b, uint16(len(addresses)+len(link)))
	return append(b, addresses+link...)
}
