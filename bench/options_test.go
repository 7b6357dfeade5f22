package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"midspan/bench/peer"
)

func parse(t *testing.T, line string, env string) *options {
	t.Helper()
	o, err := parseOptions(strings.Fields(line), func(string) string { return env })
	if err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return o
}

func TestOptions(t *testing.T) {
	for line, want := range map[string]string{
		"--peers direct,haproxy,midspan":                    "direct haproxy midspan",
		"--peers midspan,direct":                            "direct midspan",
		"--peers direct --midspan new=/b/new":               "direct new",
		"--peers direct,midspan --midspan new=/b/new":       "direct new midspan",
		"--peers direct,new --midspan /b/m --midspan new=x": "direct midspan new",
		"--peers midspan-nft,iptables":                      "iptables midspan-nft",
		"--peers midspan-nft --midspan /b/m":                "midspan midspan-nft",
		"--peers midspan-nft,new-nft --midspan new=/b/new":  "new new-nft midspan-nft",
		"--quick": "direct iptables haproxy haproxy-splice nginx-64k midspan midspan-nft midspan-tcp",
	} {
		if got := strings.Join(peerNames(parse(t, line, "").peers), " "); got != want {
			t.Errorf("%q: %s; want %s", line, got, want)
		}
	}
	o := parse(t, "", "quick")
	if !o.quick || o.complete || o.rounds != 2 || o.window != 500*time.Millisecond || len(o.workloads) >= len(workloads()) {
		t.Errorf("BENCH=quick: %+v", o)
	}
	o = parse(t, "", "")
	if o.quick || o.rounds != 7 || o.window != 1200*time.Millisecond || !o.complete || len(o.workloads) != len(workloads()) {
		t.Errorf("without flags: %+v", o)
	}
	o = parse(t, "--only pp64,bulk1 --rounds 3 --seconds 0.2", "")
	if got := names(o.workloads); !slices.Equal(got, []string{"bulk1", "pp64"}) || o.rounds != 3 || o.window != o.warmup {
		t.Errorf("%+v", o)
	}
}

// TestPair: the order of the two is that of the flag.
func TestPair(t *testing.T) {
	o := parse(t, "--pair midspan-nft,iptables --only conn", "")
	if got := strings.Join(peerNames(o.pair), " "); got != "midspan-nft iptables" || o.window != sliceWindow || o.warmup != sliceWarmup {
		t.Errorf("%s, %s, %s", got, o.window, o.warmup)
	}
	if o := parse(t, "--pair direct,iptables --midspan old=/b/old --seconds 1", ""); len(o.peers) != 2 || o.window != time.Second {
		t.Errorf("%v, %s", peerNames(o.peers), o.window)
	}
}

// TestQuickRounds: what takes long is made once in a quick run.
func TestQuickRounds(t *testing.T) {
	n := map[string]int{}
	for _, c := range (&runner{options: parse(t, "", "quick")}).cells() {
		n[c.workload.Name+" "+c.peer.Name]++
	}
	for name, want := range map[string]int{
		"apply1000 midspan-nft": 1, "apply1000 midspan": 0, "conn1000 iptables": 2, "conn1000 haproxy": 0, "conn midspan-nft": 2,
		"http haproxy": 2, "http iptables": 0, "proxy midspan": 2, "proxy midspan-tcp": 0, "sni-bulk midspan-tcp": 2, "sni-bulk haproxy": 0, "conn midspan-tcp": 0,
	} {
		if n[name] != want {
			t.Errorf("%s: %d times instead of %d", name, n[name], want)
		}
	}
}

