package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	procSys = "/proc/sys"
	// procNet is the calling thread's view; /proc/net is that of the process's
	// first thread.
	procNet = "/proc/thread-self/net"
)

// Conntrack is how many connections the kernel tracks in this namespace, and
// how many it will; beyond max, packets of new ones are dropped. max 0: no
// limit. The limit counts for each namespace by itself, and is the same in all.
//
// It fails with os.ErrNotExist while nothing uses connection tracking and its
// module is not loaded.
func Conntrack() (count, limit int, err error) {
	count, err = readInt(filepath.Join(procSys, "net/netfilter/nf_conntrack_count"))
	if err != nil {
		return 0, 0, err
	}
	limit, err = readInt(filepath.Join(procSys, "net/netfilter/nf_conntrack_max"))
	return count, limit, err
}

// Drops are packets that connection tracking did not let through, since the
// namespace exists; they only rise, but wrap at 2³² for each CPU.
type Drops struct {
	Drop         uint64 // no memory or no room for a new connection
	InsertFailed uint64 // lost against another with the same addresses and ports
	EarlyDrop    uint64 // connections thrown out to make room for new ones
}

// ConntrackDrops sums them over the CPUs. It fails with os.ErrNotExist where
// the kernel does not show them (CONFIG_NF_CONNTRACK_PROCFS, or tracking not
// loaded).
func ConntrackDrops() (Drops, error) {
	data, err := os.ReadFile(procNet + "/stat/nf_conntrack")
	if err != nil {
		return Drops{}, err
	}
	return parseDrops(string(data))
}

// parseDrops finds the columns by name: their number has changed between
// kernels. Values are hexadecimal, a line for each CPU.
func parseDrops(text string) (Drops, error) {
	head, rest, _ := strings.Cut(text, "\n")
	names := strings.Fields(head)
	var d Drops
	for line := range strings.Lines(rest) {
		for i, field := range strings.Fields(line) {
			n, err := strconv.ParseUint(field, 16, 64)
			if err != nil || i >= len(names) {
				return Drops{}, fmt.Errorf("statistics of nf_conntrack are not understood: %q", strings.TrimSpace(line))
			}
			switch names[i] {
			case "drop":
				d.Drop += n
			case "insert_failed":
				d.InsertFailed += n
			case "early_drop":
				d.EarlyDrop += n
			}
		}
	}
	return d, nil
}

func readInt(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}
