package host

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// ruleset is what nftables holds, read as far as it is asked for. Rules of
// iptables-nft are in it, those of iptables-legacy are not.
type ruleset struct {
	ctx    context.Context
	conn   *nftables.Conn
	chains []*nftables.Chain
	rules  map[place][]*rule
	sets   map[place][]element
	errs   []error // chains and sets that could not be read
}

// place names a chain or a set.
type place struct {
	family nftables.TableFamily
	table  string
	name   string
}

func readRuleset(ctx context.Context) (*ruleset, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	r := &ruleset{ctx: ctx, conn: conn, rules: map[place][]*rule{}, sets: map[place][]element{}}
	r.chains, err = conn.ListChains()
	return r, err
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	}
	return "inet"
}

func (r *ruleset) failed(p place, err error) {
	r.errs = append(r.errs, fmt.Errorf("%s of table %s %s cannot be read, so what it does is not known: %w", p.name, familyName(p.family), p.table, err))
}

// in are the rules of a chain, in order.
func (r *ruleset) in(table *nftables.Table, chain string) []*rule {
	p := place{table.Family, table.Name, chain}
	rules, ok := r.rules[p]
	if !ok {
		err := r.ctx.Err()
		if err == nil {
			rules, err = dumpRules(table, chain)
		}
		if err != nil {
			r.failed(p, err)
		}
		r.rules[p] = rules
	}
	return rules
}

// elements are those of a set or map.
func (r *ruleset) elements(table *nftables.Table, name string) (list []element, ok bool) {
	p := place{table.Family, table.Name, name}
	list, ok = r.sets[p]
	if !ok {
		err := r.ctx.Err()
		var raw []nftables.SetElement
		if err == nil {
			raw, err = r.conn.GetSetElements(&nftables.Set{Table: table, Name: name})
		}
		if err != nil {
			r.failed(p, err)
			return nil, false
		}
		list = intervals(raw)
		r.sets[p] = list
	}
	return list, true
}

// has tells whether a table has a chain of that name.
func (r *ruleset) has(table *nftables.Table, chain string) bool {
	for _, c := range r.chains {
		if c.Name == chain && c.Table.Name == table.Name && c.Table.Family == table.Family {
			return true
		}
	}
	return false
}

// base are the chains of others on a hook that see packets of a family.
func (r *ruleset) base(hook *nftables.ChainHook, kind nftables.ChainType, family byte) []*nftables.Chain {
	var list []*nftables.Chain
	for _, c := range r.chains {
		ours := c.Table.Family == nftables.TableFamilyINet && slices.Contains(ourTables, c.Table.Name)
		sees := byte(c.Table.Family) == family || c.Table.Family == nftables.TableFamilyINet
		if c.Hooknum != nil && *c.Hooknum == *hook && c.Type == kind && sees && !ours {
			list = append(list, c)
		}
	}
	return list
}

// ourTables are the kernel engine's, in the inet family.
var ourTables = []string{"midspan", "midspan_anchor"}

// fate is what surely becomes of a packet.
type fate int8

const (
	passed fate = iota // it is at the end of the chain, or has returned from it
	accepted
	dropped
)

// walk follows a packet through chains.
type walk struct {
	*ruleset
	packet
	// see is called for each rule that holds for the packet, or may, and does
	// something other than a verdict.
	see  func(rule *rule, o outcome)
	by   *rule          // the rule that dropped it; nil: the policy
	seen map[place]bool // chains that it may get into, walked already
}

func (r *ruleset) walk(p packet, see func(*rule, outcome)) *walk {
	return &walk{ruleset: r, packet: p, see: see, seen: map[place]bool{}}
}

// base is the fate of the packet in a base chain.
func (w *walk) base(c *nftables.Chain) fate {
	f := w.chain(c.Table, c.Name, yes)
	if f == passed && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
		return dropped
	}
	return f
}

// chain is the fate in a chain that the packet gets into, surely or maybe. What
// may happen does not count for the fate: it stays with what comes later.
func (w *walk) chain(table *nftables.Table, name string, sure truth) fate {
	at := place{table.Family, table.Name, name}
	if sure == maybe {
		if w.seen[at] {
			return passed
		}
		w.seen[at] = true
	}
	for _, rule := range w.in(table, name) {
		o := w.eval(table, rule, sure)
		if o.match == no {
			continue
		}
		if o.does != nothing {
			w.see(rule, o)
			switch {
			case o.match != yes:
			case o.does == drop:
				w.by = rule
				return dropped
			case o.does == dnat || o.does == masquerade:
				return accepted
			}
		}
		for _, b := range o.verdicts {
			if f, final := w.verdict(table, rule, b, o.match); final {
				return f
			}
		}
	}
	return passed
}

func (w *walk) eval(table *nftables.Table, rule *rule, sure truth) outcome {
	m := &machine{packet: w.packet, rules: w.ruleset, table: table, registers: map[uint32]value{}, outcome: outcome{match: sure}}
	m.run(rule.exprs)
	return m.outcome
}

// verdict follows a verdict; final: the chain ends here.
func (w *walk) verdict(table *nftables.Table, rule *rule, b branch, sure truth) (f fate, final bool) {
	sure = min(sure, b.match)
	switch b.verdict.Kind {
	case expr.VerdictAccept:
		return accepted, sure == yes
	case expr.VerdictDrop:
		if sure == yes {
			w.by = rule
		}
		return dropped, sure == yes
	case expr.VerdictReturn:
		return passed, sure == yes
	case expr.VerdictJump:
		f = w.chain(table, b.verdict.Chain, sure)
		return f, sure == yes && f != passed
	case expr.VerdictGoto:
		f = w.chain(table, b.verdict.Chain, sure)
		return f, sure == yes
	}
	return passed, false
}

func (r *ruleset) err() error { return errors.Join(r.errs...) }
