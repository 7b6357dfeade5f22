package load

import (
	"context"
	"encoding/binary"
	"io"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestKafka: both ends understand each other.
func TestKafka(t *testing.T) {
	addr := startWith(t, func(ctx context.Context, addr string) error { return ServeKafka(ctx, addr) })
	r, err := Run(Spec{Addr: addr, Conns: 4, Steps: []Step{ProduceKafka(1024), FetchKafka(), ProduceKafka(1)}, Kafka: true, Sessions: 5}, io.Discard)
	if err != nil || r.Errors > 0 || r.Sessions != 20 || r.BytesDown != 20*(2*int64(len(produced()))+FetchKafka().Receive) {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Run(Spec{Addr: addr, Conns: 1, Steps: []Step{{64, 64}}, Kafka: true, Sessions: 1}, io.Discard); err == nil {
		t.Error("a step that is no frame is taken")
	}
}

// TestKafkaFrames: the frames are what another codec takes for such requests and
// answers, whole.
func TestKafkaFrames(t *testing.T) {
	produce, fetch := kmsg.NewPtrProduceRequest(), kmsg.NewPtrFetchRequest()
	produce.Version, fetch.Version = versionProduce, versionFetch
	request := func(b []byte) []byte { return b[kafkaHead+3:] }
	whole := func(b []byte) {
		t.Helper()
		if n := binary.BigEndian.Uint32(b); int(n) != len(b)-kafkaSize {
			t.Errorf("a frame of %d bytes says %d", len(b)-kafkaSize, n)
		}
	}
	b := kafkaProduce(1000)
	whole(b)
	if err := produce.ReadFrom(request(b)); err != nil || produce.Acks != -1 || len(produce.Topics[0].Partitions[0].Records) != 1000 {
		t.Errorf("%+v, %v", produce, err)
	}
	if again := produce.AppendTo(nil); string(again) != string(request(b)) {
		t.Errorf("%x, not %x", request(b), again)
	}
	b = kafkaFetch()
	whole(b)
	if err := fetch.ReadFrom(request(b)); err != nil || fetch.Topics[0].Partitions[0].PartitionMaxBytes != fetchRecords {
		t.Errorf("%+v, %v", fetch, err)
	}
	if again := fetch.AppendTo(nil); string(again) != string(request(b)) {
		t.Errorf("%x, not %x", request(b), again)
	}
	answer := produced()
	whole(answer)
	made := kmsg.NewPtrProduceResponse()
	made.Version = versionProduce
	if err := made.ReadFrom(answer[9:]); err != nil || string(made.AppendTo(nil)) != string(answer[9:]) {
		t.Errorf("%+v, %v: %x, not %x", made, err, answer[9:], made.AppendTo(nil))
	}
	answer = append(fetched(), make([]byte, fetchRecords+fetchTail)...)
	whole(answer)
	got := kmsg.NewPtrFetchResponse()
	got.Version = versionFetch
	if err := got.ReadFrom(answer[9:]); err != nil || len(got.Topics[0].Partitions[0].RecordBatches) != fetchRecords {
		t.Errorf("%d topics, %v", len(got.Topics), err)
	}
}
