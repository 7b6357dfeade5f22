package plan

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"midspan/internal/config"
)

const (
	// maxNodePorts bounds the sockets of one route, of which each port has one a loop.
	maxNodePorts    = 1024
	defaultDiscover = time.Minute
	// localPorts is where net.ipv4.ip_local_port_range begins by default (ip-sysctl).
	localPorts = 32768
)

// kafka fills in the cluster of a route of mode kafka, and the listeners of its
// nodes.
func (b *builder) kafka(i int, c *config.Route, r *Route) *Kafka {
	a := &c.Advertise
	if r.Mode != ModeKafka {
		b.noKafka(c, r)
		return nil
	}
	k := &Kafka{
		Host: a.Host.V, Ports: a.Ports.V, First: int32(a.FirstNode.V),
		Pattern: c.Nodes.Pattern.V, Learn: b.learn(c, r),
		Discover:    pickOff(c.Kafka.Discover, config.Field[config.OffOr[time.Duration]]{}, defaultDiscover),
		PassUnknown: c.Kafka.UnknownAPIs.V == "pass",
	}
	if k.Host == config.KeepHost {
		k.Host = ""
	}
	if !a.Ports.Set() {
		if !a.Host.Set() { // else the missing key is a problem already
			b.problems.Addf(c.Mode.Pos, "route %q: mode kafka needs to know what clients are told of the brokers; write advertise: { host: NAME, ports: FROM-TO }", r.Name)
		}
		return k
	}
	b.nodePorts(c, r, k)
	b.kafkaListeners(i, c, r, k)
	b.nodes(c, r, k)
	return k
}

// noKafka refuses what is for mode kafka.
func (b *builder) noKafka(c *config.Route, r *Route) {
	pos := firstSet(c.Advertise.Host.Pos, c.Advertise.Ports.Pos, c.Advertise.FirstNode.Pos, c.Nodes.Pattern.Pos, posOf(c.Kafka.Learn), c.Kafka.Discover.Pos, c.Kafka.UnknownAPIs.Pos)
	if len(c.Nodes.At) > 0 {
		pos = firstSet(pos, c.Nodes.At[0].ID.Pos)
	}
	if pos != (config.Pos{}) {
		b.problems.Addf(pos, "route %q: `advertise`, `nodes` and `kafka` are for mode kafka; write mode: kafka, or take them out", r.Name)
	}
}

