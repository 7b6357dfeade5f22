package kafkatest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

// work goes on until ctx ends.
type work func(ctx context.Context, d *dialler, l *ledger) error

// stream is a topic with its writer and its reader.
type stream struct {
	topic       string
	write, read work
	holes       bool   // there are offsets that no reader gets
	silent      bool   // the writer does not learn of offsets
	api         string // without which it is not what it says it is
}

// classic is a topic that is written with the given acks and read in a classic group.
func classic(c client, topic string, acks int) []stream {
	write := func(ctx context.Context, d *dialler, l *ledger) error { return c.produce(ctx, d, acks, l) }
	return []stream{{topic: topic, write: write, read: c.consume, silent: acks == 0, api: "JoinGroup"}}
}

// allAcks are three of them.
func allAcks(c client) []stream {
	return slices.Concat(classic(c, "acks0", 0), classic(c, "acks1", 1), classic(c, "acksall", -1))
}

// change is something that happens to a cluster.
type change struct {
	what  string
	do    func(c *kfake.Cluster, topics []string) error
	nodes []int32 // those that there are then
}

// changes are made one after the other.
var changes = []change{
	{"the leaders have moved", func(c *kfake.Cluster, topics []string) error {
		for _, topic := range topics {
			for p := range int32(partitions) {
				if err := c.MoveTopicPartition(topic, p, (c.LeaderFor(topic, p)+1)%3); err != nil {
					return err
				}
			}
		}
		return nil
	}, []int32{0, 1, 2}},
	{"the coordinators have moved", func(c *kfake.Cluster, _ []string) error {
		c.RehashCoordinators()
		return nil
	}, []int32{0, 1, 2}},
	{"node 3 is new", func(c *kfake.Cluster, topics []string) error {
		if _, _, err := c.AddNode(3, 0); err != nil {
			return err
		}
		c.RehashCoordinators()
		for _, topic := range topics {
			if err := c.MoveTopicPartition(topic, 0, 3); err != nil {
				return err
			}
		}
		return nil
	}, []int32{0, 1, 2, 3}},
	{"node 0 is gone", func(c *kfake.Cluster, _ []string) error {
		return c.RemoveNode(0)
	}, []int32{1, 2, 3}},
}

// matrix lets the streams flow through forwarders while the cluster changes.
func matrix(t *testing.T, version string, cl client, streams []stream) *forwarder {
	t.Helper()
	var topics []string
	for _, s := range streams {
		topics = append(topics, s.topic)
	}
	c := cluster(t, version, kfake.SeedTopics(partitions, topics...))
	for _, s := range streams {
		c.SetGroupConfigs(s.topic, map[string]string{"share.auto.offset.reset": "earliest"})
	}
	d, all := forwarders(t, 1, c.ListenAddrs())
	flow := start(t, d, streams)
	flow.goesOn("at first")
	sameNodes(t, cl, d, 0, 1, 2)
	for _, change := range changes {
		if err := change.do(c, topics); err != nil {
			t.Fatalf("%s: %v", change.what, err)
		}
		flow.goesOn(change.what)
		sameNodes(t, cl, d, change.nodes...)
	}
	flow.end()
	for _, s := range streams {
		all[0].used(t, s.api)
	}
	return all[0]
}

// flow is streams under way.
type flow struct {
	t                *testing.T
	d                *dialler
	ledgers          []*ledger
	writers, readers sync.WaitGroup
	stopW, stopR     context.CancelFunc
}

func start(t *testing.T, d *dialler, streams []stream) *flow {
	f := &flow{t: t, d: d}
	var ctxW, ctxR context.Context
	ctxW, f.stopW = context.WithCancel(context.Background())
	ctxR, f.stopR = context.WithCancel(context.Background())
	t.Cleanup(func() { // also after a failure
		f.stopW()
		f.stopR()
		f.writers.Wait()
		f.readers.Wait()
	})
	for _, s := range streams {
		l := newLedger(s.topic, partitions)
		l.holes, l.silent = s.holes, s.silent
		f.ledgers = append(f.ledgers, l)
		f.writers.Go(func() {
			if err := s.write(ctxW, d, l); err != nil {
				t.Errorf("writing %s: %v", s.topic, err)
			}
		})
		f.readers.Go(func() {
			if err := s.read(ctxR, d, l); err != nil {
				t.Errorf("reading %s: %v", s.topic, err)
			}
		})
	}
	return f
}

// goesOn waits until every partition of every stream has had more.
func (f *flow) goesOn(after string) {
	f.t.Helper()
	var marks []mark
	for _, l := range f.ledgers {
		marks = append(marks, l.mark())
	}
	within(f.t, func() string {
		if f.d.leaked() {
			f.t.FailNow() // the dialler says to where
		}
		for i, l := range f.ledgers {
			if what := l.behind(marks[i], 8); what != "" {
				return after + ", " + what
			}
		}
		return ""
	})
}

// end stops the writers, lets the readers come to the end, and checks the books.
func (f *flow) end() {
	f.t.Helper()
	f.stopW()
	f.writers.Wait()
	for _, l := range f.ledgers {
		l.finish(f.t)
	}
	f.stopR()
	f.readers.Wait()
}

// sameNodes holds the nodes that a client is told against those that there are.
func sameNodes(t *testing.T, cl client, d *dialler, nodes ...int32) {
	t.Helper()
	want := map[int32]string{}
	for _, node := range nodes {
		want[node] = net.JoinHostPort(advertised, strconv.Itoa(firstPort+int(node)))
	}
	within(t, func() string {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		got, err := cl.nodes(ctx, d)
		if err != nil || !maps.Equal(got, want) {
			return fmt.Sprintf("clients are told of the nodes %v, %v; there are %v", got, err, want)
		}
		return ""
	})
}
