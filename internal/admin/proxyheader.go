package admin

import (
	"bufio"
	"errors"
	"io"
	"net"
	"syscall"

	"midspan/internal/proxyproto"
)

// skipProxyHeader takes a PROXY protocol header, if there is one, off the front
// of r, wherever the segments of the stream are cut. What it says is of no use to
// a probe, but it has to be right. r must have room for proxyproto.MaxSize bytes.
func skipProxyHeader(r *bufio.Reader) error {
	for {
		// One byte more than there are: no more may come before an answer.
		if _, err := r.Peek(r.Buffered() + 1); err != nil {
			return err
		}
		b, _ := r.Peek(r.Buffered())
		n, skip, err := proxyproto.Scan(b)
		switch {
		case errors.Is(err, proxyproto.ErrNone):
			return nil
		case err != nil:
			return err
		case n > 0:
			if _, err := proxyproto.Parse(b[:n]); err != nil {
				return err
			}
			_, err := r.Discard(n + skip)
			return err
		}
	}
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
	return &probeConn{Conn: c, r: bufio.NewReaderSize(c, proxyproto.MaxSize), probes: l.probes}, nil
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
