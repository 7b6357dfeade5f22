package load

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// client is the state of a run.
type client struct {
	spec    Spec
	to      unix.Sockaddr
	poll    *poller
	conns   []*conn
	ready   []*conn
	buffer  []byte
	zeros   []byte
	heads   [][]byte // the beginning of each step's request
	now     time.Time
	moved   time.Time // when something last happened
	counted bool      // within the window
	seed    uint64
	running int

	latency histogram
	report  Report
}

type conn struct {
	fd        int
	id        int32
	gen       uint32
	queued    bool
	connected bool
	sessions  int
	step      int
	sent, got int64
	began     time.Time // of the session or exchange
	out       *source
	pending   []byte
	in        *sink
}

const (
	// stuck is how long nothing at all may move before a run is given up.
	stuck = 30 * time.Second
	// tolerated is how many errors end a run: what is counted after them is of
	// no use anyway.
	tolerated = 20
)

// Run makes a run: it writes "begin" and "end" lines to marks when the window
// begins and ends. Errors of connections are in the report.
func Run(spec Spec, marks io.Writer) (Report, error) {
	if spec.TLS != "" {
		return runTLS(spec, marks)
	}
	c, err := newClient(spec)
	if err != nil {
		return Report{}, err
	}
	defer c.close()
	if err := c.openAll(); err != nil {
		return Report{}, err
	}
	if spec.Sessions > 0 {
		return c.runOut(marks)
	}
	c.until(c.now.Add(spec.Warmup))
	if err := c.mark(marks, "begin"); err != nil {
		return Report{}, err
	}
	c.counted = true
	begin := c.now
	c.until(begin.Add(spec.Window))
	c.counted = false
	err = c.mark(marks, "end")
	return c.result(c.now.Sub(begin)), err
}

// runOut runs until every connection has had its sessions.
func (c *client) runOut(marks io.Writer) (Report, error) {
	c.counted = true
	begin := c.now
	err := c.mark(marks, "begin")
	for c.running > 0 && !c.failed() {
		c.turn(time.Second)
	}
	return c.result(c.now.Sub(begin)), errors.Join(err, c.mark(marks, "end"))
}

// Hold makes all the connections with one session each, writes "ready" to marks,
// reads a line from ask, makes another session on each, and so on until ask ends.
func Hold(spec Spec, marks io.Writer, ask io.Reader) (Report, error) {
	spec.Sessions, spec.Reconnect = 1, false
	c, err := newClient(spec)
	if err != nil {
		return Report{}, err
	}
	defer c.close()
	c.counted = true
	begin := c.now
	// Some at a time, or the target's queue would be the bottleneck.
	for c.running < spec.Conns && !c.failed() {
		if err := c.open(); err != nil {
			return Report{}, err
		}
		for last := c.conns[len(c.conns)-1]; last.sessions == 0 && !c.failed() && len(c.conns)%64 == 0; {
			c.turn(time.Second)
		}
	}
	lines := bufio.NewScanner(ask)
	for round := 1; ; round++ {
		for !c.failed() && !c.allHad(round) {
			c.turn(time.Second)
		}
		if err := c.mark(marks, "ready"); err != nil || c.failed() || !lines.Scan() {
			return c.result(c.now.Sub(begin)), err
		}
		c.now = time.Now()
		c.moved = c.now
		for _, cn := range c.conns {
			c.begin(cn)
			c.drive(cn)
		}
	}
}

func (c *client) allHad(sessions int) bool {
	for _, cn := range c.conns {
		if cn.sessions < sessions {
			return false
		}
	}
	return true
}

