package daemon

import (
	"fmt"
	"strings"
	"testing"

	"midspan/internal/brokers"
	"midspan/internal/engine"
)

// TestUnreached: nodes that the file keeps clients from are known, for as long as it
// does and the cluster tells of them.
func TestUnreached(t *testing.T) {
	c, _ := listening(t, ordersFile, func() {})
	check := func(when, want string) {
		t.Helper()
		if got := fmt.Sprint(c.unreached()); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	answer := func(nodes ...brokers.Node) { c.answered("orders", brokers.Cluster{ID: "x", Nodes: nodes}) }
	check("nothing known", "map[]")
	c.heard(at(5, "b5.elsewhere.example"))
	c.heard(at(1, "10.0.0.2"))
	c.heard(engine.Node{Route: "orders", ID: 3}) // only wanted
	check("of clients", "map[orders:[{5 19105 b5.elsewhere.example:9092}]]")
	answer(
		brokers.Node{ID: 71, Host: "\x1b[2J", Port: 9092}, brokers.Node{ID: 70, Host: "10.0.0.2", Port: 9092},
		brokers.Node{ID: 5, Host: "b5.elsewhere.example", Port: 9092}, brokers.Node{ID: 7, Host: "fd00::7", Port: 9092},
	)
	check("asked", "map[orders:[{5 19105 b5.elsewhere.example:9092} {7 19107 [fd00::7]:9092} {70 0 10.0.0.2:9092} {71 0 }]]")
	for id, want := range map[int32]string{1: "<nil>", 5: "the node may not be learned at b5.elsewhere.example:9092", 70: "the node has no port", 99: "<nil>"} {
		if got := fmt.Sprint(c.unreachedNode("orders", id)); got != want {
			t.Errorf("node %d: %s, want %s", id, got, want)
		}
	}
	if err := c.unreachedNode("absent", 5); err != nil {
		t.Errorf("no such route: %v", err)
	}
	placed := []engine.RouteStatus{{Name: "sql"}, {Name: "orders", Kafka: &engine.KafkaStatus{Nodes: []engine.NodeStatus{{ID: 5, Server: "b5:9092"}, {ID: 7}}}}}
	if got := fmt.Sprint(exceptPlaced(c.unreached(), placed)); got != "map[orders:[{7 19107 [fd00::7]:9092} {70 0 10.0.0.2:9092} {71 0 }]]" {
		t.Errorf("but for node 5: %s", got)
	}
	answer(brokers.Node{ID: 70, Host: "10.0.0.2", Port: 9092}, brokers.Node{ID: 5, Host: "10.0.0.2", Port: 9092})
	check("two are not named", "map[orders:[{5 19105 b5.elsewhere.example:9092} {7 19107 [fd00::7]:9092} {70 0 10.0.0.2:9092}]]") // 5 stays for settleNode, 7 for forgetAfter
	c.use(loadPlan(t, strings.Replace(ordersFile, "19109 }", "19199 }\n    kafka: { learn: [\"*.example\", 10.0.0.0/8] }", 1)))
	check("a wide file", "map[orders:[{7 19107 [fd00::7]:9092}]]")
	c.use(loadPlan(t, ordersFile+"    nodes: \"k{node}.corp.example:9092\"\n"))
	check("`nodes` says where all are", "map[]")
	c.use(nil)
	check("no file", "map[]")
}
