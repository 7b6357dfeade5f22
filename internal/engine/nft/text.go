package nft

import "midspan/internal/plan"

// Text is the table that an engine would write for the nft routes of p, in nft's
// language: what `nft list table inet midspan` shows once it is in force, but
// for the values of counters. It asks neither the kernel nor this host: it is
// for one that has forwarded nothing before.
func Text(p *plan.Plan) (string, error) {
	kernel := p.Of(plan.NFT)
	numbers, err := number(kernel, nil)
	if err != nil {
		return "", err
	}
	var t table
	return t.makeRuleset(kernel, numbers, p.Log.Format != plan.LogSilent, map[family]bool{ipv4: true, ipv6: true}).String(), nil
}

// Present tells whether the kernel has a table of ours, from this process or an
// earlier one. Who may not look is told no.
func Present() bool {
	k, err := openKernel()
	if err != nil {
		return false
	}
	defer k.close()
	found, err := k.present()
	return found && err == nil
}
