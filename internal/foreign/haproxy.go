package foreign

import (
	"fmt"
	"slices"
	"strings"

	"midspan/internal/config"
)

// HAProxy imports an haproxy.cfg. Its listen sections, and its frontends with
// their backends, become routes.
func HAProxy(name string, data []byte) (*Import, error) {
	imp, _, err := importHAProxy(name, data)
	return imp, err
}

// haproxy is the import of one haproxy.cfg.
type haproxy struct {
	*builder
	outside  []*stmt // statements before the first section
	backends map[string]*section
	defaults map[string]*section
	proxies  map[*section]*proxy   // evaluated ones
	names    map[config.Pos]server // servers of routes whose names are lost
	acls     []*acl                // of the sections that were read
	rewrote  map[*stmt]bool        // http-request lines that some route has as a rewrite

	// Of `global`.
	caBase, crtBase string
	noVerify        bool                 // ssl-server-verify none
	minTLS          config.Field[string] // for clients, where it is not 1.2
}

func importHAProxy(name string, data []byte) (*Import, *ledger, error) {
	const wanted = "no `listen` section and no `frontend` with a backend could be carried over"
	text, err := readable(name, data, "an haproxy.cfg with a `listen` section, or a `frontend` and its `backend`, is expected")
	if err != nil {
		return nil, nil, err
	}
	h := &haproxy{
		builder:  newBuilder(name, "HAProxy"),
		backends: map[string]*section{}, defaults: map[string]*section{},
		proxies: map[*section]*proxy{}, names: map[config.Pos]server{}, rewrote: map[*stmt]bool{},
	}
	sections := h.sections(text)
	if len(sections) == 0 {
		h.problems = nil
		h.problem(h.start(), "no section of an haproxy.cfg (listen, frontend, backend) was found%s", otherFormat(text, formatHAProxy))
		return nil, h.ledger, h.failed()
	}
	if hint := otherFormat(text, formatHAProxy); hint != "" {
		h.problems = nil
		h.problem(h.start(), "this is not an haproxy.cfg%s", hint)
		return nil, h.ledger, h.failed()
	}
	for _, s := range h.outside {
		h.problem(s.pos, "%s stands before the first section", s)
	}
	h.index(sections)
	for _, sec := range sections {
		h.section(sec)
	}
	h.unused(sections)
	h.unusedACLs()
	h.aboutNames()
	imp, err := h.finish(text, formatHAProxy, wanted)
	return imp, h.ledger, err
}

// index finds sections by name; of two with one name, HAProxy takes the first.
func (h *haproxy) index(sections []*section) {
	for _, sec := range sections {
		switch sec.kind {
		case "defaults":
			if sec.name != "" {
				h.defaults[sec.name] = sec
			}
		case "backend", "listen":
			if h.backends[sec.name] == nil {
				h.backends[sec.name] = sec
			}
		}
	}
}

func (h *haproxy) section(sec *section) {
	switch sec.kind {
	case "global":
		h.carry(sec.head)
		for _, s := range sec.body {
			r, known := globalRule(s)
			h.apply(nil, s, r, known)
		}
	case "resolvers":
		h.resolvers(sec)
	case "listen", "frontend":
		h.front(sec)
	case "backend", "defaults":
		// Evaluated when something uses them.
	default:
		h.noteBlock(sec.head, sec.body, sectionWords[sec.kind])
	}
}

// unused notes the sections that no route came from.
func (h *haproxy) unused(sections []*section) {
	for _, sec := range sections {
		switch {
		case h.proxies[sec] != nil:
		case sec.kind == "backend":
			h.noteBlock(sec.head, sec.body, isGone+"no route comes to it")
		case sec.kind == "defaults":
			h.noteBlock(sec.head, sec.body, isGone+"no route uses it")
		}
	}
}

// noBackend is why no route can be made of sec.
func noBackend(sec *section) string {
	switch {
	case sec.has("stats"):
		return "it has no server; midspan has a status page of its own (`admin`)"
	case sec.has("monitor-uri"):
		return "it has no server; midspan answers the load balancer's probe itself (`health`)"
	case sec.has("use_backend"):
		return "it has no `default_backend`, and midspan chooses servers by name and path only; write a route for each backend, or give it a default"
	case sec.kind == "listen":
		return "it has no server"
	}
	return "it has no `default_backend`"
}

// backend is the backend that every connection of a frontend can go to: that
// of the `use_backend` without a condition, or the default.
func (h *haproxy) backend(sec *section) config.Field[string] {
	if s := unconditional(sec); s != nil {
		return config.At(s.arg(1), s.pos)
	}
	var found config.Field[string]
	for _, s := range sec.body {
		if s.arg(0) == "default_backend" && len(s.words) >= 2 {
			found = config.At(s.arg(1), s.pos)
		}
	}
	if d := h.defaultsOf(sec); d != nil && !found.Set() {
		return h.proxy(d).backend
	}
	return found
}

// unconditional is the first `use_backend` of sec that has neither a condition
// nor a variable.
func unconditional(sec *section) *stmt {
	for _, s := range sec.body {
		if s.arg(0) == "use_backend" && len(s.words) == 2 && !dynamic(s) {
			return s
		}
	}
	return nil
}

// dynamic tells whether the backend that s names is worked out for each
// connection: use_backend %[req.hdr(host)].
func dynamic(s *stmt) bool { return strings.Contains(s.arg(1), "%") }

// defaultsOf is the `defaults` section that sec starts from.
func (h *haproxy) defaultsOf(sec *section) *section {
	if sec.from == "" {
		if sec.kind == "defaults" {
			return nil // one that names no other starts from nothing
		}
		return sec.last
	}
	d := h.defaults[sec.from]
	if d == nil && !sec.head.noted {
		sec.head.noted = true
		h.problem(sec.head.pos, "%s: there is no `defaults %s` in this file", sec.head, printable(sec.from))
	}
	return d
}

// httpPorts are the ports on which a route most likely carries HTTP.
var httpPorts = []uint16{80, 443, 8080}

// aboutHTTP says what a route never had by not being HTTP.
func (h *haproxy) aboutHTTP(f, b *proxy, r config.Route) {
	const lost = "HTTP is forwarded as a TCP stream"
	if f.mode.V == modeHTTP || b.mode.V == modeHTTP {
		return
	}
	mode := b.mode
	if mode.V == "tcp" || f.mode.V == "tcp" {
		return
	}
	why := ""
	for _, l := range r.Listen {
		if slices.Contains(httpPorts, l.V.From) && l.V.From == l.V.To {
			why = fmt.Sprintf("listens on port %d", l.V.From)
		}
	}
	switch {
	case strings.Contains(strings.ToLower(f.sec.name), "http"):
		why = "has http in its name"
	case f.log.V == "httplog":
		why = "has `option httplog`"
	}
	if why != "" {
		h.notes.Addf(f.sec.head.pos, "route %s %s, and runs as a TCP route, as it does in HAProxy without `mode http`: %s, without balancing by request, X-Forwarded-For or header rules", r.Name.V, why, lost)
	}
}

// aboutLog takes over the log's format, which midspan has once for all routes.
func (h *haproxy) aboutLog(f *proxy) {
	if f.log.Set() && !h.file.Log.Format.Set() {
		h.file.Log.Format = config.At("tcplog", f.log.Pos)
	}
}
