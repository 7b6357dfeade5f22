package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// kernel is the way to nf_tables of the network namespace that it was opened in.
type kernel struct {
	mu     sync.Mutex // one transaction at a time
	socket int
	port   uint32 // of the socket: by it our own changes are known
	in     []byte // what the kernel answers; guarded by mu
}

// bufferSize lets a transaction of some 100,000 messages through at once, as it
// must go. Who is not root of the first user namespace has net.core.wmem_max.
const bufferSize = 64 << 20

func openKernel() (*kernel, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("nf_tables: %w", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bufferSize) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, bufferSize) // enough for small rulesets
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("nf_tables: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("nf_tables: %w", err)
	}
	return &kernel{socket: fd, port: name.(*unix.SockaddrNetlink).Pid, in: make([]byte, 64<<10)}, nil
}

func (k *kernel) close() error { return unix.Close(k.socket) }

func (k *kernel) send(data []byte) error {
	err := unix.Sendto(k.socket, data, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if errors.Is(err, unix.EMSGSIZE) {
		return fmt.Errorf("the rules are %d KiB, more than this user may send at once; raise net.core.wmem_max: %w", len(data)>>10, err)
	} else if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	return nil
}

// commit runs a batch: all of it or nothing.
func (k *kernel) commit(b *batch) error {
	switch {
	case b.err != nil:
		return b.err
	case len(b.what) == 0:
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	// Of the last message an acknowledgement is wanted: then all went well.
	b.data[b.last+6] |= unix.NLM_F_ACK
	whole := batch{}
	whole.raw(unix.NFNL_MSG_BATCH_BEGIN, 0, 0, unix.NFNL_SUBSYS_NFTABLES, func() {})
	whole.data = append(whole.data, b.data...)
	whole.raw(unix.NFNL_MSG_BATCH_END, 0, 0, unix.NFNL_SUBSYS_NFTABLES, func() {})
	if err := k.send(whole.data); err != nil {
		return err
	}
	return k.answer(b)
}

// answer reads until the last message of b is acknowledged. The kernel goes on
// after an error, to report them all.
func (k *kernel) answer(b *batch) error {
	var errs []error
	for {
		n, err := unix.Read(k.socket, k.in)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // ENOBUFS: more errors than fit
			return errors.Join(append(errs, fmt.Errorf("nf_tables: %w", err))...)
		}
		for m := range messages(k.in[:n]) {
			number := int(binary.NativeEndian.Uint32(m[8:]))
			code := -int32(binary.NativeEndian.Uint32(m[unix.SizeofNlMsghdr:]))
			switch {
			case code != 0 && (number < 1 || number > len(b.what)):
				return fmt.Errorf("nf_tables: %w", unix.Errno(code))
			case code != 0 && len(errs) < fewErrors:
				errs = append(errs, fmt.Errorf("nf_tables refuses %s: %w", b.what[number-1], unix.Errno(code)))
			}
			if number == len(b.what) {
				return errors.Join(errs...)
			}
		}
	}
}

// fewErrors is how many the report of a transaction has at most.
const fewErrors = 5

// generation is the number of transactions that there have been in this network
// namespace, by anybody.
func (k *kernel) generation() (uint32, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ask := batch{}
	ask.raw(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0, 0, 0, func() {})
	if err := k.send(ask.data); err != nil {
		return 0, err
	}
	n, err := unix.Read(k.socket, k.in)
	if err != nil {
		return 0, fmt.Errorf("nf_tables: %w", err)
	}
	for m := range messages(k.in[:n]) {
		if id := attribute(m[unix.SizeofNlMsghdr+4:], unix.NFTA_GEN_ID); len(id) == 4 {
			return binary.BigEndian.Uint32(id), nil
		}
	}
	return 0, errors.New("nf_tables: no generation")
}

// counted is the value of a counter.
type counted struct{ packets, bytes uint64 }

// counters are the named counters of our table; none where there is no table.
func (k *kernel) counters() (map[string]counted, error) {
	all := map[string]counted{}
	err := k.dump(unix.NFT_MSG_GETOBJ, func(b *batch) {
		b.string(unix.NFTA_OBJ_TABLE, tableName)
		b.number(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	}, func(attrs []byte) {
		name, c := counterIn(attrs)
		all[name] = c
	})
	if err != nil {
		return nil, fmt.Errorf("read the counters: %w", err)
	}
	return all, nil
}

// present tells whether there is a table of ours.
func (k *kernel) present() (bool, error) {
	found := false
	err := k.dump(unix.NFT_MSG_GETTABLE, func(*batch) {}, func(attrs []byte) {
		found = found || textOf(attrs, unix.NFTA_TABLE_NAME) == tableName
	})
	if err != nil {
		return false, fmt.Errorf("read the tables: %w", err)
	}
	return found, nil
}

// numbers are those of the routes that our table has.
func (k *kernel) numbers() (map[string]uint16, error) {
	all := map[string]uint16{}
	err := k.dump(unix.NFT_MSG_GETCHAIN, func(*batch) {}, func(attrs []byte) {
		name, ok := strings.CutPrefix(textOf(attrs, unix.NFTA_CHAIN_NAME), chainOf(""))
		comment := attribute(attrs, chainUserData)
		if ok && textOf(attrs, unix.NFTA_CHAIN_TABLE) == tableName && len(comment) > 2 && comment[0] == chainComment {
			if n, ok := numberIn(strings.TrimRight(string(comment[2:]), "\x00")); ok {
				all[name] = n
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read the chains: %w", err)
	}
	return all, nil
}

// dump asks for a list of things of the family inet and calls f with the
// attributes of each. That there is no table is an empty list.
func (k *kernel) dump(kind uint16, about func(*batch), f func(attrs []byte)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	ask := &batch{}
	ask.message(kind, unix.NLM_F_DUMP, subject{}, func() { about(ask) })
	if err := k.send(ask.data); err != nil {
		return err
	}
	for {
		n, err := unix.Read(k.socket, k.in)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		}
		for m := range messages(k.in[:n]) {
			switch kind := binary.NativeEndian.Uint16(m[4:]); kind {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				code := unix.Errno(-int32(binary.NativeEndian.Uint32(m[unix.SizeofNlMsghdr:])))
				if code == unix.ENOENT {
					return nil
				}
				return code
			default:
				f(m[unix.SizeofNlMsghdr+4:])
			}
		}
	}
}

// textOf is an attribute that is a string.
func textOf(attrs []byte, kind uint16) string {
	return strings.TrimRight(string(attribute(attrs, kind)), "\x00")
}

func counterIn(attrs []byte) (name string, c counted) {
	number := func(b []byte) uint64 {
		if len(b) != 8 {
			return 0
		}
		return binary.BigEndian.Uint64(b)
	}
	value := attribute(attrs, unix.NFTA_OBJ_DATA)
	c.packets = number(attribute(value, unix.NFTA_COUNTER_PACKETS))
	c.bytes = number(attribute(value, unix.NFTA_COUNTER_BYTES))
	return textOf(attrs, unix.NFTA_OBJ_NAME), c
}

// messages are the netlink messages in what was read, each with its header of 16
// bytes and at least 4 bytes more.
func messages(b []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(b) >= unix.SizeofNlMsghdr+4 {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr+4 || size > len(b) || !yield(b[:size]) {
				return
			}
			b = b[min(len(b), (size+3)&^3):]
		}
	}
}
