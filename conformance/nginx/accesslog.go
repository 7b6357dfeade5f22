package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// format is a log_format.
type format struct {
	escape string // default, json or none
	text   string
}

func newFormat(d *directive) *format {
	f := &format{escape: "default"}
	parts := d.args[min(1, len(d.args)):]
	if len(parts) > 0 {
		if e, is := strings.CutPrefix(parts[0], "escape="); is {
			f.escape, parts = e, parts[1:]
		}
	}
	f.text = strings.Join(parts, "")
	return f
}

// line is the format with s's values.
func (f *format) line(s *session) string {
	text, _ := expand(f.text, func(name string) (string, bool) {
		v, _ := s.get(name)
		return f.escaped(v), true
	})
	return text + "\n"
}

// escaped is v so that it cannot be taken for the text around it.
func (f *format) escaped(v string) string {
	switch {
	case f.escape == "none":
		return v
	case v == "" && f.escape == "default":
		return "-"
	}
	var b strings.Builder
	for i := range len(v) {
		c := v[i]
		switch {
		case f.escape == "json" && (c == '"' || c == '\\'):
			b.WriteString(`\` + string(c))
		case f.escape == "json" && c < 0x20:
			fmt.Fprintf(&b, `\u%04X`, c)
		case f.escape == "default" && (c < 0x20 || c > 0x7e || c == '"' || c == '\\'):
			fmt.Fprintf(&b, `\x%02X`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// accessLogs writes access_log lines, each from one of midspan's records. Files are
// opened for each write, so there is nothing to reopen.
type accessLogs struct {
	mu    sync.Mutex
	front *front
	files map[string]*logFile
}

// logFile is one log; buffered and compressed if it is asked to be.
type logFile struct {
	path  string
	gzip  bool
	flush time.Duration
	held  bytes.Buffer
	timer *time.Timer
}

func newAccessLogs() *accessLogs { return &accessLogs{files: map[string]*logFile{}} }

// use makes the logs of c exist.
func (a *accessLogs) use(f *front, c *conf) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.front = f
	for _, u := range c.units() {
		for _, d := range u.all("access_log") {
			if !strings.Contains(d.arg(0), "$") && d.arg(0) != "off" {
				a.append(d, d.arg(0), "")
			}
		}
	}
}

// write logs s where its server says.
func (a *accessLogs) write(s *session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range s.unit.all("access_log") {
		f := s.unit.conf.formats[d.arg(1)]
		if d.arg(0) == "off" || f == nil || !wanted(d, s) {
			continue
		}
		a.append(d, s.expand(d.arg(0)), f.line(s))
	}
}

// wanted is `if=`.
func wanted(d *directive, s *session) bool {
	for _, p := range d.args {
		if cond, is := strings.CutPrefix(p, "if="); is {
			v := s.expand(cond)
			return v != "" && v != "0"
		}
	}
	return true
}

func (a *accessLogs) append(d *directive, path, line string) {
	if !strings.HasPrefix(path, "/") {
		path = a.front.options.prefix + "/" + path
	}
	l := a.files[path]
	if l == nil {
		l = &logFile{path: path}
		for _, p := range d.args {
			name, value, _ := strings.Cut(p, "=")
			switch name {
			case "gzip":
				l.gzip = true
			case "flush":
				l.flush, _ = time.ParseDuration(value)
			}
		}
		a.files[path] = l
	}
	l.held.WriteString(line)
	switch {
	case l.flush == 0:
		a.flushed(l)
	case l.timer == nil:
		l.timer = time.AfterFunc(l.flush, func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			l.timer = nil
			a.flushed(l)
		})
	}
}

// flushed writes what l holds. a.mu is held.
func (a *accessLogs) flushed(l *logFile) {
	data := bytes.Clone(l.held.Bytes())
	l.held.Reset()
	if l.gzip && len(data) > 0 {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, _ = w.Write(data) // into memory
		_ = w.Close()
		data = z.Bytes()
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.Write(data)
		_ = f.Close()
	}
	if err != nil {
		a.front.log.printf(levelError, "access log: %v", err)
	}
}

func (a *accessLogs) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.files {
		if l.held.Len() > 0 {
			a.flushed(l)
		}
	}
}
