package foreign

import (
	"slices"
	"strings"

	"midspan/internal/config"
)

// rewritten is a group, with the rewrites of paths that HAProxy has for it: of
// what begins with a longer path than the group's, a group of its own.
func (v *view) rewritten(g config.Group, back *proxy) []config.Group {
	out := []config.Group{g}
	for _, p := range []*proxy{v.f, back} {
		for _, s := range p.http {
			from, to, ok := rewriteOf(s)
			if !ok || !strings.HasPrefix(from, g.Path.V) || !v.rewrites(p, s, g) {
				continue
			}
			v.rewrote[s] = true
			v.carry(s)
			if from == g.Path.V {
				out[0].Rewrite = config.At(to, s.pos)
				continue
			}
			longer := g
			longer.Path, longer.Rewrite = config.At(from, s.pos), config.At(to, s.pos)
			out = append(out, longer)
		}
		if p == back {
			break
		}
	}
	return out
}

// rewrites tells whether the condition of a rewrite, if it has one, holds for
// all requests that the group is for.
func (v *view) rewrites(p *proxy, s *stmt, g config.Group) bool {
	c := v.cond(p, conditionOf(s.words))
	if c.why() != "" {
		return false
	}
	for _, tests := range v.given(c) {
		holds := true
		for _, t := range tests {
			holds = holds && !t.not && t.fact == factPath && slices.ContainsFunc(t.values, func(x string) bool { return strings.HasPrefix(g.Path.V, x) }) ||
				holds && !t.not && t.fact == factHost && slices.ContainsFunc(t.values, func(x string) bool { return coversName(x, g.Match.V) })
		}
		if holds {
			return true
		}
	}
	return false
}

// rewriteOf reads the forms that replace the beginning of a path:
// replace-path ^/a/(.*) /b/\1, and set-path %[path,regsub(^/a/,/b/)].
func rewriteOf(s *stmt) (from, to string, ok bool) {
	if s.arg(0) != "http-request" {
		return "", "", false
	}
	switch s.arg(1) {
	case "replace-path", "replace-uri":
		from, ok = strings.CutSuffix(strings.TrimSuffix(s.arg(2), "$"), "(.*)")
		var tail bool
		to, tail = strings.CutSuffix(s.arg(3), `\1`)
		ok = ok && tail
	case "set-path":
		inner, is := strings.CutPrefix(s.arg(2), "%[path,regsub(")
		inner, end := strings.CutSuffix(inner, ")]")
		from, to, ok = strings.Cut(inner, ",")
		ok = ok && is && end
	}
	from = strings.TrimPrefix(from, "^")
	return from, to, ok && plainPath(from) && plainPath(to) && !strings.ContainsAny(from+to, `\()[]{}*+?|^$"',`)
}
