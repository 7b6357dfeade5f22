package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// kernel is the way to nf_tables of the network namespace that it was opened in.
type kernel struct {
	mu     sync.Mutex // one transaction at a time
	socket int
	port   uint32 // of the socket: by it our own changes are known
	reader *nftables.Conn
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
	reader, err := nftables.New(nftables.AsLasting())
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("nf_tables: %w", err)
	}
	return &kernel{socket: fd, port: name.(*unix.SockaddrNetlink).Pid, reader: reader}, nil
}

func (k *kernel) close() error { return errors.Join(unix.Close(k.socket), k.reader.CloseLasting()) }

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
	err := unix.Sendto(k.socket, whole.data, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if errors.Is(err, unix.EMSGSIZE) {
		return fmt.Errorf("the rules are %d KiB, more than this user may send at once; raise net.core.wmem_max: %w", len(whole.data)>>10, err)
	} else if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	return k.answer(b)
}

// answer reads until the last message of b is acknowledged. The kernel goes on
// after an error, to report them all.
func (k *kernel) answer(b *batch) error {
	var errs []error
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(k.socket, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // ENOBUFS: more errors than fit
			return errors.Join(append(errs, fmt.Errorf("nf_tables: %w", err))...)
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofNlMsghdr+4; {
			size := int(binary.NativeEndian.Uint32(rest))
			number := int(binary.NativeEndian.Uint32(rest[8:]))
			code := -int32(binary.NativeEndian.Uint32(rest[unix.SizeofNlMsghdr:]))
			if code != 0 && number >= 1 && number <= len(b.what) {
				if len(errs) < 5 {
					errs = append(errs, fmt.Errorf("nf_tables refuses %s: %w", b.what[number-1], unix.Errno(code)))
				}
			} else if code != 0 {
				return fmt.Errorf("nf_tables: %w", unix.Errno(code))
			}
			if number == len(b.what) {
				return errors.Join(errs...)
			}
			rest = rest[min(len(rest), (size+3)&^3):]
		}
	}
}

// generation is the number of transactions that there have been in this network
// namespace, by anybody.
func (k *kernel) generation() (uint32, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ask := batch{}
	ask.raw(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0, 0, 0, func() {})
	if err := unix.Sendto(k.socket, ask.data, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("nf_tables: %w", err)
	}
	buf := make([]byte, 4096)
	n, err := unix.Read(k.socket, buf)
	if err != nil {
		return 0, fmt.Errorf("nf_tables: %w", err)
	}
	if n > unix.SizeofNlMsghdr+4 {
		if id := attribute(buf[unix.SizeofNlMsghdr+4:n], unix.NFTA_GEN_ID); len(id) == 4 {
			return binary.BigEndian.Uint32(id), nil
		}
	}
	return 0, errors.New("nf_tables: no generation")
}

// counted is the value of a counter.
type counted struct{ packets, bytes uint64 }

// counters are the named counters of our table; none where there is no table.
func (k *kernel) counters() (map[string]counted, error) {
	objects, err := k.reader.GetNamedObjects(&nftables.Table{Name: tableName, Family: nftables.TableFamilyINet})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read the counters: %w", err)
	}
	all := make(map[string]counted, len(objects))
	for _, o := range objects {
		if n, ok := o.(*nftables.NamedObj); ok {
			if c, ok := n.Obj.(*expr.Counter); ok {
				all[n.Name] = counted{c.Packets, c.Bytes}
			}
		}
	}
	return all, nil
}
