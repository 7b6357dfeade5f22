package host

import (
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestConflicts makes rules as they are met on hosts, with the programs that
// make them, and looks at what is said about them.
func TestConflicts(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const docker = `
		iptables -t nat -N DOCKER
		iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
		iptables -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
		iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
		iptables -t nat -A DOCKER -i docker0 -j RETURN
		iptables -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport %PORT% -j DNAT --to-destination 172.17.0.2:80
		iptables -N DOCKER-USER
		iptables -N DOCKER
		iptables -A FORWARD -j DOCKER-USER
		iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
		iptables -A FORWARD -o docker0 -j DOCKER
		iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
		iptables -A DOCKER-USER -j RETURN
		iptables -P FORWARD DROP`
	const firewalld = `
		nft add table inet firewalld
		nft add chain inet firewalld filter_FORWARD '{ type filter hook forward priority 10; policy accept; }'
		nft add rule inet firewalld filter_FORWARD ct state '{ established, related }' accept
		%MORE%
		nft add rule inet firewalld filter_FORWARD ct state invalid drop
		nft add rule inet firewalld filter_FORWARD reject with icmpx type admin-prohibited`
	const forward = "nft add table inet f; nft add chain inet f f '{ type filter hook forward priority 0; policy drop; }'\n"
	const prerouting = "nft add table inet n; nft add chain inet n p '{ type nat hook prerouting priority dstnat; }'\n"

	sql := []Listener{{Proto: "tcp", From: 1434}}
	on := func(dev string) []Listener { return []Listener{{Proto: "tcp", From: 1434, Interface: dev}} }
	at := func(addr string) []Listener {
		return []Listener{{Proto: "tcp", From: 1434, Addr: netip.MustParseAddr(addr)}}
	}
	cases := []struct {
		name      string
		rules     string
		listeners []Listener
		want      []string // a regular expression for each conflict, in order; "harmless: " marks such
	}{
		{"no rules", "", sql, nil},
		{"no listeners", "iptables -t nat -A PREROUTING -p tcp --dport 1434 -j DNAT --to 10.0.0.9:1433", nil, nil},
		{
			"ip_fwd.sh",
			`iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 1434 -j DNAT --to 10.0.0.9:1433
			iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE
			iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE`,
			sql,
			[]string{
				`^rule 2 in chain PREROUTING of table ip nat may send port tcp 1434 to 10\.0\.0\.9:1433, .*: iptables -t nat -D PREROUTING -i eth0 -p tcp --dport 1434 -j DNAT --to-destination 10\.0\.0\.9:1433$`,
				`^harmless: chain POSTROUTING of table ip nat masquerades .*\(rule 4, 5\).*: iptables -t nat -D POSTROUTING -o eth0 -j MASQUERADE; iptables `,
			},
		},
		{
			"ip_fwd.sh, on the listener's interface", "iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 1434 -j DNAT --to 10.0.0.9:1433",
			on("eth0"),
			[]string{`table ip nat sends port tcp 1434 to 10\.0\.0\.9:1433`},
		},
		{"ip_fwd.sh, on another interface", "iptables -t nat -A PREROUTING -i eth1 -p tcp --dport 1434 -j DNAT --to 10.0.0.9:1433", on("eth0"), nil},
		{"ip_fwd.sh, another port", "iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 1435 -j DNAT --to 10.0.0.9:1433", sql, nil},
		{"another protocol", "iptables -t nat -A PREROUTING -p udp --dport 1434 -j DNAT --to 10.0.0.9:1433", sql, nil},
		{"another family", "ip6tables -t nat -A PREROUTING -p tcp --dport 1434 -j DNAT --to '[fd00::9]:1433'", at("0.0.0.0"), nil},
		{"another address", "iptables -t nat -A PREROUTING -d 10.0.0.2 -p tcp --dport 1434 -j DNAT --to 10.0.0.9", at("10.0.0.1"), nil},
		{"the address's network", "iptables -t nat -A PREROUTING -d 10.0.0.0/24 -p tcp --dport 1434 -j DNAT --to 10.0.0.9", at("10.0.0.1"), []string{`sends port tcp 1434 to 10\.0\.0\.9, .*nft delete rule ip nat PREROUTING handle 2$`}},
		{"an IPv6 rule", "ip6tables -t nat -A PREROUTING -p tcp --dport 1434 -j DNAT --to '[fd00::9]:1433'", sql, []string{`table ip6 nat sends .* to \[fd00::9\]:1433.*: ip6tables -t nat -D PREROUTING -p tcp --dport 1434 -j DNAT --to-destination \[fd00::9\]:1433$`}},
		{"a range", "iptables -t nat -A PREROUTING -p tcp --dport 1400:1500 -j DNAT --to 10.0.0.8-10.0.0.9", sql, []string{`sends port tcp 1434 to 10\.0\.0\.8-10\.0\.0\.9.*: iptables -t nat -D PREROUTING -p tcp --dport 1400:1500 -j DNAT`}},
		{"a listener's range", "iptables -t nat -A PREROUTING -p tcp --dport 1434 -j DNAT --to 10.0.0.9", []Listener{{Proto: "tcp", From: 1400, To: 1500}}, []string{`may send port tcp 1400-1500 to`}},
		{"all but", "iptables -t nat -A PREROUTING -p tcp ! --dport 22 -j DNAT --to 10.0.0.9", sql, []string{`sends port tcp 1434`}},
		{"all but ours", "iptables -t nat -A PREROUTING -p tcp ! --dport 1434 -j DNAT --to 10.0.0.9", sql, nil},
		{"multiport", "iptables -t nat -A PREROUTING -p tcp -m multiport --dports 80,1430:1440 -j DNAT --to 10.0.0.9", sql, []string{`sends port tcp 1434`}},
		{"multiport of others", "iptables -t nat -A PREROUTING -p tcp -m multiport --dports 80,1435:1440 -j DNAT --to 10.0.0.9", sql, nil},
		{"redirect", "iptables -t nat -A PREROUTING -p tcp --dport 1434 -j REDIRECT --to-ports 8080", sql, []string{`to this host:8080`}},
		{"from loopback only", "iptables -t nat -A PREROUTING -i lo -p tcp --dport 1434 -j DNAT --to 10.0.0.9", sql, nil},
		{
			"Docker publishes the port", strings.ReplaceAll(docker, "%PORT%", "1434"), sql,
			[]string{
				`chain DOCKER of table ip nat may send port tcp 1434 to 172\.17\.0\.2:80.*docker ps --filter publish=1434`,
				`chain FORWARD of table ip filter may drop .* of tcp 1434: its policy is drop.*: iptables -I DOCKER-USER -m conntrack --ctstate DNAT -j ACCEPT$`,
			},
		},
		{
			"Docker publishes another, and lets ours pass", strings.ReplaceAll(docker, "%PORT%", "8080") + "\niptables -I DOCKER-USER -m conntrack --ctstate DNAT -j ACCEPT",
			sql, nil,
		},
		{"policy drop", "iptables -P FORWARD DROP", sql, []string{`iptables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT$`}},
		{"policy drop, ours accepted", "iptables -P FORWARD DROP; iptables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT", sql, nil},
		{"policy drop, ours accepted by status", "iptables -P FORWARD DROP; iptables -I FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT", sql, nil},
		{"policy drop, answers only", "iptables -P FORWARD DROP; iptables -I FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", sql, []string{"may drop"}},
		{"policy drop, the original port", "iptables -P FORWARD DROP; iptables -I FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables -A FORWARD -i eth0 -j ACCEPT", on("eth0"), nil},
		{"policy drop, all but DNAT", "iptables -P FORWARD DROP; iptables -I FORWARD -m conntrack ! --ctstate DNAT -j ACCEPT", sql, []string{"may drop"}},
		{"policy drop of IPv6", "ip6tables -P FORWARD DROP", at("0.0.0.0"), nil},
		{"reject at the end", "iptables -A FORWARD -j REJECT", sql, []string{`rule \d+ in FORWARD does not let them pass`}},
		{"a rule that may drop", "iptables -A FORWARD -s 192.0.2.0/24 -j DROP", sql, nil},
		{"input", "iptables -P INPUT DROP", sql, nil},
		{"firewalld", strings.ReplaceAll(firewalld, "%MORE%", ""), sql, []string{`chain filter_FORWARD of table inet firewalld may drop .*: nft insert rule inet firewalld filter_FORWARD ct status dnat accept$`}},
		{"firewalld, ours accepted", strings.ReplaceAll(firewalld, "%MORE%", "nft add rule inet firewalld filter_FORWARD ct status dnat accept"), sql, nil},
		{"verdict map", forward + "nft add rule inet f f ct state vmap '{ established : accept, new : accept, invalid : drop }'", sql, nil},
		{"verdict map, not for new", forward + "nft add rule inet f f ct state vmap '{ established : accept, new : drop }'", sql, []string{"may drop"}},
		{"jump", forward + "nft add chain inet f ok; nft add rule inet f ok accept; nft add rule inet f f meta l4proto tcp jump ok", sql, nil},
		{"jump, another protocol", forward + "nft add chain inet f ok; nft add rule inet f ok accept; nft add rule inet f f meta l4proto udp jump ok", sql, []string{"may drop"}},
		{"original port accepted", forward + "nft add rule inet f f meta l4proto tcp ct original proto-dst 1434 accept", sql, nil},
		{"another original port accepted", forward + "nft add rule inet f f meta l4proto tcp ct original proto-dst 1435 accept", sql, []string{"may drop"}},
		{"what is not understood", forward + "nft add rule inet f f rt classid 7 accept", sql, []string{"may drop"}},
		{"by address type", prerouting + "nft add rule inet n p fib daddr type local tcp dport 1434 dnat ip to 10.0.0.9", sql, []string{`may send port tcp 1434 to 10\.0\.0\.9,`}},
		{"one direction", "iptables -P FORWARD DROP; iptables -A FORWARD -i eth0 -j ACCEPT", on("eth0"), []string{"may drop"}},
		{"new ones only", "iptables -P FORWARD DROP; iptables -A FORWARD -m conntrack --ctstate NEW -j ACCEPT", sql, []string{"may drop"}},
		{"new ones and answers to the other side", "iptables -P FORWARD DROP; iptables -A FORWARD -m conntrack --ctstate NEW -j ACCEPT; iptables -A FORWARD -i eth0 -j ACCEPT", on("eth0"), []string{"may drop"}},
		{"IPv6 address", prerouting + "nft add rule inet n p ip6 daddr fd00::1 tcp dport 1434 dnat ip6 to fd00::9", at("fd00::1"), []string{`sends port tcp 1434 to fd00::9,`}},
		{"IPv4 DNAT for IPv6", prerouting + "nft add rule inet n p tcp dport 1434 dnat ip to 10.0.0.9", at("::"), nil},
		{"another IPv6 address", prerouting + "nft add rule inet n p ip6 daddr fd00::1 tcp dport 1434 dnat ip6 to fd00::9", at("fd00::2"), nil},
		{"intervals side by side", prerouting + "nft add set inet n s '{ type inet_service; flags interval; elements = { 1400-1434, 1435-1500 } }'\nnft add rule inet n p tcp dport @s dnat ip to 10.0.0.9", []Listener{{Proto: "tcp", From: 1435}, {Proto: "tcp", From: 1501}}, []string{`sends port tcp 1435`}},
		{"perhaps one, perhaps the other", prerouting + "nft add rule inet n p ip saddr 10.0.0.5 dnat ip to 10.0.0.8; nft add rule inet n p tcp dport 1434 dnat ip to 10.0.0.9", at("0.0.0.0"), []string{`may send port tcp 1434 to 10\.0\.0\.8`, `sends port tcp 1434 to 10\.0\.0\.9`}},
		{"behind one that takes all", prerouting + "nft add rule inet n p dnat ip to 10.0.0.8; nft add rule inet n p tcp dport 1434 dnat ip to 10.0.0.9", at("0.0.0.0"), []string{`sends port tcp 1434 to 10\.0\.0\.8`}},
		{"notrack too late", "nft add table inet r; nft add chain inet r p '{ type filter hook prerouting priority mangle; }'; nft add rule inet r p tcp dport 1434 notrack", sql, nil},
		{"rate", forward + "nft add rule inet f f limit rate 10/second accept", sql, []string{"may drop"}},
		{"our own table", "nft add table inet midspan; nft add chain inet midspan f '{ type filter hook forward priority 0; policy drop; }'", sql, nil},
		{"native DNAT", prerouting + "nft add rule inet n p tcp dport 1434 dnat ip to 10.0.0.9:1433", sql, []string{`^rule 2 in chain p of table inet n sends port tcp 1434 to 10\.0\.0\.9:1433.*: nft delete rule inet n p handle 2$`}},
		{"native DNAT of IPv6", prerouting + "nft add rule inet n p tcp dport 1434 dnat ip6 to '[fd00::9]:1433'", sql, []string{`sends port tcp 1434 to \[fd00::9\]:1433`}},
		{"native set", prerouting + "nft add rule inet n p tcp dport '{ 80, 1434 }' dnat ip to 10.0.0.9", sql, []string{`sends port tcp 1434 to 10\.0\.0\.9,`}},
		{"native set of others", prerouting + "nft add rule inet n p tcp dport '{ 80, 1435 }' dnat ip to 10.0.0.9", sql, nil},
		{"native intervals", prerouting + "nft add rule inet n p tcp dport '{ 80, 1400-1434 }' dnat ip to 10.0.0.9", sql, []string{`sends port tcp 1434`}},
		{"native intervals of others", prerouting + "nft add rule inet n p tcp dport '{ 80-1433, 1435-65535 }' dnat ip to 10.0.0.9", sql, nil},
		{"native map", prerouting + "nft add rule inet n p dnat ip to tcp dport map '{ 1434 : 10.0.0.9 }'", sql, []string{`an address that a map chooses`}},
		{"native map of others", prerouting + "nft add rule inet n p dnat ip to tcp dport map '{ 1435 : 10.0.0.9 }'", sql, nil},
		{
			"service map of kube-proxy", prerouting + "nft add chain inet n svc; nft add rule inet n svc dnat ip to 10.0.0.9; nft add rule inet n p ip daddr . meta l4proto . th dport vmap '{ 10.0.0.1 . tcp . 1434 : goto svc, 10.0.0.2 . tcp . 80 : goto svc }'",
			sql,
			[]string{`chain svc of table inet n may send port tcp 1434`},
		},
		{
			"service map of kube-proxy, others", prerouting + "nft add chain inet n svc; nft add rule inet n svc dnat ip to 10.0.0.9; nft add rule inet n p ip daddr . meta l4proto . th dport vmap '{ 10.0.0.1 . tcp . 1435 : goto svc, 10.0.0.1 . udp . 1434 : goto svc }'",
			sql, nil,
		},
		{"interfaces by prefix", prerouting + "nft add rule inet n p iifname 'eth*' tcp dport 1434 redirect to :80", on("eth7"), []string{`sends port tcp 1434 to this host:80`}},
		{"interfaces by another prefix", prerouting + "nft add rule inet n p iifname 'en*' tcp dport 1434 redirect to :80", on("eth7"), nil},
		{"notrack", "iptables -t raw -A PREROUTING -p tcp --dport 1434 -j NOTRACK", sql, []string{`rule \d+ in chain PREROUTING of table ip raw leaves connections of tcp 1434 untracked.*: nft delete rule ip raw PREROUTING handle \d+$`}},
		{"notrack as CT", "iptables -t raw -A PREROUTING -j CT --notrack", sql, []string{"leaves connections of tcp 1434 untracked"}},
		{"CT for a zone", "iptables -t raw -A PREROUTING -j CT --zone 1", sql, nil},
		{"notrack of others", "iptables -t raw -A PREROUTING -p udp -j NOTRACK", sql, nil},
		{"native notrack", "nft add table inet r; nft add chain inet r p '{ type filter hook prerouting priority raw; }'; nft add rule inet r p tcp dport 1434 notrack", sql, []string{"leaves connections"}},
		{"masquerade for some", "iptables -t nat -A POSTROUTING -s 172.17.0.0/16 -o eth0 -j MASQUERADE", sql, nil},
		{"native masquerade", "nft add table ip m; nft add chain ip m p '{ type nat hook postrouting priority srcnat; }'; nft add rule ip m p oifname eth0 masquerade", sql, []string{`^harmless: chain p of table ip m masquerades .*: nft delete rule ip m p handle 2$`}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			run(t, "nft flush ruleset")
			for line := range strings.SplitSeq(strings.ReplaceAll(c.rules, "; nft", "\nnft"), "\n") {
				for line := range strings.SplitSeq(strings.ReplaceAll(line, "; ip", "\nip"), "\n") {
					if line = strings.TrimSpace(line); line != "" {
						run(t, line)
					}
				}
			}
			got := conflicts(t, c.listeners)
			for i := range max(len(got), len(c.want)) {
				switch {
				case i >= len(got):
					t.Errorf("no conflict like %s", c.want[i])
				case i >= len(c.want):
					t.Errorf("unexpected: %s", got[i])
				case !regexp.MustCompile(c.want[i]).MatchString(got[i]):
					t.Errorf("conflict %s\nis not like %s", got[i], c.want[i])
				}
			}
			if t.Failed() {
				t.Log(run(t, "nft list ruleset"))
			}
		})
	}
}

