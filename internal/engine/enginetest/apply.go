package enginetest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"midspan/internal/engine"
)

func applyCases() []testCase {
	return []testCase{
		{"apply twice", testApplyTwice},
		{"apply adds and removes routes", testAddRemove},
		{"apply changes a route", testChangeRoute},
		{"apply gives a port to another route", testPortMoves},
		{"apply moves a listener to all addresses and back", testAddressMoves},
		{"apply stops accepting", testWithoutListeners},
		{"apply without any route", testEmptyPlan},
		{"port in use", testPortInUse},
		{"port in use by another engine", testPortOfAnotherEngine},
		{"interface that does not exist", func(r *rig) { testPending(r, "%%nosuch0:%d") }},
		{"address that the host does not have", func(r *rig) {
			if text, _ := os.ReadFile("/proc/sys/net/ipv4/ip_nonlocal_bind"); strings.TrimSpace(string(text)) == "1" {
				r.Skip("net.ipv4.ip_nonlocal_bind is 1: this host takes every address for its own")
			}
			testPending(r, "203.0.113.77:%d") // RFC 5737: for documentation
		}},
	}
}

// wantRefused wants that nothing listens on at.
func (r *rig) wantRefused(at netip.AddrPort) {
	r.Helper()
	if p, err := r.connect(at); err == nil {
		p.Close()
		r.Errorf("%s takes connections", at)
	} else if fate(err) != "refused" {
		r.Errorf("connecting to %s: %v, want it refused", at, err)
	}
}

// wantEcho wants that c still leads to an echo.
func (r *rig) wantEcho(c *peer, what string) {
	r.Helper()
	if err := c.ping([]byte("still there?")); err != nil {
		r.Errorf("%s: %v", what, err)
	}
}

func (r *rig) wantChange(change engine.Change, added, removed []string) {
	r.Helper()
	if !listed(change.Added, added) || !listed(change.Removed, removed) || len(change.Pending) > 0 {
		r.Errorf("Apply says %+v, want %q added, %q removed, nothing pending", change, added, removed)
	}
}

// listed tells whether got has a line for each of routes ("name address"), and no
// other.
func listed(got, routes []string) bool {
	if len(got) != len(routes) {
		return false
	}
	rest := strings.Join(got, "\n") + "\n"
	for _, want := range routes {
		if !strings.Contains(rest, want+"\n") {
			return false
		}
	}
	return true
}

func testApplyTwice(r *rig) {
	backend := r.serve(echo)
	at, other := r.freePort(), r.freePort()
	routes := fmt.Sprintf("a: { listen: %q, to: %q }\nb: { listen: %q, to: %q }", at, backend.addr, other, backend.addr)
	change := r.apply("%s", routes)
	r.wantChange(change, []string{"a " + at.String(), "b " + other.String()}, nil)
	c := r.dial(at)
	r.wantEcho(c, "a connection")
	for range 3 {
		if change := r.apply("%s", routes); !change.Empty() {
			r.Errorf("the same plan again changes %+v", change)
		}
	}
	r.wantEcho(c, "a connection after the same plan again")
}

func testAddRemove(r *rig) {
	backend := r.serve(echo)
	stays, goes, comes := r.freePort(), r.freePort(), r.freePort()
	line := func(name string, at netip.AddrPort) string {
		return fmt.Sprintf("%s: { listen: %q, to: %q }\n", name, at, backend.addr)
	}
	r.apply("%s", line("stays", stays)+line("goes", goes))
	old := r.dial(stays)
	orphan := r.dial(goes)
	r.wantEcho(old, "a connection")
	r.wantEcho(orphan, "a connection")

	change := r.apply("%s", line("comes", comes)+line("stays", stays))
	r.wantChange(change, []string{"comes " + comes.String()}, []string{"goes " + goes.String()})
	r.wantRefused(goes)
	r.wantEcho(old, "a connection of a route that stays")
	r.wantEcho(orphan, "a connection of a route that has gone")
	r.wantEcho(r.dial(comes), "a connection of a new route")

	names := func() (list []string) {
		for _, s := range r.engine.Status().Routes {
			name := s.Name
			if s.Removed {
				name += " (removed)"
			}
			list = append(list, name)
		}
		return list
	}
	if got := strings.Join(names(), ", "); got != "comes, stays, goes (removed)" {
		r.Errorf("Status has routes %s", got)
	}
	if err := orphan.bye(); err != nil {
		r.Error(err)
	}
	if end := r.endsFor(orphan.local, engine.ClosedByClient); end.Route != "goes" {
		r.Errorf("the record names route %q, want goes", end.Route)
	}
	r.until("Status has forgotten the removed route", func() bool { return len(names()) == 2 })
	change = r.apply("%s", line("comes", comes)+line("stays", stays)+line("goes", goes))
	r.wantChange(change, []string{"goes " + goes.String()}, nil)
	r.wantEcho(r.dial(goes), "a connection of a route that is back")
	r.wantEcho(old, "a connection of a route that stays")
}

