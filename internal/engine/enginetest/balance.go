package enginetest

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"midspan/internal/engine"
)

func balanceCases() []testCase {
	return []testCase{
		{"roundrobin by weight", testRoundRobin},
		{"leastconn", testLeastConn},
		{"leastconn by weight", testLeastConnWeights},
		{"source", testSource},
		{"first", testFirst},
		{"first passes over a full server", testFirstFull},
		{"backup", testBackup},
		{"weight 0", testWeightZero},
	}
}

// serveNames makes servers that say their name, which is one letter, and then
// echo.
func (r *rig) serveNames(names string) []*server {
	r.Helper()
	var all []*server
	for _, name := range names {
		all = append(all, r.serve(func(p *peer) {
			io.WriteString(p, string(name))
			echo(p)
		}))
	}
	return all
}

// who makes a connection to at and asks who is there.
func (r *rig) who(at netip.AddrPort) (name string, p *peer) {
	r.Helper()
	return r.whoFrom(netip.Addr{}, at)
}

// whoFrom is who from one of the addresses that clients have.
func (r *rig) whoFrom(from netip.Addr, at netip.AddrPort) (name string, p *peer) {
	r.Helper()
	p, err := r.connectFrom(from, at)
	if err != nil {
		r.Fatal(err)
	}
	var letter [1]byte
	if _, err := io.ReadFull(p, letter[:]); err != nil {
		r.Fatalf("nobody says a name: %s", fate(err))
	}
	return string(letter[:]), p
}

// tally asks n times who is there, hanging up each time, and counts.
func (r *rig) tally(at netip.AddrPort, n int) map[string]int {
	r.Helper()
	count := map[string]int{}
	for range n {
		name, p := r.who(at)
		count[name]++
		if err := p.bye(); err != nil {
			r.Fatal(err)
		}
	}
	return count
}

// to is servers as a plan has them, each with the settings of its turn.
func to(servers []*server, settings ...string) string {
	var items []string
	for i, s := range servers {
		extra := ""
		if i < len(settings) && settings[i] != "" {
			extra = ", " + settings[i]
		}
		items = append(items, fmt.Sprintf("{ server: %q%s }", s.addr, extra))
	}
	return "[" + strings.Join(items, ", ") + "]"
}

func near(got, want, tolerance int) bool { return got >= want-tolerance && got <= want+tolerance }

// testRoundRobin allows an engine with several loops to keep a turn in each.
func testRoundRobin(r *rig) {
	at := r.freePort()
	r.apply("route: { listen: %q, to: %s }", at, to(r.serveNames("ab"), "weight: 3", "weight: 1"))
	got := r.tally(at, 40)
	if !near(got["a"], 30, 2) || !near(got["b"], 10, 2) {
		r.Errorf("40 connections went %v, want 30 to a and 10 to b", got)
	}
}

func testLeastConn(r *rig) {
	at := r.freePort()
	r.apply("route: { listen: %q, balance: leastconn, to: %s }", at, to(r.serveNames("ab")))
	held := map[string][]*peer{}
	for range 10 {
		name, p := r.who(at)
		held[name] = append(held[name], p)
	}
	if len(held["a"]) != 5 || len(held["b"]) != 5 {
		r.Fatalf("10 connections went %d to a and %d to b, want 5 each", len(held["a"]), len(held["b"]))
	}
	for _, p := range held["a"] {
		if err := p.bye(); err != nil {
			r.Fatal(err)
		}
	}
	r.until("the engine knows of the ends", func() bool { return len(r.engine.Conns()) == 5 })
	for i := range 5 {
		if name, _ := r.who(at); name != "a" {
			r.Errorf("connection %d went to %s, which has %d connections more", i, name, 5-i)
		}
	}
}

func testLeastConnWeights(r *rig) {
	at := r.freePort()
	r.apply("route: { listen: %q, balance: leastconn, to: %s }", at, to(r.serveNames("ab"), "weight: 3", "weight: 1"))
	got := map[string]int{}
	for range 12 {
		name, _ := r.who(at)
		got[name]++
	}
	if !near(got["a"], 9, 1) || !near(got["b"], 3, 1) {
		r.Errorf("12 connections at once went %v, want 9 to a and 3 to b", got)
	}
}

