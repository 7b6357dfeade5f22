package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Listener is a port that the kernel engine takes connections on.
type Listener struct {
	Proto     string     // "tcp" or "udp"
	Addr      netip.Addr // zero: any; 0.0.0.0: any of IPv4; ::: any of IPv6
	Interface string     // "": any
	From, To  uint16     // the first and the last port; To 0: From alone
}

func (l Listener) String() string {
	ports := fmt.Sprint(l.From)
	if l.To > l.From {
		ports += fmt.Sprintf("-%d", l.To)
	}
	return l.Proto + " " + ports
}

// Conflict is a rule of others that forwarded packets meet.
type Conflict struct {
	Harmless bool   // worth knowing only
	Table    string // as nft names it: "ip nat"; "" for what nftables does not show
	Chain    string
	Handle   uint64 // of the rule; 0: the chain's policy, or several rules
	What     string // a sentence without its full stop
	Do       string // a command, or what else to do; "": nothing
}

func (c Conflict) String() string {
	if c.Do == "" {
		return c.What
	}
	return c.What + ": " + c.Do
}

// Conflicts looks in nftables, and so in iptables-nft, for rules that are not
// midspan's and that would keep the packets of listeners from being forwarded:
// chains that drop forwarded packets, DNAT that takes a listener's port,
// notrack. It only reads; it needs CAP_NET_ADMIN. With an error, the list is
// what was found in the rules that could be read.
//
// It judges by what is certain of a packet. A rule is reported when it may
// apply; a chain that drops counts as safe only if packets of new and of
// established connections are accepted in it for certain, as by "ct status
// dnat accept".
//
// Limits: conditions on marks, source addresses, servers' addresses, rates or
// time count as "may"; rules of bridges and devices are not looked at; nor are
// those of iptables-legacy, whose presence is reported.
func Conflicts(ctx context.Context, listeners []Listener) ([]Conflict, error) {
	r, err := readRuleset(ctx)
	if err != nil {
		return nil, fmt.Errorf("the rules of nftables cannot be read: %w", err)
	}
	f := &finder{ruleset: r, found: map[finding]*Conflict{}}
	for _, l := range listeners {
		for _, p := range l.packets() {
			f.diverted(l, p)
			f.untracked(l, p)
			f.forwarded(l, p)
		}
	}
	f.masquerades()
	f.legacy(procNet)
	list := make([]Conflict, 0, len(f.order))
	for _, c := range f.order {
		list = append(list, *c)
	}
	slices.SortStableFunc(list, func(a, b Conflict) int {
		rank := func(c Conflict) int {
			if c.Harmless {
				return 1
			}
			return 0
		}
		return cmp.Compare(rank(a), rank(b))
	})
	return list, errors.Join(ctx.Err(), r.err())
}

