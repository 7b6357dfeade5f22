package main

import (
	"fmt"

	"midspan/bench/lab"
)

// resets are how many segments with RST the machines of a lab have sent. Where a
// connection is refused or cut, they tell by whom: a forwarder in the kernel that
// does not take a connection leaves it to its machine's own TCP, which refuses it.
type resets struct{ client, forwarder, target int64 }

func (s *stage) resets() (r resets) {
	for _, m := range []struct {
		of *lab.Net
		n  *int64
	}{{s.Client, &r.client}, {s.Forwarder, &r.forwarder}, {s.Target, &r.target}} {
		*m.n, _ = m.of.Resets() // it is for the words of an error alone
	}
	return r
}

// resetsSince tells what has come to those of before.
func (s *stage) resetsSince(before resets) string {
	now := s.resets()
	return fmt.Sprintf("resets sent meanwhile: %d by the client, %d by the forwarder, %d by the target",
		now.client-before.client, now.forwarder-before.forwarder, now.target-before.target)
}
