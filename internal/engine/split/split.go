// Package split makes one engine of two: it gives each route to the engine that
// the plan names for it.
//
// A route may move from one to the other with connections alive: they stay with
// the engine that has them, and new ones are never refused in between.
package split

import (
	"context"
	"errors"
	"slices"
	"sync"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// Engine hands routes to engines.
type Engine struct {
	relay   engine.Engine
	makeNFT func(Ours) (engine.Engine, error)
	inherit func() bool

	mu  sync.RWMutex
	nft engine.Engine // nil until a route wants it
	now *plan.Plan
}

// Ours tells whether the relay has a listener open that covers the one given.
type Ours func(plan.Mode, plan.Listen) bool

// New is an engine that gives routes to relay, and to what nft makes once a route
// wants it, or once inherit says that the kernel still forwards for an earlier
// process: that must end too. It takes over relay.
func New(relay engine.Engine, nft func(Ours) (engine.Engine, error), inherit func() bool) *Engine {
	return &Engine{relay: relay, makeNFT: nft, inherit: inherit}
}

// Apply implements engine.Engine.
func (e *Engine) Apply(ctx context.Context, p *plan.Plan) (engine.Change, error) {
	kernel := p.Of(plan.NFT)
	nft, err := e.kernel(len(kernel.Routes) > 0)
	if err != nil {
		return engine.Change{}, err
	}
	if nft == nil {
		change, err := e.relay.Apply(ctx, p)
		e.remember(p, err)
		return change, err
	}
	// The relay opens what is new before the kernel lets go of it, and closes what
	// the kernel has taken over after that: a port is never without either.
	both := e.withLeaving(p)
	first, err := e.relay.Apply(ctx, both)
	if err != nil {
		return engine.Change{}, err
	}
	second, err := nft.Apply(ctx, kernel)
	if err != nil {
		_, back := e.relay.Apply(ctx, e.before())
		return engine.Change{}, errors.Join(err, back)
	}
	relay := p.Of(plan.Relay)
	if len(both.Routes) == len(relay.Routes) { // none is leaving
		e.remember(p, nil)
		return merge(second, first), nil
	}
	third, err := e.relay.Apply(ctx, relay)
	e.remember(p, err)
	return merge(second, first, third), err
}

func (e *Engine) remember(p *plan.Plan, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		e.now = p
	}
}

// kernel is the kernel's engine; nil while none was ever wanted.
func (e *Engine) kernel(wanted bool) (engine.Engine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nft == nil && (wanted || e.now == nil && e.inherit()) {
		nft, err := e.makeNFT(e.relayHas)
		if err != nil {
			return nil, err
		}
		e.nft = nft
	}
	return e.nft, nil
}

// withLeaving is the relay's part of p, and the routes that are about to leave it
// as they were.
func (e *Engine) withLeaving(p *plan.Plan) *plan.Plan {
	relay := p.Of(plan.Relay)
	for _, old := range e.before().Routes {
		if slices.ContainsFunc(p.Routes, func(r *plan.Route) bool { return r.Name == old.Name && r.Engine == plan.NFT }) {
			relay.Routes = append(relay.Routes, old)
		}
	}
	return relay
}

// relayHas is Ours.
func (e *Engine) relayHas(mode plan.Mode, l plan.Listen) bool {
	return slices.ContainsFunc(e.before().Routes, func(r *plan.Route) bool {
		return r.Mode == mode && slices.ContainsFunc(r.Listen, func(x plan.Listen) bool {
			return x.Addr == l.Addr && x.Interface == l.Interface && x.From <= l.From && l.To <= x.To
		})
	})
}

// before is the relay's part of the plan in force.
func (e *Engine) before() *plan.Plan {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.now == nil {
		return &plan.Plan{}
	}
	return e.now.Of(plan.Relay)
}

// merge adds up what the kernel's engine did and, one after the other, the relay's
// Applies. What one closed and another opened, as when a route changes its engine,
// is no change.
func merge(kernel engine.Change, relay ...engine.Change) engine.Change {
	sum := engine.Change{Pending: append(slices.Clone(kernel.Pending), relay[len(relay)-1].Pending...)}
	for _, c := range append(relay, kernel) {
		sum.Added = append(sum.Added, c.Added...)
		sum.Removed = append(sum.Removed, c.Removed...)
	}
	added := slices.Clone(sum.Added)
	sum.Added = slices.DeleteFunc(sum.Added, func(s string) bool { return slices.Contains(sum.Removed, s) })
	sum.Removed = slices.DeleteFunc(sum.Removed, func(s string) bool { return slices.Contains(added, s) })
	return sum
}

// engines are those that there are.
func (e *Engine) engines() []engine.Engine {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.nft == nil {
		return []engine.Engine{e.relay}
	}
	return []engine.Engine{e.relay, e.nft}
}

// Status implements engine.Engine: the sum of both. Consumers are the relay's: a
// route for consumers cannot be the kernel's.
func (e *Engine) Status() engine.Status {
	all := e.engines()
	status := all[0].Status()
	if len(all) == 1 {
		return status
	}
	kernel := all[1].Status()
	if len(e.before().Routes) == 0 {
		status.MaxConnections = kernel.MaxConnections // the relay's limit is nobody's
	}
	status.Connections += kernel.Connections
	status.AcceptErrors += kernel.AcceptErrors
	status.Panics += kernel.Panics
	status.Pending = append(status.Pending, kernel.Pending...)
	status.Tracking = kernel.Tracking
	status.Routes = append(status.Routes, kernel.Routes...)
	e.sort(status.Routes)
	return status
}

// sort brings the routes into the plan's order, removed ones last.
func (e *Engine) sort(routes []engine.RouteStatus) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	place := map[string]int{}
	if e.now != nil {
		for i, r := range e.now.Routes {
			place[r.Name] = i
		}
	}
	at := func(r engine.RouteStatus) int {
		if i, there := place[r.Name]; there && !r.Removed {
			return i
		}
		return len(place)
	}
	slices.SortStableFunc(routes, func(a, b engine.RouteStatus) int { return at(a) - at(b) })
}

// Conns implements engine.Engine.
func (e *Engine) Conns() []engine.Conn {
	var all []engine.Conn
	for _, x := range e.engines() {
		all = append(all, x.Conns()...)
	}
	slices.SortStableFunc(all, func(a, b engine.Conn) int { return a.Start.Compare(b.Start) })
	return all
}

// Kill implements engine.Engine. IDs of the two engines differ in their first
// letter.
func (e *Engine) Kill(id string) bool {
	return slices.ContainsFunc(e.engines(), func(x engine.Engine) bool { return x.Kill(id) })
}

// Close implements engine.Engine.
func (e *Engine) Close() error {
	var err error
	for _, x := range e.engines() {
		err = errors.Join(err, x.Close())
	}
	return err
}
