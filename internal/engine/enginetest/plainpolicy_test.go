package enginetest

import (
	"net/netip"
	"slices"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

func (c *conn) allowed() bool {
	contains := func(n netip.Prefix) bool { return n.Contains(c.info.Client.Addr()) }
	return len(c.cfg.Allow) == 0 || slices.ContainsFunc(c.cfg.Allow, contains)
}

// cutDown resets what is connected to an endpoint that is down or gone, where the
// route wants that.
func (e *plain) cutDown() {
	e.mu.Lock()
	var lost []*conn
	for _, c := range e.conns {
		if c.lost() {
			lost = append(lost, c)
		}
	}
	e.mu.Unlock()
	for _, c := range lost {
		c.cut(engine.ServerDown)
	}
}

// lost tells whether c is to be cut. The caller holds e.mu.
func (c *conn) lost() bool {
	if !c.info.Endpoint.IsValid() || c.route.removed || c.route.cfg.OnDown != plan.Cut {
		return false
	}
	return !slices.ContainsFunc(c.route.cfg.Servers, func(s *plan.Server) bool {
		return s.Name == c.info.Server && slices.Contains(s.Endpoints, plan.Endpoint{Addr: c.info.Endpoint.Addr(), Up: true})
	})
}
