package main

import (
	"net"
	"time"

	"midspan/bench/load"
	"midspan/bench/peer"
	"midspan/bench/result"
)

// The routes are ports in a row; one more comes with the reload.
const (
	firstRoute = 20000
	routeCount = 1000
)

var (
	readyMS  = result.Metric{Name: "ready_ms", Title: "from start to ready", Unit: "ms"}
	reloadMS = result.Metric{Name: "reload_ms", Title: "a route more", Unit: "ms"}
)

func manyRoutes() workload {
	return workload{
		Workload: result.Workload{
			Name: "routes", Title: "1,000 routes", Primary: readyMS.Name,
			Text: "From the start of the process until all ports accept and the last one carries bytes; short connections on the last " +
				"one; then a route is added to the file, and counted is the time from the signal (iptables: from the command) " +
				"until it carries bytes.",
			Metrics: []result.Metric{readyMS, reloadMS, conns, p99},
		},
		spec:  load.Spec{Conns: 64, Steps: []load.Step{{Send: 64, Receive: 64}}, Reconnect: true},
		quick: true,
		cell:  (*runner).routesCell,
		skip:  func(p *peer.Peer) bool { return !p.Routes },
	}
}

func (r *runner) routesCell(w *workload, p *peer.Peer) (map[string]float64, error) {
	s, err := r.set(p, many(), false)
	if err != nil {
		return nil, err
	}
	values, err := r.measureRoutes(s, w.spec)
	if err := s.close(err); err != nil {
		return nil, err
	}
	return values, nil
}

// many are the routes, all to the one target.
func many() []peer.Route {
	var routes []peer.Route
	for i := range routeCount {
		routes = append(routes, peer.Route{Port: firstRoute + i, To: targetAddr})
	}
	return routes
}

// connectionsOfMany is about finding the rule, which is done for a connection's
// first packet. A proxy's ports are sockets of their own, where there is nothing to
// search; the figures of all are in manyRoutes.
func connectionsOfMany() workload {
	w := shortConnections()
	w.Name, w.Title = "conn1000", "Short connections, 1,000 routes"
	w.Text = "As `conn`, on the last of 1,000 routes to one server. iptables looks at its rules for the listening ports one by one; those for " +
		"the source address are the same for all routes, and the first one holds."
	w.routes = many
	w.skip = func(p *peer.Peer) bool { return !p.Routes || p.Kind == peer.Proxy }
	return w
}

func (r *runner) measureRoutes(s *stage, spec load.Spec) (map[string]float64, error) {
	ready, err := s.allReady()
	if err != nil {
		return nil, err
	}
	got, err := r.run(s, spec)
	if err != nil {
		return nil, err
	}
	values := map[string]float64{readyMS.Name: ms(ready), conns.Name: float64(got.Sessions) / got.Seconds, p99.Name: got.P99}
	if !s.fwd.CanExtend() {
		return values, nil
	}
	added := peer.Route{Port: firstRoute + routeCount, To: targetAddr}
	began, err := s.fwd.Extend(s.routes, added)
	if err != nil {
		return nil, err
	}
	err = s.await(added.Listen(), s.fwd.Ended)
	values[reloadMS.Name] = ms(time.Since(began))
	return values, err
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// allReady waits for the last route, then for those that are later still.
func (s *stage) allReady() (time.Duration, error) {
	if err := s.ready(); err != nil {
		return 0, err
	}
	ready := time.Since(s.fwd.Started)
	for _, route := range s.closed() {
		if err := s.await(route.Listen(), s.fwd.Ended); err != nil {
			return 0, err
		}
		ready = time.Since(s.fwd.Started)
	}
	return ready, nil
}

// closed are the routes that do not accept.
func (s *stage) closed() []peer.Route {
	var closed []peer.Route
	err := s.Client.Do(func() error {
		for _, route := range s.routes {
			c, err := net.DialTimeout("tcp", route.Listen(), patience)
			if err != nil {
				closed = append(closed, route)
				continue
			}
			c.Close()
		}
		return nil
	})
	if err != nil {
		return s.routes
	}
	return closed
}
