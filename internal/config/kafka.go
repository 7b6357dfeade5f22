package config

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// The parts of the file that are for mode kafka.

// Advertise is what clients are told of where a cluster's brokers are.
type Advertise struct {
	Host      Field[string] // a name, an address or "keep"
	Ports     Field[Ports]
	FirstNode Field[int]
	NodePorts []NodePort
}

// KeepHost stands for the host that the broker itself advertises.
const KeepHost = "keep"

// NodePort is the port of one node.
type NodePort struct {
	Node Field[int]
	Port Field[int]
}

// Nodes are the addresses of a cluster's nodes: some of them, or the pattern of all.
type Nodes struct {
	Pattern Field[string] // HOST:PORT with NodeHole in it
	At      []Node
}

// NodeHole stands for the node's id in a pattern.
const NodeHole = "{node}"

// Node is the address of one node.
type Node struct {
	ID     Field[int]
	Target Field[Target]
}

// Kafka is for routes of mode kafka.
type Kafka struct {
	Learn       []Field[OffOr[Hosts]]
	Discover    Field[OffOr[time.Duration]]
	UnknownAPIs Field[string] // one of UnknownAPIs
}

// Hosts are some hosts by name or address, at one port or at all.
type Hosts struct {
	Name string       // "*.x": all names below x; "": those of Net
	Net  netip.Prefix // an address is a prefix of its whole length
	Port uint16       // 0: all
}

func (h Hosts) String() string {
	host := h.Name
	switch {
	case h.Name != "":
	case !h.Net.IsSingleIP():
		host = h.Net.String()
	default:
		host = h.Net.Addr().String()
	}
	if h.Port == 0 {
		return host
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, h.Port)
}

// MarshalText makes Hosts a string in JSON.
func (h Hosts) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// ParseHosts reads a name, *.SUFFIX, an address or a network, each with or without
// a port: [2001:db8::/32]:9092 where that is IPv6.
func ParseHosts(s string) (h Hosts, err error) {
	host := s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && (strings.Count(s, ":") == 1 || s[0] == '[') && !strings.HasSuffix(s, "]") {
		if h.Port, err = parsePort(s[i+1:]); err != nil {
			return h, fmt.Errorf("hosts %q: %w", clip(s), err)
		}
		host = s[:i]
	}
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	net, err := parseNetwork(host)
	if err == nil {
		h.Net = net
		return h, nil
	}
	if strings.Contains(host, "/") {
		return h, fmt.Errorf("hosts %q: %w", clip(s), err)
	}
	if !validName(strings.TrimPrefix(host, "*.")) {
		return h, fmt.Errorf("%q is not a host name, an address or a network; write one of them or *.SUFFIX, with :PORT or without", clip(s))
	}
	h.Name = strings.ToLower(strings.TrimSuffix(host, "."))
	return h, nil
}

// parseAdvertised reads the host that clients are told.
func parseAdvertised(s string) (string, error) {
	if _, err := netip.ParseAddr(s); err == nil || validName(s) {
		return s, nil
	}
	return "", fmt.Errorf("%q is not a host name; write the one that clients reach this machine by, without a port, or keep", clip(s))
}

// parsePattern reads the address of all nodes.
func parsePattern(s string) (string, error) {
	if !strings.Contains(s, NodeHole) {
		return "", fmt.Errorf("%q is where all nodes would be; write %s where the node's id stands (kafka-%s.example.com:9092), or { ID: HOST:PORT }", clip(s), NodeHole, NodeHole)
	}
	if t, err := ParseTarget(strings.ReplaceAll(s, NodeHole, "1")); err != nil {
		return "", err
	} else if t.Port == 0 {
		return "", fmt.Errorf("%q has no port; write HOST:PORT", clip(s))
	}
	return s, nil
}

