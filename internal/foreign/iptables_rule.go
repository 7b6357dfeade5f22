package foreign

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"midspan/internal/config"
)

// natRule is a rule of table nat.
type natRule struct {
	*stmt
	jump      string
	proto     string
	iface     string
	addr      netip.Addr
	dst       netip.Prefix // of -d; not valid: any
	allow     []config.Field[netip.Prefix]
	toSource  string
	ports     []portRange
	to        []config.Server
	statistic bool
	ranges    []string // values of --to-destination

	why    string   // not "": why it cannot be a route
	widens []string // conditions that are not carried over, so that more is let in
}

type portRange struct{ from, to uint16 }

// condition reads one option of a rule with its values; not tells that a "!"
// stands before it.
type condition struct {
	args int
	do   func(r *natRule, not bool, option string, values []word)
}

// ruleOptions are the conditions by option. One that is not here is taken to restrict the rule,
// and its values to go on to the next option.
func ruleOptions() map[string]condition {
	widen := func(r *natRule, not bool, option string, values []word) {
		r.widens = append(r.widens, spelled(not, option, values))
	}
	quiet := func(*natRule, bool, string, []word) {}
	source := condition{1, (*natRule).from}
	toSource := condition{1, func(r *natRule, _ bool, _ string, values []word) { r.toSource = values[0].text }}
	jump := condition{1, func(r *natRule, _ bool, _ string, values []word) { r.jump = values[0].text }}
	proto := condition{1, (*natRule).protocol}
	in, dst := condition{1, (*natRule).in}, condition{1, (*natRule).destination}
	port, to := condition{1, (*natRule).dports}, condition{1, (*natRule).toDestination}
	return map[string]condition{
		"-i": in, "--in-interface": in, "-d": dst, "--destination": dst, "-s": source, "--source": source,
		"-p": proto, "--protocol": proto, "-j": jump, "--jump": jump, "-g": jump, "--goto": jump,
		"--dport": port, "--destination-port": port, "--dports": port, "--destination-ports": port,
		"--to-destination": to, "--to": to,
		"-m": {1, func(r *natRule, _ bool, _ string, values []word) {
			r.statistic = r.statistic || values[0].text == "statistic"
		}},
		"--mode": {1, quiet}, "--probability": {1, quiet}, "--every": {1, quiet}, "--packet": {1, quiet},
		"--comment": {1, quiet},
		"--random":  {0, quiet}, "--random-fully": {0, quiet}, "--persistent": {0, quiet},
		"--ctstate": {1, quiet}, "--state": {1, quiet}, "--syn": {0, quiet}, "--tcp-flags": {2, quiet},
		"--dst-type": {1, func(r *natRule, not bool, option string, values []word) {
			if not || values[0].text != "LOCAL" {
				widen(r, not, option, values)
			}
		}},
		"-o": {1, quiet}, "--out-interface": {1, quiet}, "--to-source": toSource, "--to-ports": {1, quiet},
	}
}

// read takes a rule apart.
func (p *ipTables) read(s *stmt) *natRule {
	r := &natRule{stmt: s}
	words := s.words[2:]
	for i := 0; i < len(words); i++ {
		not := words[i].text == "!"
		if not {
			i++
		}
		if i >= len(words) {
			break
		}
		option := words[i].text
		c, known := p.options[option]
		if !known {
			c.args = untilOption(words[i+1:])
			c.do = func(r *natRule, not bool, option string, values []word) {
				r.widens = append(r.widens, spelled(not, option, values))
			}
		}
		if i+c.args >= len(words) {
			r.why = fmt.Sprintf("%s has no value", quote(option))
			break
		}
		c.do(r, not, option, words[i+1:i+1+c.args])
		i += c.args
	}
	r.complete()
	return r
}

// untilOption is how many words there are before the next option.
func untilOption(words []word) int {
	for i, w := range words {
		if w.text == "!" || strings.HasPrefix(w.text, "-") {
			return i
		}
	}
	return len(words)
}

func spelled(not bool, option string, values []word) string {
	text := option
	if len(values) > 0 {
		text += " " + phrase(values)
	}
	if not {
		return "! " + text
	}
	return text
}

