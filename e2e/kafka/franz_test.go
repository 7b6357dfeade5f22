package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// franz is github.com/twmb/franz-go.
type franz struct{ common []kgo.Opt }

func newFranz(args jobArgs) (goClient, error) {
	// A broker that is about to end closes connections that it has just taken.
	f := &franz{[]kgo.Opt{kgo.SeedBrokers(args["bootstrap"]), kgo.RecordDeliveryTimeout(delivery), kgo.AlwaysRetryEOF(), kgo.DisableClientMetrics()}}
	config, err := args.tls()
	if err != nil {
		return nil, err
	}
	if config != nil {
		f.common = append(f.common, kgo.DialTLSConfig(config))
	}
	if m := args.mechanism(); m != nil {
		f.common = append(f.common, kgo.SASL(m))
	}
	return f, nil
}

// tls are the settings for the protocols with TLS, nil for the others.
func (a jobArgs) tls() (*tls.Config, error) {
	if a["ca"] == "" {
		return nil, nil
	}
	text, err := os.ReadFile(a["ca"])
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate", a["ca"])
	}
	return &tls.Config{RootCAs: pool}, nil
}

func (a jobArgs) mechanism() sasl.Mechanism {
	auth := scram.Auth{User: a["user"], Pass: a["password"]}
	switch a["mechanism"] {
	case "PLAIN":
		return plain.Auth{User: a["user"], Pass: a["password"]}.AsMechanism()
	case "SCRAM-SHA-256":
		return auth.AsSha256Mechanism()
	case "SCRAM-SHA-512":
		return auth.AsSha512Mechanism()
	}
	return nil
}

func (f *franz) client(more ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(more, f.common...)...)
}

func bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), jobTime)
}

type franzProducer struct{ *kgo.Client }

func (f *franz) producer(id string) (goProducer, error) {
	more := []kgo.Opt{kgo.ProducerLinger(5 * time.Millisecond), kgo.MaxBufferedRecords(200_000), kgo.RecordPartitioner(kgo.ManualPartitioner())}
	if id != "" {
		more = append(more, kgo.TransactionalID(id), kgo.TransactionTimeout(transaction))
	}
	c, err := f.client(more...)
	return franzProducer{c}, err
}

func (p franzProducer) send(topic string, partition int, value []byte, done func(error)) {
	p.Produce(context.Background(), &kgo.Record{Topic: topic, Partition: int32(partition), Value: value}, func(_ *kgo.Record, err error) { done(err) })
}

func (p franzProducer) flush() error {
	ctx, cancel := bounded()
	defer cancel()
	return p.Flush(ctx)
}

func (p franzProducer) begin() error { return p.BeginTransaction() }

func (p franzProducer) end(commit bool) error {
	ctx, cancel := bounded()
	defer cancel()
	return p.EndTransaction(ctx, kgo.TransactionEndTry(commit))
}

func (p franzProducer) close() { p.Close() }

type franzConsumer struct {
	*kgo.Client
	partitions atomic.Int64
}

func (f *franz) consumer(topic, group, protocol string) (goConsumer, error) {
	c := &franzConsumer{}
	change := func(sign int64) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, m map[string][]int32) {
			c.partitions.Add(sign * int64(len(m[topic])))
		}
	}
	if protocol == "share" {
		var err error
		c.Client, err = f.client(kgo.ConsumeTopics(topic), kgo.ShareGroup(group))
		return c, err
	}
	more := []kgo.Opt{
		kgo.ConsumeTopics(topic), kgo.ConsumerGroup(group), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.OnPartitionsAssigned(change(1)), kgo.OnPartitionsRevoked(change(-1)), kgo.OnPartitionsLost(change(-1)), kgo.Balancers(kgo.RangeBalancer()),
	}
	if protocol == "consumer" {
		more = append(more, kgo.ServerSideBalancer())
	}
	var err error
	c.Client, err = f.client(more...)
	return c, err
}

func (c *franzConsumer) poll() ([]record, error) {
	ctx, cancel := context.WithTimeout(context.Background(), pollFor)
	defer cancel()
	return recordsOf(c.PollFetches(ctx))
}

// recordsOf takes out what was read. The client mends by itself what it can; what
// it tells of are the others' errors.
func recordsOf(fetches kgo.Fetches) ([]record, error) {
	var records []record
	fetches.EachRecord(func(r *kgo.Record) {
		records = append(records, record{r.Topic, int(r.Partition), r.Offset, r.Value})
	})
	var problems error
	fetches.EachError(func(topic string, partition int32, err error) {
		var dns *net.DNSError
		switch {
		case errors.Is(err, context.DeadlineExceeded):
		case errors.As(err, &dns), topic != "":
			problems = errors.Join(problems, fmt.Errorf("%s/%d: %w", topic, partition, err))
		default:
			fmt.Fprintln(os.Stderr, "consumer:", err)
		}
	})
	return records, problems
}

func (c *franzConsumer) assigned() int { return int(c.partitions.Load()) }

func (c *franzConsumer) close() { c.Close() }

func (f *franz) copy(from, to, name string, n int) error {
	s, err := kgo.NewGroupTransactSession(append(f.common, kgo.TransactionalID(name), kgo.TransactionTimeout(transaction), kgo.ConsumeTopics(from), kgo.ConsumerGroup(name),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		return err
	}
	defer s.Close()
	copied := 0
	return within(func() string { return fmt.Sprintf("copied %d of %d", copied, n) }, func() (bool, error) {
		ctx, cancel := context.WithTimeout(context.Background(), pollFor)
		defer cancel()
		records, err := recordsOf(s.PollFetches(ctx))
		if err != nil || len(records) == 0 {
			return false, err
		}
		ended, err := copyBatch(s, to, records)
		if ended {
			copied += len(records)
		}
		return copied >= n, err
	})
}

func copyBatch(s *kgo.GroupTransactSession, to string, records []record) (committed bool, err error) {
	if err := s.Begin(); err != nil {
		return false, err
	}
	ctx, cancel := bounded()
	defer cancel()
	var a acks
	for _, r := range records {
		s.Produce(ctx, &kgo.Record{Topic: to, Partition: int32(r.partition), Value: r.value}, func(_ *kgo.Record, err error) { a.done(err) })
	}
	if err := errors.Join(s.Client().Flush(ctx), a.err()); err != nil {
		return false, err
	}
	return s.End(ctx, kgo.TryCommit)
}

func (f *franz) describe() (map[int]string, int, error) {
	c, err := f.client()
	if err != nil {
		return nil, 0, err
	}
	defer c.Close()
	ctx, cancel := bounded()
	defer cancel()
	d, err := kmsg.NewPtrDescribeClusterRequest().RequestWith(ctx, c)
	if err == nil {
		err = kerr.ErrorForCode(d.ErrorCode)
	}
	if err != nil {
		return nil, 0, err
	}
	nodes := map[int]string{}
	for _, b := range d.Brokers {
		nodes[int(b.NodeID)] = fmt.Sprintf("%s:%d", b.Host, b.Port)
	}
	return nodes, int(d.ControllerID), nil
}
