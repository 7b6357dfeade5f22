package foreign

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"midspan/internal/config"
)

// Files are how an nginx.conf and what it includes are read. Paths are as the
// configuration has them, relative ones from the directory of the main file.
type Files struct {
	Open func(path string) (io.ReadCloser, error)
	Glob func(pattern string) ([]string, error) // nil: patterns are noted as not read
}

// Nginx imports an nginx.conf; name is the main file. The servers of its
// stream block become routes, and so do servers of its http block that only
// hand everything on to one upstream.
func Nginx(name string, files Files) (*Import, error) {
	imp, _, err := importNginx(name, files)
	return imp, err
}

// nginx is the import of one nginx configuration.
type nginx struct {
	*builder
	stream, http map[string]*upstream
	silent       bool // the note on nginx's defaults was written
}

func importNginx(name string, files Files) (*Import, *ledger, error) {
	const wanted = "no `server` of a `stream` block, and no plain one of an `http` block, could be carried over"
	x := &nginx{builder: newBuilder(name, "nginx"), stream: map[string]*upstream{}, http: map[string]*upstream{}}
	r := &nginxReader{
		ledger: x.ledger, Files: files, main: name,
		texts: map[string]*nginxText{}, globs: map[string][]string{}, failed: map[string]error{},
	}
	tree := r.parse()
	if len(x.problems) > 0 {
		if hint := otherFormat(r.mainText, formatNginx); hint != "" {
			x.problems = nil
			x.problem(x.start(), "this is not an nginx configuration%s", hint)
		}
		return nil, x.ledger, x.failed()
	}
	x.main(tree)
	imp, err := x.finish(r.mainText, formatNginx, wanted)
	return imp, x.ledger, err
}

func (x *nginx) main(tree []*node) {
	bare := bareStream(tree)
	for _, n := range tree {
		switch {
		case n.name() == "stream" && n.isBlock:
			x.carry(n.stmt)
			x.streamBlock(n.block)
		case n.name() == "http" && n.isBlock:
			x.carry(n.stmt)
			x.httpBlock(n.block)
		case bare && (n.name() == "server" || n.name() == "upstream"):
			// Part of the one stream block, below.
		default:
			x.noteBy(mainNotes, n)
		}
	}
	if bare {
		x.streamBlock(slices.DeleteFunc(slices.Clone(tree), func(n *node) bool { return n.name() != "server" && n.name() != "upstream" }))
	}
}

// bareStream tells whether tree is the inside of a stream block: a file that
// is meant to be included in one.
func bareStream(tree []*node) bool {
	bare := false
	for _, n := range tree {
		switch n.name() {
		case "stream", "http", "mail":
			return false
		case "server":
			bare = bare || slices.ContainsFunc(n.block, func(m *node) bool { return m.name() == "proxy_pass" })
		}
	}
	return bare
}

// noteBy notes n, and what is in it, with its text in the table.
func (x *nginx) noteBy(table noteTable, n *node) {
	why, known := table.find(n.name())
	if !known {
		why = "is not known to this importer and is not carried over"
	}
	x.noteBlock(n.stmt, n.inner(), why)
}

// nginxSettings are what a server takes over from the blocks around it.
type nginxSettings struct {
	connect   config.Field[time.Duration]
	idle      config.Field[time.Duration]
	keepalive config.Keepalive
	tls       bool // proxy_ssl: servers get TLS
}

// setting carries n over into c if it is one of the few that can be.
func (x *nginx) setting(c *nginxSettings, n *node) bool {
	switch n.name() {
	case "proxy_connect_timeout":
		if x.time(n, &c.connect) {
			x.note(n.stmt, "%s is for each attempt in nginx; midspan's connect_timeout is for all attempts of a connection together", n)
		}
	case "proxy_timeout":
		x.time(n, &c.idle)
	case "proxy_socket_keepalive":
		// On is midspan's default; off is too, since it is only nginx's word
		// for the kernel's.
		x.carry(n.stmt)
	case "resolver":
		x.resolver(n)
	case "resolver_timeout":
		var d config.Field[time.Duration]
		if x.time(n, &d) && d.V > 0 && !x.file.DNS.Timeout.Set() {
			x.file.DNS.Timeout = config.At(x.within(d.Pos, d.V, time.Millisecond, time.Hour), d.Pos)
		}
	default:
		return false
	}
	return true
}

