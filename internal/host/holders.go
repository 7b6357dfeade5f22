package host

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// Holder is who has a port. The zero Holder: nobody.
type Holder struct {
	Addr netip.AddrPort // what it is bound to; an unspecified address is all of them
	PID  int            // 0: of another user, another PID namespace, or the kernel's
	Name string         // of the process, as in ps; "" with PID 0
}

func (h Holder) String() string {
	switch {
	case !h.Addr.IsValid():
		return "nobody"
	case h.PID == 0:
		return "a process that this user cannot see"
	}
	return fmt.Sprintf("%s (pid %d)", h.Name, h.PID)
}

// Holders looks once at all listening sockets of this network namespace and,
// when it is first needed, at the processes that have them open, and returns how to ask for one: who keeps
// proto ("tcp" or "udp") from listening on an address? An address that is
// unspecified or zero stands for all of the host's.
//
// Limits: sockets of other users' processes have no PID unless this one is
// root; a socket bound to an interface counts as bound to all of them; of
// several processes that share a socket or a port, one is named.
func Holders() (func(proto string, a netip.AddrPort) Holder, error) {
	type key struct {
		proto string
		port  uint16
	}
	sockets := map[key][]socket{}
	for _, table := range []struct{ proto, file string }{{"tcp", "tcp"}, {"tcp", "tcp6"}, {"udp", "udp"}, {"udp", "udp6"}} {
		data, err := os.ReadFile(filepath.Join(procNet, table.file))
		if err != nil {
			if strings.HasSuffix(table.file, "6") && os.IsNotExist(err) {
				continue // a host without IPv6
			}
			return nil, err
		}
		for _, s := range parseSockets(string(data), table.proto) {
			k := key{table.proto, s.addr.Port()}
			sockets[k] = append(sockets[k], s)
		}
	}
	// Most ask for ports that are free, and the processes take longest to read.
	owners := sync.OnceValue(func() map[string]int {
		owners := map[string]int{}
		for _, list := range sockets {
			for _, s := range list {
				owners[s.inode] = 0
			}
		}
		findOwners(owners)
		return owners
	})
	return func(proto string, a netip.AddrPort) Holder {
		for _, s := range sockets[key{proto, a.Port()}] {
			if s.collides(a.Addr()) {
				pid := owners()[s.inode]
				return Holder{Addr: s.addr, PID: pid, Name: processName(pid)}
			}
		}
		return Holder{}
	}, nil
}

// socket is one that listens or, for UDP, is bound and not connected.
type socket struct {
	addr  netip.AddrPort
	inode string
}

// collides tells whether the socket keeps another from being bound to a. An
// IPv6 socket bound to all addresses takes those of IPv4 too, unless it is
// IPv6 only, which /proc does not tell: then the answer is wrong only where
// nobody was found for IPv4 itself.
func (s socket) collides(a netip.Addr) bool {
	a = a.Unmap()
	have := s.addr.Addr()
	switch {
	case !a.IsValid(), a == have:
		return true
	case have.IsUnspecified():
		return have.Is6() || a.Is4()
	case a.IsUnspecified():
		return a.Is6() || have.Is4()
	}
	return false
}

// parseSockets reads a table of /proc/net. IPv4 comes first in it and in
// Holders, so that the exact family wins.
func parseSockets(text, proto string) []socket {
	// net/tcp_states.h: an unconnected UDP socket is in TCP_CLOSE.
	state := "0A"
	if proto == "udp" {
		state = "07"
	}
	var list []socket
	for line := range strings.Lines(text) {
		// sl local rem st tx:rx tr:tm retrnsmt uid timeout inode …
		c := strings.Fields(line)
		if len(c) < 10 || c[3] != state {
			continue
		}
		if addr, ok := parseHexAddr(c[1]); ok {
			list = append(list, socket{addr, c[9]})
		}
	}
	return list
}

// parseHexAddr reads 0100007F:1F90: 32-bit words in the host's byte order.
func parseHexAddr(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(p)), ok
}

// findOwners sets the PID of each socket inode in owners, in one pass over all
// descriptors of all processes. What cannot be read is of other users.
func findOwners(owners map[string]int) {
	processes, _ := os.ReadDir("/proc")
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", p.Name(), "fd")
		fds, _ := os.ReadDir(dir)
		for _, fd := range fds {
			target, err := os.Readlink(filepath.Join(dir, fd.Name()))
			if err != nil {
				continue
			}
			inode, ok := strings.CutPrefix(target, "socket:[")
			inode = strings.TrimSuffix(inode, "]")
			if _, known := owners[inode]; ok && known {
				owners[inode] = pid
			}
		}
	}
}

func processName(pid int) string {
	if pid == 0 {
		return ""
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "a process that has just ended"
	}
	return strings.TrimSpace(string(name))
}
