package kafkatest

import (
	"context"
	"strconv"
	"time"
)

// client is one library, as far as the matrix uses it.
type client interface {
	// produce writes records to all partitions of the ledger's topic until ctx
	// ends, and then waits for what is under way.
	produce(ctx context.Context, d *dialler, acks int, l *ledger) error
	// consume reads the ledger's topic in a classic consumer group of the same
	// name, from its beginning, until ctx ends.
	consume(ctx context.Context, d *dialler, l *ledger) error
	// nodes asks for the cluster's nodes: id to address.
	nodes(ctx context.Context, d *dialler) (map[int32]string, error)
}

const (
	partitions = 3
	// pace is between the records of one producer.
	pace = 8 * time.Millisecond
	// refresh is how often clients look for changes of their own accord; those that
	// write with acks=0 learn of none otherwise.
	refresh = time.Second
)

// every calls do with 0, 1, 2 … until ctx ends.
func every(ctx context.Context, do func(n int)) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do(n)
		}
	}
}

// value is the nth record's, and partition is where it goes.
func value(l *ledger, n int) string { return l.topic + "-" + strconv.Itoa(n) }
func partition(n int) int32         { return int32(n % partitions) }

// transaction is what the nth transaction writes, and whether it commits: every
// third does not.
func transaction(l *ledger, n int) (values []string, commit bool) {
	commit = n%3 != 2
	for i := range 2 * partitions {
		text := value(l, n) + "-" + strconv.Itoa(i)
		if !commit {
			text = aborted
		}
		values = append(values, text)
	}
	return values, commit
}
