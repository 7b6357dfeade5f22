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

	"golang.org/x/sys/unix"

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
	var ended atomic.Bool
	both.Go(func() { carry(s, c, &ended) })
	both.Go(func() { carry(c, s, &ended) })
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
// does where nobody is between them. ended is set when a direction has ended well.
func carry(to, from *net.TCPConn, ended *atomic.Bool) {
	_, err := io.Copy(to, from)
	if err != nil || !ended.Load() && wasReset(from) {
		abort(to)
		abort(from)
		return
	}
	ended.Store(true)
	_ = to.CloseWrite() // it may be gone
}

// wasReset tells whether a connection that seems to be at its end is none any more:
// of a reset, the kernel tells one of those who use the socket, and the others that
// nothing will come. Source: TCP_CLOSE of the kernel's tcp_states.h.
func wasReset(c *net.TCPConn) bool {
	const closed = 7
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	state := uint8(closed)
	err = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			state = info.State
		}
	})
	return err != nil || state == closed
}

// abort resets a connection.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0) // or it is closed in the other way
	c.Close()
}
