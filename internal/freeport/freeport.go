// Package freeport finds ports for tests and demonstrations. They lie outside
// the range that the kernel takes the ports of outgoing connections from: those
// would come between the look and the use, and a connect to a dead port inside
// that range can even meet itself.
//
// Limit: another program may take a port between the look and the use; ports
// are drawn at random, so it is unlikely to be another test.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
)

// Find returns the first of n consecutive ports on which nothing listens, on
// any address.
func Find(n int) (int, error) {
	low, high := 20000, 60000
	var ephemeral int
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		// What cannot be read leaves the range above.
		_, _ = fmt.Sscan(string(text), &ephemeral)
	}
	if ephemeral > 15000 {
		low, high = 10000, ephemeral
	}
	for range 1000 {
		if p := low + rand.IntN(high-low-n); free(p, n) {
			return p, nil
		}
	}
	return 0, fmt.Errorf("no %d free ports in a row from %d to %d", n, low, high)
}

func free(from, n int) bool {
	for p := from; p < from+n; p++ {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", p))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}
