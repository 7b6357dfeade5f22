package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"midspan/internal/plan"
)

// pathRows are what the way from the cloud to routes of mode kafka needs.
func pathRows(p *plan.Plan) [][]string {
	var rows [][]string
	for _, path := range p.Paths() {
		r := p.Routes[slices.IndexFunc(p.Routes, func(r *plan.Route) bool { return r.Name == path.Route })]
		rows = append(rows,
			[]string{r.Name, "ports", portsText(r)},
			[]string{"", "rules", rulesText(path)},
			[]string{"", "probe", probeText(path.ProbePort)},
			[]string{"", "names", namesText(path)},
			[]string{"", "learn", learnText(r.Kafka)})
	}
	return rows
}

// portsText is which ports of this machine are for what.
func portsText(r *plan.Route) string {
	k := r.Kafka
	var parts []string
	for _, port := range r.Bootstrap() {
		parts = append(parts, fmt.Sprintf("%d bootstrap", port))
	}
	last, _ := k.NodeOf(k.Ports.To)
	if last == k.First {
		parts = append(parts, fmt.Sprintf("%d node %d", k.Ports.From, k.First))
	} else {
		parts = append(parts, fmt.Sprintf("%s nodes %d-%d", k.Ports, k.First, last))
	}
	var ids []int32
	for id := range k.NodePorts {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		parts = append(parts, fmt.Sprintf("%d node %d", k.NodePorts[id], id))
	}
	return strings.Join(parts, ", ")
}

// rulesText is which rules the load balancer has to have.
func rulesText(path plan.Path) string {
	var parts []string
	for _, r := range path.Rules {
		text := strconv.Itoa(int(r.Port))
		if r.Node != nil {
			text += " (node " + strconv.Itoa(int(*r.Node)) + ")"
		}
		parts = append(parts, text)
	}
	text := strings.Join(parts, ", ") + ", each to the same port of the VMs"
	if more := path.MaxRules - len(path.Rules); more > 0 {
		text += fmt.Sprintf("; and one for each further node, up to %d in all", path.MaxRules)
	}
	if path.MaxRules > plan.MaxRulesPerNIC {
		text += fmt.Sprintf(" (a VM's network interface takes %d)", plan.MaxRulesPerNIC)
	}
	return text
}

func probeText(port uint16) string {
	if port == 0 {
		return "none: `health` is off, so the load balancer cannot know which VM is well"
	}
	return fmt.Sprintf("HTTP, port %d, path /", port)
}

// namesText is which names clients have to find the private endpoint by.
func namesText(path plan.Path) string {
	names := path.Names
	if path.MoreNames {
		names = append(slices.Clip(names), "every other host that the cluster advertises")
	}
	return strings.Join(names, ", ")
}

// learnText is how it becomes known where nodes are that the file does not have.
func learnText(k *plan.Kafka) string {
	if k.Pattern != "" {
		return "not needed: all nodes are at " + k.Pattern
	}
	if len(k.Learn) == 0 {
		return "off: only the nodes of the file are forwarded to"
	}
	var hosts []string
	for _, h := range k.Learn {
		hosts = append(hosts, h.String())
	}
	text := "nodes at " + strings.Join(hosts, ", ")
	if k.Discover == 0 {
		return text + "; only from clients' answers (discover: off)"
	}
	return text + "; asked for every " + k.Discover.String()
}
