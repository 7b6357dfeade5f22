package enginetest

import (
	"slices"
	"time"

	"midspan/internal/engine"
)

func reportCases() []testCase {
	return []testCase{
		{"conns", testConns},
		{"records", testRecords},
		{"status", testStatus},
	}
}

// testConns follows two connections through their states.
func testConns(r *rig) {
	backend := r.serve(nil)
	at := r.route("", backend)
	began := time.Now()
	first, firstServer := r.pair(at, backend)
	second, secondServer := r.pair(at, backend)
	r.until("two connections are listed as open", func() bool {
		all := r.engine.Conns()
		return len(all) == 2 && all[0].State == "open" && all[1].State == "open"
	})
	for i, c := range r.engine.Conns() {
		client := []*peer{first, second}[i]
		ok := c.ID != "" && c.Route == "route" && c.Client == client.local && c.Listener == at &&
			c.Server == backend.addr.String() && c.Endpoint == backend.addr && r.counted(c.BytesUp, c.BytesDown, 0, 0)
		if !ok {
			r.Errorf("connection %d is listed as %s", i, summary(c))
		}
		if c.Start.Before(began.Add(-time.Second)) || c.Start.After(time.Now().Add(time.Second)) {
			r.Errorf("connection %d is said to have started at %s", i, c.Start)
		}
	}
	if all := r.engine.Conns(); all[0].ID == all[1].ID {
		r.Errorf("two connections have the ID %s", all[0].ID)
	}

	first.send(100_000)
	firstServer.get(100_000)
	firstServer.send(50_000)
	first.get(50_000)
	r.listed(first, "open", 100_000, 50_000)
	time.Sleep(50 * time.Millisecond)
	if c := r.engine.Conns()[0]; c.Idle < 40*time.Millisecond-r.idleStep() || c.Idle > time.Since(began)+r.idleStep() {
		r.Errorf("a connection that is idle for 50ms is said to be so for %s", c.Idle)
	}

	first.CloseWrite()
	firstServer.all()
	r.listed(first, "client-closed", 100_000, 50_000)
	secondServer.CloseWrite()
	second.all()
	r.listed(second, "server-closed", 0, 0)
	firstServer.Close()
	second.Close()
	r.until("both have gone", func() bool { return len(r.engine.Conns()) == 0 })
}

// listed wants the connection of client among Conns, soon, as it is.
func (r *rig) listed(client *peer, state string, up, down int) {
	r.Helper()
	var last engine.Conn
	ok := func() bool {
		all := r.engine.Conns()
		i := slices.IndexFunc(all, func(c engine.Conn) bool { return c.Client == client.local })
		if i < 0 {
			return false
		}
		last = all[i]
		return last.State == state && r.counted(last.BytesUp, last.BytesDown, up, down)
	}
	for give := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(give) {
			r.Fatalf("listed is %s; want %s, up %d, down %d", summary(last), state, up, down)
		}
	}
}

func testRecords(r *rig) {
	backend := r.serve(nil)
	at := r.route("", backend)
	first, firstServer := r.pair(at, backend)
	began := time.Now()
	second, secondServer := r.pair(at, backend)
	second.send(12_345)
	secondServer.get(12_345)
	secondServer.send(54_321)
	secondServer.Close()
	if g := second.all(); g != (got{54_321, "end"}) {
		r.Fatal(g)
	}
	second.Close()
	end := r.endsFor(second.local, engine.ClosedByServer)
	r.wantBytes(end, 12_345, 54_321)
	ok := end.Route == "route" && end.Listener == at && end.Server == backend.addr.String() && end.Endpoint == backend.addr &&
		end.Retries == 0 && end.Err == ""
	if !ok {
		r.Errorf("the end record is %+v", end)
	}
	took := end.End.Sub(end.Start)
	if took < 0 || took > time.Since(began)+time.Second || end.Connect < 0 || end.Connect > took {
		r.Errorf("the record says it took %s, of which %s to connect", took, end.Connect)
	}
	starts, _ := r.log.of(second.local)
	start := starts[0]
	if start.TotalActive != 2 || start.RouteActive != 2 || start.ServerActive != 2 {
		r.Errorf("the start record of the second connection counts %d, %d on the route, %d on the server; want 2",
			start.TotalActive, start.RouteActive, start.ServerActive)
	}
	if !r.counted(start.BytesUp, start.BytesDown, 0, 0) || !start.Start.Equal(end.Start) {
		r.Errorf("the start record is %+v", start)
	}
	first.Close()
	firstServer.Close()
	r.ended(first.local)
}

func testStatus(r *rig) {
	backend := r.serve(echo)
	dead := r.dead()
	a, b := r.freePort(), r.freePort()
	routes := "b: { listen: %q, to: %q }\na: { listen: %q, to: %q }"
	r.apply(routes, b, dead.addr, a, backend.addr)
	for range 3 {
		if err := r.once(a, []byte("hello")); err != nil {
			r.Fatal(err)
		}
	}
	live := r.dial(a)
	r.wantEcho(live, "a connection") // 12 bytes
	const sent = 3*5 + 12
	r.until("the three have ended", func() bool { return r.engine.Status().Connections == 1 })

	// Bytes may be counted after the client has them.
	r.until("all bytes are counted", func() bool {
		all := r.engine.Status().Routes
		return len(all) == 2 && all[1].Counters.BytesUp >= sent && all[1].Counters.BytesDown >= sent
	})
	s := r.engine.Status()
	if len(s.Routes) != 2 || s.Routes[0].Name != "b" || s.Routes[1].Name != "a" {
		r.Fatalf("Status has routes %+v, want b and a, as the plan", s.Routes)
	}
	c := s.Routes[1].Counters
	if c.Active != 1 || c.Accepted != 4 || c.Ended[engine.ClosedByClient] != 3 || !r.counted(c.BytesUp, c.BytesDown, sent, sent) {
		r.Errorf("counters are %+v, want 1 active of 4, and %d bytes each way", c, sent)
	}
	if l := s.Routes[1].Listening; len(l) != 1 || l[0] != a.String() {
		r.Errorf("route a listens on %q, want %s", l, a)
	}
	want := engine.EndpointStatus{Server: backend.addr.String(), Addr: backend.addr, Up: true, Active: 1, Connects: 4}
	if e := s.Routes[1].Endpoints; len(e) != 1 {
		r.Errorf("endpoints are %+v, want %+v", e, want)
	} else if e[0].Ports, e[0].MaxPorts = 0, 0; e[0] != want { // not every engine knows of ports
		r.Errorf("the endpoint is %+v, want %+v", e[0], want)
	}
	if s.MaxConnections <= 0 || s.AcceptErrors != 0 || s.Panics != 0 {
		r.Errorf("Status is %+v", s)
	}

	// Counters are of the engine's life: another plan does not reset them.
	r.down[backend.addr.String()] = true
	r.apply(routes, b, dead.addr, a, backend.addr)
	s = r.engine.Status()
	if e := s.Routes[1].Endpoints; len(e) != 1 || e[0].Up || e[0].Connects != 4 || e[0].Active != 1 {
		r.Errorf("after the server went down, endpoints are %+v", e)
	}
	if c := s.Routes[1].Counters; c.Accepted != 4 || !r.counted(c.BytesUp, c.BytesDown, sent, sent) {
		r.Errorf("after another Apply, counters are %+v", c)
	}
	r.wantEcho(live, "a connection to a server that is down")
}
