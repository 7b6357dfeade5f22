package web

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tunnel passes bytes both ways after a switch of protocols (RFC 9110, section
// 7.8), until both sides have closed. rest came behind the server's head.
func (c *conn) tunnel(up *upstream, x *exchange, rest []byte) error {
	x.answered, x.closing = true, true
	x.out = append(c.appendResponse(x.out[:0], x, false), rest...)
	early := x.in[x.head:]
	x.head = len(x.in)
	c.watch.end(c)
	c.setDeadline(time.Time{})
	up.SetReadDeadline(time.Time{})
	if _, err := c.Write(x.out); err != nil {
		return &legError{err, false}
	}
	if len(early) > 0 {
		if _, err := up.Write(early); err != nil {
			return &legError{err, true}
		}
	}
	sent, got := int64(len(early)), int64(len(rest))
	x.slim()
	t := tunnel{c: c, up: up, fault: make(chan *legError, 1)}
	var upward sync.WaitGroup
	upward.Go(func() { t.relay(&up.leg, &c.leg, &sent, true) })
	t.relay(&c.leg, &up.leg, &got, false)
	upward.Wait()
	x.BytesUp, x.BytesDown = sent, got
	select {
	case err := <-t.fault:
		return err
	default:
		x.Reason = Tunnelled
		return nil
	}
}

// tunnel is what both directions share.
type tunnel struct {
	c     *conn
	up    *upstream
	fault chan *legError // the first one: any other is its consequence
}

// relay is one direction of a tunnel. An orderly end is passed on as such, any
// other ends both.
func (t *tunnel) relay(dst, src *leg, count *int64, upward bool) {
	err := pump(dst, src, count)
	if err == nil {
		err = asLeg(dst.closeWrite(), false)
	}
	var leg *legError
	if !errors.As(err, &leg) {
		return
	}
	leg.ofServer = leg.ofServer != upward // pump takes what it reads from for the server
	select {
	case t.fault <- leg:
	default:
	}
	t.up.reset()
	t.c.reset()
}

// slim gives the buffers back, since a tunnel may be idle for hours. x keeps
// what the record needs.
func (x *exchange) slim() {
	y := &exchange{in: x.in[:0], out: x.out[:0], sb: x.sb[:0]}
	y.req.Fields, x.req.Fields = x.req.Fields, nil
	y.resp.Fields, x.resp.Fields = x.resp.Fields, nil
	x.Method, x.Host, x.Path = bytes.Clone(x.Method), bytes.Clone(x.Host), bytes.Clone(x.Path)
	x.in, x.out, x.sb, x.head = nil, nil, nil, 0
	x.req.Bytes, x.resp.Bytes = nil, nil
	if cap(y.in)+cap(y.out)+cap(y.sb) <= maxKept {
		exchanges.Put(y)
	}
}

// busyReads is after how many full reads in a row a stream is spliced.
const busyReads = 4

// pump copies until the end of src, which it does not wait for with a buffer in
// hand. An error is a legError, with ofServer for that of src.
func pump(dst, src *leg, count *int64) error {
	p := pumper{src: src}
	p.try = p.tryRead
	full := 0
	for {
		if full >= busyReads && dst.tcp != nil && src.tcp != nil {
			n, ofSource, err := splice(dst, src, spliceStep)
			*count += n
			switch {
			case ofSource && err == io.EOF:
				return nil
			case err != nil:
				return &legError{err, ofSource}
			}
			continue
		}
		n, err := p.read()
		if n > 0 {
			_, werr := dst.Write(p.buf[:n])
			p.give()
			if werr != nil {
				return &legError{werr, false}
			}
			*count += int64(n)
			if full++; n < bulkSize {
				full = 0
			}
			continue
		}
		p.give()
		if err == nil || err == io.EOF {
			return nil
		}
		return &legError{err, true}
	}
}

// pumper reads from src into a buffer that it has only while there is data.
type pumper struct {
	src *leg
	buf *[bulkSize]byte
	n   int
	err error
	try func(uintptr) bool
}

func (p *pumper) give() {
	if p.buf != nil {
		bulk.Put(p.buf)
		p.buf = nil
	}
}

func (p *pumper) read() (int, error) {
	if p.src.tcp == nil {
		p.buf = bulk.Get().(*[bulkSize]byte)
		return p.src.Read(p.buf[:])
	}
	if err := p.src.raw.Read(p.try); err != nil {
		return 0, err
	}
	return p.n, p.err
}

func (p *pumper) tryRead(fd uintptr) bool {
	p.buf = bulk.Get().(*[bulkSize]byte)
	p.n, p.err = syscall.Read(int(fd), p.buf[:])
	for p.err == unix.EINTR {
		p.n, p.err = syscall.Read(int(fd), p.buf[:])
	}
	switch {
	case p.err == unix.EAGAIN:
		p.give()
		return false
	case p.err != nil:
		p.n = 0
	default:
		p.src.moved(int64(p.n), 0)
	}
	return true
}
