package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"midspan/internal/engine/nft"
	"midspan/internal/plan"
)

func planCommand(ui *ui) *cobra.Command {
	var asJSON bool
	var as string
	c := &cobra.Command{
		Use:   "plan FILE",
		Short: "Show the routes of a file (--json: with every default filled in)",
		Long: `Show the routes of a file, each with its engine and why it has that one. With
--engine nft, show the kernel's rules for the routes of that engine instead, as
nft(8) reads them, with the addresses that names have at this moment. For routes of
mode kafka, show also what the way from the cloud needs: ports, rules of the load
balancer, its probe, and names that have to lead to the private endpoint.`,
		Example: "  midspan plan midspan.yaml\n  midspan plan --json midspan.yaml | jq '.routes[].listen'\n  midspan plan --engine nft midspan.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if as != "" && as != string(plan.NFT) {
				return fmt.Errorf("--engine %s: only nft has rules to show", as)
			}
			p, warnings, err := ui.load(args[0])
			if err != nil {
				return err
			}
			ui.problems("warning", yellow, warnings)
			switch {
			case as != "":
				text, err := nft.Text(ui.withAddresses(c.Context(), p))
				if err != nil {
					return err
				}
				fmt.Fprint(ui.out, text)
			case asJSON:
				return ui.json(struct {
					*plan.Plan
					Paths []plan.Path `json:"paths,omitempty"`
				}{p, p.Paths()})
			default:
				ui.table("ROUTE ENGINE MODE LISTEN BALANCE CHECK FOR SERVERS", planRows(p))
				for _, r := range p.Routes {
					if why, auto := strings.CutPrefix(r.EngineWhy, "auto: "); auto {
						ui.say("route %s has engine %s: %s", r.Name, r.Engine, why)
					}
				}
				if rows := pathRows(p); len(rows) > 0 {
					fmt.Fprintln(ui.out)
					ui.table("ROUTE PATH NEEDS", rows)
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&as, "engine", "", "show the rules of this engine (nft)")
	c.Flags().BoolVar(&asJSON, "json", false, "print the whole plan as JSON, with every default")
	return c
}

// planRows are one row for each set of servers of a route.
func planRows(p *plan.Plan) [][]string {
	var rows [][]string
	for _, r := range p.Routes {
		var listen []string
		for _, l := range r.Listen {
			listen = append(listen, l.String())
		}
		lead := []string{r.Name, string(r.Engine), modeText(r), strings.Join(listen, ", "), string(r.Balance), checkText(r.Check)}
		set := func(who string, servers []int) {
			var names []string
			for _, i := range servers {
				names = append(names, serverText(r.Servers[i]))
			}
			rows = append(rows, append(lead, who, strings.Join(names, ", ")))
			lead = make([]string, len(lead))
		}
		for _, g := range r.Groups {
			set(groupText(g), g.Servers)
		}
		switch who := whoText(p, r); {
		case len(r.Default) > 0 && len(r.Groups) > 0:
			set("others", r.Default)
		case len(r.Default) > 0:
			set(who, r.Default)
		}
		if r.Kafka == nil {
			continue
		}
		for _, n := range r.Kafka.Nodes {
			set("node "+strconv.Itoa(int(n.ID)), []int{n.Server})
		}
		if r.Kafka.Pattern != "" {
			rows = append(rows, append(lead, "nodes", r.Kafka.Pattern))
		}
	}
	return rows
}

// modeText is the route's mode, and where it speaks TLS.
func modeText(r *plan.Route) string {
	text := string(r.Mode)
	switch {
	case r.TLS != nil && r.UpstreamTLS.On:
		text += ", tls both"
	case r.TLS != nil:
		text += ", tls in"
	case r.UpstreamTLS.On:
		text += ", tls out"
	}
	return text
}

func groupText(g plan.Group) string {
	text := g.Match + strings.TrimSuffix(g.Path, "/")
	if g.Rewrite != "" {
		text += " as " + g.Rewrite
	}
	return text
}

// whoText is who may use the route.
func whoText(p *plan.Plan, r *plan.Route) string {
	if !r.Guarded {
		return "all"
	}
	var names []string
	for _, c := range p.Consumers {
		if c.MayUse(r.Name) {
			names = append(names, c.Name)
		}
	}
	return strings.Join(names, ", ")
}

// withAddresses is p with what names stand for now; all servers count as up.
func (u *ui) withAddresses(ctx context.Context, p *plan.Plan) *plan.Plan {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	known := map[string][]netip.Addr{}
	for _, host := range p.Of(plan.NFT).Hosts() {
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			u.say("%s is left out: %v", host, err)
			continue
		}
		for _, a := range addrs {
			known[host] = append(known[host], a.Unmap())
		}
		slices.SortFunc(known[host], netip.Addr.Compare)
	}
	return allUp(p, known)
}

// allUp is p with addresses of names, and every server up.
func allUp(p *plan.Plan, known map[string][]netip.Addr) *plan.Plan {
	return p.With(func(host string) []netip.Addr { return known[host] },
		func(*plan.Route, *plan.Server, netip.Addr) (bool, bool) { return true, false })
}

func serverText(s *plan.Server) string {
	text := s.Name
	if s.Weight != 1 {
		text += " (weight " + strconv.Itoa(s.Weight) + ")"
	}
	if s.Backup {
		text += " (backup)"
	}
	return text
}

func checkText(c plan.Check) string {
	switch c.Kind {
	case plan.CheckOff:
		return "off"
	case plan.CheckHTTP:
		return "http " + c.Path + " every " + c.Every.String()
	}
	return string(c.Kind) + " every " + c.Every.String()
}
