package kafka

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// saramaClient is github.com/IBM/sarama. It does not know KIP-848.
type saramaClient struct {
	args  jobArgs
	addrs []string
}

func newSarama(args jobArgs) (goClient, error) {
	return &saramaClient{args, []string{args["bootstrap"]}}, nil
}

// config is for a cluster as new as the library knows.
func (s *saramaClient) config() (*sarama.Config, error) {
	c := sarama.NewConfig()
	c.Version = sarama.MaxVersion
	if s.args["version"] != "" {
		var err error
		if c.Version, err = sarama.ParseKafkaVersion(s.args["version"]); err != nil {
			return nil, err
		}
	}
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Idempotent = true
	c.Net.MaxOpenRequests = 1 // idempotence wants it
	c.Producer.Return.Successes = true
	c.Producer.Retry.Max, c.Producer.Retry.Backoff = int(delivery/(200*time.Millisecond)), 200*time.Millisecond
	c.Producer.Transaction.Timeout, c.Consumer.Group.Session.Timeout = transaction, session
	c.Producer.Flush.Frequency, c.Producer.Flush.MaxMessages = 5*time.Millisecond, 20_000
	c.Producer.Partitioner = sarama.NewManualPartitioner
	c.Producer.Transaction.Retry.Max = 600 // of 100 ms
	c.Admin.Timeout = time.Minute
	c.Metadata.Retry.Max, c.Metadata.Retry.Backoff = 300, 200*time.Millisecond
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.IsolationLevel = sarama.ReadCommitted
	c.Consumer.Return.Errors = true
	return c, s.secure(c)
}

func (s *saramaClient) secure(c *sarama.Config) error {
	config, err := s.args.tls()
	c.Net.TLS.Enable, c.Net.TLS.Config = config != nil, config
	if s.args["mechanism"] != "" {
		c.Net.SASL.Enable, c.Net.SASL.Mechanism = true, sarama.SASLMechanism(s.args["mechanism"])
		c.Net.SASL.User, c.Net.SASL.Password = s.args["user"], s.args["password"]
		c.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &saramaSCRAM{args: s.args} }
	}
	return err
}

// saramaSCRAM lends sarama, which has none, the SCRAM of franz-go.
type saramaSCRAM struct {
	args    jobArgs
	session interface {
		Challenge([]byte) (bool, []byte, error)
	}
	first []byte
	done  bool
}

func (s *saramaSCRAM) Begin(user, password, _ string) error {
	auth := scram.Auth{User: user, Pass: password}
	mechanism := auth.AsSha256Mechanism()
	if s.args["mechanism"] == "SCRAM-SHA-512" {
		mechanism = auth.AsSha512Mechanism()
	}
	session, first, err := mechanism.Authenticate(context.Background(), "")
	s.session, s.first = session, first
	return err
}

// Step is first asked with nothing.
func (s *saramaSCRAM) Step(challenge string) (string, error) {
	if challenge == "" {
		return string(s.first), nil
	}
	done, answer, err := s.session.Challenge([]byte(challenge))
	s.done = done
	return string(answer), err
}

func (s *saramaSCRAM) Done() bool { return s.done }

type saramaProducer struct {
	sarama.AsyncProducer
	pending sync.WaitGroup
	readers sync.WaitGroup
}

func (s *saramaClient) producer(id string) (goProducer, error) {
	c, err := s.config()
	if err != nil {
		return nil, err
	}
	if id != "" {
		c.Producer.Transaction.ID = id
	}
	p := &saramaProducer{}
	if p.AsyncProducer, err = sarama.NewAsyncProducer(s.addrs, c); err != nil {
		return nil, err
	}
	p.readers.Go(func() {
		for m := range p.Successes() {
			m.Metadata.(func(error))(nil)
			p.pending.Done()
		}
	})
	p.readers.Go(func() {
		for e := range p.Errors() {
			e.Msg.Metadata.(func(error))(e.Err)
			p.pending.Done()
		}
	})
	return p, nil
}

func (p *saramaProducer) send(topic string, partition int, value []byte, done func(error)) {
	p.pending.Add(1)
	p.Input() <- &sarama.ProducerMessage{Topic: topic, Partition: int32(partition), Value: sarama.ByteEncoder(value), Metadata: done}
}

func (p *saramaProducer) flush() error {
	all := make(chan struct{})
	go func() {
		p.pending.Wait()
		close(all)
	}()
	select {
	case <-all:
		return nil
	case <-time.After(jobTime):
		return errors.New("not all is acknowledged")
	}
}

func (p *saramaProducer) begin() error { return p.BeginTxn() }

