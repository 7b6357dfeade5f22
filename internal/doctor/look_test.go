package doctor

import (
	"strings"
	"testing"

	"midspan/internal/brokers"
	"midspan/internal/brokers/brokertest"
)

const wideRoute = `
routes:
  orders:
    mode: kafka
    listen: 19092
    to: ["k1.corp:9092", "k2.corp:9092", "k3.corp:9092"]
    advertise: {host: kafka.example.com, ports: 19100-19110}
`

// TestWhoSaysThePlace: the advice names what is to be corrected.
func TestWhoSaysThePlace(t *testing.T) {
	const advertised, refused = "correct the port that it advertises", "2 connect: no connection to 10.20.0.2:9999: connection refused | nothing listens there: start the broker, or "
	told := []brokers.Node{{ID: 2, Host: "k2.corp", Port: 9092}}
	for _, c := range []struct {
		name, file string
		node       brokers.Node
		want       string
	}{
		{"nobody but the cluster", "", brokers.Node{ID: 2, Host: "k2.corp", Port: 9999}, refused + advertised},
		{"learned", wideRoute + "    kafka: {learn: \"*.corp\"}\n", brokers.Node{ID: 2, Host: "k2.corp", Port: 9999}, refused + advertised},
		{"written", wideRoute + "    nodes: {2: \"k2.corp:9999\"}\n", told[0], refused + "correct its port in `nodes` of route orders"},
		{"pattern", wideRoute + "    nodes: \"k{node}.corp:9999\"\n", told[0], refused + "correct its port in `nodes` of route orders"},
		{"plain", "routes: {a: {listen: 9092, to: \"k2.corp:9999\"}}", told[0], refused + "correct its port in `to` of route a"},
		{"midspan's", wideRoute, brokers.Node{ID: 2, Host: "kafka.example.com", Port: 19102}, "2 connect: no connection to 10.20.0.7:19102: connection refused | nothing listens there: see with `midspan status`"},
		{"written, of another node", wideRoute + "    nodes: {2: \"k3.corp:9092\"}\n", told[0], "lead to node 2 and to no other; or correct `nodes` of route orders"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := cluster(t)
			w.names["kafka.example.com"] = "10.20.0.7"
			w.serve(t, "10.20.0.1:9092", (&brokertest.Broker{ID: 1, Cluster: "c", Nodes: []brokers.Node{c.node}}).Serve)
			q := Question{}
			if c.file != "" {
				q.Plan = planOf(t, c.file)
			}
			if r := ask(t, w, q); r.OK || !strings.Contains(shown(r), c.want) {
				t.Errorf("no %q in\n%s", c.want, shown(r))
			}
		})
	}
}
