package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"midspan/internal/plan"
)

func planCommand(ui *ui) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "plan FILE",
		Short:   "Show the routes of a file (--json: with every default filled in)",
		Example: "  midspan plan midspan.yaml\n  midspan plan --json midspan.yaml | jq '.routes[].listen'",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, warnings, err := ui.load(args[0])
			if err != nil {
				return err
			}
			ui.problems("warning", yellow, warnings)
			if asJSON {
				return ui.json(p)
			}
			ui.table("ROUTE LISTEN BALANCE CHECK SERVERS", planRows(p))
			return nil
		},
	}
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
		rows = append(rows, []string{r.Name, strings.Join(listen, ", "), string(r.Balance), checkText(r.Check), strings.Join(servers, ", ")})
	}
	return rows
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