func newClient(spec Spec) (*client, error) {
	c := &client{spec: spec, buffer: make([]byte, bufferSize), zeros: make([]byte, bufferSize), now: time.Now()}
	c.moved = c.now
	var err error
	if c.to, err = sockaddr(spec.Addr); err != nil {
		return nil, err
	}
	if len(spec.Steps) == 0 || spec.Conns <= 0 {
		return nil, errors.New("a run needs connections and steps")
	}
	if spec.Proxy && (!spec.Reconnect || spec.Check) {
		return nil, errors.New("a PROXY header is for the beginning of a connection that is not checked")
	}
	if spec.Kafka && spec.Check {
		return nil, errors.New("requests of Kafka's have no digests")
	}
	for _, s := range spec.Steps {
		if s.Send < headerSize || s.Receive <= 0 {
			return nil, fmt.Errorf("a step of %d bytes up and %d down: at least %d up and 1 down", s.Send, s.Receive, headerSize)
		}
		head := make([]byte, min(s.Send, bufferSize))
		header{spec.Check, s.Send, s.Receive}.encode(head)
		if spec.Kafka {
			var err error
			if head, err = kafkaRequest(s); err != nil {
				return nil, err
			}
		}
		c.heads = append(c.heads, head)
	}
	if spec.Proxy {
		c.heads[0] = append(introduction(), c.heads[0]...)
		c.spec.Steps = slices.Clone(spec.Steps)
		c.spec.Steps[0].Send += int64(len(c.heads[0])) - min(spec.Steps[0].Send, bufferSize)
	}
	c.poll, err = newPoller()
	return c, err
}

func (c *client) close() {
	for _, cn := range c.conns {
		if cn.fd >= 0 {
			unix.Close(cn.fd)
		}
	}
	unix.Close(c.poll.fd)
}

func (c *client) mark(w io.Writer, text string) error {
	_, err := fmt.Fprintln(w, text)
	c.now = time.Now()
	return err
}

func (c *client) result(took time.Duration) Report {
	r := &c.report
	us := func(q float64) float64 { return float64(c.latency.quantile(q)) / 1e3 }
	r.Seconds, r.P50, r.P99, r.P999 = took.Seconds(), us(0.5), us(0.99), us(0.999)
	return *r
}

func (c *client) openAll() error {
	for range c.spec.Conns {
		if err := c.open(); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) open() error {
	cn := &conn{id: int32(len(c.conns)), fd: -1}
	c.conns = append(c.conns, cn)
	c.running++
	return c.connect(cn)
}

func (c *client) connect(cn *conn) error {
	fd, err := socket()
	if err != nil {
		return err
	}
	cn.fd, cn.connected = fd, false
	cn.gen++
	c.begin(cn)
	err = unix.Connect(fd, c.to)
	if err != nil && err != unix.EINPROGRESS {
		c.fail(cn, fmt.Errorf("connect: %w", err))
		return nil
	}
	return unix.EpollCtl(c.poll.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: edge, Fd: cn.id, Pad: int32(cn.gen)})
}

// begin starts a session.
func (c *client) begin(cn *conn) {
	cn.step = 0
	cn.began = time.Now()
	c.beginStep(cn)
}

func (c *client) beginStep(cn *conn) {
	cn.sent, cn.got, cn.in, cn.out, cn.pending = 0, 0, nil, nil, nil
	if !c.spec.Check {
		return
	}
	s := c.spec.Steps[cn.step]
	cn.in = newSink(s.Receive)
	if s.Send > headerSize {
		c.seed++
		var err error
		if cn.out, err = newSource(c.seed<<32, s.Send-headerSize); err != nil {
			c.fail(cn, err)
		}
	}
}

// until runs until at, or until it makes no more sense.
func (c *client) until(at time.Time) {
	for c.now.Before(at) && !c.failed() {
		c.turn(at.Sub(c.now) + time.Millisecond - 1)
	}
}

func (c *client) failed() bool {
	if c.report.Errors == 0 && c.now.Sub(c.moved) > stuck {
		c.report.Errors++
		c.report.Error = fmt.Sprintf("nothing moved for %s", stuck)
	}
	return c.report.Errors >= tolerated || (c.report.Errors > 0 && (!c.spec.Reconnect || c.spec.Sessions > 0))
}

// turn handles one batch of events.
func (c *client) turn(patience time.Duration) {
	if len(c.ready) > 0 {
		patience = 0
	}
	events := c.poll.wait(min(patience, 100*time.Millisecond))
	c.now = time.Now()
	if len(events)+len(c.ready) > 0 {
		c.moved = c.now
	}
	for _, ev := range events {
		if cn := c.conns[ev.Fd]; cn.fd >= 0 && cn.gen == uint32(ev.Pad) {
			if !cn.connected && ev.Events&(unix.EPOLLOUT|unix.EPOLLERR) != 0 {
				cn.connected = true
			}
			c.drive(cn)
		}
	}
	again := c.ready
	c.ready = nil
	for _, cn := range again {
		cn.queued = false
		if cn.fd >= 0 {
			c.drive(cn)
		}
	}
}

