package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"midspan/internal/plan"
	"midspan/internal/resolve"
)

// names keeps a resolver that fits the plan's DNS settings. What was last known
// of a name outlives the resolver, and a plan without the name: a reload that
// fails, or one that only changes how names are asked for, loses no address.
type names struct {
	log      *slog.Logger
	onChange func()

	mu       sync.Mutex
	resolver *resolve.Resolver
	settings plan.DNS
	hosts    []string                  // that are watched
	known    map[string]resolve.Answer // the last with addresses, of every name that ever was in a plan
}

// newNames begins with what was known in an earlier life.
func newNames(log *slog.Logger, onChange func(), earlier map[string][]netip.Addr) *names {
	n := &names{log: log, onChange: onChange, known: map[string]resolve.Answer{}}
	for name, addrs := range earlier {
		n.known[name] = resolve.Answer{Addrs: addrs}
	}
	return n
}

// use makes the hosts of p the ones that are kept current, and waits a little
// for their first answers.
func (n *names) use(ctx context.Context, p *plan.Plan) {
	var old *resolve.Resolver
	n.mu.Lock()
	n.remember()
	if n.resolver == nil || !reflect.DeepEqual(n.settings, p.DNS) {
		old = n.resolver
		n.settings = p.DNS
		n.resolver = resolve.New(resolve.Options{
			Servers: p.DNS.Servers, MinTTL: p.DNS.MinTTL.D(), MaxTTL: p.DNS.MaxTTL.D(), Timeout: p.DNS.Timeout.D(),
			Log: n.log, OnChange: n.onChange,
		})
	}
	r, hosts := n.resolver, p.Hosts()
	n.hosts = hosts
	n.mu.Unlock() // the data path takes it too, so nothing slow is done under it
	if old != nil {
		old.Close()
	}
	r.Watch(hosts)
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	start := time.Now()
	if err := r.Wait(ctx); err != nil && time.Since(start) >= startWait {
		n.log.Warn("some names have no answer yet; starting without them, and asking on")
	}
}

// add watches the hosts of p where they are others than before: a cluster has told
// of nodes. It waits a moment for first answers, since who wants a node waits for it,
// and would find a server without an address.
func (n *names) add(ctx context.Context, p *plan.Plan) {
	hosts := p.Hosts()
	n.mu.Lock()
	r := n.resolver
	if r == nil || slices.Equal(hosts, n.hosts) {
		n.mu.Unlock()
		return
	}
	n.remember()
	n.hosts = hosts
	n.mu.Unlock() // see use
	r.Watch(hosts)
	ctx, cancel := context.WithTimeout(ctx, nodeWait)
	defer cancel()
	_ = r.Wait(ctx) // what is late comes with the next plan
}

// remember keeps what the resolver knows. n.mu is held.
func (n *names) remember() {
	if n.resolver == nil {
		return
	}
	for name, a := range n.resolver.Answers() {
		if len(a.Addrs) > 0 {
			n.known[name] = a
		}
	}
}

func (n *names) answers() map[string]resolve.Answer {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.resolver == nil {
		return nil
	}
	all := n.resolver.Answers()
	for name, a := range all {
		if old, known := n.known[name]; known && len(a.Addrs) == 0 {
			a.Addrs, a.Since = old.Addrs, old.Since
			all[name] = a
		}
	}
	return all
}

func (n *names) refresh(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.resolver != nil {
		n.resolver.Refresh(host)
	}
}

func (n *names) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.resolver != nil {
		n.resolver.Close()
		n.resolver = nil
	}
}
