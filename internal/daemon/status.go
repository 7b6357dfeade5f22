package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"midspan/internal/engine"
	"midspan/internal/health"
	"midspan/internal/plan"
)

// State is where the daemon is in its life.
type State string

// The states.
const (
	Starting State = "starting"
	Running  State = "running"
	Draining State = "draining"
)

// Status is all that there is to see.
type Status struct {
	State       State     `json:"state"`
	StateSince  time.Time `json:"state_since"`
	Since       time.Time `json:"since"` // of the start
	Loaded      time.Time `json:"loaded"`
	Reloads     int       `json:"reloads"`
	FailedLoad  string    `json:"failed_load,omitempty"` // the error of the last reload, if it failed
	FailedLoads int       `json:"failed_loads"`
	Warnings    []string  `json:"warnings,omitempty"`
	DrainUntil  time.Time `json:"drain_until,omitzero"`
	// DrainCut are the connections that are reset because that has come.
	DrainCut int             `json:"drain_cut,omitempty"`
	Engine   engine.Status   `json:"engine"`
	Health   []health.State  `json:"health"`
	Names    map[string]Name `json:"names"`
	// Clusters are those of the routes that ask theirs for its nodes, by route.
	Clusters map[string]ClusterState `json:"clusters,omitempty"`
	// Unreached are the nodes that clusters tell of, and that clients do not get to, by
	// route. Those without a port are known of clusters that are asked.
	Unreached map[string][]UnreachedNode `json:"unreached_nodes,omitempty"`
	NotReady  string                     `json:"not_ready,omitempty"` // why this machine should get no new connections; "": it should
}

// Name is what is known of a name.
type Name struct {
	Addrs   []netip.Addr `json:"addrs"`
	Problem string       `json:"problem,omitempty"` // why the newest look-up failed; "": Addrs are fresh
	Since   time.Time    `json:"since,omitzero"`    // when Addrs were last confirmed; zero: never
	Next    time.Time    `json:"next,omitzero"`     // when it is asked again
}

// open says whether the engine may be asked from outside Run. When it returns,
// nobody is in the middle of asking.
func (d *Daemon) open(yes bool) {
	d.inUse.Lock()
	defer d.inUse.Unlock()
	d.running = yes
}

// ask calls f with the engine, unless there is none (any more).
func (d *Daemon) ask(f func(engine.Engine)) {
	d.inUse.RLock()
	defer d.inUse.RUnlock()
	if d.running {
		f(d.engine)
	}
}

func (d *Daemon) setState(s State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status.State, d.status.StateSince = s, time.Now()
}

// Status may be called at any time after Run has begun.
func (d *Daemon) Status() Status {
	d.mu.Lock()
	s := d.status
	d.mu.Unlock()
	s.Health = d.health.State()
	s.Clusters = d.discover.states()
	s.Names = map[string]Name{}
	for name, a := range d.names.answers() {
		n := Name{Addrs: a.Addrs, Since: a.Since, Next: a.Next}
		if a.Err != nil {
			n.Problem = a.Err.Error()
		}
		s.Names[name] = n
	}
	if err := d.Ready(); err != nil {
		s.NotReady = err.Error()
	}
	d.ask(func(e engine.Engine) { s.Engine = e.Status() })
	s.Unreached = exceptPlaced(d.clusters.unreached(), s.Engine.Routes)
	return s
}

// Plan is the plan in force, with endpoints; nil before the first.
func (d *Daemon) Plan() *plan.Plan {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

// Conns are the live connections.
func (d *Daemon) Conns() (conns []engine.Conn) {
	d.ask(func(e engine.Engine) { conns = e.Conns() })
	return conns
}

// Kill resets a connection and tells whether there was one of that ID.
func (d *Daemon) Kill(id string) (found bool) {
	d.ask(func(e engine.Engine) { found = e.Kill(id) })
	return found
}

// Ready says whether this machine should get new connections, and why not.
func (d *Daemon) Ready() error {
	s, p := d.current()
	switch {
	case s.State == Starting:
		return errors.New("starting")
	case s.State == Draining:
		return errors.New("draining")
	}
	if n := len(s.Engine.Pending); n > 0 {
		return fmt.Errorf("route %s is not listening: %s", s.Engine.Pending[0].Route, s.Engine.Pending[0].Why)
	}
	usable := 0
	var dead string
	for _, r := range p.Routes {
		if r.Usable() {
			usable++
		} else {
			dead = r.Name
		}
	}
	switch {
	case p.Health.DownWhen == plan.DownAnyRoute && dead != "":
		return fmt.Errorf("route %s has no server that is up", dead)
	case p.Health.DownWhen == plan.DownNoRoute && usable == 0:
		return errors.New("no route has a server that is up")
	}
	return nil
}

// RouteReady says whether a route should get new connections, and why not;
// false when there is no such route.
func (d *Daemon) RouteReady(name string) (error, bool) {
	r, err := d.routeReady(name)
	switch {
	case r == nil || err != nil:
		return err, r != nil || d.Plan() == nil
	case !r.Usable():
		return errors.New("no server is up"), true
	}
	return nil, true
}

// NodeReady says whether the port of a node of a route's cluster should get new
// connections, and why not; false when there is no such route, or nobody knows of
// such a node.
func (d *Daemon) NodeReady(name string, id int32) (error, bool) {
	r, err := d.routeReady(name)
	if r == nil {
		return err, d.Plan() == nil
	}
	if r.Kafka == nil {
		return errors.New("the route has no nodes: it is not of mode kafka"), false
	}
	n := r.Kafka.Node(id)
	var unreached error
	if n == nil {
		if unreached = d.clusters.unreachedNode(name, id); unreached == nil {
			return errors.New("no such node is known"), false
		}
	}
	switch {
	case err != nil:
		return err, true
	case unreached != nil:
		return unreached, true
	case !r.Servers[n.Server].Up(): // whatever its weight: there is no choice
		return errors.New("the node is not up"), true
	}
	return nil, true
}

// routeReady is a route, and why it should get no new connections whatever its
// servers do; nil: there is no such route, or no plan yet.
func (d *Daemon) routeReady(name string) (*plan.Route, error) {
	s, p := d.current()
	if p == nil {
		return nil, errors.New("starting")
	}
	i := slices.IndexFunc(p.Routes, func(r *plan.Route) bool { return r.Name == name })
	switch {
	case i < 0:
		return nil, errors.New("no such route")
	case s.State == Draining:
		return p.Routes[i], errors.New("draining")
	case slices.ContainsFunc(s.Engine.Pending, func(p engine.Pending) bool { return p.Route == name }):
		return p.Routes[i], errors.New("not listening yet")
	}
	return p.Routes[i], nil
}

// current is the status without what is costly, and the plan in force.
func (d *Daemon) current() (Status, *plan.Plan) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status, d.now
}
