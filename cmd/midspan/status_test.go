package main

import (
	"net/netip"
	"testing"

	"midspan/internal/admin"
	"midspan/internal/engine"
)

// TestStatusOfOwnCheck: a server's state on a route is that of the route's own
// check, whatever others say of the address.
func TestStatusOfOwnCheck(t *testing.T) {
	db := netip.MustParseAddrPort("10.0.0.5:3306")
	var s admin.Status
	for _, name := range []string{"sql", "page", "wrong"} {
		s.Engine.Routes = append(s.Engine.Routes, engine.RouteStatus{
			Name:      name,
			Counters:  engine.Counters{Accepted: 9, Ended: map[engine.Reason]uint64{engine.SourceLimit: 2, engine.NotAllowed: 1, engine.Probe: 4}},
			Endpoints: []engine.EndpointStatus{{Server: "db", Addr: db, Up: name == "sql"}},
		})
	}
	s.Health = []admin.Check{
		{Endpoint: db, Routes: []string{"page"}, LastError: "http: the answer is not HTTP"},
		{Endpoint: db, Routes: []string{"wrong"}, LastError: "postgres: expected S or N"},
		{Endpoint: db, Routes: []string{"sql"}, Up: true},
	}
	rows := endpointRows(s)
	for i, want := range []string{"-", "http: the answer is not HTTP", "postgres: expected S or N"} {
		if got := rows[i][len(rows[i])-1]; got != want {
			t.Errorf("route %s: %q, want %q", rows[i][0], got, want)
		}
	}
	if got := routeRows(s)[0][5]; got != "3" {
		t.Errorf("refused: %s, want 3", got)
	}
}
