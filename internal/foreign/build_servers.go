package foreign

import (
	"regexp"
	"slices"
	"strings"

	"midspan/internal/config"
)

// The modes of a route above TCP.
const (
	modeSNI  = "sni"
	modeHTTP = "http"
)

// hasServers tells whether some connection of r could go somewhere.
func hasServers(r *config.Route) bool { return len(r.To) > 0 || len(r.Groups) > 0 }

// servers tidies r's sets of servers: each server once in a set and with a port
// that exists, the same wherever it stands, and no set without one.
func (b *builder) servers(r *config.Route) {
	known := map[config.Target]config.Server{}
	r.To = b.set(r, r.To, known)
	taken := map[string]bool{}
	var groups []config.Group
	for _, g := range r.Groups {
		key := g.Match.V + g.Path.V
		if taken[key] {
			continue // its importer says what became of it
		}
		if g.To = b.set(r, g.To, known); len(g.To) == 0 {
			b.notes.Addf(g.Match.Pos, "%s is not carried over: no server is left that it could go to", quote(key))
			continue
		}
		taken[key] = true
		groups = append(groups, g)
	}
	r.Groups = groups
	switch {
	case r.Mode.V != modeSNI:
	case len(r.Groups) == 0:
		b.notes.Addf(r.Name.Pos, "route %s does not look at server names: every connection goes to its servers", r.Name.V)
		r.Mode, r.SNI = config.Field[string]{}, config.SNI{}
	case len(r.To) == 0:
		r.SNI.NoName, r.SNI.NotTLS = config.Field[string]{}, config.Field[string]{}
	}
}

// set is one set of r's servers. known are those of the sets before.
func (b *builder) set(r *config.Route, to []config.Server, known map[config.Target]config.Server) []config.Server {
	var out []config.Server
	first := map[config.Target]int{}
	for _, s := range to {
		t := s.Target.V
		if i, again := first[t]; again {
			b.merge(&out[i], s)
			continue
		}
		if l, port, bad := outOfRange(t, r.Listen); bad {
			b.notes.Addf(s.Target.Pos, "server %s is not carried over: for listen address %s its port would be %d", t, l, port)
			continue
		}
		first[t] = len(out)
		out = append(out, s)
	}
	weight := 0
	for i := range out {
		b.unify(&out[i], known)
		weight += out[i].Weight.Or(1)
	}
	if weight == 0 && len(out) > 0 {
		b.notes.Addf(out[0].Weight.Pos, "every server of route %s has weight 0, so none would get a connection", r.Name.V)
		return nil
	}
	return out
}

// unify gives a server the settings that it has in a set before: midspan has
// them once in a route.
func (b *builder) unify(s *config.Server, known map[config.Target]config.Server) {
	k, there := known[s.Target.V]
	if !there {
		known[s.Target.V] = *s
		return
	}
	if k.Weight.Or(1) == s.Weight.Or(1) && k.Backup.V == s.Backup.V && k.MaxConnections.V == s.MaxConnections.V {
		return
	}
	b.notes.Addf(s.Target.Pos, "server %s has the weight, limit and backup that it has on line %d of %s: midspan has one of each for a server of a route", s.Target.V, k.Target.Pos.Line, k.Target.Pos.File)
	s.Weight, s.Backup, s.MaxConnections = k.Weight, k.Backup, k.MaxConnections
}

// hostRE is a host name that can be told apart from others, in lower case.
var hostRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]*[a-z0-9])?)*$`)

// matchName is s as a name that the file can have in `to` or `hosts`: a host
// name, or "*." and one.
func matchName(s string) (string, bool) {
	name := strings.ToLower(s)
	bare := strings.TrimPrefix(name, "*.")
	for label := range strings.SplitSeq(bare, ".") {
		if len(label) > 63 { // RFC 1035 section 2.3.4
			return name, false
		}
	}
	reserved := []string{"default", "server", "weight", "backup", "max_connections"}
	return name, len(name) <= 250 && hostRE.MatchString(bare) && !slices.Contains(reserved, name)
}

// coversName tells whether each name of b is one of a. Both are names, or
// "*." and one, or "*" for all.
func coversName(a, b string) bool {
	suffix, wild := strings.CutPrefix(a, "*")
	return a == b || (wild && (suffix == "" || (strings.HasSuffix(b, suffix) && len(b) > len(suffix))))
}

// plainPath tells whether the file can have s as the beginning of a path.
func plainPath(s string) bool {
	return strings.HasPrefix(s, "/") && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// plainText tells whether the file can have s as a path of a file or as the
// value of a header.
func plainText(s string) bool {
	return s != "" && printable(s) == s && strings.TrimSpace(s) == s
}
