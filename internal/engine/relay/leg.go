package relay

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/proxyproto"
)

// leg is one side of a session: a TCP connection, and TLS over it or not. One
// goroutine at a time may read, another may write.
type leg struct {
	wire
	tls *tls.Conn // nil: none

	ended bool // the end of its flow was read; session.mu guards it
	dead  bool // it was found reset by writing: its end of file is a lie; likewise
}

// wire is the TCP connection of a leg, as crypto/tls sees it.
type wire struct {
	tcp  *net.TCPConn
	raw  syscall.RawConn
	held []byte // read by the loop; Read has it first
	got  bool   // something came
	over bool   // Read has met the end of the TCP connection's flow
	// noWait makes Read return errWait where it would have to wait.
	noWait     bool
	serverName string // that a client of TLS asks for
	// noHeader says that the first bytes must not be a PROXY header; Read then
	// returns errHeader.
	noHeader bool

	// For try and peek, which are made once: a closure for each read would be
	// garbage.
	failed    unix.Errno // met by peek
	b         []byte
	n         int
	e         unix.Errno
	try, peek func(fd uintptr) bool
}

// errWait is the answer of a read that does not wait. crypto/tls goes on after
// errors that are temporary.
var errWait error = waitError{}

type waitError struct{}

func (waitError) Error() string   { return "nothing to read now" }
func (waitError) Timeout() bool   { return true }
func (waitError) Temporary() bool { return true }

// errTruncated is the end of a TLS connection without close_notify: what came
// before may be only a part (RFC 8446, section 6.1).
var errTruncated = errors.New("the connection ended without TLS's close_notify: it may have been cut off")

// errHeader is a PROXY header where there must be none.
var errHeader = errors.New(headerOnOff)

// past is a deadline that ends all waiting.
var past = time.Unix(1, 0)

func newLeg(c *net.TCPConn, held []byte) (*leg, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	g := &leg{wire: wire{tcp: c, raw: raw, held: held}}
	w := &g.wire
	w.try = func(fd uintptr) bool {
		w.n, w.e = receive(int32(fd), w.b)
		return true
	}
	w.peek = func(fd uintptr) bool {
		w.e = peek(int32(fd))
		return w.e != unix.EAGAIN
	}
	return g, nil
}

