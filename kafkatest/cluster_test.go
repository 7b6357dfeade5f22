package kafkatest

import (
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// versions are the brokers' that kfake plays; the newest is what it has itself.
var versions = map[string]*kversion.Versions{
	"0.11":   kversion.V0_11_0(),
	"2.0":    kversion.V2_0_0(),
	"2.8":    kversion.V2_8_0(),
	"3.4":    kversion.V3_4_0(),
	"3.7":    kversion.V3_7_0(),
	"3.9":    kversion.V3_9_0(),
	"4.0":    kversion.V4_0_0(),
	"newest": nil,
}

// cluster is kfake with nodes 0, 1 and 2 at ports of 127.0.0.1.
func cluster(t *testing.T, version string, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	v, known := versions[version]
	if !known {
		t.Fatalf("no version %s", version)
	}
	usual := []kfake.Opt{
		kfake.NumBrokers(3),
		kfake.ListenFn(listenAt("127.0.0.1")),
		kfake.BrokerConfigs(map[string]string{"group.consumer.heartbeat.interval.ms": "200"}),
	}
	if v != nil {
		usual = append(usual, kfake.MaxVersions(v))
	}
	c, err := kfake.NewCluster(append(usual, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.ControlKey(kmsg.Produce.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		err := unwelcome(c, r.(*kmsg.ProduceRequest))
		return nil, err, err != nil
	})
	return c
}

// unwelcome says why Kafka closes the connection that a request came on: it has no
// other way to tell a producer with acks=0 that a record was for another node.
// kfake forgets such a record, and then some producers never notice.
func unwelcome(c *kfake.Cluster, r *kmsg.ProduceRequest) error {
	if r.Acks != 0 {
		return nil
	}
	for _, topic := range r.Topics {
		name := topic.Topic
		if info := c.TopicIDInfo(topic.TopicID); name == "" && info != nil {
			name = info.Topic
		}
		for _, p := range topic.Partitions {
			if c.LeaderFor(name, p.Partition) != c.CurrentNode() {
				return fmt.Errorf("%s/%d has another leader", name, p.Partition)
			}
		}
	}
	return nil
}

// listenAt gives each further broker the next of the addresses; the last is for all
// that follow.
func listenAt(addresses ...string) func(network, address string) (net.Listener, error) {
	var mu sync.Mutex
	return func(network, address string) (net.Listener, error) {
		mu.Lock()
		defer mu.Unlock()
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		l, err := net.Listen(network, net.JoinHostPort(addresses[0], port))
		if len(addresses) > 1 {
			addresses = addresses[1:]
		}
		return &mortal{Listener: l}, err
	}
}

// mortal is a listener whose connections end with it, as those of a broker do.
// kfake's would stay, and be answered by a node that is no more.
type mortal struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (m *mortal) Accept() (net.Conn, error) {
	c, err := m.Listener.Accept()
	if err == nil {
		m.mu.Lock()
		m.conns = append(m.conns, c)
		m.mu.Unlock()
	}
	return c, err
}

func (m *mortal) Close() error {
	err := m.Listener.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		c.Close()
	}
	return err
}
