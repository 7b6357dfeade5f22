package kafka

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// balancer stands for the cloud's load balancer: at each port of the front it hands
// new connections to the forwarders whose probe answers 200, at random, and leaves
// those alone that are there.
type balancer struct {
	members []*member
	ports   map[int]*atomic.Int64 // connections to each
}

// member is a forwarder as the load balancer sees it.
type member struct {
	addr  string // of its network
	probe string
	up    atomic.Bool
	conns atomic.Int64
}

// probeEvery is how often members are asked. Two answers in a row count, as in
// Azure.
const probeEvery = 200 * time.Millisecond

func newBalancer(t testing.TB, members []*member, ports ...int) *balancer {
	t.Helper()
	b := &balancer{members, map[int]*atomic.Int64{}}
	ended := make(chan struct{})
	var probing sync.WaitGroup
	for _, m := range members {
		probing.Go(func() { m.watch(ended) })
	}
	t.Cleanup(func() {
		close(ended)
		probing.Wait()
	})
	for _, port := range ports {
		b.ports[port] = &atomic.Int64{}
	}
	for port, n := range b.ports {
		rig.Serve(t, nil, fmt.Sprintf("%s:%d", frontAddr, port), func(c *net.TCPConn) {
			n.Add(1)
			b.forward(c, port)
		})
	}
	return b
}

func (m *member) watch(ended <-chan struct{}) {
	for last := false; ; {
		now := rig.Probe(m.probe) == 200
		if now == last {
			m.up.Store(now)
		}
		last = now
		select {
		case <-ended:
			return
		case <-time.After(probeEvery):
		}
	}
}

// forward carries one connection.
func (b *balancer) forward(c *net.TCPConn, port int) {
	m := b.choose()
	if m == nil {
		abort(c)
		return
	}
	m.conns.Add(1)
	server, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", m.addr, port), 3*time.Second)
	if err != nil {
		abort(c)
		return
	}
	s := server.(*net.TCPConn)
	defer s.Close()
	var both sync.WaitGroup
	both.Go(func() { carry(s, c) })
	both.Go(func() { carry(c, s) })
	both.Wait()
}

func (b *balancer) choose() *member {
	var up []*member
	for _, m := range b.members {
		if m.up.Load() {
			up = append(up, m)
		}
	}
	if len(up) == 0 {
		return nil
	}
	return up[rand.IntN(len(up))]
}

// carry copies one direction. What ends in an error ends in a reset for both, as it
// does where nobody is between them.
func carry(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		abort(to)
		abort(from)
		return
	}
	_ = to.CloseWrite() // it may be gone
}

// abort resets a connection.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0) // or it is closed in the other way
	c.Close()
}
