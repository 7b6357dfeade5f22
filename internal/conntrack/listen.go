package conntrack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Event is what happened to a flow.
type Event uint8

// What is in every event: ID, Orig, Reply, Mark and Status.
//
// The kernel tells of the events of those flows only that began while there was
// a listener in the namespace, unless net.netfilter.nf_conntrack_events is 1,
// not 2, the default.
//
// Destroy comes when the kernel clears the flow away, which for one that ran out
// of time may be a minute later; Stop is when its time was up, TIME_WAIT and such
// included. A Dump clears all those away.
const (
	New     Event = 1 + iota // also Timeout and State
	Update                   // also Timeout and, if they changed, State and the FINs; several changes may be told at once
	Destroy                  // also the counters, Start, Stop and, since Linux 5.8, the last State; not the FINs, which an Update has told
)

func (e Event) String() string {
	switch e {
	case New:
		return "new"
	case Update:
		return "update"
	case Destroy:
		return "destroy"
	}
	return "none"
}

// Listener receives events.
type Listener struct {
	mark, mask uint32
	file       *os.File // its poller wakes Receive at Close, and guards the descriptor
	conn       syscall.RawConn
	read       func(fd uintptr) bool // made once, since each would be an allocation
	wait       bool                  // until there is something
	in         []byte
	n          int
	err        error
	flow       Flow
}

// Listen begins to collect the events asked for, of flows with Mark&mask ==
// mark, in a kernel buffer of that many bytes: an event takes about 1 KiB of it.
// Only the privileged of the first user namespace get more than
// net.core.rmem_max. Without events it listens to all.
func Listen(mark, mask uint32, buffer int, events ...Event) (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("conntrack: netlink socket: %w", err)
	}
	if err := join(fd, buffer, events); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("conntrack: listen: %w", err)
	}
	l := &Listener{mark: mark, mask: mask, file: os.NewFile(uintptr(fd), "conntrack"), in: make([]byte, bufferSize)}
	if l.conn, err = l.file.SyscallConn(); err != nil {
		l.file.Close()
		return nil, fmt.Errorf("conntrack: listen: %w", err)
	}
	l.read = func(fd uintptr) bool {
		l.n, l.err = unix.Read(int(fd), l.in)
		return !l.wait || !errors.Is(l.err, unix.EAGAIN)
	}
	return l, nil
}

func join(fd, buffer int, events []Event) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer)
	if errors.Is(err, unix.EPERM) {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
	}
	if err != nil {
		return os.NewSyscallError("set receive buffer", err)
	}
	if len(events) == 0 {
		events = []Event{New, Update, Destroy}
	}
	// Gives it a port ID. Without one it is taken for the sender, the kernel,
	// which tells itself nothing (do_one_broadcast).
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	groups := map[Event]int{New: unix.NFNLGRP_CONNTRACK_NEW, Update: unix.NFNLGRP_CONNTRACK_UPDATE, Destroy: unix.NFNLGRP_CONNTRACK_DESTROY}
	for _, e := range events {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, groups[e]); err != nil {
			return os.NewSyscallError("join "+e.String(), err)
		}
	}
	return nil
}

// Close ends a Receive that waits.
func (l *Listener) Close() error { return l.file.Close() }

// batch bounds what one Receive reads, so that it returns under a constant load.
const batch = 1024

// Receive waits for events and calls f for each one that is there; the Flow is
// reused. After ErrOverrun it may be called again; after net.ErrClosed, not. It
// must not be called twice at the same time.
func (l *Listener) Receive(f func(Event, *Flow)) error {
	for i := range batch {
		l.wait = i == 0
		if err := l.conn.Read(l.read); err != nil { // only since the file is closed
			return net.ErrClosed
		}
		switch {
		case l.err == nil:
			if err := l.deliver(l.in[:l.n], f); err != nil {
				return err
			}
		case errors.Is(l.err, unix.EAGAIN):
			return nil
		case errors.Is(l.err, unix.ENOBUFS):
			return ErrOverrun
		case !errors.Is(l.err, unix.EINTR):
			return os.NewSyscallError("read conntrack events", l.err)
		}
	}
	return nil
}

func (l *Listener) deliver(b []byte, f func(Event, *Flow)) (err error) {
	for len(b) > 0 {
		var m message
		if m, b, err = cut(b); err != nil {
			return err
		}
		event := Update
		switch {
		case m.kind == msgDelete:
			event = Destroy
		case m.kind != msgNew:
			continue
		case m.flags&(unix.NLM_F_CREATE|unix.NLM_F_EXCL) != 0:
			event = New
		}
		known, err := l.flow.decode(m.body)
		if err != nil {
			return err
		}
		if known && l.flow.Mark&l.mask == l.mark {
			f(event, &l.flow)
		}
	}
	return nil
}
