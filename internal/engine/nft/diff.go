package nft

import "slices"

// inForce is the table as it was last written, by name.
type inForce struct {
	counters map[string]bool
	sets     map[string]*set
	chains   map[string]*chain
}

func remember(r *ruleset) *inForce {
	f := &inForce{
		counters: make(map[string]bool, len(r.counters)),
		sets:     make(map[string]*set, len(r.sets)),
		chains:   make(map[string]*chain, len(r.chains)),
	}
	for _, c := range r.counters {
		f.counters[c] = true
	}
	for _, s := range r.sets {
		f.sets[s.name] = s
	}
	for _, c := range r.chains {
		f.chains[c.name] = c
	}
	return f
}

// settle keeps of the chains what a later difference needs.
func (f *inForce) settle() {
	for _, c := range f.chains {
		c.settle()
	}
}

// replace makes the table anew, whatever there was before, with counters that go
// on from where they were.
func replace(next *ruleset, counters map[string]counted) (*batch, *inForce) {
	b := &batch{}
	b.addTable() // so that there is one to delete
	b.deleteTable()
	b.addTable()
	return b, (&inForce{}).change(b, next, counters)
}

// difference is the transaction that makes next of what is in force; empty when
// it is that already.
func (f *inForce) difference(next *ruleset) (*batch, *inForce) {
	b := &batch{}
	return b, f.change(b, next, nil)
}

// change adds what is new, then changes, then deletes: nothing may refer to what
// is not there, at no point of the transaction. It returns what is in force after
// that.
func (f *inForce) change(b *batch, next *ruleset, counters map[string]counted) *inForce {
	for _, c := range next.counters {
		if !f.counters[c] {
			b.addCounter(c, counters[c])
		}
	}
	for _, c := range next.chains {
		if _, there := f.chains[c.name]; !there {
			b.addChain(c)
		}
	}
	for _, s := range next.sets {
		if old, there := f.sets[s.name]; there {
			b.changeSet(old, s)
		} else {
			b.addSet(s)
		}
	}
	for _, c := range next.chains {
		old := f.chains[c.name]
		if old.same(c) {
			continue
		}
		if old != nil {
			b.flushChain(c.name)
		}
		b.addRules(c)
	}
	want := remember(next)
	f.remove(b, want)
	return want
}

// same tells whether two chains have the same rules. The text of a rule says all
// of it.
func (c *chain) same(d *chain) bool {
	return c == d || c != nil && slices.EqualFunc(c.rules, d.rules, func(r, s rule) bool { return r.String() == s.String() })
}

// changeSet exchanges elements.
func (b *batch) changeSet(old, next *set) {
	var gone, added []string
	for _, k := range old.keys() {
		if e, stays := next.elements[k]; !stays || e.text != old.elements[k].text {
			gone = append(gone, k)
		}
	}
	for _, k := range next.keys() {
		if e, was := old.elements[k]; !was || e.text != next.elements[k].text {
			added = append(added, k)
		}
	}
	b.deleteElements(old, gone)
	b.addElements(next, 0, added)
}

// remove deletes what is not wanted any more. Elements that led to chains have
// gone before.
func (f *inForce) remove(b *batch, want *inForce) {
	gone := missing(f.chains, want.chains)
	for _, c := range gone {
		b.flushChain(c)
	}
	for _, s := range missing(f.sets, want.sets) {
		b.deleteSet(s)
	}
	for _, c := range gone {
		b.deleteChain(c)
	}
	for _, c := range missing(f.counters, want.counters) {
		b.deleteCounter(c)
	}
}

// missing are the keys of old that next has not, in order.
func missing[V, W any](old map[string]V, next map[string]W) (gone []string) {
	for k := range old {
		if _, stays := next[k]; !stays {
			gone = append(gone, k)
		}
	}
	slices.Sort(gone)
	return gone
}
