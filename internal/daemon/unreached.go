package daemon

import (
	"cmp"
	"errors"
	"slices"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// UnreachedNode is a node that the cluster tells of, and that the file keeps clients
// from: it has no port, or it may not be learned.
type UnreachedNode struct {
	ID   int32  `json:"id"`
	Port uint16 `json:"port,omitempty"` // that clients are told of; 0: none, so they are not told of the node
	At   string `json:"at,omitempty"`   // HOST:PORT, as the cluster says; "": that is no address
}

// unreached are the nodes of each route that clients do not get to, by ID.
func (c *clusters) unreached() map[string][]UnreachedNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string][]UnreachedNode{}
	for name, r := range c.routes {
		if nodes := c.unreachedOf(r); len(nodes) > 0 {
			all[name] = nodes
		}
	}
	return all
}

// unreachedOf are those of r. c.mu is held.
func (c *clusters) unreachedOf(r *plan.Route) (nodes []UnreachedNode) {
	add := func(n plan.KnownNode) {
		u := UnreachedNode{ID: n.ID}
		u.Port, _ = r.Kafka.PortOf(n.ID)
		if n.Valid() {
			u.At = hostPort(n)
		}
		nodes = append(nodes, u)
	}
	for _, n := range c.portless[r.Name] {
		add(n)
	}
	for _, n := range c.unlearned(r) {
		if _, ok := r.Kafka.PortOf(n.ID); ok { // else it may be of a file that had one, and be gone
			add(n)
		}
	}
	slices.SortFunc(nodes, func(a, b UnreachedNode) int { return cmp.Compare(a.ID, b.ID) })
	return slices.CompactFunc(nodes, func(a, b UnreachedNode) bool { return a.ID == b.ID })
}

// unreachedNode is what keeps clients from a node of a route; nil: nothing that is
// known here.
func (c *clusters) unreachedNode(route string, id int32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.routes[route]
	if r == nil {
		return nil
	}
	nodes := c.unreachedOf(r)
	i, found := slices.BinarySearchFunc(nodes, id, func(n UnreachedNode, id int32) int { return cmp.Compare(n.ID, id) })
	switch {
	case !found:
		return nil
	case nodes[i].Port == 0:
		return errors.New("the node has no port")
	}
	return errors.New("the node may not be learned at " + nodes[i].At)
}

// exceptPlaced takes those out of all that the engine has a place for: its plan may be
// older than the file, and nothing is to be shown twice.
func exceptPlaced(all map[string][]UnreachedNode, routes []engine.RouteStatus) map[string][]UnreachedNode {
	for _, r := range routes {
		if r.Kafka == nil || all[r.Name] == nil {
			continue
		}
		all[r.Name] = slices.DeleteFunc(all[r.Name], func(u UnreachedNode) bool {
			return slices.ContainsFunc(r.Kafka.Nodes, func(n engine.NodeStatus) bool { return n.ID == u.ID && n.Server != "" })
		})
	}
	return all
}
