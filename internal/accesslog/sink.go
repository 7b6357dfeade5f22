package accesslog

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var errBlocked = errors.New("the output is blocked: nobody reads it")

const (
	// pollTimeout is how often a blocked write looks whether it should stop.
	pollTimeout = 100 // milliseconds

	// pipePiece is how much is written at once to what is no file: a pipe that
	// poll(2) calls writable takes PIPE_BUF bytes without blocking, and in one
	// piece even if others write to it too (pipe(7)).
	pipePiece = 4096
	filePiece = 1 << 20
)

// sink is a descriptor that lines are written to. It is no os.File, because
// that one blocks for good on a pipe that nobody reads, and ends the process
// when standard output is a pipe whose reader has gone.
//
// A sink is owned by who opened it until the writing goroutine adopts it; then
// that one closes it. Writer.mu guards adopted.
type sink struct {
	fd      int
	file    bool // a regular file: never blocks
	ours    bool // to close; not so stdout and stderr
	adopted bool
}

// openSink opens what a plan's log.to says.
func openSink(to string) (*sink, error) {
	s := &sink{fd: -1}
	switch to {
	case "stdout":
		s.fd = 1
	case "stderr":
		s.fd = 2
	default:
		// O_NONBLOCK, or opening a FIFO would wait for its reader.
		fd, err := unix.Open(to, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o640)
		if err != nil {
			if errors.Is(err, unix.ENXIO) {
				return nil, fmt.Errorf("it is a socket, or a pipe that nobody reads: %w", err)
			}
			return nil, err
		}
		s.fd, s.ours = fd, true
	}
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		s.close()
		return nil, err
	}
	s.file = st.Mode&unix.S_IFMT == unix.S_IFREG
	return s, nil
}

// adopt makes the writing goroutine the owner. Called with Writer.mu held.
func (s *sink) adopt() {
	if s != nil {
		s.adopted = true
	}
}

// retire tells whether the caller has to close s. Called with Writer.mu held.
func (s *sink) retire() bool { return s != nil && !s.adopted }

func (s *sink) close() {
	if s != nil && s.ours {
		_ = unix.Close(s.fd) // what was lost, write has reported
	}
}

// write writes p and tells how much of it went. While the output takes nothing,
// stop is asked whether to give up.
func (s *sink) write(p []byte, stop func() bool) (n int, err error) {
	for n < len(p) {
		if !s.file {
			if err := s.wait(stop); err != nil {
				return n, err
			}
		}
		m, err := unix.Write(s.fd, s.piece(p[n:]))
		switch {
		case err == nil:
			n += m
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		default:
			return n, err
		}
	}
	return n, nil
}

// piece is as many whole lines at the front of p as may be written at once.
func (s *sink) piece(p []byte) []byte {
	limit := pipePiece
	if s.file {
		limit = filePiece
	}
	if len(p) <= limit {
		return p
	}
	if i := bytes.LastIndexByte(p[:limit], '\n'); i >= 0 {
		return p[:i+1]
	}
	return p[:limit]
}

// wait returns when s can be written, or an attempt would tell why not.
func (s *sink) wait(stop func() bool) error {
	for {
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(fds, pollTimeout)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		case stop():
			return errBlocked
		}
	}
}