func (p *saramaProducer) end(commit bool) error {
	if commit {
		return p.CommitTxn()
	}
	return p.AbortTxn()
}

func (p *saramaProducer) close() {
	p.AsyncClose()
	p.readers.Wait()
}

// saramaConsumer is a member of a group, which sarama calls back.
type saramaConsumer struct {
	group   sarama.ConsumerGroup
	records chan record
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu         sync.Mutex
	partitions int
}

func (s *saramaClient) consumer(topic, group, protocol string) (goConsumer, error) {
	if protocol != "classic" {
		return nil, errors.New("sarama has no protocol of groups but the classic one")
	}
	return s.member(topic, group, true)
}

// member joins a group. Without commits, what it has read is for others to note.
func (s *saramaClient) member(topic, group string, commits bool) (goConsumer, error) {
	config, err := s.config()
	if err != nil {
		return nil, err
	}
	config.Consumer.Offsets.AutoCommit.Enable = commits
	c := &saramaConsumer{records: make(chan record, 100_000)}
	if c.group, err = sarama.NewConsumerGroup(s.addrs, group, config); err != nil {
		return nil, err
	}
	var ctx context.Context
	ctx, c.cancel = context.WithCancel(context.Background())
	c.running.Go(func() {
		for ctx.Err() == nil { // a session ends with each rebalance
			if err := c.group.Consume(ctx, []string{topic}, c); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "consumer:", err)
				time.Sleep(pollFor)
			}
		}
	})
	c.running.Go(func() {
		for err := range c.group.Errors() {
			fmt.Fprintln(os.Stderr, "consumer:", err)
		}
	})
	return c, nil
}

// Setup begins a session. Source: sarama.ConsumerGroupHandler.
func (c *saramaConsumer) Setup(s sarama.ConsumerGroupSession) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partitions = 0
	for _, p := range s.Claims() {
		c.partitions += len(p)
	}
	return nil
}

// Cleanup ends a session.
func (c *saramaConsumer) Cleanup(sarama.ConsumerGroupSession) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partitions = 0
	return nil
}

// ConsumeClaim reads a partition until the session ends.
func (c *saramaConsumer) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case m, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			select {
			case c.records <- record{m.Topic, int(m.Partition), m.Offset, m.Value}:
				s.MarkMessage(m, "")
			case <-s.Context().Done():
				return nil
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

func (c *saramaConsumer) poll() ([]record, error) {
	var records []record
	for end := time.After(pollFor); ; {
		select {
		case r := <-c.records:
			if records = append(records, r); len(records) == cap(c.records) {
				return records, nil
			}
		case <-end:
			return records, nil
		}
	}
}

func (c *saramaConsumer) assigned() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.partitions
}

func (c *saramaConsumer) close() {
	c.cancel()
	if err := c.group.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "consumer:", err)
	}
	c.running.Wait()
}

func (s *saramaClient) copy(from, to, name string, n int) error {
	in, err := s.member(from, name, false)
	if err != nil {
		return err
	}
	defer in.close()
	p, err := s.producer(name)
	if err != nil {
		return err
	}
	defer p.close()
	copied := 0
	return within(func() string { return fmt.Sprintf("copied %d of %d", copied, n) }, func() (bool, error) {
		records, err := in.poll()
		if err == nil && len(records) > 0 {
			err = copyWith(p.(*saramaProducer), to, name, records)
			copied += len(records)
		}
		return copied >= n, err
	})
}

func copyWith(p *saramaProducer, to, group string, records []record) error {
	if err := p.begin(); err != nil {
		return err
	}
	var a acks
	offsets := map[string][]*sarama.PartitionOffsetMetadata{}
	last := map[int]int64{}
	for _, r := range records {
		p.send(to, r.partition, r.value, a.done)
		last[r.partition] = r.offset
	}
	for partition, offset := range last {
		offsets[records[0].topic] = append(offsets[records[0].topic], &sarama.PartitionOffsetMetadata{Partition: int32(partition), Offset: offset + 1})
	}
	if err := errors.Join(p.flush(), a.err(), p.AddOffsetsToTxn(offsets, group)); err != nil {
		return err
	}
	return p.end(true)
}

func (s *saramaClient) describe() (map[int]string, int, error) {
	c, err := s.config()
	if err != nil {
		return nil, 0, err
	}
	a, err := sarama.NewClusterAdmin(s.addrs, c)
	if err != nil {
		return nil, 0, err
	}
	defer a.Close()
	brokers, controller, err := a.DescribeCluster()
	nodes := map[int]string{}
	for _, b := range brokers {
		nodes[int(b.ID())] = b.Addr()
	}
	return nodes, int(controller), err
}
