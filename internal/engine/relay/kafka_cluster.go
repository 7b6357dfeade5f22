package relay

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"midspan/internal/engine"
	"midspan/internal/kafka"
	"midspan/internal/plan"
)

// cluster is what lives of a route of mode kafka through every change of its
// settings: what is counted, and what is known of nodes.
type cluster struct {
	e    *Engine
	name string                     // of the route
	plan atomic.Pointer[plan.Kafka] // in force: also connections of earlier settings tell clients by it
	loop []loopCounts               // one a loop

	said atomic.Int64 // engine's clock when a node without a port was last logged

	mu    sync.Mutex                       // who changes what follows
	nodes atomic.Pointer[map[int32]*node]  // it is never changed, but replaced
	codec atomic.Pointer[[]*kafka.Options] // one a loop
}

// loopCounts are counted by the connections of one loop, and read by any
// goroutine. The padding keeps two loops off the same cache line.
type loopCounts struct {
	requests  [apis]atomic.Pointer[[versions]atomic.Uint64]
	unknown   atomic.Uint64
	dropped   atomic.Uint64
	rewritten atomic.Uint64
	_         [64]byte
}

// Requests are counted by API and version as far as there are any; above that by
// the last.
const (
	apis     = 201 // the codec takes no other key
	versions = 32
)

// node is a broker that has a port, with what is counted on it.
type node struct {
	id     int32
	active atomic.Int64
	loop   []nodeCounts            // one a loop
	wanted atomic.Int64            // engine's clock when Hooks.Node was last told that a client wants it; 0: never
	heard  atomic.Pointer[hearsay] // the last that Hooks.Node was told of what the cluster says
}

type nodeCounts struct {
	accepted, up, down atomic.Uint64
	_                  [40]byte
}

// hearsay is where the cluster says that a node is.
type hearsay struct {
	host string
	port int32
	at   time.Duration // engine's clock
}

// nodeAt is where connections to a node go.
type nodeAt struct {
	picker *picker // of the node's server; it has no endpoint as long as the name has no address
	named  bool    // the server has an address
}

// repeat is how often Hooks.Node is told of the same again: what it was told may
// have been of no use at that time.
const repeat = time.Second

// change is how often Hooks.Node is told of another place of a node: brokers may
// disagree on it for long, and clients ask each of them.
const change = 50 * time.Millisecond

func newCluster(e *Engine, name string, loops int) *cluster {
	c := &cluster{e: e, name: name, loop: make([]loopCounts, loops)}
	c.nodes.Store(&map[int32]*node{})
	return c
}

// update puts k in force. Nodes that have no port any more are forgotten, unless
// they have connections.
func (c *cluster) update(k *plan.Kafka) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.plan.Swap(k)
	if old == nil || old.PassUnknown != k.PassUnknown {
		all := make([]*kafka.Options, len(c.loop))
		for i := range all {
			all[i] = &kafka.Options{Rewrite: c.rewrite(i), PassUnknown: k.PassUnknown, Seen: c.loop[i].seen}
		}
		c.codec.Store(&all)
	}
	nodes := maps.Clone(*c.nodes.Load())
	maps.DeleteFunc(nodes, func(id int32, n *node) bool {
		_, ok := k.PortOf(id)
		return !ok && n.active.Load() == 0
	})
	c.nodes.Store(&nodes)
}

