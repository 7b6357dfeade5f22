package doctor

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"midspan/internal/brokers"
	"midspan/internal/config"
	"midspan/internal/plan"
)

// Cover is how a route carries a node.
type Cover struct {
	Route string `json:"name,omitempty"` // "": none does
	Port  uint16 `json:"port,omitempty"` // of this machine, that clients reach the node at
	How   How    `json:"how,omitempty"`
	// Problem is why it does not, or not for long; "": it does.
	Problem string `json:"problem,omitempty"`

	do      string
	at      Place  // where the route leads; no Host: not known
	written string // what of the file says so; "": the cluster does
}

// How is how a route knows where a connection for a node goes.
type How string

// The ways.
const (
	ByFile    How = "file"     // mode kafka: `nodes` has it
	ByPattern How = "pattern"  // mode kafka: `nodes` has a pattern
	ByLearn   How = "learned"  // mode kafka: the cluster says so, and it may
	ByItself  How = "midspan"  // what the cluster says comes from the route already
	ByName    How = "name"     // mode sni
	ByPort    How = "port"     // mode tcp: the port that the broker advertises
	ByServer  How = "frontend" // mode tcp: a load balancer with a frontend for each broker
)

// written are the nodes that routes for the cluster with nodes have in the file.
func written(q Question, nodes []brokers.Node) (all []brokers.Node) {
	for _, r := range routes(q, nodes) {
		for _, n := range r.Kafka.Nodes {
			s := r.Servers[n.Server]
			if !slices.ContainsFunc(all, func(o brokers.Node) bool { return o.ID == n.ID }) {
				all = append(all, brokers.Node{ID: n.ID, Host: s.Host, Port: s.Port})
			}
		}
	}
	return all
}

// coverOf finds the route that carries n, one of nodes.
func coverOf(q Question, nodes []brokers.Node, n brokers.Node) Cover {
	var kafka []*plan.Route
	for _, r := range q.Plan.Routes {
		if r.Kafka != nil {
			kafka = append(kafka, r)
		}
	}
	var found []Cover
	for _, r := range kafka {
		if belongs(q, r, nodes) {
			found = append(found, kafkaCover(q, r, n))
		}
	}
	for _, r := range q.Plan.Routes {
		var c Cover
		var ok bool
		switch r.Mode {
		case plan.ModeSNI:
			if q.TLS != nil {
				c, ok = nameCover(r, n)
			}
		case plan.TCP:
			c, ok = portCover(r, nodes, n)
		}
		if ok {
			found = append(found, c)
		}
	}
	if i := slices.IndexFunc(found, func(c Cover) bool { return c.Problem == "" }); i >= 0 {
		return found[i]
	}
	if len(found) > 0 {
		return found[0]
	}
	if len(kafka) == 1 {
		return kafkaCover(q, kafka[0], n) // whatever keeps it from being known as the cluster's
	}
	return Cover{
		Problem: fmt.Sprintf("no route carries node %d, which clients are sent to at %s", n.ID, net.JoinHostPort(n.Host, strconv.Itoa(int(n.Port)))),
		do:      "write a route of mode kafka for the cluster, or a route for this broker",
	}
}

// belongs tells whether a route of mode kafka is for the cluster: it leads to the
// broker that was asked, or to one of nodes, or is what was asked.
func belongs(q Question, r *plan.Route, nodes []brokers.Node) bool {
	same := func(host string, port uint16) bool {
		return slices.ContainsFunc(r.Servers, func(s *plan.Server) bool { return sameHost(s.Host, host) && s.Port == port })
	}
	return same(q.Host, q.Port) || sameHost(r.Kafka.Host, q.Host) && slices.Contains(r.Bootstrap(), q.Port) ||
		slices.ContainsFunc(nodes, func(n brokers.Node) bool { return same(n.Host, n.Port) || told(q, r, n) })
}

// told tells whether n is as the route tells its clients. Where it keeps the brokers'
// own hosts, only the port that was asked tells a broker from midspan.
func told(q Question, r *plan.Route, n brokers.Node) bool {
	port, ok := r.Kafka.PortOf(n.ID)
	if !ok || port != n.Port {
		return false
	}
	if r.Kafka.Host == "" {
		return slices.Contains(r.Bootstrap(), q.Port) && !slices.ContainsFunc(r.Servers, func(s *plan.Server) bool { return s.Port == q.Port })
	}
	return sameHost(r.Kafka.Host, n.Host)
}

func sameHost(a, b string) bool {
	return a != "" && strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}

func kafkaCover(q Question, r *plan.Route, n brokers.Node) Cover {
	k := r.Kafka
	port, ok := k.PortOf(n.ID)
	c := Cover{Route: r.Name, Port: port}
	if !ok {
		c.Problem = fmt.Sprintf("route %s has no port for node %d, so clients are not told of it", r.Name, n.ID)
		c.do = fmt.Sprintf("widen `ports` (%s, from node %d), or write node_ports: { %d: PORT }", k.Ports, k.First, n.ID)
		return c
	}
	node := k.Node(n.ID)
	switch {
	case told(q, r, n):
		c.How = ByItself
	case node != nil:
		c.How, c.at, c.written = ByFile, placeOf(r.Servers[node.Server], port), "`nodes` of route "+r.Name
	case k.Pattern != "":
		c.How, c.written = ByPattern, "`nodes` of route "+r.Name
		if t, err := config.ParseTarget(strings.ReplaceAll(k.Pattern, config.NodeHole, strconv.Itoa(int(n.ID)))); err == nil {
			c.at = Place{Host: t.Host, Port: t.Port}
		}
	case k.MayLearn(n.Host, n.Port):
		c.How, c.at = ByLearn, Place{Host: n.Host, Port: n.Port}
	default:
		at := net.JoinHostPort(n.Host, strconv.Itoa(int(n.Port)))
		c.Problem = fmt.Sprintf("route %s may not learn node %d at %s, so connections to it are reset", r.Name, n.ID, at)
		c.do = fmt.Sprintf("add it to kafka.learn: [%q], or write nodes: { %d: %q }", at, n.ID, at)
	}
	return c
}

// nameCover is for routes that choose the server by TLS server name.
func nameCover(r *plan.Route, n brokers.Node) (Cover, bool) {
	servers := r.ServersFor(strings.ToLower(strings.TrimSuffix(n.Host, ".")))
	if len(servers) == 0 {
		return Cover{}, false
	}
	port := r.Listen[0].From
	if listensOn(r, n.Port) {
		port = n.Port
	}
	return Cover{Route: r.Name, Port: port, How: ByName, at: placeOf(r.Servers[servers[0]], port), written: "`to` of route " + r.Name}, true
}

// portCover is for plain routes. One that leads to the broker needs a frontend of its
// own; else the broker has to advertise the route's port, and no other broker may.
func portCover(r *plan.Route, nodes []brokers.Node, n brokers.Node) (Cover, bool) {
	for _, l := range r.Listen {
		for _, s := range r.Servers {
			if sameHost(s.Host, n.Host) && s.PortFor(l.From) == n.Port {
				return Cover{Route: r.Name, Port: l.From, How: ByServer, at: placeOf(s, l.From), written: "`to` of route " + r.Name}, true
			}
		}
	}
	if !listensOn(r, n.Port) || len(r.Servers) == 0 {
		return Cover{}, false
	}
	c := Cover{Route: r.Name, Port: n.Port, How: ByPort, at: placeOf(r.Servers[0], n.Port), written: "`to` of route " + r.Name}
	same := slices.DeleteFunc(slices.Clone(nodes), func(o brokers.Node) bool { return o.Port != n.Port })
	if len(same) > 1 {
		c.How, c.at, c.written = "", Place{}, ""
		c.Problem = fmt.Sprintf("nodes %d and %d both advertise port %d, and route %s leads from there to one of them only", same[0].ID, same[1].ID, n.Port, r.Name)
		c.do = "use mode kafka; or mode sni, if the brokers speak TLS; or let each broker advertise a port of its own, on a listener of its own"
	}
	return c, true
}

func listensOn(r *plan.Route, port uint16) bool {
	return slices.ContainsFunc(r.Listen, func(l plan.Listen) bool { return l.From <= port && port <= l.To })
}

func placeOf(s *plan.Server, listen uint16) Place {
	return Place{Host: s.Host, Port: s.PortFor(listen)}
}
