package load

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// bufferSize is how much either end reads or writes at once.
const bufferSize = 256 << 10

// turn is how many reads or writes a connection gets before others have theirs.
const turn = 8

// target answers requests.
type target struct {
	poll     *poller
	listener int
	conns    map[int32]*served
	ready    []*served
	buffer   []byte
	zeros    []byte
	seed     uint64
	http     bool // see ServeHTTP
	proxy    bool // see ServeProxy
	kafka    bool // see ServeKafka
}

// served is a connection of the target: it reads a request, then writes the
// answer, and so on.
type served struct {
	fd      int
	queued  bool
	head    [headerSize]byte
	have    int // of head
	h       header
	unread  int64 // of the request
	unsent  int64 // of the answer
	in      *sink
	out     *source
	pending []byte // of a checked answer; of HTTP's or Kafka's, its head
	request []byte // of HTTP
	last    bool   // HTTP: the connection ends after this answer
	known   bool   // the PROXY header has come
}

// Serve answers requests on addr (IPv4 address and port) until ctx ends. The
// calling goroutine should own its thread.
func Serve(ctx context.Context, addr string) error { return serve(ctx, addr, func(*target) {}) }

func serve(ctx context.Context, addr string, set func(*target)) error {
	t := &target{conns: map[int32]*served{}, buffer: make([]byte, bufferSize), zeros: make([]byte, bufferSize)}
	set(t)
	var err error
	if t.poll, err = newPoller(); err != nil {
		return err
	}
	defer unix.Close(t.poll.fd)
	if t.listener, err = listen(addr); err != nil {
		return err
	}
	defer unix.Close(t.listener)
	if err := t.poll.add(t.listener, unix.EPOLLIN, -1); err != nil {
		return err
	}
	for ctx.Err() == nil {
		patience := 100 * time.Millisecond
		if len(t.ready) > 0 {
			patience = 0
		}
		for _, ev := range t.poll.wait(patience) {
			if ev.Fd == -1 {
				t.accept()
			} else if c := t.conns[ev.Fd]; c != nil {
				t.serve(c)
			}
		}
		again := t.ready
		t.ready = nil
		for _, c := range again {
			c.queued = false
			t.serve(c)
		}
	}
	return nil
}

func listen(addr string) (int, error) {
	sa, err := sockaddr(addr)
	if err != nil {
		return -1, err
	}
	fd, err := socket() // accepted sockets inherit TCP_NODELAY
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		err = unix.Listen(fd, 65535)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return fd, nil
}

func (t *target) accept() {
	for range 64 {
		n, _, e := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(t.listener), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if e != 0 {
			return
		}
		c := &served{fd: int(n)}
		if err := t.poll.add(c.fd, edge, int32(c.fd)); err != nil {
			unix.Close(c.fd)
			continue
		}
		t.conns[int32(c.fd)] = c
	}
}

// serve moves c along, until its socket would block or its turn is over.
func (t *target) serve(c *served) {
	if c.queued {
		return
	}
	for range turn {
		var e unix.Errno
		switch {
		case t.http && c.unsent > 0:
			e = t.httpAnswer(c)
		case t.http:
			e = t.httpRequest(c)
		case t.kafka && c.unsent > 0:
			e = t.kafkaAnswer(c)
		case t.kafka:
			e = t.kafkaRequest(c)
		case c.unsent > 0:
			e = t.answer(c)
		default:
			e = t.request(c)
		}
		switch e {
		case 0:
		case unix.EAGAIN:
			return
		default:
			delete(t.conns, int32(c.fd))
			unix.Close(c.fd)
			return
		}
	}
	c.queued = true
	t.ready = append(t.ready, c)
}

// request reads; an error other than EAGAIN ends the connection.
func (t *target) request(c *served) unix.Errno {
	if c.unread == 0 {
		c.in, c.out, c.pending = nil, nil, nil
	}
	n, e := read(c.fd, t.buffer)
	if e != 0 {
		return e
	}
	if n == 0 {
		return unix.EPIPE // the end
	}
	b := t.buffer[:n]
	if t.proxy && !c.known {
		if b, e = c.introduce(b); e != 0 {
			return e
		}
	}
	for len(b) > 0 {
		if c.unread == 0 {
			m := copy(c.head[c.have:], b)
			c.have, b = c.have+m, b[m:]
			if c.have < headerSize {
				return 0
			}
			var err error
			if c.h, err = decode(c.head[:]); err != nil {
				return unix.EPROTO
			}
			c.have, c.unread = 0, c.h.request-headerSize
			if c.h.check && c.unread > 0 {
				c.in = newSink(c.unread)
			}
		}
		m := min(int64(len(b)), c.unread)
		if c.in != nil {
			c.in.take(b[:m])
		}
		c.unread, b = c.unread-m, b[m:]
		if c.unread == 0 {
			if len(b) > 0 {
				return unix.EPROTO // the client does not wait for the answer
			}
			return t.begin(c)
		}
	}
	return 0
}

// begin starts the answer.
func (t *target) begin(c *served) unix.Errno {
	if c.in != nil && !c.in.ok() {
		return unix.EBADMSG
	}
	c.unsent = c.h.answer
	if c.h.check && c.unsent > 0 {
		t.seed++
		var err error
		if c.out, err = newSource(t.seed, c.unsent); err != nil {
			return unix.EPROTO
		}
	}
	if c.unsent == 0 {
		return 0
	}
	return t.answer(c)
}

func (t *target) answer(c *served) unix.Errno {
	b := t.zeros
	if c.out != nil {
		if len(c.pending) == 0 {
			if c.pending == nil {
				c.pending = make([]byte, bufferSize)
			}
			c.pending = c.pending[:cap(c.pending)]
			c.pending = c.pending[:c.out.fill(c.pending)]
		}
		b = c.pending
	}
	n, e := write(c.fd, b[:min(int64(len(b)), c.unsent)])
	if e != 0 {
		return e
	}
	if c.out != nil {
		if c.pending = c.pending[n:]; len(c.pending) == 0 {
			c.pending = nil
		}
	}
	if c.unsent != Endless {
		c.unsent -= int64(n)
	}
	return 0
}
