package plan

import (
	"encoding/json"
	"testing"

	"midspan/internal/config"
)

func TestPaths(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{
			"none but of mode kafka",
			"routes: {a: {listen: 9092, to: \"h:9092\"}}", `null`,
		},
		{
			"one name; a port that is written twice; a node of its own port", `
routes:
  a:
    mode: kafka
    listen: ["10.0.0.4:9092", "10.0.0.5:9092", "10.0.0.4:9093"]
    to: ["k1:9092", "k2:9092"]
    advertise: {host: kafka.example.com, ports: 9100-9103, node_ports: {1001: 9000}}
    nodes: {1001: "k3:9092", 2: "k2:9092"}
    kafka: {learn: off}
`, `[{"route":"a","rules":[{"port":9000,"node":1001},{"port":9092},{"port":9093},{"port":9102,"node":2}],"max_rules":7,` +
				`"probe_port":8080,"names":["kafka.example.com"],"more_names":false,"learn":[]}]`,
		},
		{
			"the brokers' own names, of which addresses are none; no probe", `
health: off
routes:
  a:
    mode: kafka
    listen: 9092
    to: ["k1:9092", "10.0.0.1:9092"]
    advertise: {host: keep, ports: 9100-9163}
    nodes: "k{node}.example.com:9092"
`, `[{"route":"a","rules":[{"port":9092}],"max_rules":65,"probe_port":0,"names":["k1","k{node}.example.com"],"more_names":true,"learn":["k1","10.0.0.1"]}]`,
		},
		{
			"a pattern of addresses",
			"routes: {a: {mode: kafka, listen: 9092, to: \"10.0.0.1:9092\", advertise: {host: keep, ports: 9100-9100}, nodes: \"10.0.0.{node}:9092\"}}",
			`[{"route":"a","rules":[{"port":9092}],"max_rules":2,"probe_port":8080,"names":[],"more_names":true,"learn":["10.0.0.1"]}]`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := config.Parse("f", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			p, _, err := New(f)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(p.Paths())
			if err != nil || string(got) != c.want {
				t.Errorf("got  %s %v\nwant %s", got, err, c.want)
			}
		})
	}
}
