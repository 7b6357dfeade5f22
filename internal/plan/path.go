package plan

import (
	"net/netip"
	"slices"
	"strings"

	"midspan/internal/config"
)

// MaxRulesPerNIC is how many rules of load balancers may lead to one network
// interface of a VM: Azure's limit for all of its addresses together, as of
// 2026-06-30 (azure-docs, includes/load-balancer-limits.md).
const MaxRulesPerNIC = 300

// Path is what has to be there between clients in the cloud and a route of mode
// kafka: a load balancer's rules, its probe, and names.
type Path struct {
	Route string `json:"route"`
	// Rules are one for the first connection and one for each node that the file
	// knows, by port. More nodes want more; MaxRules is one for each port.
	Rules    []Rule `json:"rules"`
	MaxRules int    `json:"max_rules"`
	// ProbePort is where the load balancer asks GET /; 0: nowhere.
	ProbePort uint16 `json:"probe_port"`
	// Names are those by which clients have to reach the private endpoint, in so far as
	// the file knows; with config.NodeHole: one for each node. MoreNames: so are
	// those that the cluster advertises and the file does not have.
	Names     []string       `json:"names"`
	MoreNames bool           `json:"more_names"`
	Learn     []config.Hosts `json:"learn"`
}

// Rule leads from a port of the load balancer to the same port of the VMs:
// clients are told the one, and the other is what this machine listens on.
type Rule struct {
	Port uint16 `json:"port"`
	Node *int32 `json:"node,omitempty"` // nil: the first connection
}

// Paths are those of the routes of mode kafka, in the order of the file.
func (p *Plan) Paths() []Path {
	var all []Path
	for _, r := range p.Routes {
		if r.Kafka != nil {
			all = append(all, p.path(r))
		}
	}
	return all
}

func (p *Plan) path(r *Route) Path {
	k := r.Kafka
	path := Path{Route: r.Name, ProbePort: p.Health.Listen.From, Names: k.clientNames(r), MoreNames: k.Host == "", Learn: k.Learn}
	if path.Learn == nil {
		path.Learn = []config.Hosts{}
	}
	for _, port := range r.Bootstrap() {
		path.Rules = append(path.Rules, Rule{Port: port})
	}
	path.MaxRules = len(path.Rules) + int(k.Ports.To) - int(k.Ports.From) + 1 + len(k.NodePorts)
	for _, n := range k.Nodes {
		if port, ok := k.PortOf(n.ID); ok {
			path.Rules = append(path.Rules, Rule{Port: port, Node: &n.ID})
		}
	}
	slices.SortFunc(path.Rules, func(a, b Rule) int { return int(a.Port) - int(b.Port) })
	return path
}

// Bootstrap are the ports for the first connection of a route of mode kafka; of
// other routes it is nothing.
func (r *Route) Bootstrap() (ports []uint16) {
	for _, l := range r.Listen {
		if r.Kafka == nil || slices.Contains(ports, l.From) {
			continue
		}
		if _, node := r.Kafka.NodeOf(l.From); !node {
			ports = append(ports, l.From)
		}
	}
	return ports
}

// clientNames are the hosts that clients connect to. With `host: keep` they are
// the brokers' own, of which the file has those that it connects to itself: most
// often the same.
func (k *Kafka) clientNames(r *Route) []string {
	if k.Host != "" {
		return []string{k.Host}
	}
	names := []string{}
	for _, s := range r.Servers {
		if _, literal := s.Literal(); !literal && !slices.Contains(names, s.Host) {
			names = append(names, s.Host)
		}
	}
	if t, err := config.ParseTarget(strings.ReplaceAll(k.Pattern, config.NodeHole, "1")); err == nil {
		if _, literal := netip.ParseAddr(t.Host); literal != nil {
			names = append(names, k.Pattern[:strings.LastIndexByte(k.Pattern, ':')])
		}
	}
	return names
}
