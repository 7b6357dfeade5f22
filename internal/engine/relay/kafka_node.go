package relay

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"midspan/internal/kafka"
)

// brokerLeg is what a pair of mode kafka has beyond others: whose connection it is,
// and what is under way on it.
type brokerLeg struct {
	node    *node       // nil: the client has connected to the bootstrap port
	picker  *picker     // of the servers for it
	conn    *kafka.Conn // see speakKafka
	rewrote uint64      // of conn's Rewritten, what has been counted

	up, down brokerFlow // of requests, of answers; for pairs
	wake     bool       // up may be full no more
}

// awaitNode is how soon a connection looks first for a plan that knows its node.
const awaitNode = 20 * time.Millisecond

// nextLook is when one that has waited so long looks again: the longer it waits, the
// less does it matter, and thousands may wait for a node that nobody knows.
func nextLook(waited time.Duration) time.Duration {
	return min(max(awaitNode, waited/4), watchDialing)
}

// findNode finds out which node p is for, and where that is. If that is not known,
// p waits for a plan that has it, and findNode is false.
//
// A connection to a node's port goes to that node and to no other broker: another
// one would answer that it does not lead the partition, or (ApiVersions version 5,
// KIP-1242) that the client has the wrong cluster.
func (l *loop) findNode(p *pair) bool {
	if p.kafka == nil {
		p.kafka = &brokerLeg{picker: p.set.rest}
		id, isNode := p.set.Kafka.NodeOf(p.listener.port)
		switch {
		case isNode:
			n := p.set.cluster.node(id)
			n.active.Add(1)
			n.loop[l.id].accepted.Add(1)
			p.kafka.node = n
		case !p.set.listensOn(p.listener.port):
			l.refuse(p, unknownNode, fmt.Sprintf("port %d is that of no node any more", p.listener.port))
			return false
		}
	}
	n := p.kafka.node
	if n == nil {
		return true
	}
	if at, known := p.nodePlace(); known && at.named {
		p.kafka.picker = at.picker
		return true
	}
	p.state = stateDialing
	p.dial = l.newDial(l.now, p.set.ConnectTimeout.D())
	p.dial.forNode = true
	p.wantNode()
	l.timers.set(p, l.now+awaitNode)
	return false
}

// nodePlace is where p's node is by the settings in force, which may be newer than p's.
func (p *pair) nodePlace() (at nodeAt, known bool) {
	at, known = p.route().set.Load().nodes[p.kafka.node.id]
	return at, known
}

// nodePicker chooses the server of a connection of mode kafka. A node may have moved
// while the connection waited for room, and another be where it was.
func (p *pair) nodePicker() *picker {
	if p.kafka.node != nil {
		if at, known := p.nodePlace(); known && at.named {
			return at.picker
		}
	}
	return p.kafka.picker
}

// listensOn tells whether a port is one of the route's. One that drains has none,
// and yet connections that were made before.
func (s *settings) listensOn(port uint16) bool {
	for _, l := range s.Listen {
		if l.From <= port && port <= l.To {
			return true
		}
	}
	return len(s.Listen) == 0
}

// nodeTimer looks again for the node of a connection that waits for a plan that
// knows it.
func (l *loop) nodeTimer(p *pair) {
	switch at, known := p.nodePlace(); {
	case socketError(p.client.fd) != 0:
		l.abort(p, resetByClient)
	case p.client.held == nil && toRead(p.client.fd) == 0: // a load balancer that tests whether somebody listens
		l.endDial(p)
		l.endProbe(p)
	case known && at.named:
		l.endDial(p)
		l.timers.set(p, 0)
		l.seek(p)
	case l.now < p.dial.deadline:
		p.wantNode()
		l.timers.set(p, min(l.now+nextLook(l.now-p.dial.began), p.dial.deadline))
	case known:
		l.abort(p, noServer) // its name has no address
	default:
		l.refuse(p, unknownNode, p.set.cluster.unknown(p.kafka.node))
	}
}

// wantNode tells that p's node is wanted, if its client has said something. Clients
// of Kafka speak first; a load balancer's test says nothing, however long it takes.
func (p *pair) wantNode() {
	if p.client.held != nil || toRead(p.client.fd) > 0 {
		p.set.cluster.want(p.kafka.node)
	}
}

// toRead is how many bytes are there to be read, 0 at the end of the flow, and -1
// if nothing has come.
func toRead(fd int32) int {
	var b [1]byte
	n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), 1, unix.MSG_DONTWAIT|unix.MSG_PEEK, 0, 0)
	if e != 0 {
		return -1
	}
	return int(n)
}

// unknown says why it is not known where a node is, and what to write.
func (c *cluster) unknown(n *node) string {
	h := n.heard.Load()
	switch {
	case h == nil:
		return fmt.Sprintf("nobody has said where node %d is; write it in `nodes`, or see that the cluster can be asked (`discover`)", n.id)
	case !c.plan.Load().MayLearn(h.host, uint16(h.port)):
		return fmt.Sprintf("the cluster says that node %d is at %s:%d, which may not be learned; add its host to `learn`, or the node to `nodes`", n.id, h.host, h.port)
	}
	return fmt.Sprintf("the cluster says that node %d is at %s:%d, and the plan does not have it yet", n.id, h.host, h.port)
}

// nodeID is the node whose port p came in on; nil: none.
func (p *pair) nodeID() *int32 {
	if p.kafka == nil || p.kafka.node == nil {
		return nil
	}
	return &p.kafka.node.id
}

// speakKafka makes what reads p's bytes, once it has a server.
func (l *loop) speakKafka(p *pair) *kafka.Conn {
	p.kafka.conn = kafka.New((*p.set.cluster.codec.Load())[l.id])
	return p.kafka.conn
}

// countRewritten counts the answers of p that have been written anew. It is for who
// calls Responses.
func (l *loop) countRewritten(p *pair) {
	if n := p.kafka.conn.Rewritten(); n != p.kafka.rewrote {
		p.set.cluster.loop[l.id].rewritten.Add(n - p.kafka.rewrote)
		p.kafka.rewrote = n
	}
}

// bookNode counts bytes that went up or down on the node that k is for, if any.
func (l *loop) bookNode(k *brokerLeg, up bool, n uint64) {
	if k.node == nil {
		return
	}
	x := &k.node.loop[l.id]
	if up {
		x.up.Add(n)
	} else {
		x.down.Add(n)
	}
}

// leaveNode takes back what findNode has counted.
func (p *pair) leaveNode() {
	if p.kafka != nil && p.kafka.node != nil {
		p.kafka.node.active.Add(-1)
	}
}
