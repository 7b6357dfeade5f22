package daemon

import (
	"slices"
	"strings"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// logReady says when a route loses its last server or has one again, and when
// the probe's answer changes for another reason.
func (d *Daemon) logReady(old, now *plan.Plan) {
	usable := map[string]bool{}
	if old != nil {
		for _, r := range old.Routes {
			usable[r.Name] = r.Usable()
		}
	}
	for _, r := range now.Routes {
		switch before, known := usable[r.Name]; {
		case r.Usable() && known && !before:
			d.log.Info("the route has a server again", "route", r.Name)
		case !r.Usable() && (before || !known):
			d.log.Warn("the route has no server that is up", "route", r.Name)
		}
	}
	reason := ""
	if err := d.Ready(); err != nil && old != nil {
		reason = err.Error()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch before := d.notReady; {
	case reason != "" && reason != before:
		d.log.Warn("the probe answers 503", "why", reason)
	case reason == "" && before != "":
		d.log.Info("the probe answers 200")
	}
	d.notReady = reason
}

func (d *Daemon) logChange(c engine.Change) {
	d.logListeners("listening", c.Added)
	d.logListeners("stopped listening", c.Removed)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range c.Pending {
		if !slices.Contains(d.status.Engine.Pending, p) {
			d.log.Warn("cannot listen yet; trying again", "route", p.Route, "listen", p.Listen, "why", p.Why)
		}
	}
	d.status.Engine.Pending = c.Pending
}

// logListeners writes one line for each route, however many ports it has.
func (d *Daemon) logListeners(msg string, listeners []string) {
	var routes []string
	of := map[string][]string{}
	for _, s := range listeners {
		route, address, _ := strings.Cut(s, " ")
		if of[route] == nil {
			routes = append(routes, route)
		}
		of[route] = append(of[route], address)
	}
	for _, route := range routes {
		d.log.Info(msg, "route", route, "on", engine.Brief(of[route]))
	}
}
