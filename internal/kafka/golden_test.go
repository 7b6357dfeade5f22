package kafka

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

var update = flag.Bool("update", false, "write testdata/golden.txt anew")

// three are nodes of which one is told by another address, one is dropped, and one is none.
func three[T any](node func(id int32, host string, port int32) T) []T {
	return []T{node(1, "b1.real.invalid", 9092), node(200, "b200.real.invalid", 9092), node(-1, "", -1)}
}

// small is an answer with those.
func small(key, version int16) kmsg.Response {
	m := kmsg.ResponseForKey(key)
	m.SetVersion(version)
	rack := kmsg.StringPtr("a")
	switch m := m.(type) {
	case *kmsg.ProduceResponse:
		t := kmsg.NewProduceResponseTopic()
		t.Topic, t.Partitions = "t", append(t.Partitions, kmsg.NewProduceResponseTopicPartition())
		t.Partitions[0].CurrentLeader.LeaderID = 1
		m.Topics = append(m.Topics, t)
		m.Brokers = three(func(id int32, host string, port int32) kmsg.ProduceResponseBroker {
			return kmsg.ProduceResponseBroker{NodeID: id, Host: host, Port: port, Rack: rack}
		})
	case *kmsg.FetchResponse:
		t := kmsg.NewFetchResponseTopic()
		t.Topic, t.Partitions = "t", append(t.Partitions, kmsg.NewFetchResponseTopicPartition(), kmsg.NewFetchResponseTopicPartition())
		t.Partitions[0].RecordBatches = []byte("records")
		t.Partitions[1].AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{{ProducerID: 5, FirstOffset: 6}}
		m.Topics = append(m.Topics, t)
		m.Brokers = three(func(id int32, host string, port int32) kmsg.FetchResponseBroker {
			return kmsg.FetchResponseBroker{NodeID: id, Host: host, Port: port, Rack: rack}
		})
	case *kmsg.MetadataResponse:
		m.Brokers = three(func(id int32, host string, port int32) kmsg.MetadataResponseBroker {
			return kmsg.MetadataResponseBroker{NodeID: id, Host: host, Port: port, Rack: rack}
		})
		m.ClusterID = kmsg.StringPtr("cluster")
	case *kmsg.FindCoordinatorResponse:
		m.NodeID, m.Host, m.Port = 1, "b1.real.invalid", 9092
		m.Coordinators = three(func(id int32, host string, port int32) kmsg.FindCoordinatorResponseCoordinator {
			return kmsg.FindCoordinatorResponseCoordinator{Key: "group", NodeID: id, Host: host, Port: port}
		})
	case *kmsg.ApiVersionsResponse:
		for _, k := range [][3]int16{{0, 0, 99}, {1, 4, 18}, {18, 0, 9}, {60, 0, 2}, {66, 0, 99}, {95, 0, 0}} {
			m.ApiKeys = append(m.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: k[0], MinVersion: k[1], MaxVersion: k[2]})
		}
		m.FinalizedFeatures = []kmsg.ApiVersionsResponseFinalizedFeature{{Name: "transaction.version", MaxVersionLevel: 2, MinVersionLevel: 2}}
	case *kmsg.DescribeClusterResponse:
		m.EndpointType = 1
		m.Brokers = three(func(id int32, host string, port int32) kmsg.DescribeClusterResponseBroker {
			return kmsg.DescribeClusterResponseBroker{NodeID: id, Host: host, Port: port, Rack: rack, IsFenced: true}
		})
	case *kmsg.ShareFetchResponse:
		m.NodeEndpoints = three(func(id int32, host string, port int32) kmsg.ShareFetchResponseNodeEndpoint {
			return kmsg.ShareFetchResponseNodeEndpoint{NodeID: id, Host: host, Port: port, Rack: rack}
		})
	case *kmsg.ShareAcknowledgeResponse:
		m.NodeEndpoints = three(func(id int32, host string, port int32) kmsg.ShareAcknowledgeResponseNodeEndpoint {
			return kmsg.ShareAcknowledgeResponseNodeEndpoint{NodeID: id, Host: host, Port: port, Rack: rack}
		})
	}
	return m
}

