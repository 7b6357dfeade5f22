package plan

import (
	"strings"
	"testing"

	"midspan/internal/config"
)

const cluster = `routes:
  orders:
    mode: kafka
    listen: 19092
    to: [kafka1.corp.example:9092, 10.0.0.2:9092]
    advertise: { host: kafka.example, ports: 19100-19163, node_ports: { 1001: 19190 } }
`

func kafkaPlan(t *testing.T, text string) (*Plan, error) {
	t.Helper()
	f, err := config.Parse("t.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := New(f)
	return p, err
}

func TestKafkaPorts(t *testing.T) {
	p, err := kafkaPlan(t, cluster)
	if err != nil {
		t.Fatal(err)
	}
	r := p.Routes[0]
	k := r.Kafka
	for _, tt := range []struct {
		node int32
		port uint16
		ok   bool
	}{{0, 19100, true}, {63, 19163, true}, {64, 0, false}, {1001, 19190, true}, {-1, 0, false}, {1<<31 - 1, 0, false}} {
		port, ok := k.PortOf(tt.node)
		if port != tt.port || ok != tt.ok {
			t.Errorf("node %d: port %d, %v; want %d, %v", tt.node, port, ok, tt.port, tt.ok)
		}
		if node, is := k.NodeOf(port); tt.ok && (!is || node != tt.node) {
			t.Errorf("port %d: node %d, %v; want %d", port, node, is, tt.node)
		}
	}
	if _, is := k.NodeOf(19092); is {
		t.Error("the bootstrap port is taken for a node's")
	}
	var listen []string
	for _, l := range r.Listen {
		listen = append(listen, l.String())
	}
	if got := strings.Join(listen, " "); got != "*:19092 *:19100-19163 *:19190" {
		t.Errorf("it listens on %s", got)
	}
	if r.Check.Kind != CheckKafka {
		t.Errorf("the check is %s", r.Check.Kind)
	}
}

func TestKafkaLearns(t *testing.T) {
	p, err := kafkaPlan(t, cluster)
	if err != nil {
		t.Fatal(err)
	}
	next := p.WithNodes(map[string][]KnownNode{"orders": {
		{ID: 3, Host: "KAFKA1.corp.example", Port: 9094},
		{ID: 2, Host: "10.0.0.2", Port: 9092},
		{ID: 5, Host: "elsewhere.example", Port: 9092},
		{ID: 64, Host: "10.0.0.2", Port: 9092},
		{ID: 6},
		{ID: 7, Host: "kafka1.corp.example\n", Port: 9092},
	}})
	r := next.Routes[0]
	var got []string
	for _, n := range r.Kafka.Nodes {
		got = append(got, r.Servers[n.Server].Name)
	}
	if s := strings.Join(got, " "); s != "10.0.0.2:9092 kafka1.corp.example:9094" {
		t.Errorf("the nodes are %s", s)
	}
	if len(r.Servers) != 3 || len(r.Default) != 2 || len(p.Routes[0].Servers) != 2 || len(p.Routes[0].Kafka.Nodes) != 0 {
		t.Errorf("%d servers, %d for the bootstrap; before: %d, %d nodes", len(r.Servers), len(r.Default), len(p.Routes[0].Servers), len(p.Routes[0].Kafka.Nodes))
	}
}

func TestKafkaPatternAndFile(t *testing.T) {
	p, err := kafkaPlan(t, cluster+"    nodes: \"kafka-{node}.corp:9092\"\n")
	if err != nil {
		t.Fatal(err)
	}
	r := p.WithNodes(map[string][]KnownNode{"orders": {{ID: 4, Host: "broker4.internal", Port: 9092}}}).Routes[0]
	if n := r.Kafka.Node(4); n == nil || r.Servers[n.Server].Name != "kafka-4.corp:9092" || n.Host != "broker4.internal" || n.By != NodePattern {
		t.Errorf("node 4: %+v", n)
	}
	p, err = kafkaPlan(t, cluster+"    nodes: { 4: 10.0.0.4:9092, 1: 10.0.0.2:9092 }\n")
	if err != nil {
		t.Fatal(err)
	}
	r = p.WithNodes(map[string][]KnownNode{"orders": {{ID: 4, Host: "broker4.internal", Port: 9092}}}).Routes[0]
	if n := r.Kafka.Node(4); r.Servers[n.Server].Name != "10.0.0.4:9092" || n.Host != "broker4.internal" || n.By != NodeWritten {
		t.Errorf("node 4: %+v", n)
	}
	if n := r.Kafka.Node(1); n == nil || n.Server != 1 || p.Routes[0].Kafka.Node(4).Host != "" {
		t.Errorf("node 1: %+v", n)
	}
}

// TestKafkaCertNames: where brokers speak TLS, each is known by what the cluster calls
// it, whatever the file has for where it is; plans made before do not change.
func TestKafkaCertNames(t *testing.T) {
	for _, tls := range []bool{true, false} {
		text := cluster + "    nodes: { 2: 10.0.0.2:9092 }\n"
		want := "kafka1.corp.example broker2.internal kafka1.corp.example"
		if tls {
			text += "    upstream_tls: on\n"
		} else {
			want = "kafka1.corp.example 10.0.0.2 kafka1.corp.example"
		}
		p, err := kafkaPlan(t, text)
		if err != nil {
			t.Fatal(err)
		}
		next := p.WithNodes(map[string][]KnownNode{"orders": {{ID: 2, Host: "broker2.internal", Port: 9093}, {ID: 3, Host: "kafka1.corp.example", Port: 9094}}})
		var got []string
		for _, s := range next.Routes[0].Servers {
			got = append(got, s.CertName())
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("upstream_tls %v: names %s, want %s", tls, s, want)
		}
		if n := p.Routes[0].Servers[1].CertName(); n != "10.0.0.2" {
			t.Errorf("in the plan before: %s", n)
		}
	}
}

func TestMayLearn(t *testing.T) {
	p, err := kafkaPlan(t, cluster+"    kafka: { learn: [\"*.corp.example\", \"10.20.0.0/16:9092\", \"[fd00::/8]:9092\", broker.x] }\n")
	if err != nil {
		t.Fatal(err)
	}
	k := p.Routes[0].Kafka
	for _, tt := range []struct {
		host string
		port uint16
		want bool
	}{
		{"a.corp.example", 1, true},
		{"a.b.CORP.example.", 9092, true},
		{"corp.example", 9092, false},
		{"xcorp.example", 9092, false},
		{"10.20.3.4", 9092, true},
		{"10.20.3.4", 9093, false},
		{"10.21.3.4", 9092, false},
		{"::ffff:10.20.3.4", 9092, true},
		{"fd00::1", 9092, true},
		{"fd00::1", 22, false},
		{"broker.x", 22, true},
		{"broker.x", 0, false},
		{"", 9092, false},
		{"a b.corp.example", 9092, false},
		{"a:1.corp.example", 9092, false},
	} {
		if got := k.MayLearn(tt.host, tt.port); got != tt.want {
			t.Errorf("%q:%d: %v", tt.host, tt.port, got)
		}
	}
}

func TestKafkaProblems(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"    mode: kafka\n    listen: 1\n    to: a:1\n", "write advertise: { host: NAME, ports: FROM-TO }"},
		{"    listen: 1\n    to: a:1\n    advertise: { host: x, ports: 5-6 }\n", "are for mode kafka"},
		{"    listen: 1\n    to: a:1\n    nodes: { 1: b:2 }\n", "are for mode kafka"},
		{"    mode: kafka\n    engine: nft\n    listen: 1\n    to: a:1\n    advertise: { host: x, ports: 5-6 }\n", "cannot read what is sent"},
		{"    mode: kafka\n    listen: 1-2\n    to: a:1\n    advertise: { host: x, ports: 5-6 }\n", "listens on one port"},
		{"    mode: kafka\n    listen: 5\n    to: a:1\n    advertise: { host: x, ports: 5-6 }\n", "and on 5 already"},
		{"    mode: kafka\n    listen: 1\n    to: a\n    advertise: { host: x, ports: 5-6 }\n", "has no port"},
		{"    mode: kafka\n    listen: 1\n    to: a:1\n    advertise: { host: x, ports: 5-5000 }\n", "4996 ports"},
		{"    mode: kafka\n    listen: 1\n    to: a:1\n    advertise: { host: x, ports: 5-6, first_node: 2147483647 }\n", "lower first_node"},
		{"    mode: kafka\n    listen: 1\n    to: a:1\n    advertise: { host: x, ports: 5-6, node_ports: { 9: 6 } }\n", "port 6 is node 1's already"},
		{"    mode: kafka\n    listen: 1\n    to: a:1\n    advertise: { host: x, ports: 5-6 }\n    nodes: { 7: b:1 }\n", "node 7 has no port"},
		{"    mode: kafka\n    listen: 1\n    to: a:1\n    advertise: { host: x, ports: 5-6 }\n    nodes: { 0: b:1, 1: b:1 }\n", "b:1 is node 0 already"},
		{"    mode: kafka\n    listen: 1\n    to: a:1\n    advertise: { host: x, ports: 5-6 }\n    kafka: { learn: off }\n", "nobody knows where the brokers are"},
		{"    mode: kafka\n    listen: 1\n    to: a:1\n    advertise: { host: x, ports: 5-6 }\n    kafka: { learn: [off, x.y] }\n", "stands among hosts"},
		{"    mode: kafka\n    listen: 1\n    to: a:1\n    advertise: { host: x, ports: 5-6 }\n    nodes: { 1: 127.0.0.1:6 }\n", "server 127.0.0.1:6 is where route \"r\" listens (line 8), so connections would go in a circle"},
		{"    mode: kafka\n    listen: [1, \"10.0.0.2:5\"]\n    to: a:1\n    advertise: { host: x, ports: 5-6 }\n", "and on 10.0.0.2:5 already"},
		{"    mode: kafka\n    listen: 1\n    to: { b: a:1 }\n    advertise: { host: x, ports: 5-6 }\n", "mode kafka has one set"},
	} {
		_, err := kafkaPlan(t, "health: off\nadmin: off\nroutes:\n  r:\n"+tt.text)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s\n%v\nwant: %s", tt.text, err, tt.want)
		}
	}
}

