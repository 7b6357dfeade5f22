package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"midspan/internal/admin"
	"midspan/internal/brokers"
	"midspan/internal/daemon"
	"midspan/internal/engine"
)

// nodeRows are the nodes of clusters. Those without a port share a row, and so do those
// that nobody knows and whose ports were tried: a load balancer may test all ports there
// are.
func nodeRows(s admin.Status) (rows [][]string) {
	for _, r := range s.Engine.Routes {
		if r.Kafka == nil {
			continue
		}
		var unknown, portless []string
		var ports []string // of unknown
		conns := 0
		unreached, active := s.Unreached[r.Name], map[int32]int{}
		for _, n := range r.Kafka.Nodes {
			id, port := strconv.Itoa(int(n.ID)), strconv.Itoa(int(n.Port))
			if slices.ContainsFunc(unreached, func(u daemon.UnreachedNode) bool { return u.ID == n.ID && u.Port != 0 }) {
				active[n.ID] = n.Active
				continue
			}
			if n.Server == "" {
				unknown, ports, conns = append(unknown, id), append(ports, port), conns+n.Active
				continue
			}
			rows = append(rows, []string{r.Name, id, port, n.Server, cmp.Or(n.By, "-"), nodeState(r, n), strconv.Itoa(n.Active)})
		}
		for _, u := range unreached {
			id := strconv.Itoa(int(u.ID))
			if u.Port == 0 {
				portless = append(portless, id)
				continue
			}
			rows = append(rows, []string{r.Name, id, strconv.Itoa(int(u.Port)), "-", "-", "MAY NOT BE LEARNED at " + u.At, strconv.Itoa(active[u.ID])})
		}
		if len(portless) > 0 {
			rows = append(rows, []string{r.Name, brief(portless), "-", "-", "-", "NO PORT", "0"})
		}
		if len(unknown) > 0 {
			rows = append(rows, []string{r.Name, brief(unknown), brief(ports), "-", "-", "NOT KNOWN", strconv.Itoa(conns)})
		}
	}
	return rows
}

// nodeState is how a node is: as its server is.
func nodeState(r engine.RouteStatus, n engine.NodeStatus) string {
	noAddress := slices.ContainsFunc(r.Endpoints, func(e engine.EndpointStatus) bool { return e.Server == n.Server && !e.Addr.IsValid() })
	failing := slices.ContainsFunc(r.Endpoints, func(e engine.EndpointStatus) bool { return e.Server == n.Server && e.LastResort })
	switch {
	case noAddress:
		return "NO ADDRESS"
	case failing:
		return "FAILING"
	case !n.Up:
		return "DOWN"
	}
	return "up"
}

// clusterLines say of which clusters it is not known which nodes they have now.
func clusterLines(s admin.Status) (lines []string) {
	for _, route := range slices.Sorted(maps.Keys(s.Clusters)) {
		c := s.Clusters[route]
		since := "has not said yet which nodes it has"
		if !c.Answered.IsZero() {
			since = "said " + age(c.Answered) + " ago which nodes it has, and not since"
		}
		switch {
		case c.Problem == "":
		case c.Kind == brokers.WantsSASL:
			lines = append(lines, fmt.Sprintf("route %s: the cluster wants SASL; its nodes are known from clients' answers and `nodes` only", route))
		default:
			lines = append(lines, fmt.Sprintf("route %s: the cluster %s: %s", route, since, c.Problem))
		}
	}
	return lines
}
