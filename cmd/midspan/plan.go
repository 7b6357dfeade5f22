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
nft(8) reads them, with the addresses that names have at this moment.`,
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
				return ui.json(p)
			default:
				ui.table("ROUTE ENGINE LISTEN BALANCE CHECK SERVERS", planRows(p))
				for _, r := range p.Routes {
					if why, auto := strings.CutPrefix(r.EngineWhy, "auto: "); auto {
						ui.say("route %s has engine %s: %s", r.Name, r.Engine, why)
					}
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&as, "engine", "", "show the rules of this engine (nft)")
	c.Flags().BoolVar(&asJSON, "json", false, "print the whole plan as JSON, with every default")
	return c
}

func planRows(p *plan.Plan) [][]string {
	var rows [][]string
	for _, r := range p.Routes {
		var listen, servers []string
		for _, l := range r.Listen {
			listen = append(listen, l.String())
		}
		for _, s := range r.Servers {
			servers = append(servers, serverText(s))
		}
		rows = append(rows, []string{r.Name, string(r.Engine), strings.Join(listen, ", "), string(r.Balance), checkText(r.Check), strings.Join(servers, ", ")})
	}
	return rows
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
