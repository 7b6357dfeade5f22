package spark

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"midspan/e2e/rig"
)

// The cluster's listeners. Each design wants the brokers to be advertised in
// another way.
const (
	plainPort  = 9092 // advertised as the forwarder's name, a port for each broker
	tlsPort    = 9094 // as the brokers' own names
	onPremPort = 9095 // as names that nobody knows but the forwarder
	securePort = 9096 // so too; with TLS, and a password
)

// The names that the cloud's side knows, all of them the forwarder's.
const (
	forwarder = "kafka.corp.example.com"
	eth0      = "10.80.0.1" // the forwarder's address there
)

// The secure listener's one user.
const user, password = "spark", "s3cret"

// site is a cluster on premises, the forwarder, which is the test's own machine,
// and a machine in the cloud that has a way to the forwarder only.
type site struct {
	*rig.Kafka
	t      *testing.T
	cloud  *rig.Net
	ca     *rig.CA
	client *kgo.Client // on premises
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, cloud: rig.NewNet(t), ca: rig.NewCA(t, "midspan test CA")}
	rig.Cable(t, rig.End{Name: "eth0", Addrs: []string{eth0 + "/24"}}, rig.End{Net: s.cloud, Name: "eth0", Addrs: []string{"10.80.0.2/24"}})
	s.Kafka = rig.StartKafka(t, rig.KafkaSpec{Version: rig.Kafka4, Listeners: []rig.KafkaListener{
		{Name: "PLAIN", Protocol: "PLAINTEXT", Port: plainPort, Advertise: func(node int) string { return fmt.Sprintf("%s:%d", forwarder, 9091+node) }},
		{Name: "TLS", Protocol: "SSL", Port: tlsPort, Advertise: func(node int) string { return fmt.Sprintf("%s:%d", ownName(node), tlsPort) }, Identity: s.identity},
		{Name: "ONPREM", Protocol: "PLAINTEXT", Port: onPremPort, Advertise: func(node int) string { return fmt.Sprintf("%s:%d", onPremName(node), onPremPort) }},
		{
			Name: "SECURE", Protocol: "SASL_SSL", Port: securePort, Advertise: func(node int) string { return fmt.Sprintf("%s:%d", onPremName(node), securePort) },
			Identity: func(node int) rig.Identity { return s.ca.Issue(onPremName(node)) }, Users: map[string]string{user: password},
		},
	}})
	s.LAN.Plug(rig.End{Name: "lan0", Addrs: []string{"10.79.0.1/24"}})
	rig.Overlay(t, "/etc/hosts", "127.0.0.1 localhost\n"+rig.HostsOf("kafka%d.corp.example.com", 1, 2, 3)+rig.HostsOf("kafka%d.onprem.invalid", 1, 2, 3))
	var err error
	s.client, err = kgo.NewClient(kgo.SeedBrokers(rig.KafkaAddr(1)+":9192", rig.KafkaAddr(2)+":9192"), kgo.MetadataMinAge(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.client.Close)
	return s
}

func ownName(node int) string    { return fmt.Sprintf("kafka%d.corp.example.com", node) }
func onPremName(node int) string { return fmt.Sprintf("kafka%d.onprem.invalid", node) }

// identity is a broker's certificate, also for the name that stands for any.
func (s *site) identity(node int) rig.Identity {
	return s.ca.Issue(ownName(node), "bootstrap.corp.example.com")
}

// wantApart wants the cloud's side to have no way to the brokers but the
// forwarder: neither their addresses nor the names that lead to them.
func (s *site) wantApart(hosts string) {
	s.t.Helper()
	for node := 1; node <= 3; node++ {
		if c, err := s.cloud.DialTimeout("tcp", fmt.Sprintf("%s:%d", rig.KafkaAddr(node), plainPort), time.Second); err == nil {
			c.Close()
			s.t.Fatalf("the cloud's side reaches node %d past the forwarder", node)
		}
	}
	p := rig.Start(s.t, rig.Spec{In: s.cloud, Hosts: hosts, Program: "getent", Args: []string{"ahosts", onPremName(1)}})
	if code := p.Exit(rig.Patience); code != 2 { // 2: there is no such name
		s.t.Fatalf("on the cloud's side a broker's name: exit code %d of getent, %s", code, p.Stdout())
	}
}

// produce writes records from to to-1 to a topic and waits until the cluster has
// acknowledged them all; nothing is lost then, and nothing is there twice. A value
// is its number, in 100 bytes.
func (s *site) produce(topic string, from, to int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), writtenWithin)
	defer cancel()
	failed := make(chan error, 1)
	for i := from; i < to; i++ {
		s.client.Produce(ctx, &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%0100d", i)}, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default: // the first one says it
				}
			}
		})
	}
	if err := s.client.Flush(ctx); err != nil {
		s.t.Fatalf("write to %s: %v", topic, err)
	}
	select {
	case err := <-failed:
		s.t.Fatalf("write to %s: %v", topic, err)
	default:
	}
}

// ends are the end offsets of a topic, by the cluster's word.
func (s *site) ends(topic string) map[int32]int64 {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), writtenWithin)
	defer cancel()
	listed, err := s.Admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		s.t.Fatalf("end offsets of %s: %v", topic, err)
	}
	ends := map[int32]int64{}
	for p, o := range listed[topic] {
		ends[p] = o.Offset
	}
	return ends
}