func testSource(r *rig) {
	at := r.freePort()
	servers := r.serveNames("abc")
	routes := fmt.Sprintf("route: { listen: %q, balance: source, to: %s }", at, to(servers))
	r.apply("%s", routes)
	ask := func() (names [manyClients]string) {
		for i := range names {
			name, p := r.whoFrom(r.place.client[i], at)
			names[i] = name
			p.bye()
		}
		return names
	}
	first := ask()
	if again := ask(); again != first {
		r.Errorf("clients went to %v, and the second time to %v", first, again)
	}
	served := map[string]bool{}
	for _, name := range first {
		served[name] = true
	}
	if len(served) != len(servers) {
		r.Errorf("%d clients went to %d servers of %d", manyClients, len(served), len(servers))
	}
	// Those of a server that goes down move; the others stay.
	r.down[servers[0].addr.String()] = true
	r.apply("%s", routes)
	for i, name := range ask() {
		if name == "a" || (first[i] != "a" && name != first[i]) {
			r.Errorf("after server a went down, client %d moved from %s to %s", i, first[i], name)
		}
	}
}

func testFirst(r *rig) {
	at := r.freePort()
	servers := r.serveNames("ab")
	routes := fmt.Sprintf("route: { listen: %q, balance: first, to: %s }", at, to(servers))
	r.apply("%s", routes)
	if got := r.tally(at, 10); got["a"] != 10 {
		r.Errorf("10 connections went %v, want all to a", got)
	}
	r.down[servers[0].addr.String()] = true
	r.apply("%s", routes)
	if got := r.tally(at, 5); got["b"] != 5 {
		r.Errorf("with a down, 5 connections went %v", got)
	}
}

func testFirstFull(r *rig) {
	at := r.freePort()
	r.apply("route: { listen: %q, balance: first, to: %s }", at, to(r.serveNames("ab"), "max_connections: 2"))
	for i := range 10 {
		name, p := r.who(at)
		p.bye()
		if name != "a" {
			r.Errorf("connection %d, the only one, went to %s, want a", i, name)
		}
		// A client has seen the end before the engine has booked it.
		r.until("no connection is left", func() bool { return len(r.engine.Conns()) == 0 })
	}
	for i, want := range []string{"a", "a", "b"} {
		if name, _ := r.who(at); name != want {
			r.Errorf("connection %d of those held went to %s, want %s, as a takes 2", i, name, want)
		}
	}
}

func testBackup(r *rig) {
	at := r.freePort()
	servers := r.serveNames("abz")
	routes := fmt.Sprintf("route: { listen: %q, to: %s }", at, to(servers, "", "", "backup: true"))
	r.apply("%s", routes)
	if got := r.tally(at, 10); got["z"] != 0 || got["a"] != 5 {
		r.Errorf("10 connections went %v, want 5 to a, 5 to b, none to the backup", got)
	}
	r.down[servers[0].addr.String()] = true
	r.apply("%s", routes)
	if got := r.tally(at, 10); got["b"] != 10 {
		r.Errorf("with a down, 10 connections went %v, want all to b", got)
	}
	r.down[servers[1].addr.String()] = true
	r.apply("%s", routes)
	if got := r.tally(at, 10); got["z"] != 10 {
		r.Errorf("with a and b down, 10 connections went %v, want all to the backup", got)
	}
	r.down = map[string]bool{}
	r.apply("%s", routes)
	if got := r.tally(at, 10); got["z"] != 0 {
		r.Errorf("with a and b up again, 10 connections went %v", got)
	}
}

func testWeightZero(r *rig) {
	at := r.freePort()
	servers := r.serveNames("ab")
	r.apply("route: { listen: %q, to: %s }", at, to(servers, "weight: 0"))
	if got := r.tally(at, 10); got["b"] != 10 {
		r.Errorf("10 connections went %v, want none to a", got)
	}
	r.down[servers[1].addr.String()] = true
	r.apply("route: { listen: %q, to: %s }", at, to(servers, "weight: 0"))
	r.wantTurnedAway(at, engine.NoServer)
}
