package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"midspan/internal/engine/nft"
	"midspan/internal/plan"
)

func loadCommand(ui *ui) *cobra.Command {
	return &cobra.Command{
		Use:   "load FILE",
		Short: "Put the kernel's rules in force and exit: at boot, before the network",
		Long: `Put the rules of the file's nft routes in force and exit; they stay. It is for
boot, before the network is up, so that no connection comes before its rules:
names have the addresses that the daemon last knew, every server counts as up,
and interfaces and addresses need not be there yet. The daemon takes the rules
over when it starts. Routes of the relay are not touched.`,
		Example: "  midspan load /etc/midspan/midspan.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, _, err := ui.load(args[0])
			if err != nil {
				return err
			}
			return ui.loadRules(c.Context(), p)
		},
	}
}

func (u *ui) loadRules(ctx context.Context, p *plan.Plan) error {
	log := slog.New(slog.NewTextHandler(u.err, nil))
	known := memory{stateDir(), log}.load()
	for _, host := range p.Of(plan.NFT).Hosts() {
		if len(known[host]) == 0 {
			log.Warn("no address is known yet; connections are refused until the daemon has looked it up", "name", host)
		}
	}
	rules := allUp(p, known).Of(plan.NFT)
	rules.NFT.Keep = true
	e, err := nft.New(nft.Options{Log: log, State: kernelState(), Early: true})
	if err != nil {
		return err
	}
	if _, err = e.Apply(ctx, rules); err != nil {
		_ = e.Close() // the first error says more
		return err
	}
	u.say("%s in force", count(len(rules.Routes), "kernel route"))
	return e.Close()
}