// Forwards tells whether rules of others forward packets or change their
// addresses, so that forwarding is of use to somebody else as well.
func Forwards(ctx context.Context) (bool, error) {
	r, err := readRuleset(ctx)
	if err != nil {
		return false, fmt.Errorf("the rules of nftables cannot be read: %w", err)
	}
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		if len(r.base(nftables.ChainHookForward, nftables.ChainTypeFilter, family))+
			len(r.base(nftables.ChainHookPrerouting, nftables.ChainTypeNAT, family))+
			len(r.base(nftables.ChainHookPostrouting, nftables.ChainTypeNAT, family)) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// packets are the first packets of connections to a listener, one for each
// address family.
func (l Listener) packets() []packet {
	p := packet{l4: unix.IPPROTO_TCP, iface: l.Interface, ports: span{l.From, max(l.From, l.To)}}
	if l.Proto == "udp" {
		p.l4 = unix.IPPROTO_UDP
	}
	addr := l.Addr.Unmap()
	if addr.IsValid() && !addr.IsUnspecified() {
		p.daddr = addr.WithZone("")
	}
	var list []packet
	if !addr.Is6() {
		p.family = unix.NFPROTO_IPV4
		list = append(list, p)
	}
	if !addr.Is4() {
		p.family = unix.NFPROTO_IPV6
		list = append(list, p)
	}
	return list
}

// finder collects conflicts, each once.
type finder struct {
	*ruleset
	found map[finding]*Conflict
	order []*Conflict
}

type finding struct {
	place
	handle uint64
	kind   string
}

// add makes a conflict of a chain's rule (nil: its policy), or returns nil if
// there is one already.
func (f *finder) add(kind string, table *nftables.Table, chain string, rule *rule) *Conflict {
	key := finding{place: place{table.Family, table.Name, chain}, kind: kind}
	if rule != nil {
		key.handle = rule.handle
	}
	if f.found[key] != nil {
		return nil
	}
	c := &Conflict{Table: familyName(table.Family) + " " + table.Name, Chain: chain, Handle: key.handle}
	f.found[key] = c
	f.order = append(f.order, c)
	return c
}

// diverted finds DNAT of others for a listener's packets. Only the first DNAT
// of a connection counts (nf_nat_inet_fn in net/netfilter/nf_nat_core.c), so it
// and ours exclude each other. Local connections go through the output hook.
func (f *finder) diverted(l Listener, p packet) {
	for _, hook := range []*nftables.ChainHook{nftables.ChainHookPrerouting, nftables.ChainHookOutput} {
		for _, base := range f.base(hook, nftables.ChainTypeNAT, p.family) {
			f.walk(p, func(rule *rule, o outcome) {
				if o.does != dnat {
					return
				}
				c := f.add("dnat", base.Table, rule.chain, rule)
				if c == nil {
					return
				}
				c.What = fmt.Sprintf("rule %d in chain %s of table %s %s port %s to %s, past midspan if it comes first",
					rule.handle, c.Chain, c.Table, verb(o.match, "sends", "may send"), l, cmp.Or(o.to, "an address that is not understood"))
				c.Do = removal(base.Table, rule)
				if c.Chain == "DOCKER" {
					c.Do = fmt.Sprintf("a container publishes the port: find it with \"docker ps --filter publish=%d\" and publish another one", l.From)
				}
			}).base(base)
		}
	}
}

func verb(t truth, surely, perhaps string) string {
	if t == yes {
		return surely
	}
	return perhaps
}

// untracked finds rules that keep a listener's packets from connection
// tracking, without which there is no NAT.
func (f *finder) untracked(l Listener, p packet) {
	for _, base := range f.base(nftables.ChainHookPrerouting, nftables.ChainTypeFilter, p.family) {
		if *base.Priority >= *nftables.ChainPriorityConntrack {
			continue // too late to have an effect
		}
		f.walk(p, func(rule *rule, o outcome) {
			if o.does != notrack {
				return
			}
			if c := f.add("notrack", base.Table, rule.chain, rule); c != nil {
				c.What = fmt.Sprintf("rule %d in chain %s of table %s %s connections of %s untracked, and without tracking there is no forwarding",
					rule.handle, c.Chain, c.Table, verb(o.match, "leaves", "may leave"), l)
				c.Do = removal(base.Table, rule)
			}
		}).base(base)
	}
}

// forwarded finds chains that drop what is forwarded for a listener: its first
// packet, or later ones of either direction.
func (f *finder) forwarded(l Listener, p packet) {
	first := packet{family: p.family, l4: p.l4, iface: p.iface, orig: p.ports, dnat: true, state: expr.CtStateBitNEW}
	later, answer := first, first
	later.state, answer.state = expr.CtStateBitESTABLISHED, expr.CtStateBitESTABLISHED
	answer.iface = ""
	for _, base := range f.base(nftables.ChainHookForward, nftables.ChainTypeFilter, p.family) {
		for _, q := range []packet{first, later, answer} {
			w := f.walk(q, func(*rule, outcome) {})
			if w.base(base) != dropped {
				continue
			}
			c := f.add("forward", base.Table, base.Name, nil)
			if c == nil {
				break
			}
			by := "its policy is drop"
			if w.by != nil {
				c.Handle = w.by.handle
				by = fmt.Sprintf("rule %d in %s does not let them pass", w.by.handle, w.by.chain)
			}
			c.What = fmt.Sprintf("chain %s of table %s may drop the forwarded packets of %s: %s, and nothing before accepts them for certain", c.Chain, c.Table, l, by)
			c.Do = f.acceptance(base)
			break
		}
	}
}

// acceptance is the command that lets forwarded packets through a chain.
func (f *finder) acceptance(base *nftables.Chain) string {
	if iptables, table := iptablesTable(base.Table); table == "filter" && base.Name == "FORWARD" {
		chain := base.Name
		if f.has(base.Table, "DOCKER-USER") {
			chain = "DOCKER-USER" // Docker puts its own rules in front of FORWARD's
		}
		return fmt.Sprintf("%s -I %s -m conntrack --ctstate DNAT -j ACCEPT", iptables, chain)
	}
	return fmt.Sprintf("nft insert rule %s %s %s ct status dnat accept", familyName(base.Table.Family), base.Table.Name, base.Name)
}

// masquerades notes rules that masquerade all that leaves, as ip_fwd.sh leaves
// them behind, once for each chain.
func (f *finder) masquerades() {
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		for _, base := range f.base(nftables.ChainHookPostrouting, nftables.ChainTypeNAT, family) {
			var rules []*rule
			for _, rule := range f.in(base.Table, base.Name) {
				w := f.walk(packet{family: family, l4: unix.IPPROTO_TCP}, nil)
				if o := w.eval(base.Table, rule, yes); o.match != no && o.does == masquerade && !o.narrow {
					rules = append(rules, rule)
				}
			}
			if len(rules) == 0 {
				continue
			}
			if c := f.add("masquerade", base.Table, base.Name, nil); c != nil {
				var handles, commands []string
				for _, rule := range rules {
					handles = append(handles, fmt.Sprint(rule.handle))
					commands = append(commands, removal(base.Table, rule))
				}
				c.Harmless = true
				c.What = fmt.Sprintf("chain %s of table %s masquerades all that leaves (rule %s), as ip_fwd.sh leaves it behind; midspan does not need it", c.Chain, c.Table, strings.Join(handles, ", "))
				c.Do = strings.Join(commands, "; ")
			}
		}
	}
}

// legacy notes tables of the old iptables, which nftables does not show. Where
// the list cannot be read, as in a user namespace, nothing is said.
func (f *finder) legacy(dir string) {
	for _, program := range []string{"ip", "ip6"} {
		file, command := program+"_tables_names", program+"tables-legacy"
		data, err := os.ReadFile(dir + "/" + file)
		tables := strings.Fields(string(data))
		if err != nil || len(tables) == 0 {
			continue
		}
		slices.Sort(tables)
		f.order = append(f.order, &Conflict{
			Harmless: true,
			What:     fmt.Sprintf("there are tables of the old iptables (%s), whose rules are not looked at here", strings.Join(tables, ", ")),
			Do:       fmt.Sprintf("look with \"%s-save\"", command),
		})
	}
}
