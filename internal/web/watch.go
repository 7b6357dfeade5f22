package web

import (
	"sync"
	"sync/atomic"
	"time"
)

// watchAfter is how long a request may take before its client is watched, and
// how often that is looked at.
const watchAfter = time.Second

// watch is how a client is noticed that goes away while its response is waited
// for. To watch all of them would cost more than most requests do; so only those
// are watched that take long.
type watch struct {
	state atomic.Int32 // off, on, running
	since atomic.Int64 // Unix nanoseconds, while on

	stop atomic.Bool // the one that runs is to end

	mu   sync.Mutex
	done chan struct{} // of the one that runs
}

const (
	watchOff = iota
	watchOn
	watchRunning
)

// begin says that nothing is read from the client until end.
func (w *watch) begin(now time.Time) {
	w.since.Store(now.UnixNano())
	w.state.CompareAndSwap(watchOff, watchOn)
}

// end says that the connection will be read again. It waits for the watcher, if
// there is one.
func (w *watch) end(c *conn) {
	if w.state.CompareAndSwap(watchOn, watchOff) || w.state.Load() == watchOff {
		return
	}
	w.mu.Lock()
	done := w.done
	w.mu.Unlock()
	w.stop.Store(true)
	c.SetReadDeadline(past) // wakes the watcher
	<-done
	w.stop.Store(false)
	c.setDeadline(time.Time{})
	w.state.Store(watchOff)
}

// watchIfSlow starts a watcher where the exchange has taken long.
func (c *conn) watchIfSlow(now time.Time) {
	w := &c.watch
	if w.state.Load() != watchOn || now.UnixNano()-w.since.Load() < int64(watchAfter) || c.raw == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	done := make(chan struct{})
	w.done = done
	if !w.state.CompareAndSwap(watchOn, watchRunning) {
		return
	}
	c.p.ended.Go(func() {
		defer close(done)
		c.watchClient()
	})
}

// watchClient waits until the client closes its side, or end is called. It does
// to the server what the client did: a half-close is passed on, for it is the
// server's to decide what that means, and a reset ends both legs.
func (c *conn) watchClient() {
	c.SetReadDeadline(time.Time{})
	if c.watch.stop.Load() {
		return // and that may just have taken the deadline away which was to tell so
	}
	state := byte(0)
	err := c.raw.Read(func(fd uintptr) bool {
		state = stateOf(fd)
		return state != tcpEstablished
	})
	if err != nil {
		return
	}
	up := c.up.Load()
	switch {
	case up == nil:
	case state == tcpCloseWait:
		up.halved.Store(true)
		up.closeWrite()
	case state == tcpClose:
		up.reset()
	}
}
