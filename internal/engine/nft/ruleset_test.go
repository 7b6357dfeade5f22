package nft

import (
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"midspan/internal/config"
	"midspan/internal/plan"
)

var update = flag.Bool("update", false, "write the golden files")

// makePlan is the plan of a file, with every server up that is not named in down.
func makePlan(t testing.TB, text string, names map[string][]netip.Addr, down ...string) *plan.Plan {
	t.Helper()
	f, err := config.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := plan.New(f)
	if err != nil {
		t.Fatal(err)
	}
	return p.With(func(host string) []netip.Addr { return names[host] }, func(_ *plan.Route, s *plan.Server, a netip.Addr) (bool, bool) {
		return !slices.Contains(down, s.Name) && !slices.Contains(down, a.String()), false
	})
}

func addrs(list ...string) (all []netip.Addr) {
	for _, s := range list {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

// manyKinds has every kind of rule.
const manyKinds = `
nft: {ports: 2000-60000}
defaults: {engine: nft}
routes:
  plain: {listen: 3306, to: 10.1.0.1:3306}
  pair: {listen: 1433, to: [10.1.0.1:1433, 10.1.0.2:1433]}
  weights: {listen: "10.0.0.1:80", to: [{server: 10.1.0.1:80, weight: 6}, {server: 10.1.0.2:80, weight: 2}, {server: 10.1.0.3:80, backup: true}]}
  families: {listen: 81, to: db.example:81}
  only4: {listen: "0.0.0.0:181", to: 10.1.0.1:181}
  only6: {listen: "[::]:181", to: "[fd01::1]:181"}
  source: {listen: 82, to: [10.1.0.1:82, 10.1.0.2:82], balance: source, source: [10.1.0.4, 10.1.0.5, "fd01::4"]}
  dead: {listen: "[fd00::1]:83", to: "[fd01::9]:83"}
  range: {listen: [8000-8010, "10.0.0.1:9000-9001"], to: 10.1.0.1}
  shifted: {listen: 7000-7002, to: ["10.1.0.1:+1000", "10.1.0.2:-10"]}
  interface: {listen: ["%eth0:84", "10.0.0.1%eth0:85", "%eth0:86-88"], to: 10.1.0.1:84, max_connections: 100}
  limited: {listen: 89, to: 10.1.0.1:89, max_connections: 7, when_full: reset, allow: [10.0.0.0/24, 10.0.1.0/24, 10.0.0.9, 10.0.7.1, 192.168.0.0/16]}
  dns: {listen: 53, to: "10.1.0.1:53", mode: udp}
  nowhere: {listen: 54, to: "10.1.0.9:53", mode: udp}
`

func manyPlan(t testing.TB) *plan.Plan {
	return makePlan(t, manyKinds, map[string][]netip.Addr{"db.example": addrs("10.1.0.7", "10.1.0.8", "fd01::7")}, "10.1.0.9", "fd01::9")
}

func openTestKernel(t testing.TB) *kernel {
	t.Helper()
	k, err := openKernel()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b := &batch{}
		b.addTable()
		b.deleteTable()
		if err := k.commit(b); err != nil {
			t.Error(err)
		}
		if err := k.close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// runNFT runs the nft program.
func runNFT(t testing.TB, input string, args ...string) string {
	t.Helper()
	cmd := exec.Command("nft", args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// listed is the table as nft shows it, without the values of counters.
func listed(t testing.TB) string {
	return runNFT(t, "", "-s", "list", "table", "inet", tableName)
}

func rulesOf(p *plan.Plan) *ruleset {
	return new(table).makeRuleset(p, mustNumber(p, nil), true, everything)
}

var everything = map[family]bool{ipv4: true, ipv6: true}

func mustNumber(p *plan.Plan, old map[string]uint16) map[string]uint16 {
	n, err := number(p, old)
	if err != nil {
		panic(err)
	}
	return n
}

// TestTextIsWhatTheKernelHas: what is printed, read by nft, is what is written
// over netlink; and it is what it was.
func TestTextIsWhatTheKernelHas(t *testing.T) {
	k := openTestKernel(t)
	p := manyPlan(t)
	rules := rulesOf(p)
	b, _ := replace(rules, nil)
	if err := k.commit(b); err != nil {
		t.Fatal(err)
	}
	ours := listed(t)
	runNFT(t, "", "delete", "table", "inet", tableName)
	text, err := Text(p)
	if err != nil {
		t.Fatal(err)
	}
	runNFT(t, text, "-f", "-")
	if theirs := listed(t); ours != theirs {
		t.Errorf("over netlink:\n%s\nfrom the text:\n%s", ours, theirs)
	}
	const golden = "testdata/many.nft"
	if *update {
		if err := os.WriteFile(golden, []byte(rules.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if rules.String() != string(want) {
		t.Errorf("the rules are not those of %s (-update writes it):\n%s", golden, rules)
	}
}

// sorted has the parts of a listed table, and the elements of its maps, in a fixed
// order: the kernel keeps them in the order in which they were made.
func sorted(list string) string {
	parts := strings.Split(list, "\n\n")
	for i, p := range parts {
		parts[i] = strings.Trim(strings.TrimPrefix(strings.TrimSuffix(strings.TrimSpace(p), "\n}"), "table inet "+tableName+" {\n"), "\n\t}")
	}
	for i, p := range parts {
		if head, elements, ok := strings.Cut(p, "elements = {"); ok {
			list := strings.Split(strings.TrimRight(elements, " }\n"), ",")
			for j := range list {
				list[j] = strings.TrimSpace(list[j])
			}
			slices.Sort(list)
			parts[i] = head + strings.Join(list, "\n")
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, "\n")
}

// lacking are the lines of b that a has not.
func lacking(a, b string) string {
	var lines []string
	for line := range strings.Lines(b) {
		if !strings.Contains(a, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// TestDifference: step by step or at once, the table is the same; and a step to
// where one is takes no message.
func TestDifference(t *testing.T) {
	k := openTestKernel(t)
	names := map[string][]netip.Addr{"db.example": addrs("10.1.0.7", "10.1.0.8", "fd01::7")}
	few := "defaults: {engine: nft}\nroutes:\n  plain: {listen: 3306, to: 10.1.0.1:3306}\n"
	steps := []*plan.Plan{
		makePlan(t, few, nil),
		manyPlan(t),
		makePlan(t, manyKinds, names),
		makePlan(t, manyKinds, names, "10.1.0.1", "10.1.0.7"),
		makePlan(t, manyKinds, names, "10.1.0.1", "10.1.0.2", "fd01::7"),
		makePlan(t, strings.Replace(manyKinds, "10.0.7.1", "10.0.8.1", 1), map[string][]netip.Addr{"db.example": addrs("10.1.0.8")}),
		makePlan(t, strings.Replace(manyKinds, "listen: 3306", "listen: [3307, 3308-3310]", 1), nil),
		manyPlan(t).WithoutListeners(),
		makePlan(t, few, nil),
		makePlan(t, strings.Replace(few, "plain", "renamed", 1), nil), // a port moves to another route
	}
	var numbers map[string]uint16
	var now *inForce
	var tab table
	for i, p := range steps {
		numbers = mustNumber(p, numbers)
		rules := tab.makeRuleset(p, numbers, i%2 == 0, everything)
		var b *batch
		if now == nil {
			b, now = replace(rules, nil)
		} else {
			b, now = now.difference(rules)
		}
		if err := k.commit(b); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if again, _ := now.difference(tab.makeRuleset(p, numbers, i%2 == 0, everything)); len(again.what) > 0 {
			t.Errorf("step %d again takes %d messages, about %s", i, len(again.what), again.what[0])
		}
		stepwise := listed(t)
		fresh, _ := replace(new(table).makeRuleset(p, numbers, i%2 == 0, everything), nil)
		if err := k.commit(fresh); err != nil {
			t.Fatal(err)
		}
		if atOnce := listed(t); sorted(stepwise) != sorted(atOnce) {
			t.Fatalf("step %d: stepwise there is\n%s\nand at once\n%s", i, lacking(atOnce, stepwise), lacking(stepwise, atOnce))
		}
	}
}

// TestCountersGoOn: a table that is made anew counts on from where it was.
func TestCountersGoOn(t *testing.T) {
	k := openTestKernel(t)
	if c, err := k.counters(); len(c) > 0 || err != nil {
		t.Errorf("without a table there are counters %v, %v", c, err)
	}
	b, _ := replace(rulesOf(manyPlan(t)), map[string]counted{"route_plain": {7, 420}})
	if err := k.commit(b); err != nil {
		t.Fatal(err)
	}
	c, err := k.counters()
	if err != nil || c["route_plain"] != (counted{7, 420}) || c["route_pair"] != (counted{}) {
		t.Errorf("counters are %v, %v", c, err)
	}
}

// TestRefusedRules: an error names the rule, and nothing is in force.
func TestRefusedRules(t *testing.T) {
	k := openTestKernel(t)
	r := rulesOf(manyPlan(t))
	r.chains[len(r.chains)-1].add(countIn("no_such_counter"))
	b, _ := replace(r, nil)
	err := k.commit(b)
	if err == nil || !strings.Contains(err.Error(), `no_such_counter`) {
		t.Errorf("the error is %v", err)
	}
	if out := runNFT(t, "", "list", "ruleset"); strings.Contains(out, tableName) {
		t.Errorf("in force is\n%s", out)
	}
	if err := k.commit(func() *batch { b, _ := replace(rulesOf(manyPlan(t)), nil); return b }()); err != nil {
		t.Errorf("after an error: %v", err)
	}
}

// TestNumbers: routes keep their numbers, new ones get free ones.
func TestNumbers(t *testing.T) {
	p := manyPlan(t)
	first := mustNumber(p, nil)
	seen := map[uint16]bool{}
	for name, n := range first {
		if n == 0 || seen[n] {
			t.Errorf("route %s has number %d", name, n)
		}
		seen[n] = true
	}
	few := *p
	few.Routes = p.Routes[3:5]
	next := mustNumber(&few, first)
	for name, n := range next {
		if first[name] != n {
			t.Errorf("route %s had number %d and has %d", name, first[name], n)
		}
	}
	if again := mustNumber(p, nil); again["plain"] != first["plain"] {
		t.Error("another process gives other numbers")
	}
	if m := routeMark(0xfffe); routeOf(m) != 0xfffe || m&markOursBits != markOurs {
		t.Errorf("mark %08x", m)
	}
}

// TestNetworks: overlaps and neighbours become one.
func TestNetworks(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/24 10.0.1.0/24 10.0.0.9/32": "10.0.0.0/23",
		"10.0.0.1/32 10.0.0.2/32":             "10.0.0.1-10.0.0.2",
		"0.0.0.0/0 10.0.0.0/8":                "0.0.0.0/0",
		"255.255.255.255/32 10.0.0.0/8":       "10.0.0.0/8 255.255.255.255/32",
		"fd00::/8":                            "",
	} {
		var prefixes []netip.Prefix
		for _, s := range strings.Fields(text) {
			prefixes = append(prefixes, netip.MustParsePrefix(s))
		}
		if got := strings.Join(networks(ipv4, prefixes).keys(), " "); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	all := networks(ipv6, []netip.Prefix{netip.MustParsePrefix("::/0"), netip.MustParsePrefix("fd00::/8")})
	if got := strings.Join(all.keys(), " "); got != "::/0" {
		t.Error(got)
	}
}

// TestSourceBuckets: a server that goes moves its own clients only, and weights
// count.
func TestSourceBuckets(t *testing.T) {
	const text = "routes:\n  r: {engine: nft, listen: 80, balance: source, to: [10.1.0.1:80, 10.1.0.2:80, {server: 10.1.0.3:80, weight: 2}]}\n"
	of := func(down ...string) map[string]string {
		all := map[string]string{}
		for _, c := range rulesOf(makePlan(t, text, nil, down...)).chains {
			for _, r := range c.rules {
				for _, x := range r {
					if x.set != nil {
						for k, e := range x.set.elements {
							all[k] = e.chain
						}
					}
				}
			}
		}
		return all
	}
	before, after := of(), of("10.1.0.2:80")
	share := map[string]int{}
	for b, to := range before {
		share[to]++
		if to != "to_r_10.1.0.2_80" && after[b] != to {
			t.Errorf("bucket %s went from %s to %s", b, to, after[b])
		}
	}
	if len(before) != buckets || share["to_r_10.1.0.3_80"] < 100 || share["to_r_10.1.0.1_80"] < 40 {
		t.Errorf("shares are %v", share)
	}
}
