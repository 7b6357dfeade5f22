package daemon

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"midspan/internal/brokers"
	"midspan/internal/engine"
	"midspan/internal/plan"
)

// clusters is what the routes' clusters say of their nodes. It outlives a plan: a
// reload loses nothing of it, whatever the file says of ports and of who may be
// learned. That is looked at when a plan is made.
type clusters struct {
	log      *slog.Logger
	onChange func()
	wanted   func(route string) // a node that is not known; it must not block

	mu     sync.Mutex             // guards what follows; the data path takes it
	routes map[string]*plan.Route // of mode kafka, as in the file
	all    map[string]*Cluster    // of every route that ever was in the file
	due    bool                   // onChange is about to be called
	said   map[string]bool        // what was logged since the last file

	portless map[string][]plan.KnownNode // of the newest answer to a question of ours since the last file, by route
}

const (
	// batchNews is how long news wait for more: an answer names many nodes at once, and
	// the client that got it dials one of them within a millisecond or two.
	batchNews = 2 * time.Millisecond
	// maxSaid bounds what a cluster can have logged.
	maxSaid = 256
)

// newClusters begins with what was known in an earlier life.
func newClusters(log *slog.Logger, onChange func(), earlier map[string]Cluster) *clusters {
	c := &clusters{log: log, onChange: onChange, wanted: func(string) {}, all: map[string]*Cluster{}}
	for route, e := range earlier {
		known := &Cluster{ID: e.ID, Nodes: map[int32]ClusterNode{}}
		for id, n := range e.Nodes {
			if (&plan.KnownNode{ID: id, Host: n.Host, Port: n.Port}).Valid() {
				n.Since = time.Time{} // it may have moved meanwhile: the first word about it counts
				known.Nodes[id] = n
			}
		}
		c.all[route] = known
	}
	return c
}

// use makes the routes of p the ones that are listened to.
func (c *clusters) use(p *plan.Plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.routes, c.said, c.portless = map[string]*plan.Route{}, map[string]bool{}, map[string][]plan.KnownNode{}
	if p == nil {
		return
	}
	for _, r := range p.Routes {
		if r.Kafka == nil {
			continue
		}
		c.routes[r.Name] = r
		if c.all[r.Name] == nil {
			c.all[r.Name] = &Cluster{Nodes: map[int32]ClusterNode{}}
		}
		c.sayUnlearned(r)
	}
}

// known is for plan.WithNodes.
func (c *clusters) known() map[string][]plan.KnownNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string][]plan.KnownNode{}
	for route := range c.routes {
		cluster := c.all[route]
		for _, id := range slices.Sorted(maps.Keys(cluster.Nodes)) {
			n := cluster.Nodes[id]
			all[route] = append(all[route], plan.KnownNode{ID: id, Host: n.Host, Port: n.Port})
		}
	}
	return all
}

// kept are the clusters of the routes in force, for the next life.
func (c *clusters) kept() map[string]Cluster {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string]Cluster{}
	for route := range c.routes {
		all[route] = c.all[route].kept()
	}
	return all
}

// heard is told by the data path of what clients are answered, and of what they
// want.
func (c *clusters) heard(n engine.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.routes[n.Route]
	switch {
	case r == nil: // of a plan that is gone
	case n.Host == "" && r.Kafka.Pattern == "":
		if _, known := c.all[n.Route].Nodes[n.ID]; !known {
			c.wanted(n.Route)
		}
	case c.hear(r, plan.KnownNode{ID: n.ID, Host: n.Host, Port: n.Port}) && !c.due:
		c.due = true
		time.AfterFunc(batchNews, c.tell)
	}
}

func (c *clusters) tell() {
	c.mu.Lock()
	c.due = false
	c.mu.Unlock()
	c.onChange()
}

// hear takes in one node of r. c.mu is held.
func (c *clusters) hear(r *plan.Route, n plan.KnownNode) bool {
	if !c.valid(r, n) || !c.all[r.Name].hear(n.ID, n.Host, n.Port, now()) {
		return false
	}
	c.sayUnlearned(r)
	return true
}

// now is without the monotonic clock: the time is kept over a restart.
func now() time.Time { return time.Now().Round(0) }

// valid tells whether n is worth knowing. c.mu is held.
func (c *clusters) valid(r *plan.Route, n plan.KnownNode) bool {
	if _, ok := r.Kafka.PortOf(n.ID); !ok {
		if c.first(fmt.Sprintf("%s %d", r.Name, n.ID)) {
			c.log.Warn(fmt.Sprintf("node %d has no port, so clients are not told of it; widen advertise.ports, or add it to advertise.node_ports", n.ID), "route", r.Name)
		}
		return false
	}
	if n.Host != "" && !n.Valid() {
		if c.first(fmt.Sprintf("%s %v", r.Name, n)) {
			c.log.Warn(fmt.Sprintf("the cluster says that node %d is at %.100q port %d, which is no address", n.ID, n.Host, n.Port), "route", r.Name)
		}
		return false
	}
	return true
}