// learn is where nodes may be that the cluster tells of.
func (b *builder) learn(c *config.Route, r *Route) (all []config.Hosts) {
	for _, f := range c.Kafka.Learn {
		if f.V.Off && len(c.Kafka.Learn) > 1 {
			b.problems.Addf(f.Pos, "route %q: `off` stands among hosts; keep it or them", r.Name)
		}
		if !f.V.Off {
			all = append(all, f.V.V)
		}
	}
	if len(c.Kafka.Learn) > 0 {
		return all
	}
	for _, s := range r.Servers {
		h, err := config.ParseHosts(s.Host)
		if err == nil && !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	return all
}

// nodePorts checks the ports of nodes.
func (b *builder) nodePorts(c *config.Route, r *Route, k *Kafka) {
	a := &c.Advertise
	n := int(k.Ports.To) - int(k.Ports.From) + 1
	if n > maxNodePorts {
		b.problems.Addf(a.Ports.Pos, "route %q: %s are %d ports, and all are bound; write at most %d, and node_ports for nodes with other ids", r.Name, k.Ports, n, maxNodePorts)
	}
	if int64(k.First)+int64(n)-1 > 1<<31-1 {
		b.problems.Addf(a.FirstNode.Pos, "route %q: the last port would be for node %d, and ids end at %d; lower first_node", r.Name, int64(k.First)+int64(n)-1, int64(1<<31-1))
	}
	if k.Ports.To >= localPorts {
		b.warnings.Addf(a.Ports.Pos, "route %q: a connection of this machine's own may have one of the ports %s when midspan starts (net.ipv4.ip_local_port_range is %d-60999 on most systems); choose lower ones, or put them into net.ipv4.ip_local_reserved_ports", r.Name, k.Ports, localPorts)
	}
	for _, p := range a.NodePorts {
		port, node := uint16(p.Port.V), int32(p.Node.V)
		if other, taken := k.NodeOf(port); taken {
			b.problems.Addf(p.Port.Pos, "route %q: port %d is node %d's already; choose one outside of %s", r.Name, port, other, k.Ports)
			continue
		}
		if k.NodePorts == nil {
			k.NodePorts = map[int32]uint16{}
		}
		k.NodePorts[node] = port
	}
}

// kafkaListeners adds the listeners of nodes to that of the route.
func (b *builder) kafkaListeners(i int, c *config.Route, r *Route, k *Kafka) {
	add := func(l Listen, ports config.Ports, pos config.Pos) {
		l.From, l.To = ports.From, ports.To
		r.Listen = append(r.Listen, l)
		b.listeners = append(b.listeners, listener{l, false, "route \"" + r.Name + "\"", i, pos})
	}
	var places []Listen
	for _, f := range c.Listen {
		l := Listen(f.V)
		if l.From != l.To {
			b.problems.Addf(f.Pos, "route %q: %s are the ports of what? mode kafka listens on one port, and on those of `advertise`; write one", r.Name, l)
		}
		l.From, l.To = 0, 0
		places = append(places, l)
	}
	for i, l := range places {
		if covered(places, i) {
			continue
		}
		add(l, k.Ports, c.Advertise.Ports.Pos)
		for _, p := range c.Advertise.NodePorts {
			if k.NodePorts[int32(p.Node.V)] == uint16(p.Port.V) {
				add(l, config.Ports{From: uint16(p.Port.V), To: uint16(p.Port.V)}, p.Port.Pos)
			}
		}
	}
}

// covered tells whether another place has every address of the i-th, so that the
// ports of nodes are bound there already. Of equal places the first counts.
func covered(places []Listen, i int) bool {
	l := places[i]
	for j, m := range places {
		addrs := !m.Addr.IsValid() || m.Addr == l.Addr || l.Addr.IsValid() && m.Addr.IsUnspecified() && m.Addr.Is4() == l.Addr.Is4()
		if j != i && addrs && (m.Interface == "" || m.Interface == l.Interface) && (m != l || j < i) {
			return true
		}
	}
	return false
}

// nodes fills in the nodes that the file places.
func (b *builder) nodes(c *config.Route, r *Route, k *Kafka) {
	if len(c.Nodes.At) == 0 && k.Pattern == "" && len(k.Learn) == 0 {
		b.problems.Addf(posOf(c.Kafka.Learn), "route %q: nobody knows where the brokers are; write `nodes`, or hosts that they may be learned at", r.Name)
	}
	at := map[int]int32{}
	for _, n := range c.Nodes.At {
		id := int32(n.ID.V)
		if _, ok := k.PortOf(id); !ok {
			b.problems.Addf(n.ID.Pos, "route %q: node %d has no port; widen `ports` or add it to node_ports", r.Name, id)
			continue
		}
		server := r.serverAt(n.Target.V)
		if other, taken := at[server]; taken {
			b.problems.Addf(n.Target.Pos, "route %q: %s is node %d already; a node has an address of its own", r.Name, n.Target.V, other)
			continue
		}
		at[server] = id
		k.Nodes = append(k.Nodes, Node{ID: id, Server: server, By: NodeWritten})
	}
	slices.SortFunc(k.Nodes, byID)
	for i := range c.To {
		if t := c.To[i].Target; t.V.Port == 0 {
			b.problems.Addf(t.Pos, "route %q: server %s has no port, and connections come in on many; write HOST:PORT", r.Name, t.V)
		}
	}
	if a, err := netip.ParseAddr(k.Host); strings.EqualFold(k.Host, "localhost") || err == nil && (a.IsLoopback() || a.IsUnspecified()) {
		b.warnings.Addf(c.Advertise.Host.Pos, "route %q: clients elsewhere are told to connect to their own %s; write the name that they reach this machine by", r.Name, k.Host)
	}
	b.warnPattern(c, r, k)
}

// warnPattern finds the nodes that have a port, and no address for all of the pattern.
func (b *builder) warnPattern(c *config.Route, r *Route, k *Kafka) {
	ids := slices.Sorted(maps.Keys(k.NodePorts))
	for n := range min(int(k.Ports.To)-int(k.Ports.From)+1, maxNodePorts) {
		ids = append(ids, k.First+int32(n))
	}
	for _, id := range ids {
		if _, err := k.targetOf(id); k.Pattern != "" && err != nil {
			b.warnings.Addf(c.Nodes.Pattern.Pos, "route %q: node %d has a port, and would be at %q, which is no address; narrow `ports`, or write nodes: { ID: HOST:PORT }", r.Name, id, k.placeOf(id))
			return
		}
	}
}

// targets are where the file has a route's servers, and the nodes of its cluster.
func targets(c *config.Route) iter.Seq[*config.Field[config.Target]] {
	return func(yield func(*config.Field[config.Target]) bool) {
		for s := range c.Servers() {
			if !yield(&s.Target) {
				return
			}
		}
		for i := range c.Nodes.At {
			if !yield(&c.Nodes.At[i].Target) {
				return
			}
		}
	}
}
