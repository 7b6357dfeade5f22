package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"midspan/internal/admin"
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
	fmt.Fprintf(u.out, "midspan %s, %s for %s, %d of %d connections\n", s.Version.Version, s.State, age(s.Since), s.Engine.Connections, s.Engine.MaxConnections)
	if s.NotReady != "" {
		fmt.Fprintf(u.out, "NOT READY for new connections: %s\n", s.NotReady)
	}
	if s.FailedLoad != "" {
		fmt.Fprintf(u.out, "The last reload failed:\n%s\n", s.FailedLoad)
	}
	fmt.Fprintln(u.out)
	u.table("ROUTE LISTEN CONNS ACCEPTED UP DOWN SERVERS", routeRows(s.Engine.Routes))
	fmt.Fprintln(u.out)
	u.table("ROUTE SERVER ENDPOINT STATE CONNS CONNECTS FAILED LAST-ERROR", endpointRows(s.Engine.Routes))
	if rows := nameRows(s); len(rows) > 0 {
		fmt.Fprintln(u.out)
		u.table("NAME LAST-ANSWER PROBLEM", rows)
	}
	for _, p := range s.Engine.Pending {
		fmt.Fprintf(u.out, "\nroute %s does not listen on %s yet: %s\n", p.Route, p.Listen, p.Why)
	}
}

func routeRows(routes []engine.RouteStatus) [][]string {
	var rows [][]string
	for _, r := range routes {
		up := 0
		for _, e := range r.Endpoints {
			if e.Up {
				up++
			}
		}
		listen := summary(r.Listening)
		if r.Removed {
			listen = "(removed)"
		}
		rows = append(rows, []string{
			r.Name, listen, strconv.Itoa(r.Counters.Active), strconv.FormatUint(r.Counters.Accepted, 10),
			size(r.Counters.BytesUp), size(r.Counters.BytesDown), fmt.Sprintf("%d/%d up", up, len(r.Endpoints)),
		})
	}
	return rows
}

// summary is a list short enough for a table.
func summary(list []string) string {
	switch {
	case len(list) == 0:
		return "-"
	case len(list) > 3:
		return fmt.Sprintf("%s … %s (%d)", list[0], list[len(list)-1], len(list))
	}
	return strings.Join(list, ", ")
}

func endpointRows(routes []engine.RouteStatus) [][]string {
	var rows [][]string
	for _, r := range routes {
		for _, e := range r.Endpoints {
			state, addr := "up", e.Addr.String()
			switch {
			case !e.Addr.IsValid():
				state, addr = "NO ADDRESS", "-"
			case !e.Up:
				state = "DOWN"
			}
			rows = append(rows, []string{
				r.Name, e.Server, addr, state, strconv.Itoa(e.Active),
				strconv.FormatUint(e.Connects, 10), strconv.FormatUint(e.Failures, 10), cmp.Or(e.LastError, "-"),
			})
		}
	}
	return rows
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
	var route, client, sortBy string
	c := live(&cobra.Command{
		Use:     "conns",
		Short:   "List live connections",
		Example: "  midspan conns --route sqlserver --sort bytes\n  midspan conns --json | jq -r '.[] | select(.idle_ns > 3e11) | .id' | xargs midspan kill",
		Args:    cobra.NoArgs,
	}, func(c *cobra.Command, d *admin.Client, _ []string) error {
		order, ok := connOrders[sortBy]
		if !ok {
			return usageError{c, fmt.Errorf("unknown order %q; use age, bytes or idle", sortBy)}
		}
		conns, err := d.Conns(c.Context())
		if err != nil {
			return err
		}
		conns = slices.DeleteFunc(conns, func(c engine.Conn) bool {
			return (route != "" && c.Route != route) || (client != "" && c.Client.Addr().String() != client)
		})
		slices.SortStableFunc(conns, order)
		if asJSON {
			if conns == nil {
				conns = []engine.Conn{}
			}
			return ui.json(conns)
		}
		ui.table("ID ROUTE CLIENT SERVER ENDPOINT STATE AGE IDLE UP DOWN", connRows(conns))
		return nil
	})
	fs := c.Flags()
	fs.StringVar(&route, "route", "", "only this route's")
	fs.StringVar(&client, "client", "", "only those from this address")
	fs.StringVar(&sortBy, "sort", "age", "order: age (oldest first), bytes (most first) or idle (longest first)")
	fs.BoolVar(&asJSON, "json", false, "print as JSON")
	return c
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
			age(c.Start), short(c.Idle), size(c.BytesUp), size(c.BytesDown),
		})
	}
	return rows
}

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
