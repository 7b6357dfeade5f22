package relay

import (
	"fmt"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"midspan/internal/engine"
)

// loop is one epoll instance and all the connections on it. Everything in it
// but the queue of calls belongs to the goroutine of run.
type loop struct {
	e      *Engine
	id     int
	epfd   int
	wakefd int

	now      time.Duration // since the epoch, taken once for each batch, and for each client that comes
	epoch    time.Time     // the engine's: loops compare times
	events   [256]unix.EpollEvent
	batch    []unix.EpollEvent // what is left of the batch in hand
	inHand   *pair             // whose event is being handled
	ready    []*pair           // used up their turn and have more to move
	closing  []int32           // closed after the batch: see closeLater
	timers   timers
	resumeAt time.Duration // when a paused listener is next to be woken; 0: none
	atLimit  atomic.Int32  // listeners paused at a limit; read by all loops
	nudged   atomic.Bool   // a connection has ended: look at those again

	blocks    [][]pair // by slot
	free      []uint32 // slots
	dials     []*dial  // free
	nextID    uint64
	listeners []*socket // by slot; nil: free
	scratch   []byte
	buffers   []*buffer  // free, of up to bufferSize
	small     []*buffer  // free, of up to smallBuffer
	openings  []*opening // free
	pipes     []*pipe
	warm      warm
	spares    []spare
	spareUsed time.Duration // loop time when one was last put or taken
	spliced   uint64        // bytes read by splice
	copied    uint64        // bytes read into scratch
	sessions  sessions      // connections that it has handed off

	stopping bool
	mu       sync.Mutex
	calls    []func()
}

// An event says whose it is by a slot (a place in pairs or listeners), which of
// the slot's descriptors (bits below), and the generation of the slot: a slot
// is used again, and an event of its former user must not reach the next.
const (
	whichBits     = 11
	whichClient   = 0 // 1 and up: the n-th attempt to reach a server
	whichListener = 1<<whichBits - 1
	whichWake     = 1<<whichBits - 2
	whichWarm     = 1<<whichBits - 3
	maxAttempts   = 64
	maxSlots      = 1 << (31 - whichBits)
)

func newLoop(e *Engine, id int) (*loop, error) {
	l := &loop{e: e, id: id, epoch: e.epoch, scratch: make([]byte, bufferSize)}
	var err error
	if l.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if l.wakefd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(l.epfd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	l.watch(int32(l.wakefd), unix.EPOLLIN, 0, whichWake, 0)
	return l, nil
}

// watch adds fd to the epoll set. Adding can fail for want of memory only; the
// caller then sees a connection that never becomes ready, and its timers end it.
func (l *loop) watch(fd int32, events uint32, slot, which, gen uint32) unix.Errno {
	return l.control(unix.EPOLL_CTL_ADD, fd, events, slot, which, gen)
}

func (l *loop) control(op int, fd int32, events uint32, slot, which, gen uint32) unix.Errno {
	ev := unix.EpollEvent{Events: events, Fd: int32(slot<<whichBits | which), Pad: int32(gen)}
	_, _, e := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(l.epfd), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
	return e
}

func (l *loop) run() {
	for !l.stopping {
		l.batch = l.events[:l.wait()]
		l.now = time.Since(l.epoch)
		for len(l.batch) > 0 {
			l.guarded(l.handleBatch)
		}
		for l.timers.first() != 0 && l.timers.first() <= l.now {
			l.guarded(l.fireTimers)
		}
		if l.resumeAt != 0 && l.resumeAt <= l.now {
			l.resume()
		}
		l.guarded(l.runReady)
		if len(l.warm.lacking) > 0 {
			l.guarded(l.replaceWarm)
		}
		if l.warm.tendAt != 0 && l.warm.tendAt <= l.now {
			l.guarded(l.tend)
		}
		l.closeNow()
		if len(l.spares) > 0 && l.now >= l.spareUsed+spareLife {
			l.dropSpares()
		}
	}
	for p := range l.all() {
		l.guarded(func() { l.abort(p, stopped) })
	}
	l.closeNow()
}

// How long a loop that waits keeps its processor of Go's (its P).
const (
	shared    = time.Millisecond
	dedicated = 10 * time.Millisecond // from there on Go's monitor interferes anyway
)

// wait is epoll_wait. Under load the next event is near, so at first the Go
// scheduler is not told of the wait: to be taken off a P and put on one again
// costs more than a small read and write, wakes other threads, and has Go's
// monitor look after us fifty thousand times a second. A signal, by which Go
// asks for the P (for garbage collection, say), ends the first wait at once.
func (l *loop) wait() int {
	timeout := l.timeout()
	first := int(l.e.keepP.Milliseconds())
	if timeout >= 0 && timeout < first {
		first = timeout
	}
	p, size := uintptr(unsafe.Pointer(&l.events[0])), uintptr(len(l.events))
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epfd), p, size, uintptr(first), 0, 0)
	if (n == 0 || e != 0) && first != timeout {
		n, _, e = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epfd), p, size, uintptr(l.timeout()), 0, 0)
	}
	if e != 0 { // EINTR; nothing else can be
		return 0
	}
	return int(n)
}

