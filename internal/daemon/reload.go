package daemon

import (
	"context"
	"errors"

	"midspan/internal/plan"
)

// Reload reads the file anew and puts it in force. When it fails, all stays as
// it was.
func (d *Daemon) Reload(ctx context.Context) error {
	// Here and not in Run: a file that blocks must not keep the daemon from
	// ending.
	l := loaded{reply: make(chan error, 1)}
	l.base, l.warnings, l.err = d.o.Load()
	var err error
	select {
	case d.reloads <- l:
		return <-l.reply
	case <-d.draining:
		err = errors.New("draining: a reload would come too late")
	case <-d.ended:
		err = errors.New("the daemon has ended")
	case <-ctx.Done():
		err = ctx.Err()
	}
	d.log.Warn("not reloaded", "why", err)
	return err
}

// loaded is a file that was read, on its way to Run.
type loaded struct {
	base     *plan.Plan
	warnings []string
	err      error
	reply    chan error
}

func (d *Daemon) reload(ctx context.Context, l loaded) (pending bool, err error) {
	d.o.Notify(reloading())
	defer d.o.Notify("READY=1")
	if err = l.err; err == nil {
		if err = d.o.Prepare(l.base); err == nil {
			d.clusters.use(l.base)
			d.names.use(ctx, l.base.WithNodes(d.clusters.known()))
			pending, err = d.adopt(ctx, l.base, l.warnings)
		}
		if err != nil {
			// Back to what the old plan has, whatever of the new one was done.
			d.clusters.use(d.base)
			d.names.use(ctx, d.base.WithNodes(d.clusters.known()))
			err = errors.Join(err, d.o.Prepare(d.base))
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.status.FailedLoad = err.Error()
		d.status.FailedLoads++
		d.log.Error("reload failed; the old file stays in force", "error", err)
		return false, err
	}
	d.status.Reloads++
	d.status.FailedLoad = ""
	d.log.Info("reloaded", "routes", len(l.base.Routes), "warnings", len(l.warnings))
	for _, w := range l.warnings {
		d.log.Warn(w)
	}
	return pending, nil
}