// TestKafkaPlaces: the ports of nodes are bound once at each address, however many
// bootstrap ports there are.
func TestKafkaPlaces(t *testing.T) {
	for listen, want := range map[string]string{
		`[1, 2]`:                                     "*:1 *:2 *:5-6",
		`["10.0.0.2:1", "10.0.0.3:1"]`:               "10.0.0.2:1 10.0.0.3:1 10.0.0.2:5-6 10.0.0.3:5-6",
		`["10.0.0.2:1", 2]`:                          "10.0.0.2:1 *:2 *:5-6",
		`[1, "10.0.0.2:2", "[fd00::2]:2"]`:           "*:1 10.0.0.2:2 [fd00::2]:2 *:5-6",
		`["0.0.0.0:1", "10.0.0.2:2", "[fd00::2]:2"]`: "0.0.0.0:1 10.0.0.2:2 [fd00::2]:2 0.0.0.0:5-6 [fd00::2]:5-6",
		`["%eth0:1", "%eth1:2", "10.0.0.2%eth1:3"]`:  "%eth0:1 %eth1:2 10.0.0.2%eth1:3 %eth0:5-6 %eth1:5-6",
	} {
		p, err := kafkaPlan(t, "routes: { r: { mode: kafka, listen: "+listen+", to: \"a:1\", advertise: { host: x, ports: 5-6 } } }\n")
		if err != nil {
			t.Errorf("%s: %v", listen, err)
			continue
		}
		var got []string
		for _, l := range p.Routes[0].Listen {
			got = append(got, l.String())
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: listens on %s, want %s", listen, s, want)
		}
	}
}