// sayUnlearned warns of nodes of a route that may not be learned where they are, with
// what the file needs for all of them. c.mu is held.
func (c *clusters) sayUnlearned(r *plan.Route) {
	k := r.Kafka
	var places, learn []string
	for _, h := range k.Learn {
		learn = append(learn, strconv.Quote(h.String()))
	}
	for _, n := range c.unlearned(r) {
		if k.IsOurs(n.Host, n.Port) {
			if c.first(fmt.Sprintf("%s ours %d", r.Name, n.ID)) {
				c.log.Warn(fmt.Sprintf("the cluster says that node %d is at %s port %d, where clients reach this route; have the brokers advertise addresses of their own, or write where they are in `nodes`", n.ID, n.Host, n.Port), "route", r.Name)
			}
			continue
		}
		if host := strconv.Quote(n.Host); !slices.Contains(learn, host) {
			learn = append(learn, host)
		}
		place := fmt.Sprintf("%d at %s", n.ID, hostPort(n))
		if c.first(r.Name + " " + place) {
			places = append(places, place)
		}
	}
	if len(places) > 0 {
		c.log.Warn("clients cannot reach nodes that are where none may be learned: "+strings.Join(places, ", ")+
			"; write kafka: { learn: ["+strings.Join(learn, ", ")+"] }, or where they are in `nodes`", "route", r.Name)
	}
}

// unlearned are the nodes of r, by ID, that may not be learned where the cluster says
// that they are. c.mu is held.
func (c *clusters) unlearned(r *plan.Route) (nodes []plan.KnownNode) {
	k, known := r.Kafka, c.all[r.Name].Nodes
	for _, id := range slices.Sorted(maps.Keys(known)) {
		n := known[id]
		if n.Host != "" && k.Pattern == "" && k.Node(id) == nil && !k.MayLearn(n.Host, n.Port) {
			nodes = append(nodes, plan.KnownNode{ID: id, Host: n.Host, Port: n.Port})
		}
	}
	return nodes
}

func hostPort(n plan.KnownNode) string { return net.JoinHostPort(n.Host, strconv.Itoa(int(n.Port))) }

// first tells whether something was not logged yet, and may be. c.mu is held.
func (c *clusters) first(what string) bool {
	if c.said[what] || len(c.said) >= maxSaid {
		return false
	}
	c.said[what] = true
	return true
}

// answered is told of what a cluster says when we ask, and tells whether that is
// news.
func (c *clusters) answered(route string, a brokers.Cluster) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.routes[route]
	if r == nil {
		return false
	}
	c.portless[route] = slices.DeleteFunc(knownNodes(a), func(n plan.KnownNode) bool {
		_, ok := r.Kafka.PortOf(n.ID)
		return ok
	})
	before := c.all[route].ID
	news, another := c.all[route].answer(a, func(n brokers.Node) bool {
		return c.valid(r, plan.KnownNode{ID: n.ID, Host: n.Host, Port: n.Port})
	}, now())
	if another {
		c.log.Warn("another cluster answers than before; what was known of the other's nodes is forgotten", "route", route, "before", before, "now", a.ID)
	}
	if news {
		c.sayUnlearned(r)
	}
	return news
}

func knownNodes(a brokers.Cluster) (nodes []plan.KnownNode) {
	for _, n := range a.Nodes {
		nodes = append(nodes, plan.KnownNode{ID: n.ID, Host: n.Host, Port: n.Port})
	}
	return nodes
}

// logNodes says which nodes are where they were not before.
func (d *Daemon) logNodes(old, next *plan.Plan) {
	before := map[string]string{}
	if old != nil {
		for _, r := range old.Routes {
			for id, place := range places(r) {
				before[r.Name+" "+strconv.Itoa(int(id))] = place
			}
		}
	}
	for _, r := range next.Routes {
		at := places(r)
		var news []string
		for _, id := range slices.Sorted(maps.Keys(at)) {
			if before[r.Name+" "+strconv.Itoa(int(id))] != at[id] {
				news = append(news, fmt.Sprintf("%d at %s", id, at[id]))
			}
		}
		const most = 16
		if n := len(news) - most; n > 0 {
			news = append(news[:most], fmt.Sprintf("%d more", n))
		}
		if len(news) > 0 {
			d.log.Info("nodes of the cluster are known", "route", r.Name, "nodes", strings.Join(news, ", "))
		}
	}
}

// places are where a route's nodes are that the file does not place.
func places(r *plan.Route) map[int32]string {
	if r.Kafka == nil {
		return nil
	}
	at := map[int32]string{}
	for _, n := range r.Kafka.Nodes {
		if n.By != plan.NodeWritten {
			at[n.ID] = r.Servers[n.Server].Name
		}
	}
	return at
}