// connOf makes a connection of the descriptor of one, which it takes.
func connOf(fd int32) (*net.TCPConn, error) {
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// Read implements net.Conn.
func (w *wire) Read(b []byte) (n int, err error) {
	switch {
	case len(w.held) > 0:
		n = copy(b, w.held)
		if w.held = w.held[n:]; len(w.held) == 0 {
			w.held = nil
		}
	case w.noWait:
		n, err = w.readNow(b)
	default:
		n, err = w.tcp.Read(b)
	}
	if n > 0 && !w.got {
		w.got = true
		if w.noHeader && proxyproto.Starts(b[:n]) {
			return 0, errHeader
		}
	}
	w.over = w.over || err == io.EOF
	return n, err
}

func (w *wire) readNow(b []byte) (int, error) {
	if e := w.failed; e != 0 {
		w.failed = 0
		return 0, e
	}
	w.b = b
	err := w.raw.Read(w.try)
	w.b = nil
	switch {
	case err != nil:
		return 0, err
	case w.e == unix.EAGAIN:
		return 0, errWait
	case w.e != 0:
		return 0, w.e
	case w.n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return w.n, nil
}

// wait waits until there is something to read. The kernel tells of an error once:
// where it is wait that hears of it, the next read returns it.
func (w *wire) wait() error {
	if err := w.raw.Read(w.peek); err != nil {
		return err
	}
	w.failed = w.e
	return nil
}

// begin waits for the first bytes of a connection and looks for a PROXY header in
// them, which must not be there. They stay to be read.
func (w *wire) begin(deadline time.Time) error {
	if !w.noHeader || len(w.held) > 0 {
		return nil
	}
	if err := w.tcp.SetReadDeadline(deadline); err != nil {
		return err
	}
	var b [16]byte
	n := 0
	err := w.raw.Read(func(fd uintptr) bool {
		var e error
		n, _, e = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return e != unix.EAGAIN
	})
	if n > 0 && proxyproto.Starts(b[:n]) {
		return errHeader
	}
	return err
}

// Write implements net.Conn.
func (w *wire) Write(b []byte) (int, error) { return w.tcp.Write(b) }

// Close implements net.Conn.
func (w *wire) Close() error { return w.tcp.Close() }

// LocalAddr implements net.Conn.
func (w *wire) LocalAddr() net.Addr { return w.tcp.LocalAddr() }

// RemoteAddr implements net.Conn.
func (w *wire) RemoteAddr() net.Addr { return w.tcp.RemoteAddr() }

// SetDeadline implements net.Conn.
func (w *wire) SetDeadline(t time.Time) error { return w.tcp.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (w *wire) SetReadDeadline(t time.Time) error { return w.tcp.SetReadDeadline(t) }

// SetWriteDeadline does nothing: crypto/tls would give up close_notify after five
// seconds in which a slow reader takes nothing, and cut off a whole transfer.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// maxName is the longest name that DNS has, in bytes (RFC 1035, section 2.3.4).
// Nobody asks for a longer one but to fill logs.
const maxName = 255

// SawServerName implements certs.NameSeer.
func (w *wire) SawServerName(name string) { w.serverName = name[:min(len(name), maxName)] }

// Read implements net.Conn: it returns io.EOF only at an end that the peer has
// meant.
func (g *leg) Read(b []byte) (int, error) {
	if g.tls == nil {
		return g.wire.Read(b)
	}
	n, err := g.tls.Read(b)
	if err == io.EOF && g.over { // not close_notify, which is met first
		err = errTruncated
	}
	return n, err
}

// Write implements net.Conn.
func (g *leg) Write(b []byte) (int, error) {
	if g.tls == nil {
		return g.tcp.Write(b)
	}
	return g.tls.Write(b)
}

// SetWriteDeadline implements net.Conn.
func (g *leg) SetWriteDeadline(t time.Time) error { return g.tcp.SetWriteDeadline(t) }

// CloseWrite ends the flow to the peer: with close_notify in TLS, and then in
// TCP too, for peers that wait for that.
func (g *leg) CloseWrite() error {
	if g.tls != nil {
		if err := g.tls.CloseWrite(); err != nil {
			return err
		}
	}
	return g.tcp.CloseWrite()
}

// lastWords is how long close_notify may take when a connection is closed.
const lastWords = time.Second

// Close implements net.Conn.
func (g *leg) Close() error {
	if g.tls != nil {
		if err := g.tcp.SetWriteDeadline(time.Now().Add(lastWords)); err == nil {
			_ = g.tls.CloseWrite() // the TCP connection is closed in any case
		}
	}
	return g.tcp.Close()
}

// reset closes the connection with a reset.
func (g *leg) reset() {
	_ = g.tcp.SetLinger(0) // fails where it is closed already
	_ = g.tcp.Close()
}

// unsent is what the peer has not acknowledged, in bytes; 0 too when the
// connection is closed.
func (g *leg) unsent() (n int) {
	_ = g.raw.Control(func(fd uintptr) { n = unsent(int32(fd)) })
	return n
}

// lost is the error of a connection that has failed while nobody uses it.
func (g *leg) lost() (e unix.Errno) {
	_ = g.raw.Control(func(fd uintptr) { e = socketError(int32(fd)) })
	return e
}

// flowBuffer is what one read of a session moves at the most, in bytes: two
// records of TLS.
const flowBuffer = 32 << 10

// flowBuffers are for flows that move; one that waits has none.
var flowBuffers = sync.Pool{New: func() any { return new([flowBuffer]byte) }}

// move copies the flow of from to to, until it ends (io.EOF) or fails; failing to
// write is a writeError. It tells moved of each piece.
//
// Bytes are read only when all that were read before have been written.
func move(to, from *leg, moved func(n int)) error {
	from.noWait = true
	for {
		b := flowBuffers.Get().(*[flowBuffer]byte)
		err := moveNow(to, from, b[:], moved)
		flowBuffers.Put(b)
		if err != errWait {
			return err
		}
		if err := from.wait(); err != nil {
			return err
		}
	}
}

func moveNow(to, from *leg, b []byte, moved func(n int)) error {
	for {
		n, err := from.Read(b)
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return writeError{err}
			}
			moved(n)
		}
		if err != nil {
			return err
		}
	}
}

// writeError is an error of the leg that was written to.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }
