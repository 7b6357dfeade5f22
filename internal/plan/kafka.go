package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"midspan/internal/config"
)

// Kafka is what a route of mode kafka knows of its cluster.
type Kafka struct {
	Host      string           `json:"host,omitempty"` // that clients are told for every broker; "": the broker's own
	Ports     config.Ports     `json:"ports"`          // node First is Ports.From, and so on
	First     int32            `json:"first_node"`
	NodePorts map[int32]uint16 `json:"node_ports,omitempty"` // of nodes outside of Ports

	Pattern     string         `json:"nodes,omitempty"` // where all nodes are, with config.NodeHole in it
	Learn       []config.Hosts `json:"learn,omitempty"` // where a node may be that the cluster tells of
	Discover    Duration       `json:"discover"`        // 0: only clients' answers are looked at
	PassUnknown bool           `json:"pass_unknown,omitempty"`

	// Nodes are those that are known, by ID.
	Nodes []Node `json:"known,omitempty"`
}

// Node is a broker of a route's cluster.
type Node struct {
	ID     int32 `json:"id"`
	Server int   `json:"server"` // where it is, an index into Route.Servers
	// Host and Port are what the cluster says of it; "" and 0: not known.
	Host string   `json:"host,omitempty"`
	Port uint16   `json:"port,omitempty"`
	By   NodeFrom `json:"by"`
}

// NodeFrom is how it is known where a node is.
type NodeFrom string

// The ways.
const (
	NodeWritten NodeFrom = "file"
	NodePattern NodeFrom = "pattern"
	NodeLearned NodeFrom = "learned"
)

// KnownNode is what the cluster says of a node: clients' answers, or answers to
// questions of our own.
type KnownNode struct {
	ID   int32
	Host string // "": only its ID is known
	Port uint16
}

