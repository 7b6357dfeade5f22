package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"midspan/internal/accesslog"
	"midspan/internal/admin"
	"midspan/internal/daemon"
	"midspan/internal/engine"
	"midspan/internal/engine/nft"
	"midspan/internal/engine/relay"
	"midspan/internal/engine/split"
	"midspan/internal/plan"
)

func runCommand(ui *ui) *cobra.Command {
	return &cobra.Command{
		Use:   "run FILE",
		Short: "Forward what the file says (the daemon)",
		Long: `Forward what the file says, until SIGTERM (drain) or SIGINT (stop at once).
SIGHUP reads the file again. The daemon's own messages go to stderr, the access
log where the file says (stdout by default).`,
		Example: "  midspan run /etc/midspan/midspan.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			read := false
			return ui.serve(c.Context(), func() (*plan.Plan, []string, error) {
				if read && args[0] == standardInput {
					return nil, nil, errors.New("the file came from standard input, which cannot be read again")
				}
				read = true
				p, warnings, err := ui.loadWithFiles(args[0])
				return p, warnings.Lines(), err
			})
		},
	}
}

// serve runs a daemon on the plan that load gives.
func (u *ui) serve(ctx context.Context, load func() (*plan.Plan, []string, error)) error {
	// The data path makes no garbage; so memory is worth more than the time to look
	// for it.
	debug.SetGCPercent(30)
	stderr := newPatientWriter(u.err)
	defer stderr.Close() // it cannot say that it is stuck
	log := slog.New(slog.NewTextHandler(stderr, nil))
	records := accesslog.New(log)
	defer records.Close() // it has told the log what it could not write
	memory := memory{stateDir(), log}
	known := memory.load()
	var front *admin.Server
	var once sync.Once
	d := daemon.New(daemon.Options{
		Load:     load,
		Engine:   func(h engine.Hooks) (engine.Engine, error) { return newEngine(h, log) },
		Known:    known,
		Remember: memory.save,
		Clusters: memory.loadClusters(), RememberClusters: memory.saveClusters,
		Prepare: func(p *plan.Plan) error {
			if err := front.Use(p); err != nil {
				return err
			}
			if err := records.Use(p.Log); err != nil {
				return err
			}
			once.Do(func() {
				log.Info("serving", "probe", p.Health.Listen, "admin", p.Admin, "control", cmp.Or(p.Control, admin.DefaultControl()))
			})
			return nil
		},
		Record: records.Record,
		Wants:  records.Wants,
		Notify: func(state string) { _, _ = sd.SdNotify(false, state) }, // no service manager is no error
		Log:    log,
	})
	front = admin.New(admin.Options{Daemon: d, Version: version, LogDropped: records.Dropped, Log: log})
	defer front.Close() // nothing is left to do about an error
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// A reader of stdout or stderr that goes away must not end the daemon.
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	go func() {
		terms := 0
		for s := range signals {
			if s == syscall.SIGHUP {
				go d.Reload(ctx) // it logs how it went
				continue
			}
			if terms++; terms > 1 {
				stop()
			}
			d.Drain()
		}
	}()
	err := d.Run(ctx)
	if ctx.Err() != nil {
		log.Warn("stopped at once: connections that were left are reset")
	}
	return err
}

// newEngine is both engines: the relay, and the kernel's once a route wants it.
func newEngine(h engine.Hooks, log *slog.Logger) (engine.Engine, error) {
	// The loops keep busy; what else there is to do has a processor of its own.
	loops := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(loops + 1)
	user, err := relay.New(relay.Options{Hooks: h, Log: log, Loops: loops, Dedicated: true})
	if err != nil {
		return nil, err
	}
	return split.New(user, func(ours split.Ours) (engine.Engine, error) {
		return nft.New(nft.Options{Hooks: h, Log: log, State: kernelState(), Ours: ours})
	}, nft.Present), nil
}
