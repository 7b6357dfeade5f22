package web

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"midspan/internal/web/h1"
)

// upload sends the part of a request's body that did not come with the head, in
// a goroutine of its own: the response may come before the body has ended.
type upload struct {
	client *conn
	up     *upstream
	left   int64     // of a body with a length
	chunks h1.Chunks // of a chunked one
	length bool      // which of both

	// read says that the whole body has been read from the client. It is set
	// before the last of it is sent, so it holds when the response to it comes.
	read atomic.Bool
	done chan struct{} // closed at the end; then what follows may be read

	complete bool // all was sent
	bytes    int64
	fault    Reason // the client's: BadRequest, ClientClosed, ClientReset; else Done
	err      error
	more     []byte // read behind the body

	mu      sync.Mutex // guards what follows, and the server's read deadline
	timeout time.Duration
}

func newUpload(c *conn, up *upstream, x *exchange, left int64) *upload {
	return &upload{client: c, up: up, left: left, length: x.req.Body == h1.Length, timeout: x.rules.responseTimeout, done: make(chan struct{})}
}

func (u *upload) run() {
	defer close(u.done)
	var ofClient bool
	if u.length {
		ofClient, u.err = u.sendLength()
	} else {
		ofClient, u.err = u.sendChunks()
	}
	var refused *h1.Error
	switch {
	case u.err == nil:
		u.complete = true
		u.client.watch.begin(time.Now())
		u.mu.Lock()
		if u.timeout > 0 {
			u.up.SetReadDeadline(time.Now().Add(u.timeout))
		}
		u.mu.Unlock()
		return
	case errors.As(u.err, &refused):
		u.fault = BadRequest
	case ofClient && errors.Is(u.err, io.EOF):
		u.fault = ClientClosed
	case ofClient:
		u.fault = ClientReset
	default:
		return // the server takes no more; it may have answered
	}
	// A body that broke off must not look complete, nor be waited for.
	u.up.Close()
}

// answered ends the wait for a response.
func (u *upload) answered() {
	u.mu.Lock()
	u.timeout = 0
	u.mu.Unlock()
}

func (u *upload) sendLength() (ofClient bool, err error) {
	if u.left >= spliceFrom && u.client.tcp != nil && u.up.tcp != nil {
		n, ofClient, err := copyN(&u.up.leg, &u.client.leg, u.left-bulkSize)
		u.left -= n
		u.bytes += n
		if err != nil {
			return ofClient, err
		}
	}
	buf := bulk.Get().(*[bulkSize]byte)
	defer bulk.Put(buf)
	for u.left > 0 {
		n, err := u.client.Read(buf[:min(u.left, bulkSize)])
		if n == 0 {
			return true, orEOF(err)
		}
		u.left -= int64(n)
		u.read.Store(u.left == 0)
		if err := u.up.sendAll(buf[:n]); err != nil {
			return false, err
		}
		u.bytes += int64(n)
	}
	return false, nil
}

func (u *upload) sendChunks() (ofClient bool, err error) {
	buf := bulk.Get().(*[bulkSize]byte)
	defer bulk.Put(buf)
	for !u.chunks.Done() {
		m, err := u.client.Read(buf[:])
		if m == 0 {
			return true, orEOF(err)
		}
		send, n, err := pass(&u.chunks, buf[:m], false)
		if err != nil {
			return true, err
		}
		if u.chunks.Done() {
			u.more = append(u.more, buf[n:m]...)
			u.read.Store(true)
		}
		if err := u.up.sendAll(send); err != nil {
			return false, err
		}
		u.bytes += int64(n)
	}
	return false, nil
}

// settleTime is for the last write of a body whose response is there already.
const settleTime = time.Second

// end waits for the upload, and ends one that goes on after the response, which
// nobody reads any more. The client's connection cannot be used after that.
func (u *upload) end(c *conn) {
	if u.read.Load() {
		select {
		case <-u.done:
			return
		case <-time.After(settleTime):
		}
	}
	select {
	case <-u.done:
	default:
		u.up.Close()
		c.SetReadDeadline(past)
		<-u.done
		c.setDeadline(time.Time{})
	}
	if !u.complete {
		c.x.closing = true
		if errors.Is(u.err, net.ErrClosed) || u.fault == ClientReset && isTimeout(u.err) {
			u.fault = Done // it was ended here
		}
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