// time reads n's argument as a time.
func (x *nginx) time(n *node, at *config.Field[time.Duration]) bool {
	d, ok := nginxTime(n.arg(1))
	if !ok || len(n.words) != 2 {
		x.lost(n.stmt, "it is not a time; nginx's are 500ms, 30s, 5m, 1h30m")
		return false
	}
	x.carry(n.stmt)
	*at = config.At(d, n.pos)
	return true
}

// resolver reads `resolver ADDRESS… [valid=TIME] [ipv6=off] …`.
func (x *nginx) resolver(n *node) {
	if len(x.file.DNS.Servers) > 0 {
		x.lost(n.stmt, "midspan has one `dns` for the names of all routes, and an earlier `resolver` is it")
		return
	}
	for _, w := range n.words[1:] {
		name, value, isParam := strings.Cut(w.text, "=")
		if !isParam {
			if ns, err := nameserver(w.text); err == nil {
				x.file.DNS.Servers = append(x.file.DNS.Servers, config.At(ns, n.pos))
			} else {
				x.lost(n.stmt, fmt.Sprintf("%s is not the IP address of a DNS server", quote(w.text)))
			}
			continue
		}
		d, ok := nginxTime(value)
		if name == "valid" && ok {
			// nginx's `valid` takes the place of every TTL.
			hour := min(d, time.Hour)
			x.file.DNS.MinTTL = config.At(x.within(n.pos, hour, 100*time.Millisecond, time.Hour), n.pos)
			x.file.DNS.MaxTTL = config.At(x.within(n.pos, max(d, hour), 100*time.Millisecond, 24*time.Hour), n.pos)
			continue
		}
		x.note(n.stmt, "%s: %s is not carried over: midspan uses all addresses of a name, IPv4 and IPv6", n, quote(w.text))
	}
	if len(x.file.DNS.Servers) > 0 {
		x.carry(n.stmt)
		x.note(n.stmt, "%s becomes `dns`, which midspan has once, for the names of all routes", n)
	}
}

// settings are c as a route has them.
func (x *nginx) settings(c nginxSettings) config.Settings {
	s := config.Settings{Keepalive: c.keepalive}
	if c.connect.V > 0 {
		s.ConnectTimeout = config.At(x.within(c.connect.Pos, c.connect.V, time.Millisecond, time.Hour), c.connect.Pos)
	}
	if c.idle.Set() {
		v := config.OffOr[time.Duration]{Off: c.idle.V == 0}
		if !v.Off {
			v.V = x.within(c.idle.Pos, c.idle.V, time.Second, 30*24*time.Hour)
		}
		s.IdleTimeout = config.At(v, c.idle.Pos)
	}
	return s
}

// aboutDefaults says, once, what nginx does where its configuration is silent
// and midspan does not.
func (x *nginx) aboutDefaults(c nginxSettings, at config.Pos) {
	if x.silent {
		return
	}
	switch {
	case !c.idle.Set() && !c.connect.Set():
		x.notes.Addf(at, "nginx's defaults are not taken over: it cuts a connection that is idle for 10m (proxy_timeout) and waits 60s for a server (proxy_connect_timeout); midspan cuts none unless idle_timeout says so, and waits 3s")
	case !c.idle.Set():
		x.notes.Addf(at, "nginx's default of 10m for proxy_timeout is not taken over: midspan does not cut idle connections unless idle_timeout says so")
	default:
		return
	}
	x.silent = true
}
