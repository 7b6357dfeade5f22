package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"midspan/internal/admin"
	"midspan/internal/daemon"
	"midspan/internal/engine"
)

func statusCommand(ui *ui) *cobra.Command {
	var asJSON bool
	c := live(&cobra.Command{
		Use:   "status",
		Short: "Show routes, servers and names as they are now",
		Long: `Show routes, servers and names as they are now. The exit code is 0 when this
machine should get new connections, 1 when not.`,
		Example: "  midspan status\n  midspan status --json | jq .engine.connections",
		Args:    cobra.NoArgs,
	}, func(c *cobra.Command, d *admin.Client, _ []string) error {
		s, err := d.Status(c.Context())
		if err != nil {
			return err
		}
		if asJSON {
			err = ui.json(s)
		} else {
			ui.status(s)
		}
		if err == nil && s.NotReady != "" {
			return errNo
		}
		return err
	})
	c.Flags().BoolVar(&asJSON, "json", false, "print all there is as JSON")
	return c
}

func (u *ui) status(s admin.Status) {
	fmt.Fprintf(u.out, "midspan %s, %s for %s, %d of %d connections\n", s.Version.Version, s.State, age(s.StateSince), s.Engine.Connections, s.Engine.MaxConnections)
	switch {
	case s.State == daemon.Draining:
		fmt.Fprintf(u.out, "DRAINING: no new connections; those that live have until %s\n", s.DrainUntil.Local().Format(time.DateTime))
	case s.NotReady != "":
		fmt.Fprintf(u.out, "NOT READY for new connections: %s\n", s.NotReady)
	}
	if s.FailedLoad != "" {
		fmt.Fprintf(u.out, "The last reload failed:\n%s\n", s.FailedLoad)
	}
	if t := s.Engine.Tracking; t != nil {
		fmt.Fprintln(u.out, trackingText(*t))
	}
	fmt.Fprintln(u.out)
	u.table("ROUTE ENGINE LISTEN CONNS ACCEPTED TO-SERVER TO-CLIENT SERVERS", routeRows(s))
	fmt.Fprintln(u.out)
	u.table("ROUTE SERVER ENDPOINT STATE CONNS CONNECTS FAILED LAST-ERROR", endpointRows(s))
	if rows := nameRows(s); len(rows) > 0 {
		fmt.Fprintln(u.out)
		u.table("NAME LAST-ANSWER PROBLEM", rows)
	}
	for _, p := range s.Engine.Pending {
		fmt.Fprintf(u.out, "\nroute %s does not listen on %s yet: %s\n", p.Route, p.Listen, p.Why)
	}
}

// trackingText is how full the kernel's table of connections is.
func trackingText(t engine.Tracking) string {
	text := "connection table: " + thousands(t.Entries)
	if t.Max > 0 {
		text += " of " + thousands(t.Max)
	}
	if t.Dropped > 0 {
		text += fmt.Sprintf("; %s packets of new connections were dropped, for want of room in it or of source ports", thousands(int(t.Dropped)))
	}
	return text
}

// thousands is n with commas: 1,234,567.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func routeRows(s admin.Status) [][]string {
	var rows [][]string
	for _, r := range s.Engine.Routes {
		up := 0
		for _, e := range r.Endpoints {
			if e.Up && !e.LastResort {
				up++
			}
		}
		listen := brief(r.Listening)
		switch {
		case r.Removed:
			listen = "(removed)"
		case len(r.Listening) == 0 && s.State == daemon.Draining:
			listen = "(closed)"
		}
		rows = append(rows, []string{
			r.Name, cmp.Or(string(s.Engines[r.Name]), "-"), listen, strconv.Itoa(r.Counters.Active), strconv.FormatUint(r.Counters.Accepted, 10),
			size(r.Counters.BytesUp), size(r.Counters.BytesDown), fmt.Sprintf("%d/%d up", up, len(r.Endpoints)),
		})
	}
	return rows
}

// brief is a list short enough for a table.
func brief(list []string) string {
	switch {
	case len(list) == 0:
		return "-"
	case len(list) > 3:
		return fmt.Sprintf("%s … %s (%d)", list[0], list[len(list)-1], len(list))
	}
	return strings.Join(list, ", ")
}

func endpointRows(s admin.Status) [][]string {
	checks := map[netip.AddrPort]admin.Check{}
	for _, c := range s.Health {
		if old, seen := checks[c.Endpoint]; !seen || old.Up { // of several checks, one that fails
			checks[c.Endpoint] = c
		}
	}
	var rows [][]string
	for _, r := range s.Engine.Routes {
		for _, e := range r.Endpoints {
			addr, state, problem := endpointState(e, checks[e.Addr])
			rows = append(rows, []string{
				r.Name, e.Server, addr, state, strconv.Itoa(e.Active),
				strconv.FormatUint(e.Connects, 10), strconv.FormatUint(e.Failures, 10), cmp.Or(problem, "-"),
			})
		}
	}
	return rows
}

// endpointState is how an endpoint is, since when, and why.
func endpointState(e engine.EndpointStatus, check admin.Check) (addr, state, problem string) {
	since := ""
	if !check.Since.IsZero() {
		since = " " + age(check.Since)
	}
	switch {
	case !e.Addr.IsValid():
		return "-", "NO ADDRESS", ""
	case e.LastResort: // no check, all connects fail, nothing better
		return e.Addr.String(), "FAILING" + since, e.LastError
	case !e.Up:
		return e.Addr.String(), "DOWN" + since, cmp.Or(check.LastError, e.LastError)
	}
	return e.Addr.String(), "up", e.LastError
}

