package kafkatest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
)

// shopify is sarama, of old github.com/Shopify/sarama. It speaks as the version
// that it is told of.
type shopify struct {
	version  sarama.KafkaVersion
	settings func(*sarama.Config) // more of them; may be nil
}

func (s shopify) config(d *dialler) *sarama.Config {
	cfg := sarama.NewConfig()
	cfg.ClientID = "kafkatest"
	cfg.Version = s.version
	cfg.Net.Proxy.Enable, cfg.Net.Proxy.Dialer = true, d
	cfg.Metadata.RefreshFrequency = refresh
	cfg.Metadata.Retry.Backoff = 50 * time.Millisecond
	cfg.Producer.Partitioner = sarama.NewManualPartitioner
	cfg.Producer.Return.Successes = true
	cfg.Producer.Retry.Max, cfg.Producer.Retry.Backoff = 20, 50*time.Millisecond
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	cfg.Consumer.Offsets.AutoCommit.Interval = 200 * time.Millisecond
	cfg.Consumer.Group.Heartbeat.Interval = 200 * time.Millisecond
	cfg.Consumer.Group.Session.Timeout = 6 * time.Second
	cfg.Consumer.IsolationLevel = sarama.ReadCommitted
	cfg.Consumer.MaxWaitTime = 250 * time.Millisecond
	cfg.Consumer.Retry.Backoff = 50 * time.Millisecond
	cfg.Consumer.Return.Errors = true
	if s.settings != nil {
		s.settings(cfg)
	}
	return cfg
}

func (s shopify) produce(ctx context.Context, d *dialler, acks int, l *ledger) error {
	cfg := s.config(d)
	cfg.Producer.RequiredAcks = sarama.RequiredAcks(acks)
	if acks == -1 {
		cfg.Producer.Idempotent, cfg.Net.MaxOpenRequests = true, 1
	}
	p, err := sarama.NewAsyncProducer([]string{bootstrap}, cfg)
	if err != nil {
		return err
	}
	var results sync.WaitGroup
	results.Go(func() {
		for m := range p.Successes() {
			if acks != 0 {
				l.ack(m.Partition, m.Offset, m.Metadata.(string))
			}
		}
	})
	results.Go(func() {
		for e := range p.Errors() {
			l.err(e)
		}
	})
	every(ctx, func(n int) {
		text := value(l, n)
		p.Input() <- &sarama.ProducerMessage{Topic: l.topic, Partition: partition(n), Value: sarama.StringEncoder(text), Metadata: text}
	})
	p.AsyncClose() // after what is under way
	results.Wait()
	return nil
}

func (s shopify) consume(ctx context.Context, d *dialler, l *ledger) error {
	g, err := sarama.NewConsumerGroup([]string{bootstrap}, l.topic, s.config(d))
	if err != nil {
		return err
	}
	var errs sync.WaitGroup
	errs.Go(func() {
		for err := range g.Errors() {
			l.err(err)
		}
	})
	for ctx.Err() == nil {
		if err := g.Consume(ctx, []string{l.topic}, reader{l}); err != nil {
			l.err(err)
		}
	}
	err = g.Close()
	errs.Wait()
	return err
}

// reader enters what a member of a group is given.
type reader struct{ l *ledger }

func (reader) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (reader) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (r reader) ConsumeClaim(s sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	for m := range c.Messages() {
		r.l.take(m.Partition, m.Offset, string(m.Value))
		s.MarkMessage(m, "")
	}
	return nil
}

func (s shopify) nodes(_ context.Context, d *dialler) (map[int32]string, error) {
	admin, err := sarama.NewClusterAdmin([]string{bootstrap}, s.config(d))
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	brokers, _, err := admin.DescribeCluster()
	nodes := map[int32]string{}
	for _, b := range brokers {
		nodes[b.ID()] = b.Addr()
	}
	return nodes, err
}

// transact is franz.transact for sarama.
func (s shopify) transact(ctx context.Context, d *dialler, l *ledger) error {
	cfg := s.config(d)
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Producer.Idempotent, cfg.Net.MaxOpenRequests = true, 1
	cfg.Producer.Transaction.ID = l.topic
	round := 0
	for ctx.Err() == nil {
		if err := s.transactions(ctx, cfg, l, &round); err != nil {
			l.err(err)
		}
	}
	return nil
}

// transactions goes on until something fails that a new producer mends.
func (s shopify) transactions(ctx context.Context, cfg *sarama.Config, l *ledger, round *int) error {
	p, err := sarama.NewSyncProducer([]string{bootstrap}, cfg)
	if err != nil {
		return err
	}
	defer p.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var failed error
	every(ctx, func(int) {
		*round++
		if err := s.transaction(p, l, *round); err != nil {
			l.err(err)
			if failed = p.AbortTxn(); failed != nil {
				stop()
			}
		}
	})
	return failed
}

func (s shopify) transaction(p sarama.SyncProducer, l *ledger, round int) error {
	messages, commit := transaction(l, round)
	var all []*sarama.ProducerMessage
	for n, text := range messages {
		all = append(all, &sarama.ProducerMessage{Topic: l.topic, Partition: partition(n), Value: sarama.StringEncoder(text)})
	}
	if err := p.BeginTxn(); err != nil {
		return err
	}
	if err := p.SendMessages(all); err != nil {
		return err
	}
	if !commit {
		return p.AbortTxn()
	}
	if err := p.CommitTxn(); err != nil {
		return err
	}
	for n, m := range all {
		l.ack(m.Partition, m.Offset, messages[n])
	}
	return nil
}

// TestSarama: sarama with brokers of each version, to which it speaks as to those.
func TestSarama(t *testing.T) {
	for version, speaks := range map[string]sarama.KafkaVersion{
		"0.11":   sarama.V0_11_0_0,
		"2.0":    sarama.V2_0_0_0,
		"2.8":    sarama.V2_8_0_0,
		"3.4":    sarama.V3_4_0_0,
		"3.7":    sarama.V3_7_0_0,
		"3.9":    sarama.V3_9_0_0,
		"4.0":    sarama.V4_0_0_0,
		"newest": sarama.MaxVersion,
	} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := shopify{version: speaks}
			matrix(t, version, s, append(allAcks(s), stream{topic: "transactions", write: s.transact, read: s.consume, holes: true, api: "EndTxn"}))
		})
	}
}
