package rig

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// Listens tells whether somebody listens on addr of a namespace (nil: the test's
// own). It only looks, because a server would count a connection that asks
// nothing, and a proxy would pass it on.
func Listens(in *Net, addr string) bool {
	look := func() bool {
		return listening("/proc/thread-self/net/tcp", addr) || listening("/proc/thread-self/net/tcp6", addr)
	}
	if in == nil {
		return look()
	}
	found := false
	err := in.Do(func() error {
		found = look()
		return nil
	})
	return err == nil && found
}

// listening looks for addr, or its port on all addresses, in a table of
// sockets. Source: proc_net_tcp of the kernel's documentation.
func listening(table, addr string) bool {
	const state = "0A"
	a := netip.MustParseAddrPort(addr)
	var exact string
	if ip := a.Addr(); ip.Is4() {
		b := ip.As4()
		exact = fmt.Sprintf("%08X", binary.NativeEndian.Uint32(b[:]))
	}
	f, err := os.Open(table)
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) < 4 || fields[3] == "st":
			continue
		case fields[3] != state:
			// Listeners come first. What follows can be long, and slow to read
			// on a busy machine: every connection of the last minute.
			return false
		}
		ip, port, _ := strings.Cut(fields[1], ":")
		if port == fmt.Sprintf("%04X", a.Port()) && (ip == exact || strings.Trim(ip, "0") == "") {
			return true
		}
	}
	return false
}