var (
	kNodePort = integer("port", 1, 65535)
	kNodeID   = integer("node id", 0, math.MaxInt32)
	kPattern  = scalar("a pattern", regexp.QuoteMeta(NodeHole), parsePattern, func(s string) string { return s })
	kHosts    = scalar("hosts", `^\S+$`, ParseHosts, Hosts.String)
	kTold     = scalar("a host", `^\S+$`, parseAdvertised, func(s string) string { return s })

	advertiseKeys = []key[Advertise]{
		required(field("host", "The name that clients reach this machine (or its load balancer, or private endpoint) by; they are told it for every broker. keep: the broker's own, so that only the port is changed (Kerberos).", kTold, func(a *Advertise) *Field[string] { return &a.Host })),
		required(field("ports", "FROM-TO: one for each node, from first_node on. All are bound at the start.", kPorts, func(a *Advertise) *Field[Ports] { return &a.Ports })),
		field("first_node", "The node id that the first port is for. Default: 0.", kNodeID, func(a *Advertise) *Field[int] { return &a.FirstNode }),
		{
			name: "node_ports", doc: "{ ID: PORT }: nodes whose ids are outside the range.",
			schema: byNode(kNodePort.schema),
			decode: func(d *decoder, n *yaml.Node, a *Advertise) {
				eachNode(d, n, "{ ID: PORT }", func(id Field[int], v *yaml.Node) {
					p := NodePort{Node: id}
					if kNodePort.decode(d, v, &p.Port.V) {
						p.Port.Pos = d.pos(v)
						a.NodePorts = append(a.NodePorts, p)
					}
				})
			},
			encode: func(a *Advertise) *yaml.Node {
				m := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
				for _, p := range a.NodePorts {
					m.Content = append(m.Content, scalarNode(strconv.Itoa(p.Node.V)), kNodePort.encode(p.Port.V))
				}
				return orNothing(m)
			},
		},
	}

	kafkaKeys = []key[Kafka]{
		list("learn", "Where nodes may be that the cluster tells of: a name, *.SUFFIX, an address or a network, with a port or without; or off. Default: the hosts in `to`.", offOr(kHosts), func(k *Kafka) *[]Field[OffOr[Hosts]] { return &k.Learn }),
		field("discover", "How often the cluster is asked for its nodes; off: only clients' answers are looked at. Default: 1m.", offOr(duration(time.Second, time.Hour)), func(k *Kafka) *Field[OffOr[time.Duration]] { return &k.Discover }),
		field("unknown_apis", "APIs of a newer Kafka, which may name brokers in ways that are not known here. hide: clients are not told of them. pass: they are. Default: hide.", enum("word", UnknownAPIs), func(k *Kafka) *Field[string] { return &k.UnknownAPIs }),
	}
)

// nodesKey is `nodes`.
func nodesKey() key[Route] {
	return key[Route]{
		name:   "nodes",
		doc:    "mode kafka: where brokers are, by node id: { ID: HOST:PORT }, or for all of them HOST:PORT with {node} in it. Default: where the cluster says, see kafka.learn.",
		schema: anyOf(kPattern.schema, byNode(kTarget.schema)),
		decode: func(d *decoder, n *yaml.Node, r *Route) {
			if n.Kind == yaml.ScalarNode {
				if kPattern.decode(d, n, &r.Nodes.Pattern.V) {
					r.Nodes.Pattern.Pos = d.pos(n)
				}
				return
			}
			eachNode(d, n, "{ ID: HOST:PORT }", func(id Field[int], v *yaml.Node) {
				x := Node{ID: id}
				if !kTarget.decode(d, v, &x.Target.V) {
					return
				}
				if x.Target.V.Port == 0 {
					d.addf(v, "node %d has no port; write HOST:PORT", id.V)
					return
				}
				x.Target.Pos = d.pos(v)
				r.Nodes.At = append(r.Nodes.At, x)
			})
		},
		encode: func(r *Route) *yaml.Node {
			if r.Nodes.Pattern.Set() {
				return kPattern.encode(r.Nodes.Pattern.V)
			}
			m := &yaml.Node{Kind: yaml.MappingNode}
			for _, x := range r.Nodes.At {
				m.Content = append(m.Content, scalarNode(strconv.Itoa(x.ID.V)), kTarget.encode(x.Target.V))
			}
			return orNothing(m)
		},
	}
}

// byNode is the schema of a mapping from node ids.
func byNode(value schema) schema {
	return schema{"type": "object", "minProperties": 1, "propertyNames": schema{"pattern": "^[0-9]{1,10}$"}, "additionalProperties": value}
}

// eachNode reads a mapping from node ids.
func eachNode(d *decoder, n *yaml.Node, example string, do func(id Field[int], v *yaml.Node)) {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		d.addf(n, "%s stands where nodes are expected; write %s", describe(n), example)
		return
	}
	first := map[int]int{} // to lines
	d.mapping(n, func(k, v *yaml.Node) {
		var id int
		switch {
		case !kNodeID.decode(d, k, &id):
		case first[id] != 0: // 1 and 0x1 are other keys, and the same node
			d.addf(k, "node %d stands here again (first on line %d); keep one", id, first[id])
		default:
			first[id] = k.Line
			do(At(id, d.pos(k)), v)
		}
	})
}

// orNothing is m unless it is empty.
func orNothing(m *yaml.Node) *yaml.Node {
	if len(m.Content) == 0 {
		return nil
	}
	return m
}