// nameRows are the names whose look-up fails.
func nameRows(s admin.Status) [][]string {
	var rows [][]string
	for name, a := range s.Names {
		if a.Problem != "" {
			since := "never"
			if !a.Since.IsZero() {
				since = age(a.Since) + " ago"
			}
			rows = append(rows, []string{name, since, a.Problem})
		}
	}
	slices.SortFunc(rows, slices.Compare)
	return rows
}

func connsCommand(ui *ui) *cobra.Command {
	var asJSON bool
	var routes []string
	var client, sortBy string
	c := live(&cobra.Command{
		Use:     "conns",
		Short:   "List live connections",
		Example: "  midspan conns --route sqlserver --route mysql --sort bytes\n  midspan conns --json | jq -r '.[] | select(.idle_ns > 3e11) | .id' | xargs midspan kill",
		Args:    cobra.NoArgs,
	}, func(c *cobra.Command, d *admin.Client, _ []string) error {
		order, ok := connOrders[sortBy]
		if !ok {
			return usageError{c, fmt.Errorf("unknown order %q; use age, bytes or idle", sortBy)}
		}
		from, err := parseClient(client)
		if err != nil {
			return usageError{c, err}
		}
		conns, err := d.Conns(c.Context())
		if err == nil && len(routes) > 0 {
			err = knownRoutes(c.Context(), d, routes)
		}
		if err != nil {
			return err
		}
		conns = slices.DeleteFunc(conns, func(c engine.Conn) bool {
			return (len(routes) > 0 && !slices.Contains(routes, c.Route)) || !from.Contains(c.Client.Addr().Unmap())
		})
		slices.SortStableFunc(conns, order)
		if asJSON {
			if conns == nil {
				conns = []engine.Conn{}
			}
			return ui.json(conns)
		}
		ui.table("ID ROUTE CLIENT SERVER ENDPOINT STATE AGE IDLE TO-SERVER TO-CLIENT", connRows(conns))
		return nil
	})
	fs := c.Flags()
	fs.StringArrayVar(&routes, "route", nil, "only this route's; may be given again")
	fs.StringVar(&client, "client", "", "only those from this address or network (10.0.0.0/8)")
	fs.StringVar(&sortBy, "sort", "age", "order: age (oldest first), bytes (most first) or idle (longest first)")
	fs.BoolVar(&asJSON, "json", false, "print as JSON")
	// It fails only for a flag that does not exist.
	_ = c.RegisterFlagCompletionFunc("route", func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		names, _ := routeNames(c.Context(), admin.Dial(c.Flag("control").Value.String())) // without a daemon there are none
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	return c
}

// clients is a set of client addresses: a network, or all.
type clients struct{ netip.Prefix }

func (c clients) Contains(a netip.Addr) bool { return !c.IsValid() || c.Prefix.Contains(a) }

func parseClient(s string) (clients, error) {
	if s == "" {
		return clients{}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return clients{netip.PrefixFrom(a, a.BitLen())}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return clients{}, fmt.Errorf("client %q is neither an address nor a network; write 10.0.0.7 or 10.0.0.0/8", s)
	}
	return clients{p}, nil
}

// knownRoutes fails for a route that the daemon does not have: no rows would
// look like no connections.
func knownRoutes(ctx context.Context, d *admin.Client, wanted []string) error {
	names, err := routeNames(ctx, d)
	if err != nil {
		return err
	}
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return fmt.Errorf("there is no route %q; the routes are %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

func routeNames(ctx context.Context, d *admin.Client) (names []string, err error) {
	s, err := d.Status(ctx)
	for _, r := range s.Engine.Routes {
		names = append(names, r.Name)
	}
	return names, err
}

var connOrders = map[string]func(a, b engine.Conn) int{
	"age":   func(a, b engine.Conn) int { return a.Start.Compare(b.Start) },
	"bytes": func(a, b engine.Conn) int { return cmp.Compare(b.BytesUp+b.BytesDown, a.BytesUp+a.BytesDown) },
	"idle":  func(a, b engine.Conn) int { return cmp.Compare(b.Idle, a.Idle) },
}

func connRows(conns []engine.Conn) [][]string {
	var rows [][]string
	for _, c := range conns {
		endpoint := "-"
		if c.Endpoint.IsValid() {
			endpoint = c.Endpoint.String()
		}
		rows = append(rows, []string{
			c.ID, c.Route, c.Client.String(), cmp.Or(c.Server, "-"), endpoint, c.State,
			age(c.Start), short(idle(c)), size(c.BytesUp), size(c.BytesDown),
		})
	}
	return rows
}

// idle is for how long nothing has moved. The kernel tells it in whole seconds,
// which must not come out as more than the connection's age.
func idle(c engine.Conn) time.Duration { return min(c.Idle, max(0, time.Since(c.Start))) }

func age(t time.Time) string { return short(time.Since(t)) }

// short is d to two units at the most: 350ms, 42s, 3m10s, 5h2m, 3d4h.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}
