package relay

import "golang.org/x/sys/unix"

// bufferSize is how much one read copies at the most.
const bufferSize = 64 << 10

// What a loop keeps for later is bounded.
const (
	keepBuffers = 16
	keepSmall   = 64 // small buffers, and as many openings
	keepPipes   = 16
	smallBuffer = 4 << 10 // bytes; what is read beyond an opening is seldom more
)

// pipeSizes are asked for in turn. The kernel refuses the larger ones to a user
// without CAP_SYS_RESOURCE that has many (fs.pipe-user-pages-soft).
var pipeSizes = [...]int{1 << 20, 256 << 10}

// buffer holds bytes that a socket would not take, or has yet to take.
type buffer struct {
	rest []byte // of full, not yet written
	full []byte
}

// buffer lends one with b in it. It is no larger than it has to be, since what is
// in it may have to wait for long: as long as a connect takes, or a slow reader.
func (l *loop) buffer(b []byte) *buffer {
	free := &l.buffers
	if len(b) <= smallBuffer {
		free = &l.small
	}
	var lent *buffer
	if n := len(*free); n > 0 {
		lent, *free = (*free)[n-1], (*free)[:n-1]
	} else {
		lent = &buffer{}
	}
	lent.full = append(lent.full[:0], b...)
	lent.rest = lent.full
	return lent
}

func (l *loop) giveBuffer(b *buffer) {
	free, keep := &l.buffers, keepBuffers
	if cap(b.full) <= smallBuffer {
		free, keep = &l.small, keepSmall
	}
	if b.rest = nil; len(*free) < keep {
		*free = append(*free, b)
	}
}

// pipe is what splice moves bytes through.
type pipe struct {
	r, w   int32
	size   int
	filled int // bytes in it
}

func (p *pipe) close() {
	closeFD(p.r)
	closeFD(p.w)
}

// takeFDs counts n more descriptors that make things faster, if there is room
// for them: they get what connections leave, and a part of the reserve, so that
// checks, names and the control socket always have some.
func (e *Engine) takeFDs(n int) bool {
	if 2*e.active.Load()+e.extra.Add(int64(n)) > e.room.Load() {
		e.giveFDs(n)
		return false
	}
	return true
}

func (e *Engine) giveFDs(n int) { e.extra.Add(-int64(n)) }

// pipe lends an empty pipe; nil when there are no descriptors for one.
func (l *loop) pipe() *pipe {
	if n := len(l.pipes); n > 0 {
		p := l.pipes[n-1]
		l.pipes = l.pipes[:n-1]
		return p
	}
	if !l.e.takeFDs(2) {
		return nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		l.e.giveFDs(2)
		return nil
	}
	p := &pipe{r: int32(fds[0]), w: int32(fds[1]), size: bufferSize}
	for _, size := range pipeSizes {
		if got, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, size); err == nil {
			p.size = got
			break
		}
	}
	return p
}

// givePipe takes a pipe back. One with bytes in it is of no use to another
// connection.
func (l *loop) givePipe(p *pipe) {
	if p.filled == 0 && len(l.pipes) < keepPipes {
		l.pipes = append(l.pipes, p)
		return
	}
	p.close()
	l.e.giveFDs(2)
}
