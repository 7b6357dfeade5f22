package rig

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Versions of Apache Kafka that the tests run: the last line that could do
// without KRaft, and the newest.
const (
	Kafka3 = "3.9.2"
	Kafka4 = "4.3.1"
)

// KafkaSpec says what cluster to start.
type KafkaSpec struct {
	Version   string // see NeedKafka
	Listeners []KafkaListener
	Settings  []string // more lines of server.properties
}

// KafkaListener is a port of every broker, for clients.
type KafkaListener struct {
	Name      string // in capital letters
	Protocol  string // "PLAINTEXT", "SSL", "SASL_PLAINTEXT" or "SASL_SSL"
	Port      int    // not 9192 or 9193, which are the cluster's own
	Advertise func(node int) string
	Identity  func(node int) Identity // the certificate, with TLS
	Users     map[string]string       // passwords, with SASL; for PLAIN, and for SCRAM once they are added (AddUsers)
}

// Kafka is a cluster in KRaft mode: three nodes that are broker and controller,
// each in a network namespace of its own, on a LAN where node n is 10.79.0.90+n.
// It is on the test to plug forwarders into the LAN.
type Kafka struct {
	LAN   *LAN
	Admin *kadm.Client // asks the cluster past any forwarder

	t      testing.TB
	spec   KafkaSpec
	jars   string
	client *kgo.Client
	nodes  map[int]*kafkaNode
}

type kafkaNode struct {
	id      int
	net     *Net
	dir     string // properties, and data beside it
	props   string
	*Proc        // the last one
	stopped bool // it was told to end
}

// The voters, and the ports that the nodes use among themselves.
const (
	kafkaVoters     = 3
	kafkaInternal   = 9192
	kafkaController = 9193
)

// kafkaStart bounds the start of a cluster, kafkaStop the end of a node, and
// kafkaAnswer an administrator's request, on a machine that is busy. A node that ends waits for the others; where all processors
// were taken, to end took 17 s and to end and start again over a minute.
const (
	kafkaStart  = 3 * time.Minute
	kafkaStop   = 3 * time.Minute
	kafkaAnswer = 2 * time.Minute
)

// NeedKafka is the class path of a Kafka server; it downloads that once for a
// machine. Call it before Isolate.
func NeedKafka(t testing.TB, version string) string {
	t.Helper()
	return Jars(t, "org.apache.kafka:kafka_2.13:"+version)
}

// KafkaAddr is the address of a node in the LAN.
func KafkaAddr(node int) string { return fmt.Sprint("10.79.0.", 90+node) }

// OnPremises is how a broker is advertised whose name nobody can look up but
// those who were told: a client that gets to see it goes astray.
func OnPremises(port int) func(node int) string {
	return func(node int) string { return fmt.Sprintf("kafka%d.onprem.invalid:%d", node, port) }
}

// StartKafka starts a cluster and waits until every broker takes part in it. It
// needs Isolate.
func StartKafka(t testing.TB, spec KafkaSpec) *Kafka {
	t.Helper()
	k := &Kafka{t: t, spec: spec, jars: NeedKafka(t, spec.Version), nodes: map[int]*kafkaNode{}, LAN: NewLAN(t, "10.79.0.254/24")}
	for id := 1; id <= kafkaVoters; id++ {
		k.place(id)
	}
	k.format(k.nodes[1])
	for id := 2; id <= kafkaVoters; id++ {
		k.copyFormat(k.nodes[id])
	}
	var err error
	k.client, err = kgo.NewClient(kgo.SeedBrokers(fmt.Sprintf("%s:%d", KafkaAddr(1), kafkaInternal), fmt.Sprintf("%s:%d", KafkaAddr(2), kafkaInternal)),
		kgo.Dialer(k.dial), kgo.MetadataMinAge(100*time.Millisecond), kgo.ConnIdleTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.client.Close)
	k.Admin = kadm.NewClient(k.client)
	k.Admin.SetTimeoutMillis(int32(kafkaAnswer.Milliseconds())) // what the brokers give themselves
	for _, n := range k.nodes {
		k.launch(n)
	}
	k.awaitBrokers(kafkaVoters)
	return k
}

// place makes a node's machine and properties.
func (k *Kafka) place(id int) *kafkaNode {
	k.t.Helper()
	n := &kafkaNode{id: id, net: NewNet(k.t), dir: k.t.TempDir()}
	k.LAN.Plug(End{Net: n.net, Name: "eth0", Addrs: []string{KafkaAddr(id) + "/24"}})
	n.props = filepath.Join(n.dir, "server.properties")
	if err := os.WriteFile(n.props, []byte(k.properties(n)), 0o600); err != nil {
		k.t.Fatal(err)
	}
	k.nodes[id] = n
	return n
}

// launch starts a node, and does not wait.
func (k *Kafka) launch(n *kafkaNode) {
	k.t.Helper()
	n.stopped = false
	n.Proc = Start(k.t, Spec{In: n.net, Program: Java(k.t), Args: JavaArgs(k.jars, "384m", "kafka.Kafka", n.props)})
}

// Node is a node's process.
func (k *Kafka) Node(id int) *Proc { return k.nodes[id].Proc }

// Net is a node's machine.
func (k *Kafka) Net(id int) *Net { return k.nodes[id].net }

// Stop ends a node as an operator does: it hands its leaderships over first.
func (k *Kafka) Stop(id int) {
	k.t.Helper()
	k.nodes[id].stopped = true
	k.nodes[id].Signal(syscall.SIGTERM)
	k.nodes[id].Exit(kafkaStop)
}

// Kill ends a node as a power cut does.
func (k *Kafka) Kill(id int) {
	k.t.Helper()
	k.nodes[id].stopped = true
	k.nodes[id].Kill()
}

// Start starts a node that has ended, and waits until it is a broker again.
func (k *Kafka) Start(id int) {
	k.t.Helper()
	k.launch(k.nodes[id])
	k.awaitBroker(id)
}

// Add starts a node that is a broker only.
func (k *Kafka) Add(id int) {
	k.t.Helper()
	n := k.place(id)
	k.copyFormat(n)
	k.launch(n)
	k.awaitBroker(id)
}

// Roll restarts every voter, one after the other, as one does: each once all
// replicas are in step again.
func (k *Kafka) Roll() {
	k.t.Helper()
	for id := 1; id <= kafkaVoters; id++ {
		begin := time.Now()
		k.Stop(id)
		k.Start(id)
		k.AwaitInSync()
		k.t.Logf("Kafka's node %d restarted in %s", id, time.Since(begin).Round(100*time.Millisecond))
	}
}

// HostsOf are lines of a hosts file: brokers' names, as pattern has them with %d
// for the node, at their addresses in the LAN.
func HostsOf(pattern string, nodes ...int) string {
	var b strings.Builder
	for _, n := range nodes {
		fmt.Fprintf(&b, "%s %s\n", netip.MustParseAddr(KafkaAddr(n)), fmt.Sprintf(pattern, n))
	}
	return b.String()
}
