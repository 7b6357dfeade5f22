package foreign

import (
	"fmt"
	"strings"

	"midspan/internal/config"
)

// IPTables imports the output of iptables-save or ip6tables-save: the DNAT
// rules of the nat table's PREROUTING chain become routes.
func IPTables(name string, data []byte) (*Import, error) {
	imp, _, err := importIPTables(name, data)
	return imp, err
}

// ipTables is the import of one such output.
type ipTables struct {
	*builder
	table   string
	options map[string]condition
	// shared are the routes whose last rule left packets to the next one for
	// the same port (-m statistic), by listen addresses.
	shared map[string]int
}

func importIPTables(name string, data []byte) (*Import, *ledger, error) {
	const wanted = "no DNAT rule for TCP ports in chain PREROUTING of table nat was found; the output of `iptables-save -t nat` is expected"
	text, err := readable(name, data, "the output of iptables-save is expected")
	if err != nil {
		return nil, nil, err
	}
	p := &ipTables{builder: newBuilder(name, "iptables-save"), options: ruleOptions(), shared: map[string]int{}}
	if hint := otherFormat(text, formatIPTables); hint != "" {
		p.problem(p.start(), "%s%s", wanted, hint)
		return nil, p.ledger, p.failed()
	}
	no := 0
	for line := range strings.Lines(text) {
		no++
		if trimmed := strings.TrimSpace(line); trimmed != "" && trimmed[0] != '#' {
			p.line(strings.TrimRight(line, "\r\n"), no)
		}
	}
	p.keepServers()
	if len(p.file.Routes) > 0 {
		p.notes.Addf(p.file.Routes[0].Name.Pos, "the rules stay in force until they are deleted, and take the packets before midspan can: delete those that became routes (iptables -t nat -D …) when midspan takes over. midspan connects from its own address and forwards in user space")
	}
	imp, err := p.finish(text, formatIPTables, wanted)
	return imp, p.ledger, err
}

// line handles one line of the output.
func (p *ipTables) line(line string, no int) {
	lex := lineLexer{line: line, at: config.Pos{File: p.name, Line: no}}
	lex.run()
	p.problems = append(p.problems, lex.problems...)
	words := lex.words
	if len(words) > 1 && strings.HasPrefix(words[0].text, "[") { // counters: [12:720] -A …
		words = words[1:]
	}
	if len(words) == 0 {
		return
	}
	s := p.add(&stmt{pos: words[0].pos, end: no, raw: line[words[0].pos.Col-1 : lex.end], words: words})
	switch first := s.arg(0); {
	case strings.HasPrefix(first, "*"):
		p.table = strings.TrimPrefix(first, "*")
		p.carry(s)
	case first == "COMMIT":
		p.carry(s)
	case strings.HasPrefix(first, ":"):
		p.policy(s)
	case first == "-A" && len(s.words) > 1:
		p.rule(s)
	}
}

// policy handles the line of a chain. Only one that drops matters: DNAT's
// connections went through FORWARD, midspan's end on this machine.
func (p *ipTables) policy(s *stmt) {
	chain := strings.TrimPrefix(s.arg(0), ":")
	p.carry(s)
	if p.table == "filter" && s.arg(1) == "DROP" {
		if why := filterChains[chain]; why != "" {
			p.note(s, "chain %s drops by default, and stays so: %s", chain, why)
		}
	}
}

// filterChains say what the chains of table filter have to do with midspan.
var filterChains = map[string]string{
	"INPUT":  "connections to midspan pass it; see that it accepts the ports of the routes",
	"OUTPUT": "midspan's connections to servers pass it; see that it accepts them",
}

