package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"midspan/internal/admin"
	"midspan/internal/daemon"
)

// live makes a command that talks to a running daemon.
func live(c *cobra.Command, run func(c *cobra.Command, d *admin.Client, args []string) error) *cobra.Command {
	control := c.Flags().String("control", admin.DefaultControl(), "the daemon's control socket ($MIDSPAN_CONTROL)")
	c.RunE = func(c *cobra.Command, args []string) error {
		return run(c, admin.Dial(*control), args)
	}
	return c
}

func killCommand(ui *ui) *cobra.Command {
	return live(&cobra.Command{
		Use:     "kill ID [ID …]",
		Short:   "Reset live connections, by the IDs that conns shows",
		Example: "  midspan kill 1042 n427550b2",
		Args:    cobra.MinimumNArgs(1),
	}, func(c *cobra.Command, d *admin.Client, args []string) error {
		missing := false
		for _, id := range args {
			found, err := d.Kill(c.Context(), id)
			if err != nil {
				return err
			}
			if !found {
				ui.say("there is no connection %s; see midspan conns", id)
				missing = true
			}
		}
		if missing {
			return errNo
		}
		return nil
	})
}

func reloadCommand(ui *ui) *cobra.Command {
	return live(&cobra.Command{
		Use:   "reload",
		Short: "Read the file again and put the difference in force",
		Long: `Read the file again and put the difference in force. Routes that did not change
keep their listeners and connections; connections of a route that is gone live
on until they end. When the file has a problem, all stays as it was and the exit
code is 1.`,
		Example: "  midspan reload",
		Args:    cobra.NoArgs,
	}, func(c *cobra.Command, d *admin.Client, _ []string) error {
		warnings, err := d.Reload(c.Context())
		var refused *admin.Error
		if errors.As(err, &refused) {
			fmt.Fprintln(ui.err, refused.Text)
			ui.say("not reloaded: the old file stays in force")
			return errNo
		}
		if err != nil {
			return err
		}
		for _, w := range warnings {
			fmt.Fprintln(ui.err, w)
		}
		ui.say("reloaded")
		return nil
	})
}

func drainCommand(ui *ui) *cobra.Command {
	var wait bool
	c := live(&cobra.Command{
		Use:   "drain",
		Short: "Stop softly: fail the probe, stop listening, let connections end",
		Long: `Stop softly. The probe answers 503 at once; after drain.detection the listeners
close; live connections then get drain.timeout to end. Same as SIGTERM.`,
		Example: "  midspan drain --wait   # exit code 1 if connections had to be reset at the end",
		Args:    cobra.NoArgs,
	}, func(c *cobra.Command, d *admin.Client, _ []string) error {
		if err := d.Drain(c.Context()); err != nil {
			return err
		}
		if !wait {
			ui.say("draining; watch it with midspan status")
			return nil
		}
		return ui.watchDrain(c.Context(), d)
	})
	c.Flags().BoolVar(&wait, "wait", false, "wait until the daemon has ended, showing how many connections are left")
	return c
}

// watchDrain shows what is left until the daemon no longer answers.
func (u *ui) watchDrain(ctx context.Context, d *admin.Client) error {
	left, cut, until := -1, 0, time.Time{}
	for {
		s, err := d.Status(ctx)
		switch {
		case ctx.Err() != nil:
			u.clearLine()
			return ctx.Err()
		case err != nil:
			u.clearLine()
			if cut == 0 && !time.Now().Before(until) {
				cut = left // its last word has not been heard
			}
			if cut > 0 {
				u.say("ended at the drain timeout: %s reset", wasOrWere(cut))
				return errNo
			}
			u.say("drained")
			return nil
		case s.State != daemon.Draining:
			return errors.New("the daemon runs again: another one has taken its place")
		}
		until, cut = s.DrainUntil, s.DrainCut
		if n := s.Engine.Connections; n != left && !until.IsZero() {
			u.progress("draining: %s left, until %s at the latest", count(n, "connection"), until.Local().Format(time.TimeOnly))
			left = n
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func wasOrWere(n int) string {
	if n == 1 {
		return "1 connection was"
	}
	return fmt.Sprintf("%d connections were", n)
}
