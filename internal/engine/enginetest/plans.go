package enginetest

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"midspan/internal/config"
	"midspan/internal/freeport"
	"midspan/internal/plan"
)

// plan makes a Plan from routes as they stand in a midspan.yaml, one a line:
//
//	sql: { listen: "10.0.0.1:1434", to: "10.0.0.2:1433" }
//
// Names have the addresses of r.names, and servers are up unless r.down names
// them or their address. A line that does not start with a route's name but
// with "max_connections" or "consumers" is for the plan as a whole.
func (r *rig) plan(format string, args ...any) *plan.Plan {
	r.Helper()
	top := []string{"health: off", "admin: off", fmt.Sprintf("defaults: { engine: %s }", r.kind)}
	routes := []string{"routes:"}
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "":
		case strings.HasPrefix(line, "max_connections:"), strings.HasPrefix(line, "consumers:"):
			top = append(top, line)
		default:
			routes = append(routes, "  "+line)
		}
	}
	text := strings.Join(append(top, routes...), "\n") + "\n"
	file, err := config.Parse("enginetest.yaml", []byte(text))
	if err != nil {
		r.Fatalf("%v in\n%s", err, text)
	}
	p, _, err := plan.New(file)
	if err != nil {
		r.Fatalf("%v in\n%s", err, text)
	}
	return r.with(p)
}

// with is p with the endpoints as names and down have them now.
func (r *rig) with(p *plan.Plan) *plan.Plan {
	return p.With(
		func(host string) []netip.Addr { return r.names[host] },
		func(_ *plan.Route, s *plan.Server, a netip.Addr) (bool, bool) {
			return !r.down[s.Name] && !r.down[a.String()], false
		},
	)
}

// freePort is where the engine can listen. Nobody has the port, on any address,
// where the engine is or where the servers are.
func (r *rig) freePort() netip.AddrPort { return r.freePorts(1) }

// freePorts is the first of n such ports in a row, none of which this case has
// been given before.
func (r *rig) freePorts(n int) netip.AddrPort {
	r.Helper()
	for range 1000 {
		p, err := freeport.Find(n)
		if err != nil {
			r.Fatal(err)
		}
		if r.vacant(p, n) && r.claim(p, n) {
			return r.at(uint16(p))
		}
	}
	r.Fatalf("no %d ports in a row that this case has not used", n)
	return netip.AddrPort{}
}

// vacant tells whether n ports from one on are free where the servers are.
func (r *rig) vacant(from, n int) bool {
	for p := from; p < from+n; p++ {
		if !vacant(r.place.servers, p) {
			return false
		}
	}
	return true
}

func (r *rig) claim(from, n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := from; p < from+n; p++ {
		if r.ports[uint16(p)] {
			return false
		}
	}
	for p := from; p < from+n; p++ {
		r.ports[uint16(p)] = true
	}
	return true
}

// at is a port of the address that the engine listens on.
func (r *rig) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(r.place.listen[0], port) }

// serverAt is a port of the address that servers are at.
func (r *rig) serverAt(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(r.place.server[0], port)
}

// route applies a plan with one route from a free port to servers, and returns
// where it listens. settings are more keys of it, each with a comma before it.
func (r *rig) route(settings string, servers ...*server) netip.AddrPort {
	r.Helper()
	at := r.freePort()
	to := make([]string, len(servers))
	for i, s := range servers {
		to[i] = strconv.Quote(s.addr.String())
	}
	r.apply("route: { listen: %q, to: [%s] %s }", at, strings.Join(to, ", "), settings)
	return at
}
