package foreign

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
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
	// limited are the routes whose rules were for some sources only (-s).
	limited map[string]int
	later   []*natRule // of chains after PREROUTING: see after
}

func importIPTables(name string, data []byte) (*Import, *ledger, error) {
	const wanted = "no DNAT rule for TCP or UDP ports in chain PREROUTING of table nat was found; the output of `iptables-save -t nat` is expected"
	text, err := readable(name, data, "the output of iptables-save is expected")
	if err != nil {
		return nil, nil, err
	}
	p := &ipTables{builder: newBuilder(name, "iptables-save"), options: ruleOptions(), shared: map[string]int{}, limited: map[string]int{}}
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
	p.inKernel()
	p.after()
	if len(p.file.Routes) > 0 {
		p.notes.Addf(p.file.Routes[0].Name.Pos, "the rules stay in force until they are deleted, and take the packets before midspan can: delete those that became routes (iptables -t nat -D …) when midspan takes over")
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

// policy handles the line of a chain. Only one that drops matters, and not
// FORWARD's, which forwarded connections pass as they did.
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
	"INPUT":  "the load balancer's probe passes it, and what goes through the relay; see that it accepts their ports",
	"OUTPUT": "midspan's tests of servers pass it, and what goes through the relay; see that it accepts them",
}

const whyForward = "it stays in force, and forwarded connections pass it as they did"

func (p *ipTables) rule(s *stmt) {
	chain := s.arg(1)
	switch p.table {
	case "nat":
		p.natRule(s, chain)
	case "filter":
		why := filterChains[chain]
		switch {
		case chain == "FORWARD" && strings.Contains(s.raw, "--connlimit-above"):
			p.later = append(p.later, p.read(s))
		case chain == "FORWARD":
			p.needless(s, whyForward)
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
	case chain == "POSTROUTING" && (r.jump == "MASQUERADE" || r.jump == "SNAT"):
		p.later = append(p.later, r)
	case r.jump == "REDIRECT":
		p.lost(s, "it leads to a program on this machine; let the clients ask for that port, or write a route to 127.0.0.1")
	case chain == "OUTPUT":
		p.lost(s, "it is for connections that this machine makes itself")
	case chain == "POSTROUTING":
		p.lost(s, "it stays in force")
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
	route := config.Route{
		Comment: fmt.Sprintf("%s:%d: %s", r.pos.File, r.pos.Line, oneLine(r.raw, 160)),
		Name:    config.At("", r.pos),
		Listen:  listens,
		To:      r.to,
	}
	if isUDP(r.proto) {
		route.Mode = config.At(modeUDP, r.pos)
	}
	key := route.Mode.V + listenKey(listens)
	if dead := dead(p.of(&route), listens); dead != nil {
		if i, open := p.shared[key]; open {
			p.share(r, i, key)
			return
		}
		if i, some := p.limited[key]; some {
			p.admitMore(r, i, key)
			return
		}
		p.note(r.stmt, "%s has no effect: line %d takes these packets, and of iptables' rules the first wins", r.stmt, dead.line)
		return
	}
	p.carry(r.stmt)
	p.conditions(r)
	route.Allow = r.allow
	switch ok := p.route(route); {
	case ok && r.statistic:
		p.shared[key] = len(p.file.Routes) - 1
	case ok && len(r.allow) > 0:
		p.limited[key] = len(p.file.Routes) - 1
	}
}

// admitMore lets the sources of a further rule for the same ports and servers in.
func (p *ipTables) admitMore(r *natRule, i int, key string) {
	route := &p.file.Routes[i]
	if !slices.EqualFunc(route.To, r.to, func(a, b config.Server) bool { return a.Target.V == b.Target.V }) {
		p.lost(r.stmt, fmt.Sprintf("line %d has these ports for other sources, and a route does not choose its servers by source", route.Name.Pos.Line))
		return
	}
	p.carry(r.stmt)
	p.conditions(r)
	if len(r.allow) == 0 {
		route.Allow = nil
		delete(p.limited, key)
		return
	}
	for _, a := range r.allow {
		if !slices.ContainsFunc(route.Allow, func(b config.Field[netip.Prefix]) bool { return a.V == b.V }) {
			route.Allow = append(route.Allow, a)
		}
	}
}

// share adds the servers of a further rule for the same ports.
func (p *ipTables) share(r *natRule, i int, key string) {
	p.carry(r.stmt)
	p.conditions(r)
	p.note(r.stmt, "%s shares its ports with line %d by `-m statistic`: carried over as one route whose servers have the same weight", r.stmt, p.file.Routes[i].Name.Pos.Line)
	p.file.Routes[i].To = append(p.file.Routes[i].To, r.to...)
	if !slices.EqualFunc(p.file.Routes[i].Allow, r.allow, same) {
		p.file.Routes[i].Allow = nil
		p.because(r.stmt, r.pos, r.String(), openMark+"is for other sources than line "+strconv.Itoa(p.file.Routes[i].Name.Pos.Line)+", with which it shares its ports; write `allow` for the route")
	}
	if !r.statistic {
		delete(p.shared, key)
	}
}

// keepServers drops servers that sharing rules have twice.
func (p *ipTables) keepServers() {
	for i := range p.file.Routes {
		p.servers(&p.file.Routes[i])
	}
}

// dead is the last of claims that take every packet of a rule with these
// listen addresses, or nil if some packets are left to it.
func dead(claims *claims, listens []config.Field[config.Listen]) (by *claimed) {
	for _, l := range listens {
		by = claims.find(l.V, func(l, claim config.Listen) bool { return covers(claim, l) })
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
