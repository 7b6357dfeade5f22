package web

import (
	"bytes"
	"errors"
	"sync"
	"time"
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
	if err := c.sendAll(x.out); err != nil {
		return &legError{err, false}
	}
	if len(early) > 0 {
		if err := up.sendAll(early); err != nil {
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
		if halved := t.c.p.halved; halved != nil {
			halved(t.c.from, !upward)
		}
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
