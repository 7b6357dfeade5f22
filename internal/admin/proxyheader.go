package admin

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/pires/go-proxyproto"
)

// Sizes of PROXY protocol headers (proxy-protocol.txt, sections 2.1 and 2.2).
const (
	maxV1Header = 107
	v2Fixed     = 16
	maxV2Rest   = 4096 // what the codec takes: far more than addresses and known TLVs need
	localV2     = 0x20
	proxyV2     = 0x21
	unspecV2    = 0x00
)

var v1Signature = []byte("PROXY ")

// skipProxyHeader takes a PROXY protocol header, if there is one, off the front
// of r, wherever the segments of the stream are cut. The addresses in it are of
// no use to a probe.
//
// It finds the end of the header itself and leaves it to the codec whether the
// header is right: alone, that one refuses a header of version 1 that does not
// come in one read, and takes one whose sender is slow for none.
func skipProxyHeader(r *bufio.Reader) error {
	first, err := r.Peek(1)
	if err != nil {
		return err
	}
	var header []byte
	switch first[0] {
	case v1Signature[0]:
		header, err = readV1(r)
	case proxyproto.SIGV2[0]:
		header, err = readV2(r)
	}
	if err != nil || header == nil {
		return err
	}
	_, err = proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(header), len(header)))
	return err
}

// startsWith tells whether r starts with signature, and waits for no more bytes
// than it needs to be sure.
func startsWith(r *bufio.Reader, signature []byte) (bool, error) {
	for n := 1; n <= len(signature); n++ {
		b, err := r.Peek(n)
		if err != nil {
			return false, err
		}
		if b[n-1] != signature[n-1] {
			return false, nil
		}
	}
	return true, nil
}

// readV1 is a header of version 1; nil if it is none, such as POST.
func readV1(r *bufio.Reader) ([]byte, error) {
	if ok, err := startsWith(r, v1Signature); !ok {
		return nil, err
	}
	header := make([]byte, 0, maxV1Header)
	for len(header) < maxV1Header {
		b, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		if header = append(header, b); b == '\n' {
			return header, nil
		}
	}
	return nil, errors.New("PROXY header without an end")
}

// readV2 is a header of version 2; nil if it is none, or one to be skipped.
func readV2(r *bufio.Reader) ([]byte, error) {
	if ok, err := startsWith(r, proxyproto.SIGV2); !ok {
		return nil, err
	}
	fixed := make([]byte, v2Fixed)
	if _, err := io.ReadFull(r, fixed); err != nil {
		return nil, err
	}
	command, family := fixed[len(proxyproto.SIGV2)], fixed[len(proxyproto.SIGV2)+1]
	rest := int(binary.BigEndian.Uint16(fixed[v2Fixed-2:]))
	if command == localV2 || (command == proxyV2 && family == unspecV2) {
		_, err := r.Discard(rest) // it says nothing about addresses, whatever is in it
		return nil, err
	}
	if rest > maxV2Rest {
		return nil, fmt.Errorf("PROXY header of %d bytes", v2Fixed+rest)
	}
	header := append(fixed, make([]byte, rest)...)
	_, err := io.ReadFull(r, header[v2Fixed:])
	return header, err
}

// probeListener makes connections that may start with a PROXY header. The header
// is read with the request and within its time: nothing is read in Accept, where
// one slow client would hold up all others.
type probeListener struct {
	net.Listener
	probes *probes
}

func (l *probeListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &probeConn{Conn: c, r: bufio.NewReaderSize(c, 512), probes: l.probes}, nil
}

// probeConn is read by one goroutine at a time, as http.Server does it.
type probeConn struct {
	net.Conn
	r      *bufio.Reader
	probes *probes
	begun  bool  // the header has been looked for
	asked  bool  // there was something after it
	bad    error // the header
}

func (c *probeConn) Read(p []byte) (int, error) {
	if !c.begun {
		c.begun = true
		if err := skipProxyHeader(c.r); err != nil {
			return 0, c.refuse(err)
		}
	}
	if c.bad != nil {
		return 0, c.bad
	}
	n, err := c.r.Read(p)
	if err != nil && !c.asked {
		c.countTCP(err)
	}
	c.asked = c.asked || n > 0
	return n, err
}

// refuse notes why there is no header to go on after. http.Server answers 400
// unless the connection itself has failed.
func (c *probeConn) refuse(err error) error {
	c.bad = err
	var failed net.Error
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		c.bad = io.EOF
		c.countTCP(io.EOF)
	case errors.As(err, &failed):
		c.countTCP(err)
	default:
		c.probes.count("400")
	}
	return c.bad
}

// countTCP counts a connection that was closed without a question: the probe of
// a load balancer that looks no further than the connect.
func (c *probeConn) countTCP(err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		c.probes.count("tcp")
	}
}
