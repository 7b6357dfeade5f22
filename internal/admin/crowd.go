package admin

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// crowd bounds the connections of a server: when there are too many, the one
// that has been of no use for the longest time has to go. Refusing new ones
// instead would let a few silent clients keep the load balancer out.
type crowd struct {
	max int

	mu      sync.Mutex
	members map[net.Conn]member
}

type member struct {
	state http.ConnState
	since time.Time
}

// watch is an http.Server's ConnState hook.
func (c *crowd) watch(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.members == nil {
		c.members = map[net.Conn]member{}
	}
	if state == http.StateClosed || state == http.StateHijacked {
		delete(c.members, conn)
		return
	}
	c.members[conn] = member{state, time.Now()}
	if state == http.StateNew && len(c.members) > c.max {
		victim := c.leastUseful(conn)
		delete(c.members, victim)
		_ = victim.Close()
	}
}

// leastUseful is the member longest without a request, or else the one longest
// at it; never the newest.
func (c *crowd) leastUseful(newest net.Conn) net.Conn {
	var worst net.Conn
	for conn, m := range c.members {
		if conn == newest {
			continue
		}
		if worst == nil || m.worse(c.members[worst]) {
			worst = conn
		}
	}
	return worst
}

func (m member) worse(than member) bool {
	if active := m.state == http.StateActive; active != (than.state == http.StateActive) {
		return !active
	}
	return m.since.Before(than.since)
}