func testChangeRoute(r *rig) {
	servers := r.serveNames("ab")
	at := r.freePort()
	r.apply("route: { listen: %q, to: %q }", at, servers[0].addr)
	_, old := r.who(at)
	change := r.apply("route: { listen: %q, to: %q, idle_timeout: 7m, balance: source }", at, servers[1].addr)
	if !change.Empty() {
		r.Errorf("Apply says %+v although no listener changed", change)
	}
	if got := r.tally(at, 5); got["b"] != 5 {
		r.Errorf("5 new connections went %v, want all to b", got)
	}
	r.wantEcho(old, "a connection to a server that has gone from the plan")
}

// testPortMoves renames a route: its port is free for the new one in the same
// Apply, and connections that live stay.
func testPortMoves(r *rig) {
	servers := r.serveNames("ab")
	at := r.freePort()
	r.apply("old: { listen: %q, to: %q }", at, servers[0].addr)
	_, old := r.who(at)
	change := r.apply("new: { listen: %q, to: %q }", at, servers[1].addr)
	r.wantChange(change, []string{"new " + at.String()}, []string{"old " + at.String()})
	if name, _ := r.who(at); name != "b" {
		r.Errorf("a new connection goes to %s, want b", name)
	}
	r.wantEcho(old, "a connection of the old route")
}

// testAddressMoves has a listener in the way of the one that is to replace it.
func testAddressMoves(r *rig) {
	backend := r.serve(echo)
	at := r.freePort()
	narrow := fmt.Sprintf("route: { listen: %q, to: %q }", at, backend.addr)
	wide := fmt.Sprintf("route: { listen: %d, to: %q }", at.Port(), backend.addr)
	r.apply("%s", narrow)
	old := r.dial(at)
	r.wantEcho(old, "a connection")
	elsewhere := netip.AddrPortFrom(r.place.listen[1], at.Port())
	for range 2 {
		r.wantRefused(elsewhere)
		r.apply("%s", wide)
		r.wantEcho(r.dial(at), "a connection to the same address")
		r.wantEcho(r.dial(elsewhere), "a connection to another address")
		r.apply("%s", narrow)
		r.wantEcho(r.dial(at), "a connection to the one address again")
	}
	r.wantEcho(old, "an old connection")
}

func testWithoutListeners(r *rig) {
	backend := r.serve(echo)
	at := r.freePort()
	p := r.plan("route: { listen: %q, to: %q }", at, backend.addr)
	r.applyPlan(p)
	c := r.dial(at)
	r.wantEcho(c, "a connection")
	change := r.applyPlan(p.WithoutListeners())
	r.wantChange(change, nil, []string{"route " + at.String()})
	r.wantRefused(at)
	r.wantEcho(c, "a connection while the engine drains")
	if err := c.bye(); err != nil {
		r.Error(err)
	}
	r.until("the engine is empty", func() bool { return r.engine.Status().Connections == 0 })
}

func testEmptyPlan(r *rig) {
	if got := r.engine.Status(); got.Connections != 0 || len(got.Routes) != 0 {
		r.Errorf("before the first Apply, Status is %+v", got)
	}
	if got := r.engine.Conns(); len(got) != 0 {
		r.Errorf("before the first Apply, Conns is %+v", got)
	}
	p := r.plan("route: { listen: %q, to: %q }", r.freePort(), r.serverAt(1)).WithoutListeners()
	if change := r.applyPlan(p); !change.Empty() {
		r.Errorf("a plan without a route changes %+v", change)
	}
}

