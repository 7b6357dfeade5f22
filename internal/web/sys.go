package web

import (
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readNow and writeNow are a read and a write on a socket that does not block.
// The runtime is not told of them, as it is of other system calls: these return
// within microseconds, and if it were told it would often take the processor away
// from the goroutine meanwhile, which costs more than the call.
func readNow(fd uintptr, b []byte) (int, syscall.Errno) {
	return now(unix.SYS_RECVFROM, fd, b, unix.MSG_DONTWAIT)
}

func writeNow(fd uintptr, b []byte) (int, syscall.Errno) {
	return now(unix.SYS_SENDTO, fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

func now(call, fd uintptr, b []byte, flags uintptr) (int, syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno // n is -1 with an error
		}
	}
}

// queued tells whether there is something to read on a socket.
func queued(fd uintptr) bool {
	n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
	return err == nil && n > 0
}

// unread tells whether bytes have come that nobody has read yet: with a deadline
// that passes before the read begins, a read fails without a look at them.
func (l *leg) unread() (is bool) {
	return l.raw != nil && l.raw.Control(func(fd uintptr) { is = queued(fd) }) == nil && is
}

// readError is what net.Conn would say; 0 bytes are the end.
func readError(n int, errno syscall.Errno) error {
	switch {
	case errno != 0:
		return os.NewSyscallError("read", errno)
	case n == 0:
		return io.EOF
	}
	return nil
}

// sendAll writes all of b.
func (l *leg) sendAll(b []byte) error {
	if l.tcp == nil {
		_, err := l.Write(b)
		return err
	}
	l.sending, l.sendErr = b, nil
	err := l.raw.Write(l.send)
	l.moved(0, int64(len(b)-len(l.sending)))
	if l.sending = nil; err != nil {
		return err
	}
	return l.sendErr
}

// trySend writes as much as there is room for, and tells whether that is all. Like
// all that is called with a descriptor here, it calls nobody else: whoever closes
// the connection meanwhile waits for it, with what locks they have.
func (l *leg) trySend(fd uintptr) (done bool) {
	for len(l.sending) > 0 {
		n, errno := writeNow(fd, l.sending)
		switch {
		case errno == unix.EAGAIN:
			return false
		case errno != 0:
			l.sendErr = os.NewSyscallError("write", errno)
			return true
		}
		l.sending = l.sending[n:]
	}
	return true
}
