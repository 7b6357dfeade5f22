package main

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"midspan/internal/daemon"
	"midspan/internal/engine"
	"midspan/internal/engine/relay"
	"midspan/internal/plan"
)

// front is the process.
type front struct {
	options *options
	stderr  io.Writer
	log     *errorLog
	logs    *accessLogs
	daemon  *daemon.Daemon
	serial  atomic.Uint64 // of connections

	// Of the load under way; only Load and what it calls have to do with them.
	bridges   map[string]netip.AddrPort // Unix sockets that are to be opened
	passwords map[string][]string       // of files that were read
	inner     uint16
	loading   *loaded

	mu   sync.Mutex
	now  *loaded          // in force
	unit map[string]*unit // by route, also of routes that are gone
}

// loaded is a configuration with its sockets.
type loaded struct {
	conf *conf
	ends *ends
	web  *web
}

func newFront(o *options, stderr io.Writer) *front {
	return &front{
		options: o, stderr: stderr, log: newErrorLog(o, stderr), logs: newAccessLogs(),
		passwords: map[string][]string{}, bridges: map[string]netip.AddrPort{}, unit: map[string]*unit{}, inner: firstInner,
	}
}

// load reads the configuration for the daemon, and opens what the plan leads to.
func (f *front) load() (*plan.Plan, []string, error) {
	c, err := readConf(f.options)
	if err != nil {
		return nil, nil, err
	}
	e, err := newEnds(f)
	if err != nil {
		return nil, nil, err
	}
	f.bridges = map[string]netip.AddrPort{}
	t := &translation{conf: c, ends: e, zones: map[string]bool{}}
	p, notes, err := t.plan()
	if err != nil {
		e.close()
		return nil, nil, err
	}
	f.inner = e.next
	f.loading = &loaded{conf: c, ends: e}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range c.units() {
		f.unit[u.route] = u
	}
	return p, notes, nil
}

// prepare opens what does not belong to midspan, before the plan is in force.
func (f *front) prepare(*plan.Plan) error {
	l := f.loading
	f.mu.Lock()
	old := f.now
	f.mu.Unlock()
	if l == old {
		return nil // back to what was before
	}
	if err := f.log.use(l.conf); err != nil {
		return err
	}
	if old != nil {
		old.web.close() // the new one may have the same addresses
	}
	w, err := f.openWeb(l.conf)
	if err != nil {
		return err
	}
	l.web = w
	for path, to := range f.bridges {
		if err := l.ends.listenUnix(path, to); err != nil {
			return err
		}
	}
	if err := l.ends.datagrams(l.conf); err != nil {
		return err
	}
	f.logs.use(f, l.conf)
	f.mu.Lock()
	f.now = l
	f.mu.Unlock()
	if old != nil {
		old.ends.close()
	}
	return nil
}

// unitOf is the server whose route that is; nil: of none, or of a part of a
// chain that another route tells of.
func (f *front) unitOf(route string) *unit {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unit[route]
}

// run is the whole life of the process.
func (f *front) run() error {
	c, err := readConf(f.options)
	if err != nil {
		return err
	}
	f.daemon = daemon.New(daemon.Options{
		Load: f.load,
		Engine: func(h engine.Hooks) (engine.Engine, error) {
			return relay.New(relay.Options{Hooks: h, Log: slog.New(f.log), Loops: c.workers})
		},
		Prepare: f.prepare,
		Record:  f.record,
		Notify:  f.notify,
		Log:     slog.New(f.log),
	})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1)
	defer signal.Stop(signals)
	go f.signals(ctx, stop, signals)
	err = f.daemon.Run(ctx)
	f.mu.Lock()
	now := f.now
	f.mu.Unlock()
	if now != nil {
		now.web.close()
		now.ends.close()
	}
	f.logs.close()
	if err == nil {
		_ = os.Remove(f.pidFile(c))
		f.log.printf(levelNotice, "exit")
	}
	return err
}

func (f *front) signals(ctx context.Context, stop func(), signals <-chan os.Signal) {
	for s := range signals {
		f.log.printf(levelNotice, "signal %v received", s)
		switch s {
		case syscall.SIGHUP:
			go func() {
				if err := f.daemon.Reload(ctx); err != nil {
					f.log.printf(levelEmerg, "%v", err)
				}
			}()
		case syscall.SIGUSR1:
			f.log.reopen()
		case syscall.SIGQUIT:
			f.mu.Lock()
			if f.now != nil {
				f.now.web.close()
			}
			f.mu.Unlock()
			f.daemon.Drain()
		default:
			stop()
		}
	}
}

// notify writes the pid file when the first connections can come: the tests
// wait for it.
func (f *front) notify(state string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if state != "READY=1" || f.now == nil {
		return
	}
	f.log.printf(levelNotice, "nginx/%s: midspan forwards", nginxVersion)
	name := f.pidFile(f.now.conf)
	if err := os.WriteFile(name, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		f.log.printf(levelEmerg, "open() %q failed: %v", name, err)
	}
}

func (f *front) pidFile(c *conf) string {
	name := "logs/nginx.pid"
	if d := find(c.tree, "pid"); d != nil {
		name = d.arg(0)
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(f.options.prefix, name)
	}
	return name
}

// record takes midspan's access record of a connection that has ended.
func (f *front) record(r *engine.Record) {
	if r.End.IsZero() {
		if u := f.unitOf(r.Route); u != nil {
			f.log.start(u, r)
		}
		return
	}
	u := f.unitOf(r.Route)
	if u == nil {
		return
	}
	s := &session{unit: u, record: r, client: r.Client, local: r.Listener, now: time.Now()}
	if u.bind.proxy {
		s.header = &header{source: r.Client, peer: r.Peer}
		s.client = r.Peer
	}
	s.onUnix()
	s.set()
	f.log.end(s)
	f.logs.write(s)
}