// node is the node with that ID, which has a port.
func (c *cluster) node(id int32) *node {
	if n := (*c.nodes.Load())[id]; n != nil {
		return n
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	nodes := maps.Clone(*c.nodes.Load())
	n := nodes[id]
	if n == nil {
		n = &node{id: id, loop: make([]nodeCounts, len(c.loop))}
		nodes[id] = n
		c.nodes.Store(&nodes)
	}
	return n
}

// rewrite is what the codec asks for each address in an answer, on the
// connections of a loop. As long as the cluster says what is known it takes no
// lock and makes no garbage.
func (c *cluster) rewrite(loop int) kafka.Rewrite {
	dropped := &c.loop[loop].dropped
	return func(id int32, host string, port int32) (string, int32, bool) {
		k := c.plan.Load()
		name, listen, ok := k.Advertised(id, host)
		if !ok {
			dropped.Add(1)
			c.tellDropped(id)
			return "", 0, false
		}
		if n := k.Node(id); n == nil || n.Host != host || int32(n.Port) != port {
			c.hear(id, host, port)
		}
		return name, int32(listen), true
	}
}

// hear tells Hooks.Node of a node that the cluster says is elsewhere than the plan
// does. One that may not be learned stays so; it is told of again and again, but
// not each time.
func (c *cluster) hear(id int32, host string, port int32) {
	if c.e.hooks.Node == nil || port < 1 || port > math.MaxUint16 {
		return
	}
	n, now := c.node(id), c.e.clock()
	h := n.heard.Load()
	if h != nil && (now-h.at < change || now-h.at < repeat && h.host == host && h.port == port) {
		return // if it is true, the next answer says it again
	}
	host = strings.Clone(host) // it may be a part of an answer
	if !n.heard.CompareAndSwap(h, &hearsay{host, port, now}) {
		return // somebody else has just told
	}
	c.e.hooks.Node(engine.Node{Route: c.name, ID: id, Host: host, Port: uint16(port)})
}

// want tells Hooks.Node that a client wants a node of which it is not known where
// it is.
func (c *cluster) want(n *node) {
	now := int64(c.e.clock())
	last := n.wanted.Load()
	if c.e.hooks.Node == nil || last != 0 && now-last < int64(repeat) || !n.wanted.CompareAndSwap(last, now) {
		return
	}
	c.e.hooks.Node(engine.Node{Route: c.name, ID: n.id})
}

// tellDropped logs that clients are not told of a node.
func (c *cluster) tellDropped(id int32) {
	now := int64(c.e.clock())
	if last := c.said.Load(); last != 0 && now-last < int64(tellEvery) || !c.said.CompareAndSwap(last, now) {
		return
	}
	c.e.log.Warn("a node has no port, and clients are not told of it; widen `ports`, or add it to node_ports", "route", c.name, "node", id)
}

// seen counts a request.
func (x *loopCounts) seen(key, version int16) {
	if key < 0 || key >= apis || version < 0 {
		return
	}
	if !kafka.Known(key) {
		x.unknown.Add(1)
	}
	counts := &x.requests[key]
	of := counts.Load()
	if of == nil {
		counts.CompareAndSwap(nil, new([versions]atomic.Uint64)) // a session may have been faster
		of = counts.Load()
	}
	of[min(version, versions-1)].Add(1)
}

// setNodes makes the choices for the nodes of s, whose servers' endpoints that are
// up are given.
func (s *settings) setNodes(up []choice) {
	if s.Kafka == nil {
		return
	}
	its := map[*plan.Server][]choice{}
	for _, c := range up {
		its[c.server] = append(its[c.server], c)
	}
	s.nodes = make(map[int32]nodeAt, len(s.Kafka.Nodes))
	for _, n := range s.Kafka.Nodes {
		server := s.Servers[n.Server]
		// Not by weight, nor as a backup: those are for who has a choice.
		only := &picker{balance: plan.First}
		only.tiers[0] = betterOf(its[server])
		s.nodes[n.ID] = nodeAt{only, len(server.Endpoints) > 0}
	}
}

// betterOf leaves out what is down and there only as a last resort, if there is
// something better.
func betterOf(all []choice) []choice {
	isDown := func(c choice) bool { return c.wasDown }
	if !slices.ContainsFunc(all, func(c choice) bool { return !isDown(c) }) {
		return all
	}
	return slices.DeleteFunc(all, isDown)
}

// status is what the cluster has done, for a route whose plan is r.
func (c *cluster) status(r *plan.Route) *engine.KafkaStatus {
	if c == nil || r.Kafka == nil {
		return nil
	}
	s := &engine.KafkaStatus{Nodes: c.nodeStatus(r), Requests: []engine.APICount{}}
	var sums [apis][versions]uint64
	for i := range c.loop {
		x := &c.loop[i]
		s.Rewritten += x.rewritten.Load()
		s.Dropped += x.dropped.Load()
		s.Unknown += x.unknown.Load()
		for key := range x.requests {
			if of := x.requests[key].Load(); of != nil {
				for v := range of {
					sums[key][v] += of[v].Load()
				}
			}
		}
	}
	for key := range sums {
		for v, n := range sums[key] {
			if n > 0 {
				s.Requests = append(s.Requests, engine.APICount{Key: int16(key), Version: int16(v), Count: n})
			}
		}
	}
	return s
}

// nodeStatus is the state of the nodes that the plan has, and of those that
// clients have asked for.
func (c *cluster) nodeStatus(r *plan.Route) []engine.NodeStatus {
	all := []engine.NodeStatus{}
	counted := *c.nodes.Load()
	add := func(id int32) *engine.NodeStatus {
		s := engine.NodeStatus{ID: id}
		s.Port, _ = r.Kafka.PortOf(id)
		if n := counted[id]; n != nil {
			n.count(&s)
		}
		all = append(all, s)
		return &all[len(all)-1]
	}
	for _, n := range r.Kafka.Nodes {
		s, server := add(n.ID), r.Servers[n.Server]
		s.Server, s.By = server.Name, string(n.By)
		s.Up = server.Up()
	}
	for id, n := range counted {
		if r.Kafka.Node(id) == nil && n.asked() {
			add(id)
		}
	}
	slices.SortFunc(all, func(a, b engine.NodeStatus) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

func (n *node) count(s *engine.NodeStatus) {
	s.Active = int(n.active.Load())
	for i := range n.loop {
		s.Accepted += n.loop[i].accepted.Load()
		s.BytesUp += n.loop[i].up.Load()
		s.BytesDown += n.loop[i].down.Load()
	}
}

// asked tells whether a client has connected to the node's port.
func (n *node) asked() bool {
	for i := range n.loop {
		if n.loop[i].accepted.Load() > 0 {
			return true
		}
	}
	return false
}
