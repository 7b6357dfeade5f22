package foreign

import (
	"fmt"
	"slices"
	"strings"

	"midspan/internal/config"
)

// choice is what one line chooses servers for: for these names and paths.
type choice struct {
	line  *stmt
	names []string // nil: all
	paths []string // what paths begin with; nil: all
	back  *proxy
	one   string // use-server: the only server of back
	used  bool
}

// choices are those of the frontend's rules and then of the default backend's
// `use-server`, in the order in which they are asked.
func (v *view) choices(def *proxy) (out []*choice) {
	for _, s := range v.f.uses {
		if s.arg(0) != "use_backend" || s == v.f.always {
			continue
		}
		sec := v.haproxy.backends[s.arg(1)]
		if sec == nil {
			v.lost(s, fmt.Sprintf("backend %s is not in this file", quote(s.arg(1))))
			continue
		}
		if found := v.chosen(v.f, s, s.words[2:]); len(found) > 0 {
			b := v.proxy(sec)
			for _, c := range found {
				c.back = b
			}
			out = append(out, found...)
		}
	}
	if def == nil {
		return out
	}
	for _, s := range def.uses {
		if s.arg(0) != "use-server" {
			continue
		}
		if !slices.ContainsFunc(def.servers, func(x server) bool { return x.name == s.arg(1) }) {
			v.lost(s, fmt.Sprintf("%s has no server %s that is carried over", def.sec, quote(s.arg(1))))
			continue
		}
		found := v.chosen(def, s, s.words[2:])
		for _, c := range found {
			c.back, c.one = def, s.arg(1)
		}
		if len(found) > 0 {
			v.note(s, "%s: while the server is down, these connections are refused; HAProxy sends them to the others", s)
		}
		out = append(out, found...)
	}
	return out
}

// chosen are the choices of a line with a condition. p has its ACLs.
func (v *view) chosen(p *proxy, s *stmt, words []word) (out []*choice) {
	c := v.cond(p, words)
	if why := c.why(); why != "" {
		v.lost(s, why+", so these connections go where the rules after it, or the default, lead; give them a route and a port of their own")
		return nil
	}
	alternatives := v.given(c)
	for _, tests := range alternatives {
		one, why := v.alternative(tests)
		if why != "" {
			v.lost(s, why+", so these connections go where the rules after it, or the default, lead; give them a route and a port of their own")
			return nil
		}
		one.line = s
		out = append(out, one)
	}
	v.carry(s)
	for _, d := range c.differ() {
		v.note(s, "%s: %s", s, d)
	}
	return out
}

// alternative is the choice of connections for which all tests hold.
func (v *view) alternative(tests []test) (*choice, string) {
	c := &choice{}
	for _, t := range tests {
		at := &c.names
		switch {
		case t.fact == factSrc:
			return nil, "midspan chooses servers by the client's address only where it is a consumer's (`consumers`)"
		case t.fact != factSNI && t.fact != factHost && t.fact != factPath:
			return nil, "midspan chooses servers by name and path"
		case t.not:
			return nil, "midspan chooses by what a name is, not by what it is not"
		case t.fact == factSNI && (v.http || v.tls):
			return nil, "the server name is read where TLS is not decrypted (mode tcp without `ssl`)"
		case t.fact != factSNI && !v.http:
			return nil, "HTTP is read in mode http only"
		case t.fact == factPath:
			at = &c.paths
		}
		if *at != nil {
			return nil, "midspan chooses by one name and one path"
		}
		*at = t.values
	}
	if !v.http && c.names == nil {
		return nil, "midspan chooses servers of TCP connections by the name that TLS clients ask for"
	}
	return c, ""
}

// groups are the sets of servers that choices with one of backs make. Names and
// paths that an earlier line takes are left out: midspan goes by the nearest
// match and not by the order.
func (v *view) groups(choices []*choice, backs []*proxy) (out []config.Group) {
	choices = slices.DeleteFunc(slices.Clone(choices), func(c *choice) bool { return !slices.Contains(backs, c.back) })
	var names []string
	known := map[string]bool{}
	for _, c := range choices {
		for _, n := range c.allNames() {
			if !known[n] {
				known[n] = true
				names = append(names, n)
			}
		}
	}
	for _, n := range names {
		groups, own := v.groupsOf(n, choices)
		if own {
			out = append(out, groups...)
		}
	}
	used := map[*stmt]bool{}
	for _, c := range choices {
		used[c.line] = used[c.line] || c.used
	}
	for s, is := range used {
		if !is {
			v.needless(s, "earlier lines take all that it is for")
		}
	}
	return out
}

// everyName are the names of a choice without any.
var everyName = []string{"*"}

func (c *choice) allNames() []string {
	if c.names == nil {
		return everyName
	}
	return c.names
}

// groupsOf are the sets for one name. own tells whether some line that names it
// has an effect there; else a wider name says the same.
func (v *view) groupsOf(name string, choices []*choice) (out []config.Group, own bool) {
	var taken []string // paths
	for _, c := range choices {
		wide := slices.ContainsFunc(c.allNames(), func(n string) bool { return coversName(n, name) })
		if !wide {
			continue
		}
		paths := c.paths
		if paths == nil {
			paths = []string{"/"}
		}
		for _, p := range paths {
			if slices.ContainsFunc(taken, func(t string) bool { return strings.HasPrefix(p, t) }) {
				continue
			}
			taken = append(taken, p)
			own = own || slices.Contains(c.allNames(), name)
			c.used = c.used || slices.Contains(c.allNames(), name)
			g := config.Group{Match: config.At(name, c.line.pos), To: v.serversOf(c)}
			if v.http {
				g.Path = config.At(p, c.line.pos)
				out = append(out, v.rewritten(g, c.back)...)
			} else {
				out = append(out, g)
			}
		}
	}
	return out, own
}

// serversOf are the servers of a choice.
func (v *view) serversOf(c *choice) (to []config.Server) {
	if c.one == "" {
		return v.servers(c.back)
	}
	for _, s := range c.back.servers {
		if s.name == c.one {
			to = append(to, s.config())
		}
	}
	return to
}