func (p *ipTables) rule(s *stmt) {
	chain := s.arg(1)
	switch p.table {
	case "nat":
		p.natRule(s, chain)
	case "filter":
		why := filterChains[chain]
		switch {
		case chain == "FORWARD" && p.read(s).source():
			p.because(s, s.pos, s.String(), openMark+"has no effect on midspan's connections, which do not pass FORWARD; "+whereSource)
		case chain == "FORWARD":
			p.needless(s, "connections of midspan do not pass FORWARD")
		case why != "":
			p.lost(s, "it stays in force. "+upper(why))
		default:
			p.lost(s, "it stays in force")
		}
	case "":
		p.lost(s, "it stands in no table")
	default:
		p.lost(s, fmt.Sprintf("it is in table %s, and stays in force", printable(p.table)))
	}
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func (p *ipTables) natRule(s *stmt, chain string) {
	r := p.read(s)
	switch {
	case chain == "PREROUTING" && r.jump == "DNAT":
		p.dnat(r)
	case r.jump == "MASQUERADE" || r.jump == "SNAT":
		p.needless(s, "midspan connects from its own address")
	case r.jump == "REDIRECT":
		p.lost(s, "it leads to a program on this machine; let the clients ask for that port, or write a route to 127.0.0.1")
	case chain == "OUTPUT":
		p.lost(s, "it is for connections that this machine makes itself")
	case chain == "POSTROUTING":
		p.lost(s, "midspan needs no rules in POSTROUTING")
	case chain != "PREROUTING":
		p.lost(s, fmt.Sprintf("chain %s belongs to another program or is reached by conditions; write the route by hand if it forwards", printable(chain)))
	case r.jump == "ACCEPT" || r.jump == "RETURN":
		mark := ""
		if r.source() {
			mark = openMark
		}
		p.because(s, s.pos, s.String(), mark+isGone+"it is an exception from the rules after it; midspan has none")
	default:
		p.lost(s, "other chains are not followed")
	}
}

// dnat makes a route of a rule, or adds its servers to one.
func (p *ipTables) dnat(r *natRule) {
	if r.why != "" {
		p.lost(r.stmt, r.why)
		return
	}
	listens := r.listens()
	if !p.room(len(listens), len(r.to)) {
		p.carry(r.stmt)
		return
	}
	if dead := p.dead(listens); dead != nil {
		key := listenKey(listens)
		if i, open := p.shared[key]; open {
			p.share(r, i)
			return
		}
		p.note(r.stmt, "%s has no effect: line %d takes these packets, and of iptables' rules the first wins", r.stmt, dead.line)
		return
	}
	p.carry(r.stmt)
	p.conditions(r)
	ok := p.route(config.Route{
		Comment: fmt.Sprintf("%s:%d: %s", r.pos.File, r.pos.Line, oneLine(r.raw, 160)),
		Name:    config.At("", r.pos),
		Listen:  listens,
		To:      r.to,
	})
	if ok && r.statistic {
		p.shared[listenKey(listens)] = len(p.file.Routes) - 1
	}
}

// share adds the servers of a further rule for the same ports.
func (p *ipTables) share(r *natRule, i int) {
	p.carry(r.stmt)
	p.conditions(r)
	p.note(r.stmt, "%s shares its ports with line %d by `-m statistic`: carried over as one route whose servers have the same weight", r.stmt, p.file.Routes[i].Name.Pos.Line)
	p.file.Routes[i].To = append(p.file.Routes[i].To, r.to...)
	if !r.statistic {
		delete(p.shared, listenKey(r.listens()))
	}
}

// keepServers drops servers that sharing rules have twice.
func (p *ipTables) keepServers() {
	for i := range p.file.Routes {
		r := &p.file.Routes[i]
		r.To = p.to(r)
	}
}

// dead is the last of the claims that take every packet of a rule with these
// listen addresses, or nil if some packets are left to it.
func (p *ipTables) dead(listens []config.Field[config.Listen]) (by *claimed) {
	for _, l := range listens {
		by = p.find(l.V, func(l, claim config.Listen) bool { return covers(claim, l) })
		if by == nil {
			return nil
		}
	}
	return by
}

func listenKey(listens []config.Field[config.Listen]) string {
	var b strings.Builder
	for _, l := range listens {
		b.WriteString(l.V.String() + " ")
	}
	return b.String()
}
