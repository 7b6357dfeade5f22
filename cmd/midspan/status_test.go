package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"midspan/internal/admin"
	"midspan/internal/brokers"
	"midspan/internal/daemon"
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

// TestStatusOfNodes: how the nodes of clusters are, and whether they are known, is
// there to be seen.
func TestStatusOfNodes(t *testing.T) {
	up, dead := netip.MustParseAddrPort("10.0.0.1:9092"), netip.MustParseAddrPort("10.0.0.2:9092")
	k := &engine.KafkaStatus{Nodes: []engine.NodeStatus{
		{ID: 0, Port: 19100, Server: "kafka1.corp.example.com:9092", Up: true, By: "learned", Active: 12},
		{ID: 1, Port: 19101, Server: "10.0.0.2:9092", By: "file"},
		{ID: 2, Port: 19102, Server: "kafka-2.corp:9092", By: "pattern"},
		{ID: 1001, Port: 19190, Server: "10.0.0.4:9092", Up: true, By: "file", Active: 3},
	}}
	for id := range int32(60) {
		k.Nodes = append(k.Nodes, engine.NodeStatus{ID: 3 + id, Port: uint16(19103 + id), Active: 1})
	}
	var s admin.Status
	s.Unreached = map[string][]daemon.UnreachedNode{"orders": {
		{ID: 62, Port: 19162, At: "b62.elsewhere.example:9092"}, // its port was tried
		{ID: 63, Port: 19163, At: "b63.elsewhere.example:9092"},
		{ID: 70, At: "kafka1.corp.example.com:9092"},
		{ID: 72},
	}}
	listening := []string{"127.0.77.1:19092", "127.0.77.1:19100", "127.0.77.1:19101", "127.0.77.1:19102", "127.0.77.1:19103"}
	s.Engine.Routes = []engine.RouteStatus{{Name: "plain"}, {Name: "orders", Kafka: k, Listening: listening, Endpoints: []engine.EndpointStatus{
		{Server: "kafka1.corp.example.com:9092", Addr: up, Up: true},
		{Server: "10.0.0.2:9092", Addr: dead},
		{Server: "kafka-2.corp:9092"},
		{Server: "10.0.0.4:9092", Addr: netip.MustParseAddrPort("10.0.0.4:9092"), Up: true, LastResort: true},
	}}}
	s.Clusters = map[string]daemon.ClusterState{
		"orders": {ID: "x", Answered: time.Now().Add(-5 * time.Minute), Problem: "10.0.0.1:9092: connection refused"},
		"audit":  {Problem: "Metadata: the broker closed", Kind: brokers.WantsSASL},
		"new":    {Problem: "no server of `to` has an address"},
		"fine":   {ID: "y", Answered: time.Now()},
	}
	var out bytes.Buffer
	(&ui{out: &out}).status(s)
	const want = `
ROUTE   NODE    PORT         SERVER                        FROM     STATE                                             CONNS
orders  0       19100        kafka1.corp.example.com:9092  learned  up                                                12
orders  1       19101        10.0.0.2:9092                 file     DOWN                                              0
orders  2       19102        kafka-2.corp:9092             pattern  NO ADDRESS                                        0
orders  1001    19190        10.0.0.4:9092                 file     FAILING                                           3
orders  62      19162        -                             -        MAY NOT BE LEARNED at b62.elsewhere.example:9092  1
orders  63      19163        -                             -        MAY NOT BE LEARNED at b63.elsewhere.example:9092  0
orders  70, 72  -            -                             -        NO PORT                                           0
orders  3-61    19103-19161  -                             -        NOT KNOWN                                         59

route audit: the cluster wants SASL; its nodes are known from clients' answers and ` + "`nodes`" + ` only

route new: the cluster has not said yet which nodes it has: no server of ` + "`to`" + ` has an address

route orders: the cluster said 5m0s ago which nodes it has, and not since: 10.0.0.1:9092: connection refused
`
	if on := " 127.0.77.1:19092, 127.0.77.1:19100-19103 "; !strings.Contains(out.String(), on) {
		t.Errorf("%s\nwant in it:%s", out.String(), on)
	}
	if !strings.Contains(out.String(), want) {
		t.Errorf("%s\nwant in it:%s", out.String(), want)
	}
}

// TestConnsOfNodes: the column is there where a connection has a node.
func TestConnsOfNodes(t *testing.T) {
	seven := int32(7)
	header, rows := connTable([]engine.Conn{{ID: "a", Route: "plain"}, {ID: "b", Route: "orders", Node: &seven}})
	if !strings.HasPrefix(header, "ID ROUTE NODE CLIENT ") || rows[0][2] != "-" || rows[1][2] != "7" {
		t.Errorf("%s: %q", header, rows)
	}
	if header, _ = connTable([]engine.Conn{{ID: "a"}}); strings.Contains(header, "NODE") {
		t.Error(header)
	}
}