func conflicts(t *testing.T, listeners []Listener) (lines []string) {
	t.Helper()
	list, err := Conflicts(t.Context(), listeners)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		s := c.String()
		if c.Harmless {
			s = "harmless: " + s
		}
		lines = append(lines, s)
	}
	return lines
}

// TestRemedies does what the conflicts say, and then there are none.
func TestRemedies(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, rule := range []string{
		"iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 1434 -j DNAT --to 10.0.0.9:1433",
		"iptables -t nat -A PREROUTING -i eth+ -p tcp --dport 1400:1500 -j DNAT --to 10.0.0.9",
		"iptables -t nat -A PREROUTING -p tcp -m multiport --dports 1,1434 -j DNAT --to 10.0.0.9",
		"ip6tables -t nat -A PREROUTING ! -i eth0 -p tcp -m tcp --dport 1434 -j DNAT --to '[fd00::9]:1433'",
		"iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE",
		"iptables -t nat -A POSTROUTING -j MASQUERADE --random-fully",
		"ip6tables -t nat -A POSTROUTING -o eth0 -j MASQUERADE",
		"iptables -t raw -A PREROUTING -p tcp --dport 1434 -j NOTRACK",
		"iptables -P FORWARD DROP",
		"ip6tables -P FORWARD DROP",
	} {
		t.Run(rule, func(t *testing.T) {
			run(t, "nft flush ruleset")
			run(t, rule)
			list, err := Conflicts(t.Context(), []Listener{{Proto: "tcp", From: 1434}})
			if err != nil || len(list) != 1 {
				t.Fatalf("conflicts %v, error %v; want one", list, err)
			}
			run(t, list[0].Do)
			if left := conflicts(t, []Listener{{Proto: "tcp", From: 1434}}); len(left) > 0 {
				t.Errorf("after %q: %q\n%s", list[0].Do, left, run(t, "nft list ruleset"))
			}
		})
	}
}