// TestGolden: the frames of testdata/golden.txt, which neither kmsg nor this package can
// change unseen.
func TestGolden(t *testing.T) {
	var got bytes.Buffer
	everyVersion(t, func(t *testing.T, key, version int16) {
		m := small(key, version)
		in := frame(m, 7)
		for _, limit := range []int{smallFrame, 1} {
			if limit == 1 && (layoutOf(key, version) == nil || !layoutOf(key, version).stream) {
				continue
			}
			p := exchange(t, &Options{Rewrite: rewriteAll, small: limit}, whole, m, in)
			note := ""
			if limit == 1 {
				note = ", large"
			}
			fmt.Fprintf(&got, "%s %d%s\n in %s\n", apiName(key), version, note, hex.EncodeToString(in))
			if bytes.Equal(in, p.res.out) {
				fmt.Fprintf(&got, "out the same\n")
			} else {
				fmt.Fprintf(&got, "out %s\n", hex.EncodeToString(p.res.out))
			}
		}
	})
	const file = "testdata/golden.txt"
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	g, w := bytes.Split(got.Bytes(), []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || !bytes.Equal(g[i], w[i]) {
			t.Fatalf("line %d of %s is another; -update writes it", i+1, file)
		}
	}
}

// TestByHand has frames that were written by hand from the protocol guide.
func TestByHand(t *testing.T) {
	for _, test := range []struct {
		name         string
		key, version int16
		in, out      string
	}{
		{
			"Metadata 1: two brokers", keyMetadata, 1,
			"\x00\x00\x00\x3b" + "\x00\x00\x00\x07" + // size, correlation id
				"\x00\x00\x00\x02" + // brokers
				"\x00\x00\x00\x01" + "\x00\x09kafka1.lo" + "\x00\x00\x23\x84" + "\xff\xff" + // id, host, port, no rack
				"\x00\x00\x00\xc8" + "\x00\x09kafka2.lo" + "\x00\x00\x23\x84" + "\x00\x01a" +
				"\x00\x00\x00\x01" + "\x00\x00\x00\x00", // controller, topics
			"\x00\x00\x00\x2e" + "\x00\x00\x00\x07" +
				"\x00\x00\x00\x01" +
				"\x00\x00\x00\x01" + "\x00\x12n1.midspan.example" + "\x00\x00\x4a\x9d" + "\xff\xff" +
				"\x00\x00\x00\x01" + "\x00\x00\x00\x00",
		},
		{
			"FindCoordinator 3: it is dropped", keyFindCoordinator, 3,
			"\x00\x00\x00\x1e" + "\x00\x00\x00\x07" + "\x00" + // size, correlation id, tags
				"\x00\x00\x00\x00" + "\x00\x00" + "\x05NONE" + // throttle time, error, message
				"\x00\x00\x00\xc8" + "\x05b200" + "\x00\x00\x23\x84" + "\x00",
			"\x00\x00\x00\x16" + "\x00\x00\x00\x07" + "\x00" +
				"\x00\x00\x00\x00" + "\x00\x0f" + "\x00" +
				"\xff\xff\xff\xff" + "\x01" + "\xff\xff\xff\xff" + "\x00",
		},
		{
			"Fetch 16: an address behind no topics", keyFetch, 16,
			"\x00\x00\x00\x22" + "\x00\x00\x00\x07" + "\x00" +
				"\x00\x00\x00\x00" + "\x00\x00" + "\x00\x00\x00\x05" + "\x01" + // throttle time, error, session, topics
				"\x01" + "\x00" + "\x0f" + // one tagged field: number, size
				"\x02" + "\x00\x00\x00\x01" + "\x03b1" + "\x00\x00\x23\x84" + "\x02a" + "\x00", // nodes: id, host, port, rack, tags
			"\x00\x00\x00\x32" + "\x00\x00\x00\x07" + "\x00" +
				"\x00\x00\x00\x00" + "\x00\x00" + "\x00\x00\x00\x05" + "\x01" +
				"\x01" + "\x00" + "\x1f" +
				"\x02" + "\x00\x00\x00\x01" + "\x13n1.midspan.example" + "\x00\x00\x4a\x9d" + "\x02a" + "\x00",
		},
	} {
		p := newPair(t, &Options{Rewrite: rewriteAll}, bytewise)
		p.request(ask(test.key, test.version, 7))
		p.response([]byte(test.in))
		if p.res.err != nil || string(p.res.out) != test.out {
			t.Errorf("%s: %v\n got %x\nwant %x", test.name, p.res.err, p.res.out, test.out)
		}
	}
}
