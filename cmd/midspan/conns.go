package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"midspan/internal/admin"
	"midspan/internal/engine"
)

func connsCommand(ui *ui) *cobra.Command {
	var asJSON bool
	var want connFilter
	var client, sortBy string
	c := live(&cobra.Command{
		Use:     "conns",
		Short:   "List live connections",
		Example: "  midspan conns --route sqlserver --route mysql --sort bytes\n  midspan conns --consumer databricks-prod\n  midspan conns --json | jq -r '.[] | select(.idle_ns > 3e11) | .id' | xargs midspan kill",
		Args:    cobra.NoArgs,
	}, func(c *cobra.Command, d *admin.Client, _ []string) (err error) {
		order, ok := connOrders[sortBy]
		if !ok {
			return usageError{c, fmt.Errorf("unknown order %q; use age, bytes or idle", sortBy)}
		}
		if want.from, err = parseClient(client); err != nil {
			return usageError{c, err}
		}
		conns, err := d.Conns(c.Context())
		if err == nil {
			err = want.known(c.Context(), d)
		}
		if err != nil {
			return err
		}
		conns = slices.DeleteFunc(conns, func(c engine.Conn) bool { return !want.has(c) })
		slices.SortStableFunc(conns, order)
		if asJSON {
			if conns == nil {
				conns = []engine.Conn{}
			}
			return ui.json(conns)
		}
		ui.table(connTable(conns))
		return nil
	})
	fs := c.Flags()
	fs.StringArrayVar(&want.routes, "route", nil, "only this route's; may be given again")
	fs.StringArrayVar(&want.consumers, "consumer", nil, "only this consumer's; may be given again")
	fs.StringVar(&client, "client", "", "only those from this address or network (10.0.0.0/8)")
	fs.StringVar(&sortBy, "sort", "age", "order: age (oldest first), bytes (most first) or idle (longest first)")
	fs.BoolVar(&asJSON, "json", false, "print as JSON")
	completeNames(c, "route", routeNames)
	completeNames(c, "consumer", consumerNames)
	return c
}

// completeNames completes a flag with names that the daemon knows.
func completeNames(c *cobra.Command, flag string, names func(admin.Status) []string) {
	// It fails only for a flag that does not exist.
	_ = c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		s, _ := admin.Dial(c.Flag("control").Value.String()).Status(c.Context()) // without a daemon there are none
		return names(s), cobra.ShellCompDirectiveNoFileComp
	})
}

// connFilter says which connections are wanted; empty lists are all.
type connFilter struct {
	routes, consumers []string
	from              clients
}

func (f *connFilter) has(c engine.Conn) bool {
	return (len(f.routes) == 0 || slices.Contains(f.routes, c.Route)) &&
		(len(f.consumers) == 0 || slices.Contains(f.consumers, c.Consumer)) && f.from.Contains(c.Client.Addr().Unmap())
}

// known fails for a name that the daemon does not have: no rows would look like
// no connections.
func (f *connFilter) known(ctx context.Context, d *admin.Client) error {
	if len(f.routes)+len(f.consumers) == 0 {
		return nil
	}
	s, err := d.Status(ctx)
	if err != nil {
		return err
	}
	if err := knownNames("route", f.routes, routeNames(s)); err != nil {
		return err
	}
	return knownNames("consumer", f.consumers, consumerNames(s))
}

func knownNames(what string, wanted, names []string) error {
	for _, name := range wanted {
		switch {
		case slices.Contains(names, name):
		case len(names) == 0:
			return fmt.Errorf("there is no %s %q; there are none", what, name)
		default:
			return fmt.Errorf("there is no %s %q; the %ss are %s", what, name, what, strings.Join(names, ", "))
		}
	}
	return nil
}

func routeNames(s admin.Status) (names []string) {
	for _, r := range s.Engine.Routes {
		names = append(names, r.Name)
	}
	return names
}

func consumerNames(s admin.Status) (names []string) {
	for _, c := range s.Engine.Consumers {
		names = append(names, c.Name)
	}
	return names
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

var connOrders = map[string]func(a, b engine.Conn) int{
	"age":   func(a, b engine.Conn) int { return a.Start.Compare(b.Start) },
	"bytes": func(a, b engine.Conn) int { return cmp.Compare(b.BytesUp+b.BytesDown, a.BytesUp+a.BytesDown) },
	"idle":  func(a, b engine.Conn) int { return cmp.Compare(b.Idle, a.Idle) },
}

// connTable is the header and the rows. What only some connections have gets a
// column when one has it.
func connTable(conns []engine.Conn) (header string, rows [][]string) {
	columns := []struct {
		name   string
		always bool
		of     func(engine.Conn) string
	}{
		{"ID", true, func(c engine.Conn) string { return c.ID }},
		{"ROUTE", true, func(c engine.Conn) string { return c.Route }},
		{"NODE", false, func(c engine.Conn) string {
			if c.Node == nil {
				return ""
			}
			return strconv.Itoa(int(*c.Node))
		}},
		{"CLIENT", true, func(c engine.Conn) string { return c.Client.String() }},
		{"CONSUMER", false, func(c engine.Conn) string { return c.Consumer }},
		{"SERVER-NAME", false, func(c engine.Conn) string { return c.ServerName }},
		{"SERVER", true, func(c engine.Conn) string { return c.Server }},
		{"ENDPOINT", true, func(c engine.Conn) string {
			if !c.Endpoint.IsValid() {
				return ""
			}
			return c.Endpoint.String()
		}},
		{"STATE", true, func(c engine.Conn) string { return c.State }},
		{"AGE", true, func(c engine.Conn) string { return age(c.Start) }},
		{"IDLE", true, func(c engine.Conn) string { return short(idle(c)) }},
		{"TO-SERVER", true, func(c engine.Conn) string { return size(c.BytesUp) }},
		{"TO-CLIENT", true, func(c engine.Conn) string { return size(c.BytesDown) }},
	}
	var names []string
	rows = make([][]string, len(conns))
	for _, col := range columns {
		if !col.always && !slices.ContainsFunc(conns, func(c engine.Conn) bool { return col.of(c) != "" }) {
			continue
		}
		names = append(names, col.name)
		for i, c := range conns {
			rows[i] = append(rows[i], cmp.Or(col.of(c), "-"))
		}
	}
	return strings.Join(names, " "), rows
}
