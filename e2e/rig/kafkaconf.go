package rig

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// kafkaSettings make a cluster that starts soon and is small.
const kafkaSettings = `
controller.quorum.voters=1@10.79.0.91:9193,2@10.79.0.92:9193,3@10.79.0.93:9193
inter.broker.listener.name=INTERNAL
controller.listener.names=CONTROLLER
min.insync.replicas=2
auto.create.topics.enable=false
offsets.topic.replication.factor=3
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
group.consumer.min.heartbeat.interval.ms=1000
group.consumer.heartbeat.interval.ms=1000
log.cleaner.dedupe.buffer.size=4194304
log.segment.delete.delay.ms=1000
num.network.threads=2
num.io.threads=4
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=10000
controlled.shutdown.enable=true
`

// properties are those of a node.
func (k *Kafka) properties(n *kafkaNode) string {
	var b strings.Builder
	b.WriteString(kafkaSettings)
	addr := KafkaAddr(n.id)
	listeners := []string{fmt.Sprintf("INTERNAL://%s:%d", addr, kafkaInternal)}
	advertised := []string{fmt.Sprintf("INTERNAL://%s:%d", addr, kafkaInternal)}
	protocols := []string{"INTERNAL:PLAINTEXT", "CONTROLLER:PLAINTEXT"}
	roles := "broker"
	if n.id <= kafkaVoters {
		roles = "broker,controller"
		listeners = append(listeners, fmt.Sprintf("CONTROLLER://%s:%d", addr, kafkaController))
	}
	for _, l := range k.spec.Listeners {
		listeners = append(listeners, fmt.Sprintf("%s://%s:%d", l.Name, addr, l.Port))
		advertised = append(advertised, l.Name+"://"+l.Advertise(n.id))
		protocols = append(protocols, l.Name+":"+l.Protocol)
		b.WriteString(l.security(n.id))
	}
	fmt.Fprintf(&b, "process.roles=%s\nnode.id=%d\nlog.dirs=%s\n", roles, n.id, n.data())
	fmt.Fprintf(&b, "listeners=%s\nadvertised.listeners=%s\nlistener.security.protocol.map=%s\n",
		strings.Join(listeners, ","), strings.Join(advertised, ","), strings.Join(protocols, ","))
	b.WriteString(strings.Join(k.spec.Settings, "\n") + "\n")
	return b.String()
}

// security are the lines for TLS and SASL of a listener.
func (l KafkaListener) security(node int) string {
	var b strings.Builder
	at := "listener.name." + strings.ToLower(l.Name) + "."
	if l.Identity != nil {
		fmt.Fprintf(&b, "%sssl.keystore.type=PEM\n%[1]sssl.keystore.location=%s\n", at, l.Identity(node).Cert)
	}
	if l.Users == nil {
		return b.String()
	}
	fmt.Fprintf(&b, "%ssasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n", at)
	fmt.Fprintf(&b, "%splain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required", at)
	for user, password := range l.Users {
		fmt.Fprintf(&b, " user_%s=%q", user, password)
	}
	b.WriteString(";\n")
	for _, m := range []string{"scram-sha-256", "scram-sha-512"} {
		fmt.Fprintf(&b, "%s%s.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n", at, m)
	}
	return b.String()
}

// data is where a node keeps what it has.
func (n *kafkaNode) data() string { return filepath.Join(n.dir, "data") }

// format makes the data directory of the first node, with Kafka's own tool.
func (k *Kafka) format(n *kafkaNode) {
	k.t.Helper()
	p := Start(k.t, Spec{Program: Java(k.t), Args: JavaArgs(k.jars, "128m", "kafka.tools.StorageTool", "format", "-t", kafkaID(k.t), "-c", n.props)})
	if code := p.Exit(kafkaStart); code != 0 {
		k.t.Fatalf("format a data directory: exit code %d: %s%s", code, p.Stdout(), p.Stderr())
	}
}

// Lines of meta.properties, which the tool wrote.
var (
	metaNode      = regexp.MustCompile(`(?m)^node\.id=.*$`)
	metaDirectory = regexp.MustCompile(`(?m)^directory\.id=.*$`)
)

// copyFormat makes a node's data directory from the first one's, and so spares a
// virtual machine each. Of what the tool writes only meta.properties differs.
func (k *Kafka) copyFormat(n *kafkaNode) {
	k.t.Helper()
	if err := os.MkdirAll(n.data(), 0o755); err != nil {
		k.t.Fatal(err)
	}
	for _, name := range []string{"meta.properties", "bootstrap.checkpoint"} {
		text, err := os.ReadFile(filepath.Join(k.nodes[1].data(), name))
		if err != nil {
			k.t.Fatal(err)
		}
		if name == "meta.properties" {
			text = metaNode.ReplaceAll(text, fmt.Appendf(nil, "node.id=%d", n.id))
			text = metaDirectory.ReplaceAll(text, []byte("directory.id="+kafkaID(k.t)))
		}
		if err := os.WriteFile(filepath.Join(n.data(), name), text, 0o644); err != nil {
			k.t.Fatal(err)
		}
	}
}

// kafkaID is one of Kafka's random names: a UUID in base64url.
func kafkaID(t testing.TB) string {
	t.Helper()
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		t.Fatal(err)
	}
	id[0] &= 0x3f // none begins with "-", which would be an option to the tool
	return base64.RawURLEncoding.EncodeToString(id[:])
}
