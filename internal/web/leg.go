package web

import (
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// leg is a connection, to a client or to a server, with what is known of the
// socket beneath.
type leg struct {
	net.Conn
	tcp    *net.TCPConn    // nil where its bytes are not what Read and Write see
	plain  Plain           // is told of bytes that went by; nil: nobody is
	socket *net.TCPConn    // beneath, whatever is above it; nil where unknown
	raw    syscall.RawConn // of socket

	send    func(fd uintptr) bool // trySend, made once
	sending []byte                // what it has to send yet
	sendErr error
}

func newLeg(c net.Conn) leg {
	l := leg{Conn: c}
	switch c := c.(type) {
	case *net.TCPConn:
		l.tcp = c
	case Plain:
		l.tcp, l.plain = c.TCP(), c
	}
	if l.socket = l.tcp; l.socket == nil {
		l.socket = beneath(c)
	}
	if l.socket != nil {
		l.raw, _ = l.socket.SyscallConn()
	}
	return l
}

// ready makes what depends on where l is: it must not be copied after that.
func (l *leg) ready() { l.send = l.trySend }

// beneath finds the TCP connection under layers such as TLS.
func beneath(c net.Conn) *net.TCPConn {
	for {
		if t, ok := c.(*net.TCPConn); ok {
			return t
		}
		over, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = over.NetConn()
	}
}

// reset ends the connection in a way that the peer cannot take for an orderly
// end: TCP is reset, and TLS is not told to close. A c that has a Reset method
// does it itself.
func (l *leg) reset() {
	if r, ok := l.Conn.(interface{ Reset() error }); ok {
		r.Reset()
		return
	}
	if l.socket != nil {
		l.socket.SetLinger(0)
		l.socket.Close()
	}
	l.Conn.Close()
}

// closeWrite passes a half-close on, where the connection can do that.
func (l *leg) closeWrite() error {
	if w, ok := l.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return l.Conn.Close()
}

// state is the state of the TCP connection; 0: not known.
func (l *leg) state() (state byte) {
	if l.raw != nil {
		l.raw.Control(func(fd uintptr) { state = stateOf(fd) })
	}
	return state
}

// stateOf asks the kernel. The state is the first byte of struct tcp_info
// (linux/tcp.h), and the kernel fills as much of that as there is room for.
func stateOf(fd uintptr) byte {
	n, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return byte(n)
}

// The states that matter here (include/net/tcp_states.h).
const (
	tcpEstablished = 1
	tcpClose       = 7
	tcpCloseWait   = 8
)

const (
	// bulkSize is the size of buffers for bodies.
	bulkSize = 64 << 10
	// spliceFrom is the length from which a body is spliced; below it a copy
	// is cheaper than the system calls.
	spliceFrom = 128 << 10
	// spliceStep is how much is spliced before it is counted.
	spliceStep = 8 << 20
)

var bulk = sync.Pool{New: func() any { return new([bulkSize]byte) }}

// copyN copies n bytes, and tells how many it did and whether a failure was of
// the side that is read from. The end of the input before n is io.EOF.
func copyN(dst, src *leg, n int64) (done int64, ofSource bool, err error) {
	if n >= spliceFrom && dst.tcp != nil && src.tcp != nil {
		return splice(dst, src, n)
	}
	buf := bulk.Get().(*[bulkSize]byte)
	defer bulk.Put(buf)
	for done < n {
		m, err := src.Read(buf[:min(n-done, bulkSize)])
		if m > 0 {
			if werr := dst.sendAll(buf[:m]); werr != nil {
				return done, false, werr
			}
			done += int64(m)
		}
		if err != nil && done < n {
			return done, true, err
		}
	}
	return done, false, nil
}

// splice copies within the kernel.
func splice(dst, src *leg, n int64) (done int64, ofSource bool, err error) {
	for done < n && err == nil {
		var m int64
		m, err = io.CopyN(dst.tcp, src.tcp, min(n-done, spliceStep))
		done += m
		src.moved(m, 0)
		dst.moved(0, m)
	}
	if err == nil {
		return done, false, nil
	}
	// splice(2) does not tell whose error it is; the socket that is gone does.
	return done, err == io.EOF || dst.state() != tcpClose && src.state() == tcpClose, err
}

func (l *leg) moved(read, written int64) {
	if l.plain != nil && read+written > 0 {
		l.plain.Moved(read, written)
	}
}