func testPortInUse(r *rig) {
	backend := r.serve(echo)
	stays, goes, comes := r.freePort(), r.freePort(), r.freePort()
	taken := r.serveBeside(r.freePort(), echo).addr
	line := func(name string, at netip.AddrPort) string {
		return fmt.Sprintf("%s: { listen: %q, to: %q }\n", name, at, backend.addr)
	}
	r.apply("%s", line("stays", stays)+line("goes", goes))
	c := r.dial(goes)
	r.wantEcho(c, "a connection")

	bad := r.plan("%s", line("comes", comes)+line("stays", stays)+line("blocked", taken))
	change, err := r.engine.Apply(context.Background(), bad)
	switch {
	case err == nil:
		r.Fatalf("Apply opened a port that is in use: %+v", change)
	case !strings.Contains(err.Error(), "blocked"), !strings.Contains(err.Error(), taken.String()):
		r.Errorf("the error does not name route blocked and address %s: %v", taken, err)
	}
	r.wantEcho(r.dial(stays), "a new connection after an Apply that failed")
	r.wantEcho(r.dial(goes), "a new connection to a route that would have gone")
	r.wantEcho(c, "an old connection after an Apply that failed")
	r.wantRefused(comes)
	if change := r.apply("%s", line("stays", stays)+line("goes", goes)); !change.Empty() {
		r.Errorf("after an Apply that failed, the old plan changes %+v", change)
	}
}

// testPortOfAnotherEngine is about a second daemon beside the first: a listener
// with SO_REUSEPORT would join the other's, and take half of its connections.
func testPortOfAnotherEngine(r *rig) {
	servers := r.serveNames("ab")
	at := r.route("", servers[0])
	other := r.newEngine(engine.Hooks{})
	defer func() {
		if err := other.Close(); err != nil {
			r.Error(err)
		}
	}()
	if change, err := other.Apply(context.Background(), r.plan("second: { listen: %q, to: %q }", at, servers[1].addr)); err == nil {
		r.Errorf("a second engine listens on the same address: %+v", change)
	}
	if got := r.tally(at, 10); got["a"] != 10 {
		r.Errorf("10 connections went %v, want all to a, the server of the first engine", got)
	}
}

// testPending has one listener that cannot be opened yet, beside one that can.
func testPending(r *rig, listen string) {
	backend := r.serve(echo)
	at := r.freePort()
	absent := fmt.Sprintf(listen, r.freePort().Port())
	routes := fmt.Sprintf("here: { listen: %q, to: %q }\nabsent: { listen: %q, to: %q }", at, backend.addr, absent, backend.addr)
	for try := range 2 {
		change := r.apply("%s", routes)
		status := r.engine.Status().Pending
		if len(change.Pending) != 1 || len(status) != 1 {
			r.Fatalf("try %d: Apply says %+v and Status says %+v pending, want one each", try, change, status)
		}
		p := change.Pending[0]
		if p.Route != "absent" || !strings.Contains(absent, p.Listen) && !strings.Contains(p.Listen, absent) || p.Why == "" || status[0] != p {
			r.Errorf("try %d: pending is %+v (Status: %+v), want route absent, %s, and why", try, p, status[0], absent)
		}
		if change.Empty() {
			r.Error("a Change with a pending listener says that it is empty")
		}
		if want := []string{"here " + at.String()}; try == 0 && !listed(change.Added, want) || try == 1 && len(change.Added) > 0 {
			r.Errorf("try %d: added is %q", try, change.Added)
		}
		r.wantEcho(r.dial(at), "the other route")
	}
	change := r.apply("here: { listen: %q, to: %q }", at, backend.addr)
	if !change.Empty() || len(r.engine.Status().Pending) != 0 {
		r.Errorf("without the pending route, Apply says %+v and Status %+v pending", change, r.engine.Status().Pending)
	}
}