func TestWrongOptions(t *testing.T) {
	for line, want := range map[string]string{
		"--peers direct,squid":        `no peer is called "squid"`,
		"--only bulk2":                `no workload is called "bulk2"`,
		"--midspan new=":              `"new=" is neither`,
		"--midspan new=/b/new,GOGC":   `"GOGC" in "new=/b/new,GOGC" is no NAME=VALUE`,
		"results":                     `"results" is no flag`,
		"--peers direct --midspan =x": `"=x" is neither`,
		"--midspan direct=/b/new":     `a peer is called "direct" already`,
		"--midspan midspan-tcp=/b/n":  `a peer is called "midspan-tcp" already`,
		"--midspan midspan-nft=/b/n":  `a peer is called "midspan-nft" already`,
		"--rounds 0":                  "--rounds 0 leaves nothing to do",
		"--seconds -1":                "--seconds -1 leaves nothing to do",
		"--only=":                     "--only  leaves nothing to do",
		"--pair direct":               "--pair direct: two peers are needed",
		"--pair direct,direct":        "--pair direct,direct: two peers are needed",
		"--pair direct,squid":         `no peer is called "squid"`,
	} {
		_, err := parseOptions(strings.Fields(line), func(string) string { return "" })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %s", line, err, want)
		}
	}
}

func TestParseBuild(t *testing.T) {
	b, err := parseBuild("new=bin/new,GOGC=400,A=b=c")
	if err != nil || b.name != "new" || !filepath.IsAbs(b.path) || !slices.Equal(b.env, []string{"GOGC=400", "A=b=c"}) {
		t.Errorf("%+v, %v", b, err)
	}
}

// TestCells: everybody has a turn in every round, and not always the same one.
func TestCells(t *testing.T) {
	o := parse(t, "--peers direct,iocopy,midspan --only conn,idle,routes --rounds 4", "")
	r := &runner{options: o}
	turns := map[string]int{}
	var first []string
	for _, c := range r.cells() {
		turns[c.workload.Name+" "+c.peer.Name]++
		if c.workload.Name == "conn" && (len(first) < c.round) {
			first = append(first, c.peer.Name)
		}
	}
	for name, want := range map[string]int{"conn iocopy": 4, "conn midspan": 4, "idle direct": 3, "routes midspan": 4, "routes direct": 0, "routes iocopy": 0} {
		if turns[name] != want {
			t.Errorf("%s: %d times instead of %d", name, turns[name], want)
		}
	}
	if got := strings.Join(first, " "); got != "direct midspan iocopy direct" {
		t.Errorf("the first of each round: %s", got)
	}
}

// TestModes: in a run of all, some workloads leave peers out for time's sake; one
// who asks for a peer gets it, where it has that mode.
func TestModes(t *testing.T) {
	for line, want := range map[string]string{
		"--only http-conn": "haproxy nginx-64k midspan",
		"--only sni-conn --midspan new=/b/new --peers new,midspan-tcp,haproxy-splice,iocopy": "haproxy-splice new midspan-tcp",
		"--only http,proxy --peers direct,iptables,nginx,midspan-nft,midspan-tcp --rounds 9": "direct nginx nginx",
	} {
		r := &runner{options: parse(t, line, "")}
		var got []string
		for _, c := range r.cells() {
			if c.round == 1 && c.peer.Name != "envoy" {
				got = append(got, c.peer.Name)
			}
			if c.round > webRounds {
				t.Errorf("%q: round %d of %s", line, c.round, c.workload.Name)
			}
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%q: %s; want %s", line, text, want)
		}
	}
}

// TestTable: what the chart and the tables rely on.
func TestTable(t *testing.T) {
	for _, w := range workloads() {
		if _, ok := w.Metric(w.Primary); !ok {
			t.Errorf("%s: its primary metric %q is none of its metrics", w.Name, w.Primary)
		}
		if n := len([]rune(w.Title)); n > 40 {
			t.Errorf("%s: the title has %d characters", w.Name, n)
		}
		if (w.cell == nil) != (w.values != nil) {
			t.Errorf("%s is neither traffic nor a cell of its own", w.Name)
		}
	}
	for _, p := range peer.All() {
		if n := len([]rune(p.Title)); n > 18 {
			t.Errorf("%s: the title has %d characters", p.Name, n)
		}
	}
}
