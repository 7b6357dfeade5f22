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
// stream block become routes, and so do those of its http block that pass
// requests on: servers that share an address become the hosts of one route.
func Nginx(name string, files Files) (*Import, error) {
	imp, _, err := importNginx(name, files)
	return imp, err
}

// nginx is the import of one nginx configuration.
type nginx struct {
	*builder
	stream, http map[string]*upstream
	zones        map[string]*zone // of the block that is read
	maps         map[string]*node // those of the stream block, by the variable that they make
	silent       bool             // the note on nginx's defaults was written
	silentHTTP   bool             // that for http
}

func importNginx(name string, files Files) (*Import, *ledger, error) {
	const wanted = "no `server` of a `stream` block, and none of an `http` block that passes requests on, could be carried over"
	x := &nginx{builder: newBuilder(name, "nginx"), stream: map[string]*upstream{}, http: map[string]*upstream{}, zones: map[string]*zone{}, maps: map[string]*node{}}
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
