package kafka

import (
	"encoding/binary"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// round is a request and its answer, again and again over one connection.
type round struct {
	c                *Conn
	request, answer  []byte
	correlation      uint32
	given            int // how much of an answer the source has given before the rest is passed
	touched, through int64
}

func newRound(request, answer []byte) *round {
	return &round{c: New(&Options{Rewrite: rewriteAll}), request: request, answer: answer, given: len(answer)}
}

func (r *round) run(tb testing.TB) {
	r.correlation++
	binary.BigEndian.PutUint32(r.request[8:], r.correlation)
	binary.BigEndian.PutUint32(r.answer[4:], r.correlation)
	if s, err := r.c.Requests(r.request); err != nil || s.Take != len(r.request) {
		tb.Fatalf("%+v, %v", s, err)
	}
	have := r.given
	for rest := r.answer; len(rest) > 0; {
		if have == 0 {
			have = r.given
		}
		have = min(have, len(rest))
		s, err := r.c.Responses(rest[:have])
		if err != nil {
			tb.Fatal(err)
		}
		have = max(s.Need, have-s.Take-int(s.Pass), 0)
		rest = rest[s.Take+int(s.Pass):]
		r.touched += int64(s.Take)
	}
	r.through += int64(len(r.answer))
	if n := r.c.Pending(); n > 1 {
		tb.Fatalf("%d pending", n)
	}
}

// fetched is an answer to Fetch, with records in that many partitions.
func fetched(version int16, partitions, records int) []byte {
	m := kmsg.NewPtrFetchResponse()
	m.Version = version
	topic := kmsg.NewFetchResponseTopic()
	for range partitions {
		p := kmsg.NewFetchResponseTopicPartition()
		p.RecordBatches = make([]byte, records)
		topic.Partitions = append(topic.Partitions, p)
	}
	m.Topics = append(m.Topics, topic)
	return frame(m, 0)
}

func produced() []byte {
	m := kmsg.NewPtrProduceResponse()
	m.Version = 12
	topic := kmsg.NewProduceResponseTopic()
	topic.Topic = "orders"
	topic.Partitions = append(topic.Partitions, kmsg.NewProduceResponseTopicPartition())
	m.Topics = append(m.Topics, topic)
	return frame(m, 0)
}

var rounds = []struct {
	name  string
	round func() *round
}{
	{"Produce1K", func() *round { return newRound(produce(12, -1, nil, 0), produced()) }},
	{"Fetch1K", func() *round { return newRound(ask(keyFetch, 16, 0), fetched(16, 1, 1024)) }},
	{"Fetch1M", func() *round {
		r := newRound(ask(keyFetch, 16, 0), fetched(16, 1, 1<<20))
		r.given = 4 << 10
		return r
	}},
	{"Fetch1M50Partitions", func() *round {
		r := newRound(ask(keyFetch, 16, 0), fetched(16, 50, 1<<20/50))
		r.given = 4 << 10
		return r
	}},
	{"Fetch1KOld", func() *round { return newRound(ask(keyFetch, 11, 0), fetched(11, 1, 1024)) }},
}

func BenchmarkRound(b *testing.B) {
	for _, test := range rounds {
		b.Run(test.name, func(b *testing.B) {
			r := test.round()
			b.ReportAllocs()
			for b.Loop() {
				r.run(b)
			}
			b.SetBytes(int64(len(r.answer)))
			b.ReportMetric(float64(r.touched)/float64(r.through)*100, "%touched")
		})
	}
}

func BenchmarkMetadata(b *testing.B) {
	m := kmsg.NewPtrMetadataResponse()
	m.Version = 12
	for i := range int32(12) {
		m.Brokers = append(m.Brokers, kmsg.MetadataResponseBroker{NodeID: i, Host: "kafka1.corp.example.com", Port: 9092})
	}
	r := newRound(ask(keyMetadata, 12, 0), frame(m, 0))
	r.c.o.Rewrite = func(node int32, _ string, _ int32) (string, int32, bool) {
		return "kafka.corp.example.com", 19100 + node, true
	}
	b.ReportAllocs()
	for b.Loop() {
		r.run(b)
	}
}

// TestNoAllocation: nothing is allocated for what passes, once a connection is warm.
func TestNoAllocation(t *testing.T) {
	for _, test := range rounds {
		r := test.round()
		r.run(t)
		if n := testing.AllocsPerRun(100, func() { r.run(t) }); n != 0 {
			t.Errorf("%s: %v allocations", test.name, n)
		}
		if share := float64(r.touched) / float64(r.through); len(r.answer) > 1<<20 && share > 0.01 {
			t.Errorf("%s: %.2f %% of the bytes were seen", test.name, share*100)
		}
	}
}
