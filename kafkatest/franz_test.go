package kafkatest

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// franz is franz-go. It follows the addresses in errors (KIP-951).
type franz struct{ extra []kgo.Opt }

func (f franz) dial(d *dialler, opts ...kgo.Opt) (*kgo.Client, error) {
	all := []kgo.Opt{
		kgo.SeedBrokers(bootstrap),
		kgo.Dialer(d.DialContext),
		kgo.MetadataMaxAge(refresh),
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.FetchMaxWait(250 * time.Millisecond),
	}
	return kgo.NewClient(append(append(all, f.extra...), opts...)...)
}

var franzAcks = map[int]kgo.Acks{0: kgo.NoAck(), 1: kgo.LeaderAck(), -1: kgo.AllISRAcks()}

func (f franz) produce(ctx context.Context, d *dialler, acks int, l *ledger) error {
	opts := []kgo.Opt{kgo.RequiredAcks(franzAcks[acks]), kgo.RecordPartitioner(kgo.ManualPartitioner())}
	if acks != -1 {
		opts = append(opts, kgo.DisableIdempotentWrite())
	}
	cl, err := f.dial(d, opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	every(ctx, func(n int) {
		r := &kgo.Record{Topic: l.topic, Partition: partition(n), Value: []byte(value(l, n))}
		cl.Produce(context.WithoutCancel(ctx), r, func(r *kgo.Record, err error) {
			switch {
			case err != nil:
				l.err(err)
			case acks != 0:
				l.ack(r.Partition, r.Offset, string(r.Value))
			}
		})
	})
	return f.flush(ctx, cl)
}

func (f franz) flush(ctx context.Context, cl *kgo.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return cl.Flush(ctx)
}

func (f franz) consume(ctx context.Context, d *dialler, l *ledger) error {
	return f.poll(ctx, d, l, kgo.ConsumerGroup(l.topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
}

// consume848 reads in a group of KIP-848.
func (f franz) consume848(ctx context.Context, d *dialler, l *ledger) error {
	return f.poll(ctx, d, l, kgo.ConsumerGroup(l.topic), kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer()))
}

// share reads in a share group (KIP-932), which must begin at the earliest record.
func (f franz) share(ctx context.Context, d *dialler, l *ledger) error {
	return f.poll(ctx, d, l, kgo.ShareGroup(l.topic))
}

func (f franz) poll(ctx context.Context, d *dialler, l *ledger, opts ...kgo.Opt) error {
	cl, err := f.dial(d, append(opts, kgo.ConsumeTopics(l.topic), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.HeartbeatInterval(200*time.Millisecond), kgo.AutoCommitInterval(200*time.Millisecond))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		fetches.EachError(func(_ string, _ int32, err error) {
			if ctx.Err() == nil {
				l.err(err)
			}
		})
		fetches.EachRecord(func(r *kgo.Record) { l.take(r.Partition, r.Offset, digest(r.Value)) })
	}
	return nil
}

// transact writes in transactions, every third of which it aborts: what those
// have written must never be read.
func (f franz) transact(ctx context.Context, d *dialler, l *ledger) error {
	cl, err := f.dial(d, kgo.TransactionalID(l.topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	every(ctx, func(round int) {
		if err := f.transaction(ctx, cl, l, round); err != nil {
			l.err(err)
			if err := f.abandon(ctx, cl); err != nil {
				l.err(err)
			}
		}
	})
	return nil
}

// abandon ends a transaction of which something has failed.
func (f franz) abandon(ctx context.Context, cl *kgo.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := cl.AbortBufferedRecords(ctx); err != nil {
		return err
	}
	return cl.EndTransaction(ctx, kgo.TryAbort)
}

func (f franz) transaction(ctx context.Context, cl *kgo.Client, l *ledger, round int) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	texts, end := transaction(l, round)
	commit := kgo.TransactionEndTry(end)
	var records []*kgo.Record
	for n, text := range texts {
		records = append(records, &kgo.Record{Topic: l.topic, Partition: partition(n), Value: []byte(text)})
	}
	if err := cl.BeginTransaction(); err != nil {
		return err
	}
	results := cl.ProduceSync(ctx, records...)
	if err := results.FirstErr(); err != nil {
		l.err(err)
		commit = kgo.TryAbort
	}
	if err := cl.EndTransaction(ctx, commit); err != nil || !commit {
		return err
	}
	for _, r := range results {
		l.ack(r.Record.Partition, r.Record.Offset, string(r.Record.Value))
	}
	return nil
}

// nodes asks by DescribeCluster, or by Metadata where the cluster is too old.
func (f franz) nodes(ctx context.Context, d *dialler) (map[int32]string, error) {
	cl, err := f.dial(d)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	nodes := map[int32]string{}
	resp, err := kmsg.NewPtrDescribeClusterRequest().RequestWith(ctx, cl)
	if err == nil {
		for _, b := range resp.Brokers {
			nodes[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
		}
		return nodes, kerr.ErrorForCode(resp.ErrorCode)
	}
	meta, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, cl)
	if err != nil {
		return nil, err
	}
	for _, b := range meta.Brokers {
		nodes[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	return nodes, nil
}

// TestFranz: franz-go with brokers of each version, and all that it can.
func TestFranz(t *testing.T) {
	for version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			f := franz{}
			streams := append(allAcks(f), stream{topic: "transactions", write: f.transact, read: f.consume, holes: true, api: "EndTxn"})
			write := streams[2].write
			if version == "4.0" || version == "newest" {
				streams = append(streams, stream{topic: "kip848", write: write, read: f.consume848, api: "ConsumerGroupHeartbeat"})
			}
			if version == "newest" {
				streams = append(streams, stream{topic: "share", write: write, read: f.share, api: "ShareFetch"})
			}
			m := matrix(t, version, f, streams)
			if version != "0.11" && version != "2.0" {
				m.used(t, "DescribeCluster")
			}
		})
	}
}
