package kafkatest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long anything may take that clients do of themselves after a
// change of the cluster. It is only ever used up by what hangs.
const patience = 40 * time.Second

// aborted is what transactions write that do not commit.
const aborted = "aborted"

// ledger is what was written to a topic and what was read of it, by offset. That
// a record comes twice is no fault (kfake delivers again after a leader has
// moved); that an offset has two values is one, and so is one that is missing.
type ledger struct {
	topic   string
	holes   bool // offsets of transactions' ends are never delivered
	silent  bool // nobody says what was written: acks=0
	mu      sync.Mutex
	written []map[int64]string // by partition: acknowledged with this offset
	read    []map[int64]string
	faults  []string
	trouble map[string]int // what clients have reported, for the report of what hangs
}

func newLedger(topic string, partitions int) *ledger {
	l := &ledger{topic: topic, trouble: map[string]int{}}
	for range partitions {
		l.written = append(l.written, map[int64]string{})
		l.read = append(l.read, map[int64]string{})
	}
	return l
}

func (l *ledger) ack(partition int32, offset int64, value string) {
	l.enter("acknowledged", l.written, partition, offset, value)
}

func (l *ledger) take(partition int32, offset int64, value string) {
	if value == aborted {
		l.fault("partition %d offset %d: a record of an aborted transaction was read", partition, offset)
	}
	l.enter("read", l.read, partition, offset, value)
}

func (l *ledger) enter(what string, side []map[int64]string, partition int32, offset int64, value string) {
	l.mu.Lock()
	old, again := side[partition][offset]
	side[partition][offset] = value
	l.mu.Unlock()
	if again && old != value {
		l.fault("partition %d offset %d: %s as %q and as %q", partition, offset, what, old, value)
	}
}

func (l *ledger) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.faults) < 10 {
		l.faults = append(l.faults, fmt.Sprintf(format, args...))
	}
}

// err notes what a client has reported and goes on after.
func (l *ledger) err(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if text := err.Error(); len(l.trouble) < 10 {
		l.trouble[text[:min(len(text), 220)]]++
	}
}

// unread is how many acknowledged records have not been read.
func (l *ledger) unread() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.written {
		for offset := range l.written[p] {
			if _, ok := l.read[p][offset]; !ok {
				n++
			}
		}
	}
	return n
}

// mark is how far a ledger has come: records by partition.
type mark struct{ written, read []int }

func (l *ledger) mark() mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	var m mark
	for p := range l.read {
		m.written = append(m.written, len(l.written[p]))
		m.read = append(m.read, len(l.read[p]))
	}
	return m
}

// behind says what is missing for n more records of every partition than there
// were at m. What is written without an acknowledgement is only counted by who
// reads it.
func (l *ledger) behind(m mark, n int) string {
	now := l.mark()
	for p := range now.read {
		acked := l.silent || now.written[p]-m.written[p] >= n
		if now.read[p]-m.read[p] < n || !acked {
			return fmt.Sprintf("%s: partition %d does not go on: then %v, now %v; reported: %s", l.topic, p, m, now, l.reported())
		}
	}
	return ""
}

// finish waits until all that was acknowledged has been read, and holds the books
// against each other.
func (l *ledger) finish(t *testing.T) {
	t.Helper()
	within(t, func() string {
		if n := l.unread(); n > 0 {
			return fmt.Sprintf("%s: of what was acknowledged, %d records have not been read; reported: %s", l.topic, n, l.reported())
		}
		return ""
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.faults {
		t.Errorf("%s: %s", l.topic, f)
	}
	for p, read := range l.read {
		for offset, value := range l.written[p] {
			if read[offset] != value {
				t.Errorf("%s: partition %d offset %d: written %q, read %q", l.topic, p, offset, value, read[offset])
			}
		}
		for offset := range int64(len(read)) {
			if _, ok := read[offset]; !ok && !l.holes {
				t.Errorf("%s: partition %d: offset %d is missing of %d", l.topic, p, offset, len(read))
				break
			}
		}
	}
}

func (l *ledger) reported() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for what, n := range l.trouble {
		lines = append(lines, fmt.Sprintf("%d× %s", n, what))
	}
	slices.Sort(lines)
	return strings.Join(append(lines, "nothing else"), "; ")
}

// within waits until missing has nothing to say.
func within(t *testing.T, missing func() string) {
	t.Helper()
	var what string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if what = missing(); what == "" {
			return
		}
	}
	t.Fatalf("after %v: %s", patience, what)
}
