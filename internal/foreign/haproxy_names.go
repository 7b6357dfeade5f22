package foreign

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"midspan/internal/config"
)

// called keeps in mind the servers of a route that HAProxy called by another
// name than midspan does.
func (h *haproxy) called(servers []server) {
	for _, s := range servers {
		host := s.target.V.Host
		label, _, _ := strings.Cut(host, ".")
		if !strings.EqualFold(s.name, host) && !strings.EqualFold(s.name, label) {
			h.names[s.target.Pos] = s
		}
	}
}

// aboutNames says, once, that those names are gone.
func (h *haproxy) aboutNames() {
	if len(h.names) == 0 {
		return
	}
	const most = 3
	places := slices.SortedFunc(maps.Keys(h.names), func(a, b config.Pos) int { return a.Line - b.Line })
	var examples []string
	for _, pos := range places[:min(most, len(places))] {
		examples = append(examples, fmt.Sprintf("%s is %s", printable(h.names[pos].name), h.names[pos].target.V))
	}
	if more := len(places) - most; more > 0 {
		examples = append(examples, fmt.Sprintf("%d more", more))
	}
	h.notes.Addf(places[0], "server names are not carried over: metrics, log and status call a server by its host:port (%s); dashboards and alerts that go by name need a change", strings.Join(examples, ", "))
}
