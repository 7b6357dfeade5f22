package main

import (
	"slices"
	"strings"

	"midspan/internal/config"
	"midspan/internal/plan"
)

// named is where a proxy_pass leads that depends on the name in the ClientHello.
type named struct {
	name string // "": none, and all names that are not among the others
	to   string
}

// prereadName is the variable that a route of midspan's can choose by.
const prereadName = "ssl_preread_server_name"

// targets are the values of a proxy_pass that depends on nothing but that: for
// each name that its maps have, and for each that would be an upstream's. None
// when it depends on more.
func (u *unit) targets() (all []named) {
	pass := find(u.server.block, "proxy_pass")
	if !u.on("ssl_preread") || pass == nil {
		return nil
	}
	for _, name := range u.candidates(pass.arg(0)) {
		to, known := expand(pass.arg(0), func(v string) (string, bool) { return u.ofName(v, name) })
		if !known {
			return nil
		}
		if name == "" || u.conf.upstreams[to] != nil || strings.Contains(to, ":") {
			all = append(all, named{name, to})
		}
	}
	return all
}

// ofName is static, with a name.
func (u *unit) ofName(variable, name string) (string, bool) {
	if variable == prereadName {
		return name, true
	}
	if d := u.conf.defined[variable]; d != nil {
		return d.value(func(v string) (string, bool) { return u.ofName(v, name) })
	}
	return u.static(variable)
}

// candidates are the names that text may tell apart, "" first.
func (u *unit) candidates(text string) []string {
	all := []string{""}
	for name := range u.conf.upstreams {
		all = append(all, name)
	}
	for _, v := range variables(text) {
		if m, is := u.conf.defined[v].(*mapping); is {
			for name := range m.exact {
				all = append(all, name)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// named makes r a route of mode sni. Its default is where nginx sends clients
// without a name, and those that speak no TLS.
func (t *translation) named(r *route) error {
	if len(r.byName) == 0 {
		return nil
	}
	patch := config.Route{Mode: set(string(plan.ModeSNI))}
	for _, n := range r.byName {
		servers, err := t.serversOf(n.to)
		if err != nil {
			return err
		}
		if n.name == "" {
			patch.To = servers
			patch.SNI.NotTLS = set(string(plan.ToDefault))
			continue
		}
		patch.Groups = append(patch.Groups, config.Group{Match: set(n.name), To: servers})
	}
	if size := bytesOf(r.arg("preread_buffer_size")); size > 0 {
		patch.SNI.MaxHello = set(config.Size(size))
	}
	if d, err := timeOf(r.arg("preread_timeout")); err == nil && d > 0 {
		patch.SNI.Timeout = set(d)
	}
	r.patch = append(r.patch, func(c *config.Route) { c.Mode, c.To, c.Groups, c.SNI = patch.Mode, patch.To, patch.Groups, patch.SNI })
	return nil
}

// serversOf are the servers of one target.
func (t *translation) serversOf(to string) (all []config.Server, err error) {
	addrs := []string{to}
	if up := t.conf.upstreams[to]; up != nil {
		addrs = nil
		for _, d := range up.block {
			if d.name == "server" && !slices.Contains(d.args, "down") && !slices.Contains(addrs, d.arg(0)) {
				addrs = append(addrs, d.arg(0))
			}
		}
	}
	if len(addrs) == 0 {
		addrs = []string{nowhere}
	}
	for _, a := range addrs {
		reached, err := t.ends.reach(a)
		if err != nil {
			return nil, err
		}
		target, err := config.ParseTarget(reached)
		if err != nil {
			return nil, err
		}
		all = append(all, config.Server{Target: set(target)})
	}
	return all, nil
}
