package spark

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// design is a way to a cluster behind one forwarder.
type design struct {
	name   string
	file   func(t *testing.T) *rig.File
	hosts  string            // what the cloud's side knows
	source map[string]string // options of Spark's Kafka source
}

// ports are the forwarder's, one for each broker.
var ports = map[string]string{
	"kafka.bootstrap.servers": "kafka.corp.example.com:9092,kafka.corp.example.com:9093,kafka.corp.example.com:9094",
}

// portRoutes has a route for each broker, by an engine.
func portRoutes(engine string) func(*testing.T) *rig.File {
	return routes("defaults: { engine: " + engine + ", check: kafka }\nroutes:\n" +
		`  kafka1: { listen: "%eth0:9092", to: "kafka1.corp.example.com:9092" }` + "\n" +
		`  kafka2: { listen: "%eth0:9093", to: "kafka2.corp.example.com:9092" }` + "\n" +
		`  kafka3: { listen: "%eth0:9094", to: "kafka3.corp.example.com:9092" }` + "\n")
}

func routes(text string) func(*testing.T) *rig.File {
	return func(t *testing.T) *rig.File {
		f := rig.NewFile(t)
		f.Control = "/run/control.sock" // names of tests are long, and a socket's path is not
		f.Write("%s", text)
		return f
	}
}

// imported is what `midspan import` makes of the reference design.
func imported(t *testing.T) *rig.File {
	return rig.Import(t, "ip_fwd", `sudo ./ip_fwd.sh -i eth0 -f 9092 -a kafka1.corp.example.com -b 9092
sudo ./ip_fwd.sh -i eth0 -f 9093 -a kafka2.corp.example.com -b 9092
sudo ./ip_fwd.sh -i eth0 -f 9094 -a kafka3.corp.example.com -b 9092
`)
}

// sni leads by the name that a TLS client asks for.
const sni = `routes:
  kafka:
    mode: sni
    listen: "%eth0:9094"
    to:
      kafka1.corp.example.com: kafka1.corp.example.com:9094
      kafka2.corp.example.com: kafka2.corp.example.com:9094
      kafka3.corp.example.com: kafka3.corp.example.com:9094
      bootstrap.corp.example.com:
        - kafka1.corp.example.com:9094
        - kafka2.corp.example.com:9094
        - kafka3.corp.example.com:9094
    check: tls
`

// kafka says in the brokers' answers where they are for the cloud's side; their
// own names do not exist there.
const kafka = `routes:
  orders:
    mode: kafka
    listen: "%eth0:9092"
    to: [kafka1.onprem.invalid:9095, kafka2.onprem.invalid:9095, kafka3.onprem.invalid:9095]
    advertise: { host: kafka.corp.example.com, ports: 19100-19109 }
`

// kafkaTLS is mode kafka for a cluster that wants TLS: what the forwarder shall read
// it has to decrypt, and to encrypt again. Who the client is passes through.
func (s *site) kafkaTLS() string {
	own := s.ca.Issue(forwarder)
	return fmt.Sprintf(`routes:
  orders:
    mode: kafka
    listen: "%%eth0:9092"
    to: [kafka1.onprem.invalid:9096, kafka2.onprem.invalid:9096, kafka3.onprem.invalid:9096]
    advertise: { host: kafka.corp.example.com, ports: 19100-19109 }
    tls: { cert: %s, key: %s }
    upstream_tls: { ca: %s }
`, own.Cert, own.Key, s.ca.File)
}

// oneEndpoint is the forwarder, for all brokers.
var oneEndpoint = map[string]string{"kafka.bootstrap.servers": "kafka.corp.example.com:9092"}

// encrypted are the options for a cluster whose certificates the test's CA signs.
func (s *site) encrypted(protocol, bootstrap string) map[string]string {
	return map[string]string{
		"kafka.bootstrap.servers":       bootstrap,
		"kafka.security.protocol":       protocol,
		"kafka.ssl.truststore.type":     "PEM",
		"kafka.ssl.truststore.location": s.ca.File,
	}
}

const (
	oneName  = eth0 + " " + forwarder + "\n"
	allNames = eth0 + " bootstrap.corp.example.com kafka1.corp.example.com kafka2.corp.example.com kafka3.corp.example.com\n"
)

