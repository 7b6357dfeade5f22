// Package doctor walks the way that a Kafka client would take from this machine, hop
// by hop, and names the one that is broken: the name, the connection, TLS, the
// protocol, the node that answers, and the route that is to carry it.
//
// It only asks what a client may ask without credentials. Of a cluster that wants
// SASL it finds out which mechanisms that has. Brokers that are down a cluster does not
// tell of: the servers and nodes that the file has are looked at too. Limits: of a name, maxAddresses are looked at; all of it ends when the context
// does.
package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"midspan/internal/brokers"
	"midspan/internal/plan"
)

const (
	maxAddresses = 64
	// atOnce is how many places are looked at at the same time.
	atOnce = 32
	// connectTimeout is for one address; a client's own is longer.
	connectTimeout = 3 * time.Second
	// answerTimeout is for TLS and all questions to one broker: one that is silent is
	// not to take the time of the others.
	answerTimeout = 3 * time.Second
)

// World is what is asked: the system's, or a test's. Its functions are called by
// many goroutines.
type World struct {
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Question is what is to be found out.
type Question struct {
	Host string // of the first connection
	Port uint16
	TLS  *tls.Config // nil: plain text. Its ServerName, if set, is asked for at every broker
	Plan *plan.Plan  // whose routes are to carry the cluster; nil: none
}

// Report is what was found out.
type Report struct {
	OK        bool      `json:"ok"` // no Problems
	Bootstrap Place     `json:"bootstrap"`
	Cluster   *Cluster  `json:"cluster,omitempty"` // nil: nobody answers
	Nodes     []Node    `json:"nodes"`             // by ID
	Servers   []Server  `json:"servers"`           // of the file's routes for the cluster; without Bootstrap and Nodes
	Problems  []Problem `json:"problems"`          // in the order of the way
}

// Cluster is what the first broker says.
type Cluster struct {
	By         string        `json:"by"` // who says it: Bootstrap, or one of the file's servers
	ID         string        `json:"id,omitempty"`
	Controller int32         `json:"controller"` // -1: not known
	APIs       []brokers.API `json:"apis"`
	// WantsSASL: which nodes there are, it says only to those who log in.
	WantsSASL  bool     `json:"wants_sasl"`
	Mechanisms []string `json:"mechanisms,omitempty"` // of SASL
}

// Place is a host and port, with what became of a connection to each of its
// addresses.
type Place struct {
	Host  string `json:"host"`
	Port  uint16 `json:"port"`
	Tries []Try  `json:"tries"` // none: the name has no address, or was not looked up
}

func (p Place) String() string { return net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port))) }

func (p Place) same(o Place) bool { return sameHost(p.Host, o.Host) && p.Port == o.Port }

// answer is the first that works.
func (p Place) answer() (Try, bool) {
	i := slices.IndexFunc(p.Tries, Try.works)
	if i < 0 {
		return Try{}, false
	}
	return p.Tries[i], true
}

// Works tells whether one of its addresses does.
func (p Place) Works() bool { return slices.ContainsFunc(p.Tries, Try.works) }

// Try is a connection to one address.
type Try struct {
	Addr netip.AddrPort `json:"addr"`
	// Hop is the one that is broken; "": none.
	Hop  Hop    `json:"hop,omitempty"`
	Text string `json:"text,omitempty"` // what is wrong with it
	// Took is until the last answer, in milliseconds.
	Took float64 `json:"took_ms"`
	// WantsSASL: it speaks Kafka, and says no more to us.
	WantsSASL bool `json:"wants_sasl,omitempty"`
	// Is tells whether the broker says itself that it is the node; false: it does
	// not say (see brokers.IsNode).
	Is bool `json:"is_node,omitempty"`

	advice  string
	cluster brokers.Cluster
}

func (t Try) works() bool { return t.Hop == "" }

// Node is a broker, as the cluster tells clients of it, or as the file has it.
type Node struct {
	ID   int32  `json:"id"`
	Host string `json:"host"` // advertised
	Port uint16 `json:"port"`
	Rack string `json:"rack,omitempty"`
	// Untold: the file has it, and the cluster does not tell of it; it does not of
	// one that is down.
	Untold bool `json:"untold,omitempty"`
	// At is where it was looked at: where its route leads, or what is advertised.
	At    Place  `json:"at"`
	Cover *Cover `json:"route,omitempty"` // nil: there is no file
}

// Hop is a part of the way.
type Hop string

// The hops.
const (
	HopName    Hop = "name"
	HopConnect Hop = "connect"
	HopTLS     Hop = "tls"
	HopKafka   Hop = "kafka"
	HopCluster Hop = "cluster"
	HopNode    Hop = "node"
	HopRoute   Hop = "route"
	// HopTime: there was no time left to look.
	HopTime Hop = "time"
)

