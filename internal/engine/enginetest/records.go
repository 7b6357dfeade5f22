package enginetest

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"midspan/internal/engine"
)

// log keeps what an engine tells through its hooks.
type log struct {
	mu      sync.Mutex
	records []*engine.Record
	dialed  []engine.Dial
	heard   []engine.Node
	began   map[netip.AddrPort]time.Time // see newest
}

func (l *log) record(r *engine.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r)
}

func (l *log) dial(d engine.Dial) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dialed = append(l.dialed, d)
}

func (l *log) node(n engine.Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, n)
}

func (l *log) nodes() []engine.Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.heard)
}

func (l *log) dials() []engine.Dial {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.dialed)
}

func (l *log) all() []*engine.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records)
}

// newest says when the newest connection from client began: the kernel may give its
// port again, to one that goes elsewhere.
func (l *log) newest(client netip.AddrPort, began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.began == nil {
		l.began = map[netip.AddrPort]time.Time{}
	}
	l.began[client] = began
}

// of are the records of the newest connection from client, starts and ends.
func (l *log) of(client netip.AddrPort) (starts, ends []*engine.Record) {
	l.mu.Lock()
	began := l.began[client]
	l.mu.Unlock()
	for _, r := range l.all() {
		switch {
		case r.Client != client || r.Start.Before(began):
		case r.End.IsZero():
			starts = append(starts, r)
		default:
			ends = append(ends, r)
		}
	}
	return starts, ends
}

func (l *log) reasons() map[engine.Reason]int {
	count := map[engine.Reason]int{}
	for _, r := range l.all() {
		if !r.End.IsZero() {
			count[r.Reason]++
		}
	}
	return count
}

// ended waits for the end of the connection from client, and is its record. A
// connection has one start, if its server was reached, and one end.
func (r *rig) ended(client netip.AddrPort) *engine.Record {
	r.Helper()
	var starts, ends []*engine.Record
	r.until("an end record for "+client.String(), func() bool {
		starts, ends = r.log.of(client)
		return len(ends) > 0
	})
	end := ends[0]
	if len(ends) > 1 {
		r.Errorf("%d end records of one connection: %+v", len(ends), ends)
	}
	want := 1
	if end.Connect == 0 {
		want = 0
	}
	if len(starts) != want {
		r.Errorf("%d start records, want %d, for %+v", len(starts), want, end)
	}
	for _, start := range starts {
		if start.ID != end.ID || start.Reason != "" || start.Endpoint != end.Endpoint {
			r.Errorf("start record %+v does not fit end record %+v", start, end)
		}
	}
	return end
}

// endsFor is ended, with the reason that is wanted.
func (r *rig) endsFor(client netip.AddrPort, want engine.Reason) *engine.Record {
	r.Helper()
	end := r.ended(client)
	if end.Reason != want {
		r.Errorf("the connection ended because of %q (%s), want %q", end.Reason, end.Err, want)
	}
	return end
}

// wantBytes holds the counters of a record against what was sent.
func (r *rig) wantBytes(end *engine.Record, up, down int) {
	r.Helper()
	if !r.counted(end.BytesUp, end.BytesDown, up, down) {
		r.Errorf("the record says %d bytes up and %d down, want %d and %d", end.BytesUp, end.BytesDown, up, down)
	}
}
