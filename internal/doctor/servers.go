package doctor

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"time"

	"midspan/internal/brokers"
	"midspan/internal/certs"
	"midspan/internal/plan"
)

// Server is a bootstrap server of a route of mode kafka that is not a node's place.
// Clusters do not tell of brokers that are down; the file does.
type Server struct {
	Route string `json:"route"`
	At    Place  `json:"at"`

	visit visit
}

// routes are those of mode kafka that are for the cluster with nodes. With nobody to
// tell of nodes, the only one of the file is.
func routes(q Question, nodes []brokers.Node) (all []*plan.Route) {
	if q.Plan == nil {
		return nil
	}
	var others []*plan.Route
	for _, r := range q.Plan.Routes {
		switch {
		case r.Kafka == nil:
		case belongs(q, r, nodes):
			all = append(all, r)
		default:
			others = append(others, r)
		}
	}
	if len(all) == 0 && len(others) == 1 && len(nodes) == 0 {
		return others
	}
	return all
}

// servers are those to look at, beside what was asked. One with weight 0 is kept from
// clients, and may be down.
func (e *examiner) servers(routes []*plan.Route, nodes []brokers.Node) []Server {
	all := []Server{}
	asked := Place{Host: e.q.Host, Port: e.q.Port}
	for _, r := range routes {
		for _, i := range r.Default {
			s := r.Servers[i]
			at := Place{Host: s.Host, Port: r.MainPort(s)}
			if s.Weight == 0 || at.same(asked) || slices.ContainsFunc(all, func(o Server) bool { return o.At.same(at) }) {
				continue
			}
			v := visit{at: at, who: &expected{node: anyNode, written: "`to` of route " + r.Name}}
			v.tls, v.err = e.secure(r, nodes)
			all = append(all, Server{Route: r.Name, At: at, visit: v})
		}
	}
	return all
}

// first finds a broker that answers: what was asked, else a server of the file. Each of
// the two gets a part of the time, for there is more to look at.
func (e *examiner) first(ctx context.Context, r *Report) (visit, Try, bool) {
	r.Servers = e.servers(routes(e.q, nil), nil)
	v := visit{at: Place{Host: e.q.Host, Port: e.q.Port}, tls: e.q.TLS, part: len(r.Servers) > 0}
	r.Bootstrap = e.look(ctx, v)
	if t, ok := r.Bootstrap.answer(); ok {
		return v, t, true
	}
	each(len(r.Servers), func(i int) {
		s := &r.Servers[i]
		early := s.visit
		early.part = true
		s.At = e.look(ctx, early)
	})
	for _, s := range r.Servers {
		if t, ok := s.At.answer(); ok {
			return s.visit, t, true
		}
	}
	return v, Try{}, false
}

// part is a context for a third of the time that ctx has left.
func part(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(end)/3)
}

// others are the servers that are looked at beside the report's nodes, with what those
// did that have been asked already. nodes are those that the cluster tells of.
func (e *examiner) others(r *Report, nodes []brokers.Node) []Server {
	concerned := routes(e.q, nodes)
	for _, p := range routes(e.q, nil) {
		carries := slices.ContainsFunc(r.Nodes, func(n Node) bool { return n.Cover != nil && n.Cover.Route == p.Name })
		if carries && !slices.Contains(concerned, p) {
			concerned = append(concerned, p)
		}
	}
	all := e.servers(concerned, nodes)
	all = slices.DeleteFunc(all, func(s Server) bool {
		return slices.ContainsFunc(r.Nodes, func(n Node) bool { return n.At.same(s.At) })
	})
	for i := range all {
		s := &all[i]
		s.visit.who.cluster = r.Cluster.ID
		if j := slices.IndexFunc(r.Servers, func(o Server) bool { return o.At.same(s.At) }); j >= 0 {
			s.At = r.Servers[j].At
			for k := range s.At.Tries {
				s.At.Tries[k].compare(s.visit.who)
			}
		}
	}
	return all
}

// secure is the TLS of connections to the servers of r. Who asks through a route that
// ends TLS, or begins it, speaks not as its servers do.
func (e *examiner) secure(r *plan.Route, nodes []brokers.Node) (*tls.Config, error) {
	if r.TLS == nil && !r.UpstreamTLS.On || !through(e.q, r, nodes) {
		return e.q.TLS, nil
	}
	if !r.UpstreamTLS.On {
		return nil, nil
	}
	c, err := certs.Read(r.UpstreamTLS)
	if err != nil {
		return nil, fmt.Errorf("upstream_tls of route %s: %w", r.Name, err)
	}
	c.ClientSessionCache = nil // a session that goes on shows no certificate
	return c, nil
}

// through tells whether the question goes to r itself: to its port, or to one that
// tells nodes as r does.
func through(q Question, r *plan.Route, nodes []brokers.Node) bool {
	asked := Place{Host: q.Host, Port: q.Port}
	server := slices.ContainsFunc(r.Servers, func(s *plan.Server) bool { return asked.same(Place{Host: s.Host, Port: r.MainPort(s)}) })
	return slices.Contains(r.Bootstrap(), q.Port) && !server ||
		slices.ContainsFunc(nodes, func(n brokers.Node) bool { return told(q, r, n) })
}
