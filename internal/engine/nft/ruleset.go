package nft

import (
	"fmt"
	"strings"
)

// tableName is our table in the family inet. Nothing outside of it is ever
// written.
const tableName = "midspan"

// ruleset is the whole table.
type ruleset struct {
	counters []string // named counters
	sets     []*set
	chains   []*chain
}

// chain is a list of rules, and of a base chain where it hangs.
type chain struct {
	name    string
	level   int // nft knows a chain only after it was declared, so those come first that others lead to
	comment string
	hook    *hook
	rules   []rule
}

// The levels of chains.
const (
	levelEnd = iota
	levelRoute
	levelBase
)

// hook is where the kernel enters a base chain. Numbers are NF_INET_* and
// priorities are relative to those of linux/netfilter_ipv4.h.
type hook struct {
	kind     string // nat or filter
	name     string
	number   uint32
	priority int32
}

// Where our chains hang. They come just before the usual priorities for NAT
// (dstnat is -100, srcnat 100), so that a rule that somebody has left for the same
// port does not take the connection first.
var (
	hookPrerouting  = &hook{"nat", "prerouting", 0, -110}
	hookOutput      = &hook{"nat", "output", 3, -110}
	hookPostrouting = &hook{"nat", "postrouting", 4, 90}
	hookForward     = &hook{"filter", "forward", 2, -150}
)

func (c *chain) add(terms ...term) { c.rules = append(c.rules, terms) }

// settle keeps of the rules their text alone, which is all that is needed once
// the kernel has them.
func (c *chain) settle() {
	for i, r := range c.rules {
		if len(r) > 1 || r[0].exprs != nil {
			c.rules[i] = rule{{text: r.String()}}
		}
	}
}

func (c *chain) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\tchain %s {\n", c.name)
	if c.comment != "" {
		fmt.Fprintf(&b, "\t\tcomment %q\n", c.comment)
	}
	if h := c.hook; h != nil {
		fmt.Fprintf(&b, "\t\ttype %s hook %s priority %d; policy accept;\n", h.kind, h.name, h.priority)
	}
	for _, r := range c.rules {
		fmt.Fprintf(&b, "\t\t%s\n", r)
	}
	b.WriteString("\t}\n")
	return b.String()
}

// String is the table as nft reads it.
func (r *ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", tableName)
	part := func(s string) {
		if !strings.HasSuffix(b.String(), "{\n") {
			b.WriteByte('\n')
		}
		b.WriteString(s)
	}
	for _, c := range r.counters {
		part(fmt.Sprintf("\tcounter %s {\n\t}\n", c))
	}
	for _, s := range r.sets {
		part(s.String())
	}
	for _, c := range r.chains {
		part(c.String())
	}
	b.WriteString("}\n")
	return b.String()
}
