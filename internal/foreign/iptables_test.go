package foreign

import (
	"strings"
	"testing"

	"midspan/internal/config"
)

// TestIPTablesRules: rules that make one route together.
func TestIPTablesRules(t *testing.T) {
	const (
		sql     = "-A PREROUTING -p tcp --dport 1433 -j DNAT --to-destination 10.0.0.1\n"
		inner   = "-A PREROUTING -s 10.0.0.0/8 -p tcp --dport 1433 -j DNAT --to-destination 10.0.0.1\n"
		office  = "-A PREROUTING -s 192.168.0.0/16 -p tcp --dport 1433 -j DNAT --to-destination 10.0.0.1\n"
		guests  = "-A PREROUTING -s 172.16.0.0/12 -p tcp --dport 1433 -j DNAT --to-destination 10.0.0.9\n"
		masq    = "-A POSTROUTING -j MASQUERADE\n"
		snat    = "-A POSTROUTING -j SNAT --to-source 10.20.0.4\n"
		half    = "-A PREROUTING -p tcp --dport 1433 -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.0.0.1\n"
		rest    = "-A PREROUTING -p tcp --dport 1433 -j DNAT --to-destination 10.0.0.2\n"
		snatOne = "-A POSTROUTING -d 10.0.0.1/32 -j SNAT --to-source 10.20.0.4\n"
		most    = "COMMIT\n*filter\n-A FORWARD -d 10.0.0.1/32 -p tcp -m tcp --dport 1433 --tcp-flags FIN,SYN,RST,ACK SYN -m connlimit --connlimit-above 100 --connlimit-mask 0 --connlimit-saddr -j REJECT --reject-with tcp-reset\n"
		each    = "COMMIT\n*filter\n-A FORWARD -p tcp -m tcp --dport 1433 -m connlimit --connlimit-above 100 --connlimit-mask 32 --connlimit-saddr -j DROP\n"
	)
	for in, want := range map[string]struct{ has, lacks, note string }{
		sql + most:         {has: "max_connections: 100\n", note: "more wait where they were refused"},
		sql + each:         {lacks: "max_connections", note: "it stays in force, and counts forwarded connections"},
		half + rest + most: {lacks: "max_connections", note: "it stays in force, and counts forwarded connections"},
		inner + office:     {has: "allow: [10.0.0.0/8, 192.168.0.0/16]\n"},
		inner + sql:        {lacks: "allow"},
		sql + inner:        {lacks: "allow", note: "has no effect: line 2"},
		inner + guests:     {has: "to: 10.0.0.1\n", lacks: "10.0.0.9\n", note: "a route does not choose its servers by source"},
		sql + masq + snat:  {lacks: "source:", note: "it is for no packets of the routes"},
		sql + snat + masq:  {has: "source: 10.20.0.4\n"},
		// Rules of other chains may stand before the routes' own.
		snat + sql:            {has: "source: 10.20.0.4\n"},
		half + rest + snatOne: {lacks: "source:", note: "it is for some servers of a route only"},
	} {
		imp, ledger, err := importIPTables("in", []byte("*nat\n"+in+"COMMIT\n"))
		if err != nil {
			t.Errorf("%s%v", in, err)
			continue
		}
		roundTrips(t, imp)
		accounted(t, ledger)
		var yaml strings.Builder
		for line := range strings.Lines(string(config.Encode(imp.File))) {
			if !strings.HasPrefix(strings.TrimSpace(line), "#") {
				yaml.WriteString(line)
			}
		}
		notes := strings.Join(imp.Notes.Lines(), "\n")
		if !strings.Contains(yaml.String(), want.has) || (want.lacks != "" && strings.Contains(yaml.String(), want.lacks)) || !strings.Contains(notes, want.note) {
			t.Errorf("%s\n%s\n%s\nwant %+v", in, yaml.String(), notes, want)
		}
	}
}

// TestKernelRoutes: what was in the kernel stays there, as far as it can.
func TestKernelRoutes(t *testing.T) {
	for in, want := range map[string]string{
		"./ip_fwd.sh -i eth0 -f 1 -a a.example.com -b 1\n./ip_fwd.sh -i eth0 -f 2 -a b.example.com -b 1\n": "defaults:\n  engine: nft\n",
		"./ip_fwd.sh -i eth0 -f 1 -a a.example.com -b 1\n./ip_fwd.sh -i eth0 -f 2 -a localhost -b 1\n":     "to: a.example.com:1\n    engine: nft\n",
		"./ip_fwd.sh -i eth0 -f 1 -a 10.0.0.1 -b 1\n":                                                      "to: 10.0.0.1:1\n    engine: nft\n",
	} {
		imp, _, err := importIPForward("in", []byte(in))
		if err != nil {
			t.Fatal(err)
		}
		roundTrips(t, imp)
		if got := string(config.Encode(imp.File)); !strings.Contains(got, want) || strings.Count(got, "engine:") != 1 {
			t.Errorf("%s\nlacks %q, or has more:\n%s", in, want, got)
		}
	}
}
