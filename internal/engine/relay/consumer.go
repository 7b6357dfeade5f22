package relay

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// consumer is who calls, with what is counted on it. It lives through changes of
// the plan as long as its name is in it.
type consumer struct {
	name   string
	plan   atomic.Pointer[plan.Consumer]
	shards []flow // one a loop
	level  level  // of the rate

	active   atomic.Int64
	accepted atomic.Uint64
	refused  atomic.Uint64
}

// flow counts bytes: up is from client to server. The padding keeps two loops off
// the same cache line.
type flow struct {
	up, down atomic.Uint64
	_        [48]byte
}

// consumers tells who calls. It belongs to one plan.
type consumers struct {
	inOrder []*consumer
	byLink  map[string]*consumer // "azure:553665985"
	from    []consumerNet        // the smaller networks first
}

type consumerNet struct {
	netip.Prefix
	*consumer
}

// find is the consumer with an id or, where the connection has none, with an
// address; nil: none. An id that is known of nobody is nobody's: behind a private
// endpoint its owner chooses the addresses. Only where no consumer is told by an
// id do the addresses behind ids count.
func (cs *consumers) find(link string, client netip.Addr) *consumer {
	if link != "" && len(cs.byLink) > 0 {
		return cs.byLink[link]
	}
	for _, n := range cs.from {
		if n.Contains(client) {
			return n.consumer
		}
	}
	return nil
}

// join counts a connection that came in by set's route, now being the engine's
// clock; a detail says why it may not come in.
func (c *consumer) join(set *settings, now time.Duration) (why reason, detail string) {
	p := c.plan.Load()
	switch n := c.active.Add(1); {
	case set.Guarded && !p.MayUse(set.Name):
		why, detail = consumerNotAllowed, "the route is not one of the consumer's"
	case p.MaxConnections > 0 && n > int64(p.MaxConnections):
		why, detail = consumerLimit, fmt.Sprintf("the consumer has its %d connections", p.MaxConnections)
	case p.Rate.N > 0 && !c.level.take(paceOf(p.Rate), now):
		why, detail = consumerLimit, fmt.Sprintf("the consumer has made its %d connections in %s", p.Rate.N, p.Rate.Per)
	default:
		c.accepted.Add(1)
		return why, ""
	}
	c.active.Add(-1)
	c.refused.Add(1)
	return why, detail
}

// leave takes back what join counted.
func (c *consumer) leave() { c.active.Add(-1) }

func (c *consumer) status() engine.ConsumerStatus {
	s := engine.ConsumerStatus{Name: c.name, Active: int(c.active.Load()), Accepted: c.accepted.Load(), Refused: c.refused.Load()}
	for i := range c.shards {
		s.BytesUp += c.shards[i].up.Load()
		s.BytesDown += c.shards[i].down.Load()
	}
	return s
}

// setConsumers brings e.consumers to what p says. Those that are gone stay while
// they have connections, to be counted.
func (e *Engine) setConsumers(p *plan.Plan) *consumers {
	old := e.consumers
	cs := &consumers{byLink: map[string]*consumer{}}
	var all []*consumer
	for _, pc := range p.Consumers {
		i := slices.IndexFunc(old, func(c *consumer) bool { return c.name == pc.Name })
		var c *consumer
		if i >= 0 {
			c = old[i]
		} else {
			c = &consumer{name: pc.Name, shards: make([]flow, len(e.loops))}
		}
		c.plan.Store(pc)
		all = append(all, c)
		cs.add(c, pc)
	}
	// The smallest network is the one that is meant.
	slices.SortStableFunc(cs.from, func(a, b consumerNet) int { return b.Bits() - a.Bits() })
	for _, c := range old {
		if c.active.Load() > 0 && !slices.Contains(all, c) {
			all = append(all, c)
		}
	}
	e.consumers = all
	return cs
}

func (cs *consumers) add(c *consumer, pc *plan.Consumer) {
	cs.inOrder = append(cs.inOrder, c)
	for _, id := range pc.LinkIDs {
		cs.byLink["azure:"+strconv.FormatUint(uint64(id), 10)] = c
	}
	for _, id := range pc.EndpointIDs {
		for _, cloud := range []string{"aws:", "gcp:", "alibaba:"} {
			cs.byLink[cloud+id] = c
		}
	}
	for _, n := range pc.From {
		cs.from = append(cs.from, consumerNet{n, c})
	}
}
