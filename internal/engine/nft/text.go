package nft

import "midspan/internal/plan"

// Text is the table that an engine would write for the nft routes of p, in nft's
// language: what `nft list table inet midspan` shows once it is in force, but
// for the values of counters. It asks neither the kernel nor this host.
func Text(p *plan.Plan) string {
	kernel := p.Of(plan.NFT)
	var t table
	return t.makeRuleset(kernel, number(kernel, nil), p.Log.Format != plan.LogSilent).String()
}