// drive moves cn along, until its socket would block or its turn is over.
func (c *client) drive(cn *conn) {
	if !cn.connected || cn.queued {
		return
	}
	for range turn {
		s := c.spec.Steps[cn.step]
		e := unix.Errno(0)
		done := false
		if cn.sent < s.Send {
			e = c.send(cn, s)
		} else {
			done, e = c.receive(cn, s)
		}
		switch {
		case e == unix.EAGAIN:
			return
		case e != 0:
			c.fail(cn, fmt.Errorf("step %d, after %d bytes sent and %d received: %w", cn.step+1, cn.sent, cn.got, e))
			return
		case done && !c.stepDone(cn):
			return
		}
	}
	cn.queued = true
	c.ready = append(c.ready, cn)
}

func (c *client) send(cn *conn, s Step) unix.Errno {
	b := c.zeros
	switch {
	case cn.out != nil && cn.sent >= headerSize:
		if len(cn.pending) == 0 {
			cn.pending = make([]byte, bufferSize)
			cn.pending = cn.pending[:cn.out.fill(cn.pending)]
		}
		b = cn.pending
	case cn.out != nil:
		b = c.heads[cn.step][cn.sent:headerSize]
	case cn.sent < int64(len(c.heads[cn.step])):
		b = c.heads[cn.step][cn.sent:]
	}
	n, e := write(cn.fd, b[:min(int64(len(b)), s.Send-cn.sent)])
	if e != 0 {
		return e
	}
	if len(cn.pending) > 0 {
		cn.pending = cn.pending[n:]
	}
	cn.sent += int64(n)
	if c.counted {
		c.report.BytesUp += int64(n)
	}
	return 0
}

func (c *client) receive(cn *conn, s Step) (done bool, e unix.Errno) {
	n, e := read(cn.fd, c.buffer)
	switch {
	case e != 0:
		return false, e
	case n == 0:
		return false, unix.ENODATA // the connection has ended
	}
	if cn.in != nil {
		cn.in.take(c.buffer[:n])
	}
	cn.got += int64(n)
	if c.counted {
		c.report.BytesDown += int64(n)
	}
	if cn.got > s.Receive {
		return false, unix.EMSGSIZE // more than was asked for
	}
	return cn.got == s.Receive, 0
}

// stepDone goes on to the next step, session or connection, and tells whether
// there is more to do on this one.
func (c *client) stepDone(cn *conn) bool {
	if cn.in != nil && !cn.in.ok() {
		c.fail(cn, errors.New("the answer's digest is not that of what came"))
		return false
	}
	last := cn.step+1 == len(c.spec.Steps)
	if c.counted {
		c.report.Exchanges++
		if last || !c.spec.Reconnect {
			c.latency.add(time.Since(cn.began))
		}
	}
	if !last {
		cn.step++
		if !c.spec.Reconnect {
			cn.began = time.Now()
		}
		c.beginStep(cn)
		return true
	}
	cn.sessions++
	if c.counted {
		c.report.Sessions++
	}
	if c.spec.Sessions > 0 && cn.sessions >= c.spec.Sessions {
		if !c.spec.Hold {
			c.running--
			unix.Close(cn.fd)
			cn.fd = -1
		}
		return false
	}
	if !c.spec.Reconnect {
		c.begin(cn)
		return true
	}
	unix.Close(cn.fd)
	c.mustConnect(cn)
	return false
}

// fail counts an error of cn, and connects anew.
func (c *client) fail(cn *conn, err error) {
	if c.report.Errors++; c.report.Errors == 1 {
		c.report.Error = err.Error()
	}
	unix.Close(cn.fd)
	cn.fd = -1
	if !c.failed() {
		c.mustConnect(cn)
	}
}

func (c *client) mustConnect(cn *conn) {
	if err := c.connect(cn); err != nil {
		c.report.Errors += tolerated
		c.report.Error = err.Error()
	}
}
