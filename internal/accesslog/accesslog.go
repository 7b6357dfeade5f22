// Package accesslog writes one line for each connection that starts or ends, and
// for each request, as JSON or as HAProxy's tcplog and httplog. A connection that
// was only a load balancer's probe gets none. The data path hands its records over and goes on:
// they wait in memory, and one goroutine writes them every 50 ms. Whatever
// happens to the output (a full disk, a pipe that nobody reads), connections do
// not notice; records that cannot be written are dropped and counted.
//
// Limits: a line is written up to 50 ms after the fact, so that a crash loses
// the last ones. Files are not rotated here: rename the file and call Use, as a
// reload does. Only one output at a time, and no syslog. A terminal or a socket
// that is shared with a writer which fills it between our look and our write can
// hold the writing goroutine, and then Close gives up on it.
package accesslog

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

const (
	capacity   = 16384                 // records that wait, at most
	flushEvery = 50 * time.Millisecond // so this is good for 300,000 records a second
	patience   = 2 * time.Second       // of Close
	sayEvery   = 10 * time.Second      // between two lines about the same trouble
)

// Writer takes records and writes them. Its methods may be called from any
// goroutine.
type Writer struct {
	log      *slog.Logger
	loc      *time.Location // of tcplog's dates
	patience time.Duration

	target  atomic.Pointer[target] // what Use said last; nil before
	dropped atomic.Uint64
	giveUp  atomic.Int64  // when Close stops waiting, in Unix nanoseconds; 0: not closing
	waiting chan struct{} // one token: a record waits
	urgent  chan struct{} // one token: do not wait for more
	done    chan struct{} // closed when the writing goroutine has ended

	mu      sync.Mutex // held for an append at most: the data path takes it
	buffer  []*engine.Record
	started bool // the writing goroutine
	closed  bool
}

// target is where records go, and which, and how.
type target struct {
	plan.Log
	sink *sink // nil when Format is off
}

func (t *target) wants(end bool) bool {
	return t != nil && t.sink != nil && (end || (t.Start && t.Format == plan.LogJSON))
}

// New returns a Writer that writes nothing until Use says where. Its own
// troubles go to log; nil discards them.
func New(log *slog.Logger) *Writer {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Writer{
		log: log, loc: time.Local, patience: patience,
		waiting: make(chan struct{}, 1),
		urgent:  make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
}

// Use makes p what is written from now on. A file is opened anew even if its
// path is the same, so that it can be renamed away. When it fails, nothing
// changes.
func (w *Writer) Use(p plan.Log) error {
	t := &target{Log: p}
	if p.Format != plan.LogSilent {
		var err error
		if t.sink, err = openSink(p.To); err != nil {
			return fmt.Errorf("log: cannot write to %s: %w; set `log: { to: PATH }` to a file that this user may write", p.To, err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		t.sink.close()
		return errors.New("log: already closed")
	}
	// The writing goroutine closes the sink it had when it meets the new one.
	// One that it never met is closed here.
	if unmet := w.target.Swap(t); unmet != nil && unmet.sink.retire() {
		unmet.sink.close()
	}
	if !w.started {
		w.started = true
		go w.run()
	}
	signal(w.urgent)
	return nil
}

// Wants tells whether records of starts, or of ends, are written.
func (w *Writer) Wants(end bool) bool { return w.target.Load().wants(end) }

// Record takes r, which the caller must not change any more. It never blocks.
func (w *Writer) Record(r *engine.Record) {
	if r.Reason == engine.Probe || !w.Wants(!r.End.IsZero()) {
		return
	}
	w.mu.Lock()
	n := len(w.buffer)
	if n == capacity || w.closed {
		w.mu.Unlock()
		w.dropped.Add(1)
		return
	}
	w.buffer = append(w.buffer, r)
	w.mu.Unlock()
	// A wake-up is a system call when the goroutine sleeps, so there is one for
	// each flush and not for each record.
	switch n {
	case 0:
		signal(w.waiting)
	case capacity / 2:
		signal(w.urgent)
	}
}

// Dropped is how many records were lost since the start.
func (w *Writer) Dropped() uint64 { return w.dropped.Load() }

// Close writes what waits, for two seconds at most. Records that come later are
// dropped.
func (w *Writer) Close() error {
	w.mu.Lock()
	first := !w.closed
	w.closed = true
	started := w.started
	w.mu.Unlock()
	if !first || !started {
		return nil
	}
	before := w.Dropped()
	w.giveUp.Store(time.Now().Add(w.patience).UnixNano())
	signal(w.urgent)
	select {
	case <-w.done:
	case <-time.After(w.patience + time.Second):
		return errors.New("log: the last records could not be written: the output is blocked")
	}
	if lost := w.Dropped() - before; lost > 0 {
		return fmt.Errorf("log: the last %d records could not be written", lost)
	}
	return nil
}

// signal leaves a token in c unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