// timeout is epoll's: milliseconds, rounded up, -1 for none.
func (l *loop) timeout() int {
	if len(l.ready) > 0 {
		return 0
	}
	at := earlier(earlier(l.timers.first(), l.resumeAt), l.warm.tendAt)
	if len(l.spares) > 0 {
		at = earlier(at, l.spareUsed+spareLife)
	}
	if at == 0 {
		return -1
	}
	return int(max(0, at-time.Since(l.epoch)+time.Millisecond-1) / time.Millisecond)
}

// earlier is the earlier of two times, of which 0 is none.
func earlier(a, b time.Duration) time.Duration {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// guarded runs f and survives its panic: a defect in the handling of one
// connection ends that connection, with a log line, and no other.
func (l *loop) guarded(f func()) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		l.e.panics.Add(1)
		p := l.inHand
		l.inHand = nil
		l.e.log.Error("a defect in midspan ended a connection", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		if p != nil && p.state != stateFree {
			l.guarded(func() { l.abort(p, fault) })
		}
	}()
	f()
	l.inHand = nil
}

func (l *loop) handleBatch() {
	for len(l.batch) > 0 {
		ev := l.batch[0]
		l.batch = l.batch[1:]
		slot, which := uint32(ev.Fd)>>whichBits, uint32(ev.Fd)&(1<<whichBits-1)
		switch which {
		case whichWake:
			l.runCalls()
		case whichListener:
			if s := l.listeners[slot]; s != nil {
				l.acceptFrom(s)
			}
		case whichWarm:
			if w := l.warm.conns[slot]; w != nil && w.gen == uint32(ev.Pad) {
				l.onWarm(w, ev.Events)
			}
		default:
			if p := l.pairAt(slot); p.gen == uint32(ev.Pad) && p.state != stateFree {
				l.inHand = p
				l.handle(p, which, ev.Events)
			}
		}
	}
}

// runReady gives every connection that used up its turn another one.
func (l *loop) runReady() {
	for range len(l.ready) { // those added meanwhile come after the next batch
		p := l.ready[0]
		l.ready = l.ready[1:]
		p.queued = false
		if p.state == stateOpen {
			l.inHand = p
			l.progress(p)
		}
	}
}

// call runs f on the loop and waits until it has.
func (l *loop) call(f func()) {
	done := make(chan struct{})
	l.mu.Lock()
	l.calls = append(l.calls, func() {
		defer close(done)
		f()
	})
	l.mu.Unlock()
	l.awaken()
	<-done
}

// awaken makes the loop run its calls. It may be called from any goroutine.
func (l *loop) awaken() {
	one := uint64(1)
	unix.Write(l.wakefd, (*[8]byte)(unsafe.Pointer(&one))[:]) // fails only where a wake-up is pending anyway
}

func (l *loop) runCalls() {
	var b [8]byte
	read(int32(l.wakefd), b[:])
	if l.nudged.Swap(false) {
		l.retryLimits()
	}
	l.mu.Lock()
	calls := l.calls
	l.calls = nil
	l.mu.Unlock()
	for _, f := range calls {
		l.guarded(f)
	}
}

func (l *loop) stop() { l.call(func() { l.stopping = true }) }

// closeFDs gives back what is left after run has ended.
func (l *loop) closeFDs() {
	for _, s := range l.listeners {
		if s != nil {
			unix.Close(int(s.fd))
		}
	}
	for _, p := range l.pipes {
		p.close()
	}
	l.dropSpares()
	l.closeWarm()
	unix.Close(l.wakefd)
	unix.Close(l.epfd)
}

// closeLater closes fd when the batch is done. Were it closed at once, an
// accept in the same batch could get its number, and an event that is still to
// come for the old one would hit the new connection.
func (l *loop) closeLater(fd int32) { l.closing = append(l.closing, fd) }

func (l *loop) closeNow() {
	for _, fd := range l.closing {
		closeFD(fd)
	}
	l.closing = l.closing[:0]
}

func (l *loop) fireTimers() {
	for p := l.timers.next(l.now); p != nil; p = l.timers.next(l.now) {
		l.inHand = p
		l.onTimer(p)
	}
}

func (l *loop) find(id uint64) *pair {
	for p := range l.all() {
		if p.id == id {
			return p
		}
	}
	return nil
}

func (l *loop) conns() []engine.Conn {
	var out []engine.Conn
	for p := range l.all() {
		c := p.conn()
		c.Idle = time.Since(l.epoch) - p.lastMove
		out = append(out, c)
	}
	for s := range l.sessions.all() {
		if c, lives := s.conn(); lives {
			out = append(out, c)
		}
	}
	return out
}

// conn describes p.
func (p *pair) conn() engine.Conn {
	c := engine.Conn{
		ID: strconv.FormatUint(p.id, 10), Route: p.route().name, Node: p.nodeID(), State: p.stateName(),
		Client: p.clientAddr.full(), Caller: p.about(), Listener: p.local(),
		Start: time.Unix(0, p.started), BytesUp: p.client.moved, BytesDown: p.server.moved,
	}
	to := p.to
	if to == nil && p.trouble != nil {
		to = p.trouble.failed
	}
	if to != nil {
		c.Server, c.Endpoint = to.server.Name, to.at(p.listener.port)
	}
	return c
}
