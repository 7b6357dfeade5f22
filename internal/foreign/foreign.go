// Package foreign turns the configurations that midspan replaces into a
// config.File: an haproxy.cfg, an nginx.conf, command lines of ip_fwd.sh, the
// output of iptables-save.
//
// Nothing is dropped in silence. Every statement of the input is registered in
// a ledger; at the end each one was carried over or is in one of the Import's
// two lists, and what no importer claimed gets a note of its own. A foreign statement that its own
// program would refuse is a problem, and then there is no Import at all.
//
// Limits: an input has at most config.MaxSize bytes (nginx: all files
// together), maxListens listen addresses and maxServers servers. Of conditions
// (HAProxy's ACLs, nginx's maps) those by server name, host, path and source
// are understood; regular expressions, other variables, .if blocks and a
// shell's control flow are not evaluated. nginx's Lua blocks and a shell's here-documents are not
// understood. Nothing is looked up: names stay names, and the values of
// environment variables are unknown.
package foreign

import (
	"slices"

	"midspan/internal/config"
)

// Import is what a foreign configuration became.
type Import struct {
	// File is what was carried over. It can be encoded, parsed and planned.
	// Its Comment says where it is from, and each Route's Comment which
	// statement it was.
	File *config.File
	// Notes are everything that was not carried over, or in another way, and
	// matters: wider access, what is lost, what behaves differently.
	Notes config.Problems
	// Needless is what has no counterpart and needs none.
	Needless config.Problems
}

// Ranked is Notes with those first that widen access, which their texts begin
// with.
func (i *Import) Ranked() config.Problems {
	narrow := func(n config.Problem) bool { return !widens(n.Text) }
	wide := func(n config.Problem) bool { return widens(n.Text) }
	return append(slices.DeleteFunc(slices.Clone(i.Notes), narrow), slices.DeleteFunc(slices.Clone(i.Notes), wide)...)
}

// Bounds on what one import may become. A backend that is shared by many
// frontends multiplies its servers, so the size of the input is no bound.
const (
	maxListens  = 10_000
	maxServers  = 50_000
	maxRules    = 300_000 // rules by name, path or source that routes are made by, each time they are
	maxChoices  = 10_000  // of one route
	maxProblems = 50
)