// TestKafkaWarnings: what can be run, but not for all nodes, or not for clients
// elsewhere.
func TestKafkaWarnings(t *testing.T) {
	for _, tt := range []struct{ keys, want string }{
		{"advertise: { host: 127.0.0.1, ports: 19100-19163 }", "their own 127.0.0.1;"},
		{"advertise: { host: \"::\", ports: 19100-19163 }", "their own ::;"},
		{"advertise: { host: 10.0.0.1, ports: 19100-19163 }", ""},
		{"advertise: { host: x, ports: 19100-19400 }, nodes: \"10.0.0.{node}:9092\"", `node 256 has a port, and would be at "10.0.0.256:9092", which is no address`},
		{"advertise: { host: x, ports: 19100-19109, node_ports: { 1001: 19190 } }, nodes: \"k:900{node}\"", "node 1001 has a port"},
		{"advertise: { host: x, ports: 19100-19109 }, nodes: \"k{node}:9092\"", ""},
	} {
		f, err := config.Parse("t.yaml", []byte("routes: { r: { mode: kafka, listen: 19092, to: \"a:1\", "+tt.keys+" } }\n"))
		if err != nil {
			t.Fatal(err)
		}
		_, warnings, err := New(f)
		if err != nil || (warnings.Err() == nil) != (tt.want == "") || tt.want != "" && !strings.Contains(warnings.Err().Error(), tt.want) {
			t.Errorf("%s: %v, warnings %v; want %q", tt.keys, err, warnings.Err(), tt.want)
		}
	}
}

