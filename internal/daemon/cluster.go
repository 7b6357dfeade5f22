package daemon

import (
	"maps"
	"time"

	"midspan/internal/brokers"
	"midspan/internal/plan"
)

// Cluster is what is known of a route's Kafka cluster beside the file. It is kept
// over a restart, so that the ports of nodes work before anybody has asked.
type Cluster struct {
	ID    string                `json:"id,omitempty"` // "": not known, or the brokers do not say
	Nodes map[int32]ClusterNode `json:"nodes"`
}

// ClusterNode is where the cluster says that one of its nodes is.
type ClusterNode struct {
	Host  string    `json:"host,omitempty"` // "": only that a client wants it
	Port  uint16    `json:"port,omitempty"`
	Since time.Time `json:"since,omitzero"` // of Host and Port; zero: an earlier life's
	Gone  time.Time `json:"gone,omitzero"`  // the first of the cluster's answers without it; zero: the newest has it
}

const (
	// forgetAfter is how long a node is kept that the cluster does not name: one that
	// restarts, or is repaired, is not named meanwhile, and comes back where it was.
	forgetAfter = 24 * time.Hour
	// settleNode is for how long a node that is new, or has moved, stays where it is,
	// whatever others say. Brokers may disagree for ever, and each answer would then be
	// a new plan. What is refused is said again.
	settleNode = 10 * time.Second
)

// hear takes in where a node is, and tells whether that is news. Without a host the
// node is one that a client wants.
func (c *Cluster) hear(id int32, host string, port uint16, now time.Time) bool {
	old, known := c.Nodes[id]
	switch {
	case known && host == "":
		return false
	case known && old.Host == host && old.Port == port:
		old.Gone = time.Time{}
		c.Nodes[id] = old
		return false
	case known && old.Host != "" && within(old.Since, now, settleNode):
		return false
	}
	// Who was there has another ID now, or is elsewhere. Two that are new are both kept:
	// answers that contradict themselves must not make a plan each.
	maps.DeleteFunc(c.Nodes, func(other int32, n ClusterNode) bool {
		return other != id && host != "" && n.Host == host && n.Port == port && !within(n.Since, now, settleNode)
	})
	c.Nodes[id] = ClusterNode{Host: host, Port: port, Since: now}
	return true
}

// answer takes in what the cluster says when it is asked for all its nodes, of which
// those count that valid has, and tells whether that is news. Another cluster than
// before has none of its nodes.
func (c *Cluster) answer(a brokers.Cluster, valid func(brokers.Node) bool, now time.Time) (news, another bool) {
	if a.ID != "" && a.ID != c.ID {
		another = c.ID != ""
		c.ID, news = a.ID, true
		if another {
			c.Nodes = map[int32]ClusterNode{}
		}
	}
	named := map[int32]bool{}
	taken := map[plan.KnownNode]bool{} // without IDs
	for _, n := range a.Nodes {
		named[n.ID] = true
		taken[plan.KnownNode{Host: n.Host, Port: n.Port}] = true
		if valid(n) && c.hear(n.ID, n.Host, n.Port, now) {
			news = true
		}
	}
	for id, n := range c.Nodes {
		switch {
		case named[id]:
		case taken[plan.KnownNode{Host: n.Host, Port: n.Port}]: // the broker has another ID now
			delete(c.Nodes, id)
			news = true
		case within(n.Gone, now, forgetAfter):
		case n.Gone.IsZero() || n.Gone.After(now):
			n.Gone = now
			c.Nodes[id] = n
		default:
			delete(c.Nodes, id)
			news = true
		}
	}
	return news, another
}

// within tells whether now is less than d after t. A clock that was set back does
// not make t last.
func within(t, now time.Time, d time.Duration) bool {
	return !t.IsZero() && !t.After(now) && now.Sub(t) < d
}

// kept is c as it is worth keeping: without nodes that are only wanted.
func (c *Cluster) kept() Cluster {
	k := Cluster{ID: c.ID, Nodes: map[int32]ClusterNode{}}
	for id, n := range c.Nodes {
		if n.Host != "" {
			k.Nodes[id] = n
		}
	}
	return k
}
