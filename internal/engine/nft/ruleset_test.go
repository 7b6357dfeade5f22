package nft

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"midspan/internal/config"
	"midspan/internal/plan"
)

// makePlan is the plan of routes as they stand in a file, with every server up
// that is not named in down.
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
		for _, d := range down {
			if d == s.Name || d == a.String() {
				return false, false
			}
		}
		return true, false
	})
}

const manyKinds = `
nft: {ports: 2000-60000}
defaults: {engine: nft}
routes:
  plain: {listen: 3306, to: 10.1.0.1:3306}
  pair: {listen: 1433, to: [10.1.0.1:1433, 10.1.0.2:1433]}
  weights: {listen: "10.0.0.1:80", to: [{server: 10.1.0.1:80, weight: 6}, {server: 10.1.0.2:80, weight: 2}, {server: 10.1.0.3:80, backup: true}]}
  both: {listen: 81, to: db.example:81}
  source: {listen: 82, to: [10.1.0.1:82, 10.1.0.2:82], balance: source, source: [10.1.0.4, 10.1.0.5]}
  dead: {listen: "[fd00::1]:83", to: "[fd01::1]:83"}
  range: {listen: [8000-8010, "10.0.0.1:9000-9001"], to: 10.1.0.1}
  shifted: {listen: 7000-7002, to: "10.1.0.1:+1000"}
  iface: {listen: ["%eth0:84", "10.0.0.1%eth0:85", "%eth0:86-88"], to: 10.1.0.1:84, max_connections: 100}
  limited: {listen: 89, to: 10.1.0.1:89, allow: [10.0.0.0/24, 10.0.1.0/24, 10.0.0.9, 10.0.7.1, 192.168.0.0/16]}
  dns: {listen: 53, to: "10.1.0.1:53", mode: udp}
  dnsnone: {listen: 54, to: "10.1.0.9:53", mode: udp}
`

func numbersOf(p *plan.Plan) map[string]uint16 {
	m := map[string]uint16{}
	for i, r := range p.Routes {
		m[r.Name] = uint16(i + 1)
	}
	return m
}

func TestSpike(t *testing.T) {
	p := makePlan(t, manyKinds, map[string][]netip.Addr{"db.example": {netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("10.1.0.8"), netip.MustParseAddr("fd01::7")}}, "10.1.0.9", "fd01::1")
	tt := &table{}
	r := tt.makeRuleset(p, numbersOf(p), true)
	k, err := openKernel()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.commit(replace(r, nil)); err != nil {
		t.Fatal(err)
	}
	list := func() string {
		out, err := exec.Command("nft", "-s", "list", "table", "inet", tableName).CombinedOutput()
		if err != nil {
			t.Fatal(err, string(out))
		}
		return string(out)
	}
	ours := list()
	exec.Command("nft", "flush", "ruleset").Run()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(r.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	theirs := list()
	os.WriteFile("/tmp/w/spike/ours", []byte(ours), 0o644)
	os.WriteFile("/tmp/w/spike/theirs", []byte(theirs), 0o644)
	os.WriteFile("/tmp/w/spike/text", []byte(r.String()), 0o644)
	if ours != theirs {
		t.Error("differ")
	}
}

func TestBig(t *testing.T) {
	var b strings.Builder
	b.WriteString("defaults: {engine: nft}\nroutes:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  r%d: {listen: %d, to: [10.1.0.1:%d, 10.1.0.2:%d, 10.1.0.3:%d]}\n", i, 10000+i, 10000+i, 10000+i, 10000+i)
	}
	p := makePlan(t, b.String(), nil)
	k, err := openKernel()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		began := time.Now()
		tt := &table{}
		r := tt.makeRuleset(p, numbersOf(p), true)
		made0 := time.Since(began)
		x := replace(r, nil)
		made := time.Since(began)
		err := k.commit(x)
		t.Log(made0, made, time.Since(began), len(x.what), len(x.data), err)
		began = time.Now()
		f := remember(r)
		p2 := makePlan(t, b.String(), nil, "10.1.0.2:10500")
		began = time.Now()
		r2 := tt.makeRuleset(p2, numbersOf(p2), true)
		d := f.difference(r2)
		made = time.Since(began)
		err = k.commit(d)
		t.Log("flip", made, time.Since(began), len(d.what), err)
	}
}
