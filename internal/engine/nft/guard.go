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
	port    uint32 // of our own transactions
	ignored atomic.Bool
}

func newGuard(port uint32) (*guard, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("watch nf_tables: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) // what is lost counts as a change
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch nf_tables: %w", err)
	}
	g := &guard{file: os.NewFile(uintptr(fd), "nf_tables"), port: port}
	if g.conn, err = g.file.SyscallConn(); err != nil {
		g.file.Close()
		return nil, err
	}
	return g, nil
}

func (g *guard) close() error { return g.file.Close() }

// ignore makes it blind, for the end.
func (g *guard) ignore() { g.ignored.Store(true) }

// restoreWait gives whoever changes rules the time to finish, and keeps two
// programs that both put their rules back from doing nothing else.
const restoreWait = 50 * time.Millisecond

// run calls restore after changes by others, until close.
func (g *guard) run(restore func(who string)) {
	buf := make([]byte, 256<<10)
	foreign := false
	for {
		n, err := g.read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// It was lost what was changed.
			foreign = false
			time.Sleep(restoreWait)
			if !g.ignored.Load() {
				restore("unknown")
			}
			continue
		case err != nil:
			return
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofNlMsghdr+4; {
			size := int(binary.NativeEndian.Uint32(rest))
			if size < unix.SizeofNlMsghdr+4 || size > len(rest) {
				break
			}
			m := rest[:size]
			rest = rest[min(len(rest), (size+3)&^3):]
			if binary.NativeEndian.Uint32(m[12:]) == g.port {
				continue
			}
			// A transaction is told as its changes, and a new generation at its end.
			if binary.NativeEndian.Uint16(m[4:])&0xff != unix.NFT_MSG_NEWGEN {
				foreign = foreign || ofOurs(m)
			} else if foreign {
				foreign = false
				time.Sleep(restoreWait)
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