// TestKafkaLearnsNoCircle: what clients are told is no place to find a broker at.
func TestKafkaLearnsNoCircle(t *testing.T) {
	p, err := kafkaPlan(t, cluster+"    kafka: { learn: [\"*.example\", 10.0.0.0/8, kafka.example] }\n")
	if err != nil {
		t.Fatal(err)
	}
	r := p.WithNodes(map[string][]KnownNode{"orders": {
		{ID: 1, Host: "kafka.example", Port: 19101},
		{ID: 2, Host: "Kafka.Example.", Port: 19190},
		{ID: 3, Host: "kafka.example", Port: 9092}, // a broker of that name, in the other network
	}}).Routes[0]
	if len(r.Kafka.Nodes) != 1 || r.Kafka.Nodes[0].ID != 3 {
		t.Errorf("the nodes are %+v", r.Kafka.Nodes)
	}
}

// TestKafkaOneNodeAServer: of two nodes that are said to be at one address, one is wrong.
func TestKafkaOneNodeAServer(t *testing.T) {
	p, err := kafkaPlan(t, cluster+"    nodes: { 7: \"kafka1.corp.example:9092\" }\n")
	if err != nil {
		t.Fatal(err)
	}
	r := p.WithNodes(map[string][]KnownNode{"orders": {
		{ID: 1, Host: "kafka1.corp.example", Port: 9092},
		{ID: 2, Host: "10.0.0.2", Port: 9092},
		{ID: 3, Host: "::ffff:10.0.0.2", Port: 9092},
	}}).Routes[0]
	var ids []int32
	for _, n := range r.Kafka.Nodes {
		ids = append(ids, n.ID)
	}
	if len(ids) != 2 || ids[0] != 2 || ids[1] != 7 {
		t.Errorf("the nodes are %v", ids)
	}
}

// TestKafkaLocalPorts: the machine's own connections may be at ports that are bound late.
func TestKafkaLocalPorts(t *testing.T) {
	for text, want := range map[string]int{cluster: 0, strings.Replace(cluster, "19100-19163", "32700-32768", 1): 1} {
		f, err := config.Parse("t.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, warnings, err := New(f); err != nil || len(warnings) != want {
			t.Errorf("%s\n%v, %v", text, warnings, err)
		}
	}
}
