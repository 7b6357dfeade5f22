package relay

import (
	"slices"
	"strings"
	"sync/atomic"
)

// wildGroup is a group for all names that end so.
type wildGroup struct {
	suffix string // ".example.com"; "": all
	*picker
}

// setGroups makes the pickers of s's groups from the endpoints of r that are up.
// r.mu is held.
func (s *settings) setGroups(r *route, up []choice) {
	s.rest = s.picker
	s.setNodes(up)
	if len(s.Groups) == 0 && s.Kafka == nil { // of whose servers some are only for their nodes
		return
	}
	// Each set has a turn of its own: another's connections would take its turns.
	turns := map[string]*atomic.Uint64{}
	of := func(servers []int, key string) *picker {
		turn := r.turns[key]
		if turn == nil {
			turn = new(atomic.Uint64)
		}
		turns[key] = turn
		var its []choice
		for _, i := range servers { // in their order, which is not the route's
			for _, c := range up {
				if c.server == s.Servers[i] {
					its = append(its, c)
				}
			}
		}
		return newPicker(s.Balance, exceptDown(its), turn)
	}
	s.rest = of(s.Default, "")
	s.byName = map[string]*picker{}
	for i := range s.Groups {
		g := &s.Groups[i]
		picker := of(g.Servers, g.Match+g.Path)
		s.groups = append(s.groups, picker)
		if suffix, wild := strings.CutPrefix(g.Match, "*"); wild {
			s.wild = append(s.wild, wildGroup{suffix, picker})
		} else {
			s.byName[g.Match] = picker
		}
	}
	r.turns = turns
	slices.SortStableFunc(s.wild, func(a, b wildGroup) int { return len(b.suffix) - len(a.suffix) })
}

// exceptDown leaves out of a set what is down and there only as the last resort of
// another set, if the set has something better.
func exceptDown(all []choice) []choice {
	if !slices.ContainsFunc(all, func(c choice) bool { return !c.wasDown && c.server.Weight > 0 }) {
		return all
	}
	return slices.DeleteFunc(all, func(c choice) bool { return c.wasDown })
}

// group chooses the servers for a name: the group of that name, or of the longest
// pattern that it fits; nil: none is for it.
func (s *settings) group(name string) *picker {
	if p := s.byName[name]; p != nil {
		return p
	}
	for _, w := range s.wild {
		if strings.HasSuffix(name, w.suffix) && len(name) > len(w.suffix) {
			return w.picker
		}
	}
	return nil
}
