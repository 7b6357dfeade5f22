package rig

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Ports are taken from below the range that the kernel gives to clients, so
// that no outgoing connection takes one between here and its use.
const (
	firstPort = 20000
	lastPort  = 32000
)

var given = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// Port is a TCP and UDP port that is free on all addresses, and not given twice.
func Port(t testing.TB) int {
	t.Helper()
	return Ports(t, 1)
}

// Ports is the first of n such ports in a row.
func Ports(t testing.TB, n int) int {
	t.Helper()
	given.Lock()
	defer given.Unlock()
	for range 1000 {
		first := firstPort + rand.IntN(lastPort-firstPort-n)
		ok := true
		for p := first; ok && p < first+n; p++ {
			ok = !given.ports[p] && free(p)
		}
		for p := first; ok && p < first+n; p++ {
			given.ports[p] = true
		}
		if ok {
			return first
		}
	}
	t.Fatalf("no %d free ports in a row between %d and %d", n, firstPort, lastPort)
	return 0
}

func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return false
	}
	l.Close()
	u, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
	if err != nil {
		return false
	}
	u.Close()
	return true
}

// Addr is host with a free port.
func Addr(t testing.TB, host string) string {
	t.Helper()
	return net.JoinHostPort(host, fmt.Sprint(Port(t)))
}
