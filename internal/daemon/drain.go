package daemon

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Drain stops the daemon softly; Run returns when it is done. It may be called
// more than once.
func (d *Daemon) Drain() {
	d.drainOne.Do(func() {
		d.setState(Draining) // at once: who asked for it may ask next how it goes
		close(d.draining)
	})
}

// drain fails the probe, waits until the load balancer has seen it, stops
// listening, and gives live connections their time.
func (d *Daemon) drain(ctx context.Context) error {
	_, p := d.current()
	detection := p.Drain.Detection.D()
	if p.Health.Listen.Off() {
		detection = 0 // nobody could see it
	}
	end := time.Now().Add(detection + p.Drain.Timeout.D())
	d.mu.Lock()
	d.status.State, d.status.StateSince, d.status.DrainUntil = Draining, time.Now(), end
	d.mu.Unlock()
	d.o.Notify("STOPPING=1")
	if detection > 0 {
		d.log.Info("draining: the probe fails, listeners stay open", "for", detection)
	}
	if !d.keepOn(ctx, detection) {
		return nil
	}
	if _, err := d.engine.Apply(ctx, p.WithoutListeners()); err != nil {
		return err
	}
	d.log.Info("draining: listeners are closed", "connections", d.left(), "timeout", p.Drain.Timeout)
	for {
		began := time.Now()
		n := d.left()
		look := max(20*time.Millisecond, 20*time.Since(began)) // counting a great many takes time
		switch {
		case n == 0:
			d.log.Info("drained")
			return nil
		case time.Now().After(end):
			d.log.Warn("drain timeout: connections are reset", "connections", n)
			d.mu.Lock()
			d.status.DrainCut = n
			d.mu.Unlock()
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(look):
		}
	}
}

// left is how many connections a drain waits for: all but those that outlive the
// daemon.
func (d *Daemon) left() int {
	s := d.engine.Status()
	n := s.Connections
	for _, r := range s.Routes {
		if r.Outlives {
			n -= r.Counters.Active
		}
	}
	return n
}

// keepOn forwards as before for t; false when ctx ended first.
func (d *Daemon) keepOn(ctx context.Context, t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-d.wake:
			d.refresh(ctx, false)
		}
	}
}

// reloading is the sd_notify state of a reload, which needs the time it began
// (systemd 253 and later, Type=notify-reload).
func reloading() string {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", ts.Nano()/1000)
}
