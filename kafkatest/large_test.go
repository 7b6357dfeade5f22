package kafkatest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// sizes are of the records of each partition, in bytes, around what is looked at
// whole and what passes unread.
var sizes = []int{0, 1, 60 << 10, 64<<10 - 100, 64 << 10, 1 << 20, 20 << 20, 3, 1 << 20}

// TestLarge: large answers, at whose end are the addresses of new leaders.
func TestLarge(t *testing.T) {
	ca := newAuthority(t)
	for name, route := range map[string][]string{
		"fetch": nil, "sharefetch": nil,
		"fetch TLS": {ca.terminate()}, "sharefetch TLS": {ca.terminate()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			topic, _, overTLS := strings.Cut(name, " ")
			c := allAtNode0(t, topic)
			d, _ := forwarders(t, 1, c.ListenAddrs(), route...)
			if overTLS {
				d.tls = ca.trust()
			}
			f := franz{[]kgo.Opt{
				kgo.ProducerBatchMaxBytes(90 << 20), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedBytes(200 << 20),
				kgo.FetchMaxBytes(90 << 20), kgo.FetchMaxPartitionBytes(90 << 20),
			}}
			read := f.consume
			if topic == "sharefetch" {
				read = f.share
			}
			l := newLedger(topic, partitions)
			if err := f.fill(t.Context(), d, l); err != nil {
				t.Fatal(err)
			}
			readLarge(t, c, d, l, read)
		})
	}
}

// allAtNode0 is a cluster of which node 0 leads all partitions of a topic.
func allAtNode0(t *testing.T, topic string) *kfake.Cluster {
	t.Helper()
	c := cluster(t, "newest", kfake.BrokerConfigs(map[string]string{"message.max.bytes": "100000000"}), kfake.SeedTopics(partitions, topic))
	c.SetGroupConfigs(topic, map[string]string{"share.auto.offset.reset": "earliest"})
	for p := range int32(partitions) {
		if err := c.MoveTopicPartition(topic, p, 0); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// readLarge reads all that the ledger has, while a leader moves.
func readLarge(t *testing.T, c *kfake.Cluster, d *dialler, l *ledger, read work) {
	t.Helper()
	moved := moveUnderFetch(t, c, l.topic)
	ctx, stop := context.WithCancel(t.Context())
	var reader sync.WaitGroup
	defer reader.Wait()
	defer stop()
	reader.Go(func() {
		if err := read(ctx, d, l); err != nil {
			t.Error(err)
		}
	})
	within(t, func() string {
		if l.unread() > 0 || !moved() {
			return "not all is read, or no leader has moved; reported: " + l.reported()
		}
		return ""
	})
	l.finish(t)
}

// fill writes records of all sizes to each partition.
func (f franz) fill(ctx context.Context, d *dialler, l *ledger) error {
	cl, err := f.dial(d, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	noise := rand.NewChaCha8([32]byte{})
	for p := range int32(partitions) {
		for _, size := range sizes {
			value := make([]byte, size)
			_, _ = noise.Read(value) // never fails
			r, err := cl.ProduceSync(ctx, &kgo.Record{Topic: l.topic, Partition: p, Value: value}).First()
			if err != nil {
				return err
			}
			l.ack(p, r.Offset, digest(value))
		}
	}
	return nil
}

// digest stands for a value in a ledger.
func digest(value []byte) string {
	if len(value) < 1000 {
		return string(value)
	}
	sum := sha256.Sum256(value)
	return hex.EncodeToString(sum[:])
}

// moveUnderFetch moves partition 1 away while the first fetch of several
// partitions is being answered: so the answer has records of the others, and then
// where the new leader is.
func moveUnderFetch(t *testing.T, c *kfake.Cluster, topic string) (moved func() bool) {
	var mu sync.Mutex
	var done bool
	for _, key := range []kmsg.Key{kmsg.Fetch, kmsg.ShareFetch} {
		c.ControlKey(key.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			mu.Lock()
			defer mu.Unlock()
			if !done && fetched(r) == partitions {
				done = true
				if err := c.MoveTopicPartition(topic, 1, 2); err != nil {
					t.Error(err)
				}
			}
			return nil, nil, false
		})
	}
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		return done
	}
}

func fetched(r kmsg.Request) (n int) {
	switch r := r.(type) {
	case *kmsg.FetchRequest:
		for _, t := range r.Topics {
			n += len(t.Partitions)
		}
	case *kmsg.ShareFetchRequest:
		for _, t := range r.Topics {
			n += len(t.Partitions)
		}
	}
	return n
}

// TestPipelined: a client that sends thousands of requests before it reads an
// answer gets them all, in order: also those that the forwarder itself gives.
func TestPipelined(t *testing.T) {
	t.Parallel()
	d, _ := forwarders(t, 1, cluster(t, "newest").ListenAddrs())
	conn, err := d.Dial("tcp", bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	const requests = 5000
	versions := []int16{0, 4, 99} // the last is of no broker yet
	var all []byte
	for i := range requests {
		all = append(all, request(kmsg.NewPtrApiVersionsRequest(), versions[i%3], int32(i))...)
	}
	var sender sync.WaitGroup
	defer sender.Wait()
	sender.Go(func() {
		if _, err := conn.Write(all); err != nil {
			t.Error(err)
		}
	})
	for i, r := 0, bufio.NewReader(conn); i < requests; i++ {
		answer, err := frame(r)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if id := binary.BigEndian.Uint32(answer); id != uint32(i) {
			t.Fatalf("answer %d is to request %d", i, id)
		}
		if code := binary.BigEndian.Uint16(answer[4:]); (code == uint16(kerr.UnsupportedVersion.Code)) != (i%3 == 2) {
			t.Fatalf("answer %d to version %d has error code %d", i, versions[i%3], code)
		}
	}
}

// request is one as it goes over the wire.
func request(r kmsg.Request, version int16, id int32) []byte {
	r.SetVersion(min(version, r.MaxVersion()))
	b := kmsg.NewRequestFormatter(kmsg.FormatterClientID("kafkatest")).AppendRequest(nil, r, id)
	binary.BigEndian.PutUint16(b[6:], uint16(version))
	return slices.Clip(b)
}

// frame is the next, without its length.
func frame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}