// Problem is a broken hop.
type Problem struct {
	Node   *int32 `json:"node,omitempty"`   // whose
	Server string `json:"server,omitempty"` // whose, see Report.Servers; with neither: of the first connection
	Hop    Hop    `json:"hop"`
	Text   string `json:"text"`
	Do     string `json:"do"`
}

// Ask finds it out.
func Ask(ctx context.Context, w World, q Question) Report {
	e := examiner{World: w, q: q, connectTimeout: connectTimeout, answerTimeout: answerTimeout}
	return e.report(ctx)
}

func (e *examiner) report(ctx context.Context) Report {
	r := Report{Nodes: []Node{}, Problems: []Problem{}}
	v, t, ok := e.first(ctx, &r)
	r.problems(Problem{}, r.Bootstrap)
	if ok {
		r.Cluster = &Cluster{By: v.at.String(), ID: t.cluster.ID, Controller: t.cluster.Controller, APIs: t.cluster.APIs, WantsSASL: t.WantsSASL}
		if t.WantsSASL {
			r.Cluster.Mechanisms = e.mechanisms(ctx, v, t)
		}
		r.Nodes = e.nodes(t.cluster)
		r.Servers = e.others(&r, t.cluster.Nodes)
		e.lookAll(ctx, &r, t.cluster.Nodes)
	}
	for _, s := range r.Servers {
		r.problems(Problem{Server: s.At.String()}, s.At)
	}
	r.OK = len(r.Problems) == 0
	return r
}

// nodes are those of the cluster, and those that only the file has.
func (e *examiner) nodes(c brokers.Cluster) []Node {
	told := slices.Clone(c.Nodes)
	for _, n := range written(e.q, c.Nodes) {
		if !slices.ContainsFunc(c.Nodes, func(o brokers.Node) bool { return o.ID == n.ID }) {
			told = append(told, n)
		}
	}
	slices.SortFunc(told, func(a, b brokers.Node) int { return cmp.Compare(a.ID, b.ID) })
	all := make([]Node, len(told))
	for i, n := range told {
		at := Place{Host: n.Host, Port: n.Port}
		all[i] = Node{ID: n.ID, Host: n.Host, Port: n.Port, Rack: n.Rack, At: at}
		all[i].Untold = !slices.ContainsFunc(c.Nodes, func(o brokers.Node) bool { return o.ID == n.ID })
		if e.q.Plan == nil {
			continue
		}
		cover := coverOf(e.q, c.Nodes, n)
		if cover.at.Host != "" {
			all[i].At = cover.at
		}
		all[i].Cover = &cover
	}
	return all
}

// visitOf is how n is looked at; told are the nodes that the cluster tells of.
func (e *examiner) visitOf(n *Node, cluster string, told []brokers.Node) visit {
	v := visit{at: n.At, name: n.Host, tls: e.q.TLS, who: &expected{node: n.ID, cluster: cluster}}
	if n.Cover == nil {
		return v
	}
	v.who.written, v.who.midspan = n.Cover.written, n.Cover.How == ByItself
	for _, r := range e.q.Plan.Routes {
		if r.Kafka != nil && r.Name == n.Cover.Route && !v.who.midspan {
			v.tls, v.err = e.secure(r, told)
		}
	}
	return v
}

// lookAll looks at all nodes, and at the servers that nobody has looked at; told are
// the nodes that the cluster tells of.
func (e *examiner) lookAll(ctx context.Context, r *Report, told []brokers.Node) {
	each(len(r.Nodes)+len(r.Servers), func(i int) {
		if i < len(r.Nodes) {
			n := &r.Nodes[i]
			n.At = e.look(ctx, e.visitOf(n, r.Cluster.ID, told))
		} else if s := &r.Servers[i-len(r.Nodes)]; s.At.Tries == nil {
			s.At = e.look(ctx, s.visit)
		}
	})
	for i := range r.Nodes {
		n := &r.Nodes[i]
		r.problems(Problem{Node: &n.ID}, n.At)
		if n.Cover != nil && n.Cover.Problem != "" {
			r.Problems = append(r.Problems, Problem{Node: &n.ID, Hop: HopRoute, Text: n.Cover.Problem, Do: n.Cover.do})
		}
	}
}

// each calls f with 0 to n-1, for some at a time.
func each(n int, f func(i int)) {
	free := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i := range n {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			f(i)
		})
	}
	wg.Wait()
}

// problems adds what is wrong with a place; whose says whose it is. One address that
// works is enough for a client that tries all; those that do not cost it time.
func (r *Report) problems(whose Problem, p Place) {
	for _, t := range p.Tries {
		if !t.works() {
			whose.Hop, whose.Text, whose.Do = t.Hop, t.Text, t.advice
			r.Problems = append(r.Problems, whose)
		}
	}
}
