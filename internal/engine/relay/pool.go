package relay

import "golang.org/x/sys/unix"

// bufferSize is how much one read copies at the most.
const bufferSize = 64 << 10

// keepBuffers and keepPipes bound what a loop keeps for later.
const (
	keepBuffers = 16
	keepPipes   = 16
)

// pipeSizes are asked for in turn. The kernel refuses the larger ones to a user
// without CAP_SYS_RESOURCE that has many (fs.pipe-user-pages-soft).
var pipeSizes = [...]int{1 << 20, 256 << 10}

// buffer lends 64 KiB, to hold bytes that a socket would not take.
func (l *loop) buffer() []byte {
	if n := len(l.buffers); n > 0 {
		b := l.buffers[n-1]
		l.buffers = l.buffers[:n-1]
		return b
	}
	return make([]byte, bufferSize)
}

func (l *loop) giveBuffer(b []byte) {
	if len(l.buffers) < keepBuffers {
		l.buffers = append(l.buffers, b[:bufferSize])
	}
}

// pipe is what splice moves bytes through. r is 0 when there is none: 0 is
// standard input and never a pipe of ours.
type pipe struct {
	r, w int32
	size int
}

func (p pipe) close() {
	closeFD(p.r)
	closeFD(p.w)
}

// pipe lends an empty pipe; false when there is no fd for one. Pipes take what
// connections leave, and a part of the reserve, so that checks, names and the
// control socket always have descriptors.
func (l *loop) pipe() (pipe, bool) {
	if n := len(l.pipes); n > 0 {
		p := l.pipes[n-1]
		l.pipes = l.pipes[:n-1]
		return p, true
	}
	if 2*(l.e.active.Load()+l.e.pipes.Add(1)) > l.e.room.Load() {
		l.e.pipes.Add(-1)
		return pipe{}, false
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		l.e.pipes.Add(-1)
		return pipe{}, false
	}
	p := pipe{int32(fds[0]), int32(fds[1]), bufferSize}
	for _, size := range pipeSizes {
		if got, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, size); err == nil {
			p.size = got
			break
		}
	}
	return p, true
}

// givePipe takes a pipe back. One with bytes in it is of no use to another
// connection.
func (l *loop) givePipe(p pipe, empty bool) {
	if empty && len(l.pipes) < keepPipes {
		l.pipes = append(l.pipes, p)
		return
	}
	p.close()
	l.e.pipes.Add(-1)
}