// source tells whether the rule is for some sources only.
func (r *natRule) source() bool {
	return len(r.allow) > 0 || slices.ContainsFunc(r.widens, func(c string) bool {
		option, _, _ := strings.Cut(strings.TrimPrefix(c, "! "), " ")
		return slices.Contains([]string{"-s", "--source", "--src-range", "--match-set", "--mac-source"}, option)
	})
}

// whereSource is where a source can be restricted.
const whereSource = "write `allow` for the route, or restrict it in the network security group"

func (r *natRule) protocol(not bool, _ string, values []word) {
	r.proto = values[0].text
	if not {
		r.why = "midspan forwards TCP and UDP"
	}
}

// from reads a source: the networks that may connect.
func (r *natRule) from(not bool, option string, values []word) {
	var networks []config.Field[netip.Prefix]
	for text := range strings.SplitSeq(values[0].text, ",") {
		n, ok := network(text)
		if not || !ok {
			r.widens = append(r.widens, spelled(not, option, values))
			return
		}
		if n.Bits() == 0 {
			return // all
		}
		networks = append(networks, config.At(n, r.pos))
	}
	r.allow = append(r.allow, networks...)
}

// network reads ADDRESS[/BITS].
func network(text string) (netip.Prefix, bool) {
	n, err := netip.ParsePrefix(text)
	if err != nil {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return n, false
		}
		n = netip.PrefixFrom(a, a.BitLen())
	}
	return n.Masked(), !n.Addr().Is4In6()
}

func (r *natRule) in(not bool, option string, values []word) {
	name := values[0].text
	if not || strings.HasSuffix(name, "+") {
		r.widens = append(r.widens, spelled(not, option, values))
		return
	}
	r.iface = name
}

// destination is the address that the packets were for: the one to listen on.
func (r *natRule) destination(not bool, option string, values []word) {
	prefix, ok := network(values[0].text)
	if !not && ok {
		r.dst = prefix
	}
	switch {
	case !not && ok && prefix.IsSingleIP():
		r.addr = prefix.Addr()
	case !not && ok && prefix.Bits() == 0:
	default:
		r.widens = append(r.widens, spelled(not, option, values))
	}
}

// dports reads 9092, 9092:9094 and lists of them; an open range ends at the
// last port.
func (r *natRule) dports(not bool, option string, values []word) {
	if not {
		r.why = "it forwards all ports but some"
		return
	}
	for part := range strings.SplitSeq(values[0].text, ",") {
		lo, hi, isRange := strings.Cut(part, ":")
		if !isRange {
			hi = lo
		} else {
			if lo == "" || lo == "0" {
				lo = "1"
			}
			if hi == "" {
				hi = "65535"
			}
		}
		from, err1 := strconv.ParseUint(lo, 10, 16)
		to, err2 := strconv.ParseUint(hi, 10, 16)
		if err1 != nil || err2 != nil || from == 0 || to < from {
			r.why = fmt.Sprintf("%s has no port from 1 to 65535", quote(spelled(false, option, values)))
			return
		}
		r.ports = append(r.ports, portRange{uint16(from), uint16(to)})
	}
}

func (r *natRule) toDestination(_ bool, _ string, values []word) {
	r.ranges = append(r.ranges, values[0].text)
}

// complete works out the servers, once all options are known.
func (r *natRule) complete() {
	switch {
	case r.jump != "DNAT" || r.why != "":
	case r.proto == "" || r.proto == "all":
		r.why = "it forwards every protocol and port, and midspan forwards TCP and UDP; write the ports that are used"
	case r.proto != "tcp" && r.proto != "6" && !isUDP(r.proto):
		r.why = "midspan forwards TCP and UDP"
	case len(r.ports) == 0:
		r.why = "it forwards every port; write the ports that are used"
	case len(r.ranges) == 0:
		r.why = "it has no --to-destination"
	default:
		for _, text := range r.ranges {
			servers, why := r.servers(text)
			if why != "" {
				r.why = fmt.Sprintf("%s: %s", quote(text), why)
				return
			}
			r.to = append(r.to, servers...)
		}
	}
}

// maxRange is how many addresses of a range become servers.
const maxRange = 64

