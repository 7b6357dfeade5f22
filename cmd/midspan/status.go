package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
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
	u.table("ROUTE ENGINE LISTEN CONNS ACCEPTED REFUSED TO-SERVER TO-CLIENT SERVERS", routeRows(s))
	fmt.Fprintln(u.out)
	u.table("ROUTE SERVER ENDPOINT STATE CONNS CONNECTS FAILED LAST-ERROR", endpointRows(s))
	if rows := nodeRows(s); len(rows) > 0 {
		fmt.Fprintln(u.out)
		u.table("ROUTE NODE PORT SERVER FROM STATE CONNS", rows)
	}
	if rows := consumerRows(s); len(rows) > 0 {
		fmt.Fprintln(u.out)
		u.table("CONSUMER CONNS ACCEPTED REFUSED TO-SERVER TO-CLIENT", rows)
	}
	if rows := nameRows(s); len(rows) > 0 {
		fmt.Fprintln(u.out)
		u.table("NAME LAST-ANSWER PROBLEM", rows)
	}
	if rows := certificateRows(s); len(rows) > 0 {
		fmt.Fprintln(u.out)
		u.table("ROUTE CERTIFICATE EXPIRES PROBLEM", rows)
	}
	for _, line := range clusterLines(s) {
		fmt.Fprintf(u.out, "\n%s\n", line)
	}
	for _, p := range s.Engine.Pending {
		fmt.Fprintf(u.out, "\nroute %s does not listen on %s yet: %s\n", p.Route, p.Listen, p.Why)
	}
}

// certificateRows are those shown to others; what has expired says so.
func certificateRows(s admin.Status) (rows [][]string) {
	for _, c := range s.Engine.Certificates {
		expires := c.Expires.Local().Format(time.DateTime)
		if time.Now().After(c.Expires) {
			expires += " (expired)"
		}
		rows = append(rows, []string{c.Route, c.File, expires, cmp.Or(c.Problem, "-")})
	}
	return rows
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
			strconv.FormatUint(r.Counters.Refused(), 10), size(r.Counters.BytesUp), size(r.Counters.BytesDown), fmt.Sprintf("%d/%d up", up, len(r.Endpoints)),
		})
	}
	return rows
}

func consumerRows(s admin.Status) [][]string {
	var rows [][]string
	for _, c := range s.Engine.Consumers {
		rows = append(rows, []string{
			c.Name, strconv.Itoa(c.Active), strconv.FormatUint(c.Accepted, 10), strconv.FormatUint(c.Refused, 10),
			size(c.BytesUp), size(c.BytesDown),
		})
	}
	return rows
}

// brief is a list short enough for a table.
func brief(list []string) string {
	return cmp.Or(engine.Brief(list), "-")
}

func endpointRows(s admin.Status) [][]string {
	type key struct {
		route string
		addr  netip.AddrPort
	}
	checks := map[key]admin.Check{}
	for _, c := range s.Health {
		for _, route := range c.Routes {
			k := key{route, c.Endpoint}
			if old, seen := checks[k]; !seen || old.Up { // of several names for one address, one that fails
				checks[k] = c
			}
		}
	}
	var rows [][]string
	for _, r := range s.Engine.Routes {
		for _, e := range r.Endpoints {
			addr, state, problem := endpointState(e, checks[key{r.Name, e.Addr}])
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
