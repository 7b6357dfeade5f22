package kafka

import (
	"fmt"
	"testing"

	"midspan/e2e/rig"
)

// many are records of a round trip.
const many = 1_000_000

// The one name that clients have for a cluster in mode kafka, and its ports: the
// first, and those of nodes, of which node n has the base and n.
const (
	cluster   = "kafka.corp.example.com"
	bootstrap = 19092
	nodeBase  = 19100
	lastNode  = 7
)

// behind is what clients are told of a node in mode kafka.
func behind(node int) string { return fmt.Sprintf("%s:%d", cluster, nodeBase+node) }

// orders is a route of mode kafka. Clients are told kafka.corp.example.com for
// brokers that advertise kafkaN.onprem.invalid.
func orders(name string, port, brokers, base int, more string) string {
	return fmt.Sprintf(`  %s:
    mode: kafka
    listen: %d
    to: [kafka1.onprem.invalid:%[3]d, kafka2.onprem.invalid:%[3]d, kafka3.onprem.invalid:%[3]d]
    advertise: { host: %s, ports: %d-%d }
    kafka: { learn: ["*.onprem.invalid"] }
%s`, name, port, brokers, cluster, base, base+lastNode, more)
}

// TestKafka4 puts a cluster of Kafka 4 behind one name.
func TestKafka4(t *testing.T) {
	all := programs(t)
	rig.NeedKafka(t, rig.Kafka4)
	if !rig.Isolate(t) {
		return
	}
	ca := rig.NewCA(t, "e2e")
	users := map[string]string{"alice": "alice's secret"}
	certificate := func(n int) rig.Identity { return ca.Issue(fmt.Sprintf("kafka%d.onprem.invalid", n)) }
	l := newLab(t, rig.KafkaSpec{Version: rig.Kafka4, Listeners: []rig.KafkaListener{
		{Name: "PLAIN", Protocol: "PLAINTEXT", Port: 9092, Advertise: rig.OnPremises(9092)},
		{Name: "SASL", Protocol: "SASL_PLAINTEXT", Port: 9093, Advertise: rig.OnPremises(9093), Users: users},
		{Name: "TLS", Protocol: "SSL", Port: 9094, Advertise: rig.OnPremises(9094), Identity: certificate},
	}})
	l.k.LAN.Plug(rig.End{Name: "srv0", Addrs: []string{"10.79.0.200/24"}})
	rig.Overlay(t, "/etc/hosts", rig.HostsOf("kafka%d.onprem.invalid", 1, 2, 3, 4))
	t.Run("one name", func(t *testing.T) { l.oneName(t, all, many, true) })
	t.Run("SASL", func(t *testing.T) { l.sasl(t, all, users) })
	t.Run("TLS", func(t *testing.T) { l.tls(t, all, ca) })
	t.Run("two forwarders", func(t *testing.T) { l.twoForwarders(t, all) })
	l.wantNoLeak()
}

func at(name string, port int) string { return fmt.Sprintf("bootstrap=%s:%d", name, port) }

// oneName runs all jobs of every client against a route of mode kafka.
func (l *lab) oneName(t *testing.T, all []program, n int, newGroups bool) {
	f := rig.NewFile(t)
	f.Write("routes:\n%s", orders("orders", bootstrap, 9092, nodeBase, ""))
	rig.Run(t, f)
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			said := l.all(t, p, front(cluster), "one-"+p.name, n, newGroups, at(cluster, bootstrap))
			wantNodes(t, said, behind, 1, 2, 3)
		})
	}
}

// sasl has clients log in through the forwarder, which takes no part in it.
func (l *lab) sasl(t *testing.T, all []program, users map[string]string) {
	l.k.AddUsers(users)
	f := rig.NewFile(t)
	f.Write("routes:\n%s", orders("orders", bootstrap, 9093, nodeBase, ""))
	rig.Run(t, f)
	for i, p := range all {
		// Each client by one way, and each way by a client or two.
		way := []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}[i%3]
		t.Run(p.name+" "+way, func(t *testing.T) {
			t.Parallel()
			said := l.roundtrip(t, p, front(cluster), "sasl-"+p.name, few, at(cluster, bootstrap),
				"protocol=SASL_PLAINTEXT", "mechanism="+way, "user=alice", "password="+users["alice"])
			wantNodes(t, said, behind, 1, 2, 3)
		})
	}
}

// tls has the forwarder end the clients' encryption and begin its own, to brokers
// whose certificates are for their own names.
func (l *lab) tls(t *testing.T, all []program, ca *rig.CA) {
	f := rig.NewFile(t)
	i := ca.Issue(cluster)
	f.Write("routes:\n%s", orders("orders", bootstrap, 9094, nodeBase,
		fmt.Sprintf("    tls: { cert: %s, key: %s }\n    upstream_tls: { ca: %s }\n", i.Cert, i.Key, ca.File)))
	rig.Run(t, f)
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			said := l.roundtrip(t, p, front(cluster), "tls-"+p.name, few, at(cluster, bootstrap), "protocol=SSL", "ca="+ca.File)
			wantNodes(t, said, behind, 1, 2, 3)
		})
	}
}

// twoForwarders has clients go on through all that happens to a cluster and to two
// forwarders behind a load balancer.
func (l *lab) twoForwarders(t *testing.T, all []program) {
	routes := "routes:\n" + orders("orders", bootstrap, 9092, nodeBase, "")
	one, two := l.newForwarder(t, 1, routes), l.newForwarder(t, 2, routes)
	ports := []int{bootstrap}
	for n := range lastNode + 1 {
		ports = append(ports, nodeBase+n)
	}
	lb := newBalancer(t, []*member{one.member, two.member}, ports...)
	one.awaitUp()
	two.awaitUp()
	streams := l.streams(t, all, front(cluster), at(cluster, bootstrap))
	l.disturb(t, streams, one, two)
	l.finish(t, streams)
	for i, f := range []*forwarder{one, two} {
		if n := f.conns.Load(); n < 10 {
			t.Errorf("forwarder %d had %d connections", i+1, n)
		}
	}
	// Each node is asked at its own port, and at no port is anybody asked for a node
	// that is not there.
	for port, n := range lb.ports {
		if want := port == bootstrap || port > nodeBase && port <= nodeBase+4; want != (n.Load() > 0) {
			t.Errorf("port %d had %d connections", port, n.Load())
		}
	}
}