// TestConflictsNeedsRights: what cannot be read is an error, not "no conflict".
func TestConflictsNeedsRights(t *testing.T) {
	if !reexec(t, userNamespaceOnly) {
		return
	}
	if list, err := Conflicts(t.Context(), nil); err == nil {
		t.Errorf("found %v without the right to look", list)
	}
}

func TestLegacyTables(t *testing.T) {
	dir := t.TempDir()
	f := &finder{}
	f.legacy(dir) // no such files: no iptables in the kernel
	write(t, dir, "ip6_tables_names", "")
	f.legacy(dir)
	if len(f.order) > 0 {
		t.Errorf("found %v where there is nothing", f.order[0])
	}
	write(t, dir, "ip_tables_names", "nat\nfilter\n")
	f.legacy(dir)
	if len(f.order) != 1 || !f.order[0].Harmless || !strings.Contains(f.order[0].String(), "(filter, nat)") || !strings.Contains(f.order[0].Do, "iptables-legacy-save") {
		t.Errorf("found %v", f.order)
	}
}

// TestLegacyTablesForReal needs root of the host: others may not read the list.
func TestLegacyTablesForReal(t *testing.T) {
	if os.Getuid() == 0 && inNamespace(t) {
		run(t, "iptables-legacy -t nat -A PREROUTING -p tcp --dport 1434 -j ACCEPT")
		if got := conflicts(t, nil); len(got) != 1 || !strings.Contains(got[0], "old iptables (nat)") {
			t.Errorf("conflicts %q, want that of the old iptables", got)
		}
	}
}
