package kafka

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// few are records of a round trip where the way is what is tested, and not how
// much it carries.
const few = 50_000

// Names that brokers are advertised by, and their ports.
func byPort(node int) string { return fmt.Sprint("forwarder.corp.example.com:", 9090+node) }

func byName(node int) string { return fmt.Sprintf("kafka%d.corp.example.com:9094", node) }

// TestKafka3 puts a cluster of Kafka 3 behind midspan in each way.
func TestKafka3(t *testing.T) {
	all := programs(t)
	rig.NeedKafka(t, rig.Kafka3)
	if !rig.Isolate(t) {
		return
	}
	ca := rig.NewCA(t, "e2e")
	certs := map[int]rig.Identity{}
	for n := 1; n <= 3; n++ {
		certs[n] = ca.Issue(fmt.Sprintf("kafka%d.corp.example.com", n))
	}
	l := newLab(t, rig.KafkaSpec{Version: rig.Kafka3, Listeners: []rig.KafkaListener{
		{Name: "PORTS", Protocol: "PLAINTEXT", Port: 9095, Advertise: byPort},
		{Name: "PLAIN", Protocol: "PLAINTEXT", Port: 9092, Advertise: rig.OnPremises(9092)},
		{Name: "NAMES", Protocol: "SSL", Port: 9094, Advertise: byName, Identity: func(n int) rig.Identity { return certs[n] }},
	}})
	l.k.LAN.Plug(rig.End{Name: "srv0", Addrs: []string{"10.79.0.1/24"}})
	rig.Overlay(t, "/etc/hosts", rig.HostsOf("kafka%d.corp.example.com", 1, 2, 3)+rig.HostsOf("kafka%d.onprem.invalid", 1, 2, 3))
	t.Run("port per broker", func(t *testing.T) {
		f := rig.NewFile(t)
		f.Write("routes:\n%s", lines("  broker%[1]d: { listen: \"10.80.0.1:%[2]d\", to: \"kafka%[1]d.corp.example.com:9095\" }\n"))
		rig.Run(t, f)
		for _, p := range all {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				said := l.all(t, p, front("forwarder.corp.example.com"), "ports-"+p.name, few, false, "bootstrap="+byPort(1))
				wantNodes(t, said, byPort, 1, 2, 3)
			})
		}
	})
	t.Run("sni", func(t *testing.T) {
		f := rig.NewFile(t)
		f.Write("routes:\n  kafka:\n    mode: sni\n    listen: \"10.80.0.1:9094\"\n    to:\n%s",
			lines("      kafka%[1]d.corp.example.com: kafka%[1]d.corp.example.com:9094\n"))
		rig.Run(t, f)
		for _, p := range all {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				said := l.all(t, p, front("kafka1.corp.example.com", "kafka2.corp.example.com", "kafka3.corp.example.com"), "names-"+p.name, few, false,
					"bootstrap="+byName(1), "protocol=SSL", "ca="+ca.File)
				wantNodes(t, said, byName, 1, 2, 3)
			})
		}
	})
	t.Run("one name", func(t *testing.T) { l.oneName(t, all, few, false) })
	l.wantNoLeak()
	t.Run("what a leak looks like", func(t *testing.T) { l.leak(t, all) })
}

// leak has clients come by a forwarder that tells them the brokers' own names, so
// that it is known that the others do not, and not that nobody looks.
func (l *lab) leak(t *testing.T, all []program) {
	f := rig.NewFile(t)
	f.Write("routes:\n  broker1: { listen: %d, to: \"kafka1.onprem.invalid:9092\" }\n", bootstrap)
	rig.Run(t, f)
	l.topics(t, "leak", "")
	for _, p := range all {
		before := l.asked.Asked("kafka1.onprem.invalid")
		r := l.start(t, p, front(cluster), "jobs=roundtrip", "topic=leak", "n=1", at(cluster, bootstrap))
		rig.Until(t, time.Minute, p.name+" asks for a broker's name", func() bool { return l.asked.Asked("kafka1.onprem.invalid") > before })
		r.Kill()
	}
}

// lines has a line for each broker, of its number and its port.
func lines(line string) string {
	var b strings.Builder
	for n := 1; n <= 3; n++ {
		fmt.Fprintf(&b, line, n, 9090+n)
	}
	return b.String()
}