// TestSparkThroughEachDesign: the notebook reads a topic from its first record on
// while records are written and a broker is away. All are there once, and none is
// missing.
func TestSparkThroughEachDesign(t *testing.T) {
	older, newer := install(t, spark35), install(t, spark4)
	rig.NeedKafka(t, rig.Kafka4)
	if !rig.Isolate(t) {
		return
	}
	s := newSite(t)
	byName := s.encrypted("SSL", "bootstrap.corp.example.com:9094")
	withPassword := s.encrypted("SASL_SSL", "kafka.corp.example.com:9092")
	withPassword["kafka.sasl.mechanism"] = "PLAIN"
	withPassword["kafka.sasl.jaas.config"] = fmt.Sprintf("org.apache.kafka.common.security.plain.PlainLoginModule required username=%q password=%q;", user, password)
	for i, run := range []struct {
		design
		spark installed
		fails func(node int) // how the broker goes away
	}{
		{design{"ports by relay", portRoutes("relay"), oneName, ports}, older, s.Stop},
		{design{"ports by nft", portRoutes("nft"), oneName, ports}, older, s.Kill},
		{design{"ports by the imported ip_fwd.sh", imported, oneName, ports}, newer, s.Stop},
		{design{"sni", routes(sni), allNames, byName}, newer, s.Stop},
		{design{"mode kafka", routes(kafka), oneName, oneEndpoint}, older, s.Stop},
		{design{"mode kafka", routes(kafka), oneName, oneEndpoint}, newer, s.Kill},
		{design{"mode kafka with TLS and a password", routes(s.kafkaTLS()), oneName, withPassword}, older, s.Stop},
	} {
		t.Run(run.name+" and "+run.spark.name, func(t *testing.T) {
			at := *s
			at.t = t
			at.read(run.design, run.spark, 1+i%3, run.fails)
		})
	}
}

// records is how many a topic has at the end. The first half is there when the
// job starts.
const records = 200_000

// read is one run.
func (s *site) read(d design, with installed, node int, fails func(int)) {
	s.t.Helper()
	s.wantApart(d.hosts)
	topic := fmt.Sprint("orders-", time.Now().UnixNano())
	s.CreateTopic(topic, 6)
	s.produce(topic, 0, records/2)
	rig.Run(s.t, d.file(s.t))
	begin := time.Now()
	j := with.start(s.t, s.cloud, d.hosts, order{Source: d.source, Topic: topic, Records: records})
	j.awaitRead(1)
	s.t.Logf("the first records after %s", time.Since(begin).Round(100*time.Millisecond))

	fails(node)
	s.produce(topic, records/2, records*3/4)
	j.awaitRead(records * 3 / 4) // also what the broker led that is away
	s.Start(node)
	s.AwaitInSync()
	s.AwaitLeads(topic, node, 1) // one that was restarted leads nothing until it is asked to
	s.produce(topic, records*3/4, records)
	s.check(topic, j.result())
	if strings.Contains(j.Stderr(), ".invalid") { // its client says where it fails to go
		s.t.Errorf("the job has seen brokers' own names:\n%s", linesWith(j.Stderr(), ".invalid"))
	}
	s.t.Logf("%d records read in %s, all of it", records, time.Since(begin).Round(100*time.Millisecond))
}

// linesWith are the lines of a text that have a word.
func linesWith(text, word string) string {
	var found []string
	for l := range strings.Lines(text) {
		if strings.Contains(l, word) {
			found = append(found, l)
		}
	}
	return strings.Join(found, "")
}

// check wants every record in the sink once.
func (s *site) check(topic string, got line) {
	s.t.Helper()
	ends := s.ends(topic)
	var count int64
	for _, p := range got.Partitions {
		end := ends[int32(p.Partition)]
		if p.First != 0 || p.Last != end-1 || p.Count != end || p.Distinct != end {
			s.t.Errorf("partition %d has the offsets 0 to %d; the sink has %+v", p.Partition, end-1, p)
		}
		count += p.Count
	}
	if len(got.Partitions) != len(ends) || count != records || got.Values != records {
		s.t.Errorf("the sink has %d records of %d values in %d partitions, want %d of as many in %d", count, got.Values, len(got.Partitions), records, len(ends))
	}
}
