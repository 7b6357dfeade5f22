package kafka

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
)

func valueOf(n int) []byte {
	return fmt.Appendf(make([]byte, 0, valueSize), "%08d%s", n, strings.Repeat("x", valueSize-8))
}

func numberOf(value []byte) (int, error) {
	if len(value) != valueSize {
		return 0, fmt.Errorf("a value of %d bytes", len(value))
	}
	return strconv.Atoi(string(value[:8]))
}

// ledger is what was read of a topic: each record once, none missing, in order.
type ledger struct {
	partitions map[int][]int
	seen       map[int]bool
	again      int
}

func newLedger() *ledger { return &ledger{partitions: map[int][]int{}, seen: map[int]bool{}} }

func (l *ledger) add(r record) error {
	n, err := numberOf(r.value)
	if err != nil {
		return err
	}
	log := l.partitions[r.partition]
	switch {
	case r.offset < int64(len(log)): // after a rebalance
		if log[r.offset] != n {
			return fmt.Errorf("another record at %d/%d", r.partition, r.offset)
		}
		l.again++
		return nil
	case r.offset > int64(len(log)):
		return fmt.Errorf("a gap in partition %d: offset %d after %d", r.partition, r.offset, len(log)-1)
	case len(log) > 0 && log[len(log)-1] >= n:
		return fmt.Errorf("record %d out of order in partition %d", n, r.partition)
	case l.seen[n]:
		return fmt.Errorf("record %d is there twice", n)
	}
	l.seen[n] = true
	l.partitions[r.partition] = append(log, n)
	return nil
}

// share takes what a share group hands out: in any order, and again where it does
// not know that it was accepted.
func (l *ledger) share(r record) error {
	n, err := numberOf(r.value)
	if l.seen[n] {
		l.again++
	}
	l.seen[n] = true
	return err
}

// acks counts acknowledgements and keeps the first failure.
type acks struct {
	count   atomic.Int64
	failure atomic.Pointer[error]
}

func (a *acks) done(err error) {
	if err != nil {
		a.failure.CompareAndSwap(nil, &err)
		return
	}
	a.count.Add(1)
}

func (a *acks) err() error {
	if p := a.failure.Load(); p != nil {
		return *p
	}
	return nil
}
