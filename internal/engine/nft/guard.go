package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// guard sees when somebody else changes our table.
type guard struct {
	file    *os.File
	conn    syscall.RawConn
	ignored atomic.Bool
}

// newGuard watches all but what comes from a netlink port, our own.
func newGuard(port uint32) (*guard, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("watch nf_tables: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) // what is lost counts as a change
	if err := notFromPort(fd, port); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch nf_tables: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch nf_tables: %w", err)
	}
	g := &guard{file: os.NewFile(uintptr(fd), "nf_tables")}
	if g.conn, err = g.file.SyscallConn(); err != nil {
		g.file.Close()
		return nil, err
	}
	return g, nil
}

// pause makes the kernel tell nothing: to tell a watcher of a thousand new routes
// takes it a third of the time of making them.
func (g *guard) pause() error { return g.membership(unix.NETLINK_DROP_MEMBERSHIP) }

// resume ends a pause.
func (g *guard) resume() error { return g.membership(unix.NETLINK_ADD_MEMBERSHIP) }

func (g *guard) membership(option int) (err error) {
	outer := g.conn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, option, unix.NFNLGRP_NFTABLES)
	})
	return errors.Join(outer, err)
}

// notFromPort keeps what a netlink port has caused itself out of a socket: a
// thousand routes of our own would fill its buffer. The messages of one
// transaction come together, and all have its port.
func notFromPort(fd int, port uint32) error {
	const portOffset = 12 // of nlmsg_pid in struct nlmsghdr
	var raw [4]byte
	binary.NativeEndian.PutUint32(raw[:], port)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: portOffset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: binary.BigEndian.Uint32(raw[:])}, // BPF reads big endian
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

func (g *guard) close() error { return g.file.Close() }

// ignore makes it blind, for the end.
func (g *guard) ignore() { g.ignored.Store(true) }

// Without the rules connections are in danger, so they are put back at once. Two
// programs that both put theirs back must not do nothing else: each time soon
// after another one waits for longer.
const (
	leastWait = 50 * time.Millisecond
	mostWait  = 5 * time.Second
	calm      = 10 * time.Second // after so long it is a first time again
)

// backOff is the wait before a restore.
type backOff struct {
	last time.Time
	wait time.Duration
}

func (b *backOff) pause() {
	if time.Since(b.last) > calm {
		b.wait = 0
	} else {
		time.Sleep(b.wait)
		b.wait = min(max(leastWait, 2*b.wait), mostWait)
	}
	b.last = time.Now()
}

// run calls restore after changes by others, until close.
func (g *guard) run(restore func(who string)) {
	buf := make([]byte, 64<<10)
	foreign := false
	var wait backOff
	for {
		n, err := g.read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// It was lost what was changed.
			foreign = false
			wait.pause()
			if !g.ignored.Load() {
				restore("unknown")
			}
			continue
		case err != nil:
			return
		}
		for m := range messages(buf[:n]) {
			// A transaction is told as its changes, and a new generation at its end.
			if binary.NativeEndian.Uint16(m[4:])&0xff != unix.NFT_MSG_NEWGEN {
				foreign = foreign || ofOurs(m)
			} else if foreign {
				foreign = false
				wait.pause()
				if !g.ignored.Load() {
					restore(committer(m))
				}
			}
		}
	}
}

func (g *guard) read(buf []byte) (n int, err error) {
	outer := g.conn.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), buf)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	return n, errors.Join(outer, err)
}

// ofOurs tells whether a message is about our table: in all of them attribute 1
// is the table's name (linux/netfilter/nf_tables.h).
func ofOurs(m []byte) bool {
	family, attrs := m[unix.SizeofNlMsghdr], m[unix.SizeofNlMsghdr+4:]
	return family == unix.NFPROTO_INET && bytes.Equal(attribute(attrs, 1), append([]byte(tableName), 0))
}

// committer is who made a generation: NFTA_GEN_PROC_NAME and _PID.
func committer(m []byte) string {
	attrs := m[unix.SizeofNlMsghdr+4:]
	name := strings.TrimRight(string(attribute(attrs, unix.NFTA_GEN_PROC_NAME)), "\x00")
	if pid := attribute(attrs, unix.NFTA_GEN_PROC_PID); len(pid) == 4 {
		return fmt.Sprintf("%s (pid %d)", name, binary.BigEndian.Uint32(pid))
	}
	return name
}

// attribute is the value of the first attribute of a kind; nil: there is none.
func attribute(attrs []byte, kind uint16) []byte {
	for len(attrs) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < unix.SizeofNlAttr || size > len(attrs) {
			return nil
		}
		if binary.NativeEndian.Uint16(attrs[2:])&^uint16(unix.NLA_F_NESTED) == kind {
			return attrs[unix.SizeofNlAttr:size]
		}
		attrs = attrs[min(len(attrs), (size+3)&^3):]
	}
	return nil
}