// target is where the node is; the zero Target: nowhere, the host is none.
func (n *KnownNode) target() config.Target {
	host := n.Host
	if a, err := netip.ParseAddr(host); err == nil {
		host = a.Unmap().String() // what it is to rules, and to whoever looks for its own addresses
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	t, err := config.ParseTarget(host + ":" + strconv.Itoa(int(n.Port)))
	if err != nil {
		return config.Target{}
	}
	return t
}

// Valid tells whether a connection could be made to where n is, by its form.
func (n *KnownNode) Valid() bool { return n.target().Host != "" && n.Port != 0 }

// PortOf is the port that clients reach a node at. It has one, or not.
func (k *Kafka) PortOf(node int32) (uint16, bool) {
	if p, ok := k.NodePorts[node]; ok {
		return p, true
	}
	n := int64(node) - int64(k.First)
	if n < 0 || n > int64(k.Ports.To)-int64(k.Ports.From) {
		return 0, false
	}
	return k.Ports.From + uint16(n), true
}

// NodeOf is the node that a port is for, if it is for one.
func (k *Kafka) NodeOf(port uint16) (int32, bool) {
	if port >= k.Ports.From && port <= k.Ports.To {
		return k.First + int32(port-k.Ports.From), true
	}
	for node, p := range k.NodePorts {
		if p == port {
			return node, true
		}
	}
	return 0, false
}

// targetOf is where the pattern has a node. There is none for an ID that makes a port
// too high, an address that is none, or a name too long.
func (k *Kafka) targetOf(node int32) (config.Target, error) {
	return config.ParseTarget(k.placeOf(node))
}

func (k *Kafka) placeOf(node int32) string {
	return strings.ReplaceAll(k.Pattern, config.NodeHole, strconv.Itoa(int(node)))
}

func byID(a, b Node) int { return cmp.Compare(a.ID, b.ID) }

// Node is what is known of a node; nil: nothing.
func (k *Kafka) Node(id int32) *Node {
	i, found := slices.BinarySearchFunc(k.Nodes, id, func(n Node, id int32) int { return cmp.Compare(n.ID, id) })
	if !found {
		return nil
	}
	return &k.Nodes[i]
}

// Advertised is what clients are told of a node that the cluster says is at host.
// ok is false where it has no port.
func (k *Kafka) Advertised(node int32, host string) (name string, port uint16, ok bool) {
	port, ok = k.PortOf(node)
	if k.Host != "" {
		host = k.Host
	}
	return host, port, ok
}

// IsOurs tells whether host and port are what clients are told of a node: brokers that
// advertise that themselves would have connections come back to this machine, or to
// another one like it behind the same name, for ever.
func (k *Kafka) IsOurs(host string, port uint16) bool {
	_, isNode := k.NodeOf(port)
	return isNode && strings.EqualFold(strings.TrimSuffix(host, "."), strings.TrimSuffix(k.Host, "."))
}

// MayLearn tells whether connections may be made to where the cluster says that a
// node is. A cluster could name any address, and this machine would lead to it.
func (k *Kafka) MayLearn(host string, port uint16) bool {
	n := KnownNode{Host: host, Port: port}
	host = strings.TrimSuffix(n.target().Host, ".")
	addr, err := netip.ParseAddr(host)
	return host != "" && !k.IsOurs(host, port) && slices.ContainsFunc(k.Learn, func(h config.Hosts) bool {
		if h.Port != 0 && h.Port != port {
			return false
		}
		if err == nil {
			return h.Name == "" && h.Net.Contains(addr)
		}
		return h.Name == host || below(h.Name, host)
	})
}

// WithNodes is p with what is known of the clusters' nodes, by route: each node
// that has a port, and may be learned or is at the pattern, gets its server. Nodes
// that the file places are only told what the cluster says of them.
func (p *Plan) WithNodes(known map[string][]KnownNode) *Plan {
	next := *p
	next.Routes = slices.Clone(p.Routes)
	for i, r := range p.Routes {
		if r.Kafka != nil && len(known[r.Name]) > 0 {
			next.Routes[i] = r.withNodes(known[r.Name])
		}
	}
	return &next
}

func (r *Route) withNodes(known []KnownNode) *Route {
	next, k := *r, *r.Kafka
	next.Kafka = &k
	next.Servers, k.Nodes = slices.Clone(r.Servers), slices.Clone(k.Nodes)
	taken := map[int]bool{} // servers that are nodes: a port leads to no other node
	for _, n := range k.Nodes {
		taken[n.Server] = true
	}
	for _, n := range known {
		if have := k.Node(n.ID); have != nil {
			if n.Host != "" {
				have.Host, have.Port = n.Host, n.Port
			}
			continue
		}
		if _, ok := k.PortOf(n.ID); !ok {
			continue
		}
		node := Node{ID: n.ID, Host: n.Host, Port: n.Port, By: NodeLearned}
		switch {
		case k.Pattern != "":
			node.By = NodePattern
			t, err := k.targetOf(n.ID)
			if err != nil {
				continue // the file was warned of
			}
			node.Server = next.serverAt(t)
		case n.Host != "" && k.MayLearn(n.Host, n.Port):
			node.Server = next.serverAt(n.target())
		default:
			continue
		}
		if taken[node.Server] {
			continue
		}
		taken[node.Server] = true
		k.Nodes = append(k.Nodes, node)
		slices.SortFunc(k.Nodes, byID)
	}
	next.nameNodes()
	return &next
}

// nameNodes has the nodes' certificates verified for the names that the cluster
// knows them by, which clients without a forwarder would ask for: where a node is
// may be written as an address, or as a name of another network. The cluster
// that says so has shown a certificate itself.
func (r *Route) nameNodes() {
	if !r.UpstreamTLS.On {
		return
	}
	for _, n := range r.Kafka.Nodes {
		if n.Host != "" {
			server := *r.Servers[n.Server]
			server.TLSName = n.Host
			r.Servers[n.Server] = &server
		}
	}
}

// serverAt is the route's server at t, which is added if there is none.
func (r *Route) serverAt(t config.Target) int {
	name := t.String()
	at := slices.IndexFunc(r.Servers, func(s *Server) bool { return s.Name == name })
	if at < 0 {
		at = len(r.Servers)
		r.Servers = append(r.Servers, &Server{Name: name, Host: t.Host, Port: t.Port, Weight: 1})
	}
	return at
}
