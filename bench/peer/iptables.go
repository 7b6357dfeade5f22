package peer

import (
	"fmt"
	"slices"
	"strings"

	"midspan/bench/lab"
)

// rules are the two that a forwarding takes, in the words of ip_fwd.sh.
func rules(r Route) []string {
	ip, port, _ := strings.Cut(r.To, ":")
	return []string{
		fmt.Sprintf("-t nat -A PREROUTING -p tcp -i %s --dport %d -j DNAT --to-destination %s", lab.ClientSide, r.Port, r.To),
		fmt.Sprintf("-t nat -A POSTROUTING -p tcp -o %s -d %s --dport %s -j MASQUERADE", lab.TargetSide, ip, port),
	}
}

// iptablesConfig is what iptablesApply does.
func iptablesConfig(routes []Route, _ Limits) string {
	var b strings.Builder
	b.WriteString("sysctl -w net.ipv4.ip_forward=1\n")
	for _, r := range routes {
		for _, rule := range rules(r) {
			fmt.Fprintf(&b, "iptables %s\n", rule)
		}
	}
	return b.String()
}

// iptablesApply loads many rules at once, as a machine does when it starts; one
// by one, a thousand take far longer. All in one are more than the kernel takes
// from an ordinary user.
func iptablesApply(l *lab.Lab, routes []Route) error {
	for some := range slices.Chunk(routes, 100) {
		if err := iptablesRestore(l, some); err != nil {
			return err
		}
	}
	return nil
}

func iptablesRestore(l *lab.Lab, routes []Route) error {
	var b strings.Builder
	b.WriteString("*nat\n")
	for _, r := range routes {
		for _, rule := range rules(r) {
			b.WriteString(strings.TrimPrefix(rule, "-t nat ") + "\n")
		}
	}
	b.WriteString("COMMIT\n")
	path, err := (&Peer{program: "iptables-restore"}).path()
	if err != nil {
		return err
	}
	return l.Run(lab.Cmd{Program: path, Args: []string{"--noflush"}, Stdin: strings.NewReader(b.String()), In: l.Forwarder})
}

// iptablesExtend adds a forwarding as ip_fwd.sh does.
func iptablesExtend(l *lab.Lab, r Route) error {
	path, err := (&Peer{program: "iptables"}).path()
	if err != nil {
		return err
	}
	for _, rule := range rules(r) {
		if err := l.Run(lab.Cmd{Program: path, Args: strings.Fields(rule), In: l.Forwarder}); err != nil {
			return err
		}
	}
	return nil
}
