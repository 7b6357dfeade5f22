package kafkatest

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
)

// segmentio is kafka-go. It knows no transactions and no idempotence.
type segmentio struct{ mechanism sasl.Mechanism }

func (s segmentio) transport(d *dialler) *kafka.Transport {
	return &kafka.Transport{Dial: d.DialContext, ClientID: "kafkatest", MetadataTTL: refresh, SASL: s.mechanism}
}

func (s segmentio) produce(ctx context.Context, d *dialler, acks int, l *ledger) error {
	transport := s.transport(d)
	defer transport.CloseIdleConnections()
	w := &kafka.Writer{
		Addr: kafka.TCP(bootstrap), Topic: l.topic, Transport: transport,
		RequiredAcks: kafka.RequiredAcks(acks),
		Async:        true,
		BatchTimeout: pace, MaxAttempts: 20,
		WriteBackoffMin: 50 * time.Millisecond, WriteBackoffMax: 200 * time.Millisecond,
		Balancer: kafka.BalancerFunc(func(m kafka.Message, _ ...int) int { return m.WriterData.(int) }),
		Completion: func(messages []kafka.Message, err error) {
			for _, m := range messages {
				switch {
				case err != nil:
					l.err(err)
				case acks != 0:
					l.ack(int32(m.Partition), m.Offset, string(m.Value))
				}
			}
		},
	}
	every(ctx, func(n int) {
		err := w.WriteMessages(context.WithoutCancel(ctx), kafka.Message{Value: []byte(value(l, n)), WriterData: int(partition(n))})
		if err != nil {
			l.err(err)
		}
	})
	return w.Close() // after what is under way
}

func (s segmentio) consume(ctx context.Context, d *dialler, l *ledger) error {
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{bootstrap}, GroupID: l.topic, Topic: l.topic,
		Dialer:            &kafka.Dialer{DialFunc: d.DialContext, ClientID: "kafkatest", Timeout: 5 * time.Second, SASLMechanism: s.mechanism},
		StartOffset:       kafka.FirstOffset,
		MaxWait:           2 * time.Second,
		HeartbeatInterval: 500 * time.Millisecond,
		CommitInterval:    200 * time.Millisecond, // kafka-go spins while a commit and a heartbeat wait
		SessionTimeout:    6 * time.Second,
		JoinGroupBackoff:  100 * time.Millisecond,
		ReadBackoffMin:    20 * time.Millisecond,
		ReadBackoffMax:    100 * time.Millisecond,
		ErrorLogger:       kafka.LoggerFunc(func(format string, args ...any) { l.err(fmt.Errorf(format, args...)) }),
	})
	for ctx.Err() == nil {
		m, err := r.ReadMessage(ctx)
		switch {
		case err == nil:
			l.take(int32(m.Partition), m.Offset, string(m.Value))
		case ctx.Err() == nil:
			l.err(err)
		}
	}
	return r.Close()
}

func (s segmentio) nodes(ctx context.Context, d *dialler) (map[int32]string, error) {
	transport := s.transport(d)
	defer transport.CloseIdleConnections()
	resp, err := (&kafka.Client{Addr: kafka.TCP(bootstrap), Transport: transport}).Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		return nil, err
	}
	nodes := map[int32]string{}
	for _, b := range resp.Brokers {
		nodes[int32(b.ID)] = net.JoinHostPort(b.Host, strconv.Itoa(b.Port))
	}
	return nodes, nil
}

// TestKafkaGo: kafka-go with brokers of each version.
func TestKafkaGo(t *testing.T) {
	for version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			matrix(t, version, segmentio{}, allAcks(segmentio{}))
		})
	}
}