// servers are those of ADDRESS[-ADDRESS][:PORT[-PORT[/BASE]]].
func (r *natRule) servers(text string) (servers []config.Server, why string) {
	addrs, ports, found := splitPort(text)
	if a, err := netip.ParseAddr(text); err == nil && a.Is6() {
		addrs, ports, found = text, "", false // no brackets, no port
	}
	if addrs == "" {
		return nil, "it changes the port only; let the clients ask for that port, or write a route to 127.0.0.1"
	}
	port, why := r.serverPort(ports, found)
	if why != "" {
		return nil, why
	}
	lo, hi, isRange := strings.Cut(addrs, "-")
	first, err := netip.ParseAddr(strings.Trim(lo, "[]"))
	last := first
	if isRange && err == nil {
		last, err = netip.ParseAddr(strings.Trim(hi, "[]"))
	}
	if err != nil || last.Less(first) || first.Is4() != last.Is4() {
		return nil, "it is not an address or a range of them"
	}
	for a := first; ; a = a.Next() {
		if len(servers) == maxRange {
			return nil, fmt.Sprintf("it has more than %d addresses; write the servers by hand", maxRange)
		}
		t, err := target(a.String(), port)
		if err != nil {
			return nil, printable(err.Error())
		}
		servers = append(servers, config.Server{Target: config.At(t, r.pos)})
		if a == last {
			return servers, ""
		}
	}
}

// serverPort is the port of a Target: none or +N where it follows the
// listener's.
func (r *natRule) serverPort(ports string, found bool) (port, why string) {
	ports, base, shifted := strings.Cut(ports, "/")
	lo, hi, isRange := strings.Cut(ports, "-")
	switch from, err := strconv.ParseUint(lo, 10, 16); {
	case !found:
		return "", ""
	case err != nil || from == 0:
		return "", "it has no port from 1 to 65535"
	case !isRange:
		return lo, ""
	case shifted:
		n, err := strconv.ParseUint(base, 10, 16)
		if err != nil {
			return "", "it has no base port"
		}
		if shift := int(from) - int(n); shift != 0 {
			return fmt.Sprintf("%+d", shift), ""
		}
		return "", ""
	case len(r.ports) == 1 && ports == fmt.Sprintf("%d-%d", r.ports[0].from, r.ports[0].to):
		return "", ""
	default:
		return "", fmt.Sprintf("the ports of the server (%s-%s) are not those that are listened on", lo, hi)
	}
}

// listens are the listen addresses of the rule.
func (r *natRule) listens() []config.Field[config.Listen] {
	out := make([]config.Field[config.Listen], len(r.ports))
	for i, ports := range r.ports {
		l := config.Listen{Addr: r.addr, Interface: r.iface, From: ports.from, To: ports.to}
		if !writable(l, config.ParseListen) {
			l.Interface = ""
		}
		out[i] = config.At(l, r.pos)
	}
	return out
}

// conditions notes what of the rule is not in the route.
func (p *ipTables) conditions(r *natRule) {
	const onAll = moreMark + isGone + "midspan listens on all %s here"
	var rest []string
	for _, c := range r.widens {
		switch option, _, _ := strings.Cut(strings.TrimPrefix(c, "! "), " "); option {
		case "-d", "--destination", "--dst-type":
			p.because(r.stmt, r.pos, quote(c), fmt.Sprintf(onAll, "addresses of this machine"))
		case "-i", "--in-interface":
			p.because(r.stmt, r.pos, quote(c), fmt.Sprintf(onAll, "interfaces"))
		default:
			rest = append(rest, c)
		}
	}
	if len(rest) > 0 {
		mark := moreMark
		if r.source() {
			mark = openMark
		}
		p.because(r.stmt, r.pos, quote(strings.Join(rest, " ")), mark+"is not carried over; "+whereSource)
	}
	switch l := r.listens()[0].V; {
	case r.iface == "" || l.Interface != "":
	case l.Addr.Is6():
		p.because(r.stmt, r.pos, quote("-i "+r.iface), moreMark+isGone+"midspan listens on an IPv6 address or on an interface, not on both together")
	default:
		p.because(r.stmt, r.pos, quote("-i "+r.iface), fmt.Sprintf(onAll, "interfaces")+": it is not the name of one")
	}
}
