package web

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// idleServer is how long a connection to a server is kept for further
	// requests, where the server does not ask for less: shorter than what
	// servers and firewalls commonly allow.
	idleServer = 30 * time.Second
	// maxIdle is how many are kept for one endpoint.
	maxIdle = 1024
)

// upstream is a connection to a server.
type upstream struct {
	leg
	ep     Endpoint
	idle   time.Duration // how long it may be idle
	until  time.Time     // when it has been so for too long
	used   bool          // there was a request on it before
	halved atomic.Bool   // the client has closed its side, and that was passed on

	look    func(fd uintptr) // probe, made once
	one     [1]byte          // for it
	ok      bool             // what it found
	pending bool             // and whether something has come, of which only TLS knows what it is

	try         func(fd uintptr) bool // tryAsk, made once; what follows is of an ask
	step        int
	request, in []byte
	n           int
	err         error
}

func newUpstream(c net.Conn, ep Endpoint) *upstream {
	up := &upstream{leg: newLeg(c), ep: ep, idle: idleServer}
	up.ready()
	up.look, up.try = up.probe, up.tryAsk
	return up
}

// alive tells whether a connection that has been idle can still be used: the
// server has not closed it, nor sent what nobody asked for. That would be taken
// for the response to the next request, which is another client's.
func (up *upstream) alive() bool { return up.open() && (up.tcp != nil || up.silent()) }

// open is the part of alive that never waits.
func (up *upstream) open() bool {
	if up.raw == nil {
		return true
	}
	return up.raw.Control(up.look) == nil && up.ok
}

// quietTime is how long TLS is given to say what the bytes are that have come.
const quietTime = time.Millisecond

// silent tells whether a layer such as TLS holds nothing to read. It may have read
// more than was asked for; and what has come since may be its own, as the tickets
// of TLS 1.3 are, or not.
func (up *upstream) silent() bool {
	until := past
	if up.pending {
		until = time.Now().Add(quietTime)
	}
	up.SetReadDeadline(until)
	n, err := up.Read(up.one[:])
	up.SetReadDeadline(time.Time{})
	// On a busy machine the time may have been over before anything was read.
	return n == 0 && isTimeout(err) && !up.unread()
}

// probe reads a byte. If there is one, the connection is of no use any more.
func (up *upstream) probe(fd uintptr) {
	if up.tcp == nil {
		up.pending = queued(fd)
		up.ok = stateOf(fd) == tcpEstablished
		return
	}
	_, errno := readNow(fd, up.one[:])
	up.ok = errno == unix.EAGAIN
}

// ask sends a request on a connection that was used before, and reads the
// beginning of the response into in. It is errDead when the connection turns out
// to be closed before anything was sent.
//
// It does in one go what would else be two reads that find nothing: the look
// whether the connection is alive is also the read after which Go's poller may
// be waited for.
func (up *upstream) ask(request, in []byte) (int, error) {
	up.request, up.in, up.step, up.n = request, in, askLook, 0
	err := up.raw.Read(up.try)
	up.request, up.in = nil, nil
	switch {
	case up.step == askWait:
		up.moved(int64(up.n), int64(len(request)))
		if err == nil {
			err = up.err
		}
		return up.n, err
	case err != nil:
		return 0, err
	case up.step == askLook:
		return 0, up.err
	}
	up.moved(0, int64(up.n))
	// The kernel had no room for all of it.
	if err := up.sendAll(request[up.n:]); err != nil {
		return 0, err
	}
	n, err := up.Read(in)
	if n > 0 {
		return n, nil
	}
	return 0, orEOF(err)
}

// The steps of ask.
const (
	askLook = iota
	askWait
	askPart // n bytes were sent
)

// tryAsk is called when ask begins, and then whenever there may be something to
// read.
func (up *upstream) tryAsk(fd uintptr) (done bool) {
	if up.step == askLook {
		if up.probe(fd); !up.ok {
			up.err = errDead
			return true
		}
		n, errno := writeNow(fd, up.request)
		if up.n = max(0, n); errno != 0 && errno != unix.EAGAIN {
			up.err = os.NewSyscallError("write", errno)
			return true
		}
		if up.n < len(up.request) {
			up.step = askPart
			return true
		}
		up.step, up.n = askWait, 0
		return false
	}
	n, errno := readNow(fd, up.in)
	if errno == unix.EAGAIN {
		return false
	}
	up.n, up.err = max(0, n), readError(n, errno)
	return true
}

// poolKey is what connections may be shared by.
type poolKey struct {
	ep    Endpoint
	owner *conn // nil: anybody's
}

// pool are the connections to servers that no request is using.
type pool struct {
	mu     sync.Mutex
	idle   map[poolKey][]*upstream // the last one used is the last one
	closed bool
}

func (p *pool) init() { p.idle = map[poolKey][]*upstream{} }

// get takes the connection that was used last; nil: there is none. It may have
// been closed by the server.
func (p *pool) get(k poolKey, now time.Time) *upstream {
	for {
		p.mu.Lock()
		all := p.idle[k]
		n := len(all)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		up := all[n-1]
		all[n-1] = nil
		p.idle[k] = all[:n-1]
		p.mu.Unlock()
		if now.Before(up.until) {
			return up
		}
		up.Close()
	}
}

func (p *pool) put(up *upstream, owner *conn, now time.Time) {
	k := poolKey{up.ep, owner}
	up.used = true
	up.until = now.Add(up.idle)
	p.mu.Lock()
	all := p.idle[k]
	keep := !p.closed && len(all) < maxIdle
	if keep {
		p.idle[k] = append(all, up)
	}
	p.mu.Unlock()
	if !keep {
		up.Close()
	}
}

// expire closes what has been idle for too long, and what the server has closed.
func (p *pool) expire(now time.Time) {
	var gone []*upstream
	p.mu.Lock()
	for k, all := range p.idle {
		keep := all[:0]
		for _, up := range all {
			if now.After(up.until) || !up.open() {
				gone = append(gone, up)
			} else {
				keep = append(keep, up)
			}
		}
		clear(all[len(keep):])
		if p.idle[k] = keep; len(keep) == 0 {
			delete(p.idle, k)
		}
	}
	p.mu.Unlock()
	for _, up := range gone {
		up.Close()
	}
}

// forget closes what is there of k.
func (p *pool) forget(k poolKey) {
	p.mu.Lock()
	all := p.idle[k]
	delete(p.idle, k)
	p.mu.Unlock()
	for _, up := range all {
		up.Close()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	all := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, ups := range all {
		for _, up := range ups {
			up.Close()
		}
	}
}
