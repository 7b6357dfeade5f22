package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"midspan/internal/engine"
)

// level is nginx's: the lower, the graver.
type level int

const (
	levelEmerg level = iota
	levelAlert
	levelCrit
	levelError
	levelWarn
	levelNotice
	levelInfo
	levelDebug
)

var levelNames = []string{"emerg", "alert", "crit", "error", "warn", "notice", "info", "debug"}

// errorLog is nginx's error log. Midspan's own messages go there as well, as a
// slog.Handler.
type errorLog struct {
	options *options
	stderr  io.Writer

	mu    sync.Mutex
	main  []*sink
	perTo map[*unit][]*sink // where a server has logs of its own
	files map[string]*os.File
}

// sink is one place of a log, and the least grave level that goes there.
type sink struct {
	to    string // a path, stderr, or syslog:…
	level level
	conn  net.Conn // syslog
}

func newErrorLog(o *options, stderr io.Writer) *errorLog {
	l := &errorLog{options: o, stderr: stderr, files: map[string]*os.File{}}
	l.main = []*sink{{to: o.errorLog, level: levelError}}
	return l
}

// use takes the error_log directives of c.
func (l *errorLog) use(c *conf) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if main := sinks(c.tree); main != nil {
		l.main = main
	}
	l.perTo = map[*unit][]*sink{}
	for _, u := range c.units() {
		for _, from := range [][]*directive{u.server.block, c.stream} {
			if own := sinks(from); own != nil {
				l.perTo[u] = own
				break
			}
		}
	}
	for _, s := range l.main { // they exist from the start
		if _, err := l.file(s); err != nil {
			return err
		}
	}
	for _, own := range l.perTo {
		for _, s := range own {
			if _, err := l.file(s); err != nil {
				return err
			}
		}
	}
	return nil
}

func sinks(ds []*directive) (all []*sink) {
	for _, d := range ds {
		if d.name != "error_log" {
			continue
		}
		s := &sink{to: d.arg(0), level: levelError}
		if i := slices.Index(levelNames, d.arg(1)); i >= 0 {
			s.level = level(i)
		}
		all = append(all, s)
	}
	return all
}

// printf writes a line of the process.
func (l *errorLog) printf(at level, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write(l.main, at, fmt.Sprintf(format, args...))
}

// of writes a line of a connection of u's.
func (l *errorLog) of(u *unit, at level, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	to := l.perTo[u]
	if to == nil {
		to = l.main
	}
	l.write(to, at, fmt.Sprintf(format, args...))
}

func (l *errorLog) write(to []*sink, at level, text string) {
	now := time.Now()
	line := fmt.Sprintf("%s [%s] %d#%d: %s\n", now.Format("2006/01/02 15:04:05"), levelNames[at], os.Getpid(), os.Getpid(), text)
	for _, s := range to {
		if at > s.level {
			continue
		}
		if strings.HasPrefix(s.to, "syslog:") {
			s.syslog(now, at, fmt.Sprintf("%d#%d: [%s] %s", os.Getpid(), os.Getpid(), levelNames[at], text))
			continue
		}
		if f, err := l.file(s); err == nil {
			_, _ = io.WriteString(f, line) // there is nowhere else to say it
		}
	}
}

// file is where s goes, opened when needed; nil for syslog.
func (l *errorLog) file(s *sink) (io.Writer, error) {
	if s.to == "stderr" {
		return l.stderr, nil
	}
	if strings.HasPrefix(s.to, "syslog:") {
		return nil, nil
	}
	name := s.to
	if !filepath.IsAbs(name) {
		name = filepath.Join(l.options.prefix, name)
	}
	if f := l.files[name]; f != nil {
		return f, nil
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open() %q failed: %w", name, err)
	}
	l.files[name] = f
	return f, nil
}

// syslog sends one datagram as RFC 3164 has it: facility local7, nginx's own
// severity.
func (s *sink) syslog(now time.Time, at level, text string) {
	if s.conn == nil {
		for p := range strings.SplitSeq(strings.TrimPrefix(s.to, "syslog:"), ",") {
			if server, is := strings.CutPrefix(p, "server="); is {
				s.conn, _ = net.Dial("udp", server)
			}
		}
	}
	if s.conn == nil {
		return
	}
	const local7 = 23
	_, _ = fmt.Fprintf(s.conn, "<%d>%s %s nginx: %s", local7<<3|int(at), now.Format(time.Stamp), hostname(), text) // a datagram may be lost
}

// reopen closes the files; the next line opens them anew.
func (l *errorLog) reopen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.files {
		_ = f.Close()
	}
	clear(l.files)
}

// start says that a connection has come and found its server.
func (l *errorLog) start(u *unit, r *engine.Record) {
	l.of(u, levelInfo, "*%s client %s connected to %s", r.ID, r.Client, r.Listener)
}

// end says how a connection ended.
func (l *errorLog) end(s *session) {
	r, u := s.record, s.unit
	remote, _ := s.remote()
	about := fmt.Sprintf("client: %s, server: %s", addrText(remote), r.Listener)
	switch r.Reason {
	case engine.SourceLimit:
		l.of(u, levelError, "*%s limiting connections, %s", r.ID, about)
	case engine.NoServer:
		l.of(u, levelError, "*%s no live upstreams while connecting to upstream, %s, upstream: %q", r.ID, about, u.passes)
	case engine.ConnectFailed, engine.ServersFull, engine.NoResources:
		l.of(u, levelError, "*%s %s: %s while connecting to upstream, %s", r.ID, r.Reason, r.Err, about)
	}
	l.of(u, levelInfo, "*%s %s, %s, bytes from/to client:%d/%d, bytes from/to upstream:%d/%d", r.ID, r.Reason, about,
		r.BytesUp, r.BytesDown, r.BytesDown, r.BytesUp)
}

// Enabled, Handle, WithAttrs and WithGroup make the log one of midspan's.

func (l *errorLog) Enabled(context.Context, slog.Level) bool { return true }

func (l *errorLog) Handle(_ context.Context, r slog.Record) error {
	at := levelInfo
	switch {
	case r.Level >= slog.LevelError:
		at = levelError
	case r.Level >= slog.LevelWarn:
		at = levelWarn
	}
	text := "midspan: " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += fmt.Sprintf(" %s=%q", a.Key, a.Value.String())
		return true
	})
	l.printf(at, "%s", text)
	return nil
}

func (l *errorLog) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l *errorLog) WithGroup(string) slog.Handler { return l }
