package result

import "testing"

func TestEvaluate(t *testing.T) {
	family := Opponent{Family: "haproxy"}
	for _, c := range []struct {
		name     string
		q        Requirement
		figures  map[string][]float64
		want     Outcome
		opponent string
		enough   bool
	}{
		{
			"just enough",
			Requirement{Metric: "up", Against: haproxyDefault, AtLeast: 2, Rounds: 2},
			map[string][]float64{"midspan": {4, 8}, "haproxy": {2, 4}},
			Met, "haproxy", true,
		},
		{
			"a little less",
			Requirement{Metric: "up", Against: haproxyDefault, AtLeast: 2.01, Rounds: 2},
			map[string][]float64{"midspan": {4, 8}, "haproxy": {2, 4}},
			Unmet, "haproxy", true,
		},
		{
			"just small enough",
			Requirement{Metric: "down", Against: haproxyDefault, AtMost: 0.5, Rounds: 1},
			map[string][]float64{"midspan": {2}, "haproxy": {4}},
			Met, "haproxy", true,
		},
		{
			"too large",
			Requirement{Metric: "down", Against: haproxyDefault, AtMost: 0.4, Rounds: 1},
			map[string][]float64{"midspan": {2}, "haproxy": {4}},
			Unmet, "haproxy", true,
		},
		{
			"against the better of a family",
			Requirement{Metric: "up", Against: family, AtLeast: 1.5, Rounds: 1},
			map[string][]float64{"midspan": {4}, "haproxy": {2}, "haproxy-splice": {3}},
			Unmet, "haproxy-splice", true,
		},
		{
			"the better one is the one that needs less",
			Requirement{Metric: "down", Against: family, AtMost: 1.5, Rounds: 1},
			map[string][]float64{"midspan": {4}, "haproxy": {2}, "haproxy-splice": {3}},
			Unmet, "haproxy", true,
		},
		{
			"too few rounds",
			Requirement{Metric: "up", Against: haproxyDefault, AtLeast: 1, Rounds: 3},
			map[string][]float64{"midspan": {4, 4, 0}, "haproxy": {2, 2, 2}},
			Met, "haproxy", false,
		},
		{
			"midspan not measured",
			Requirement{Metric: "up", Against: haproxyDefault, AtLeast: 1, Rounds: 1},
			map[string][]float64{"haproxy": {2}},
			NotMeasured, "haproxy", false,
		},
		{
			"the family not measured",
			Requirement{Metric: "up", Against: family, AtLeast: 1, Rounds: 1},
			map[string][]float64{"midspan": {2}},
			NotMeasured, "", false,
		},
		{
			"no such peer",
			Requirement{Metric: "up", Against: Opponent{Peer: "envoy"}, AtLeast: 1, Rounds: 1},
			map[string][]float64{"midspan": {2}},
			NotMeasured, "", false,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.q.Workload = "w"
			v := run(c.figures).Evaluate("midspan", []Requirement{c.q})[0]
			if v.Outcome != c.want || v.Opponent.Name != c.opponent || v.Enough() != c.enough {
				t.Errorf("got %q against %q, enough %v; want %q against %q, enough %v",
					v.Outcome, v.Opponent.Name, v.Enough(), c.want, c.opponent, c.enough)
			}
		})
	}
}

// TestAbsolute: without an opponent the figure itself is held against the bound.
func TestAbsolute(t *testing.T) {
	r := run(map[string][]float64{"midspan-nft": {140, 160, 149}})
	for bound, want := range map[float64]Outcome{149: Met, 148: Unmet} {
		q := Requirement{Subject: MidspanNFT, Workload: "w", Metric: "down", AtMost: bound, Rounds: 3}
		if v := r.Evaluate(MidspanNFT, []Requirement{q})[0]; v.Outcome != want || v.Measured.Median != 149 || !v.Enough() {
			t.Errorf("at most %v: %+v", bound, v)
		}
	}
	q := Requirement{AtMost: 25 << 20}
	if got := q.limit(scaleFor(Metric{Unit: Bytes}, 25<<20)); got != "≤ 25 MiB" {
		t.Errorf("the bound is %q", got)
	}
}

// TestAsked: a requirement is asked of its subject alone, and one without a subject of every build.
func TestAsked(t *testing.T) {
	r := run(nil)
	r.Peers = append(r.Peers, Peer{Name: "old", Kind: KindMidspan})
	all := []Requirement{{Metric: "a"}, {Metric: "b", Subject: MidspanNFT}}
	for subject, want := range map[string]string{"midspan": "a", "old": "a", "midspan-nft": "b"} {
		if v := r.Evaluate(subject, all); len(v) != 1 || v[0].Metric != want {
			t.Errorf("%s: %+v", subject, v)
		}
	}
}

func TestInNoise(t *testing.T) {
	for _, c := range []struct {
		name string
		mine []float64 // iptables has 100
		want bool
	}{
		{"a miss by less than the rounds differ", []float64{90, 97, 99, 103, 106}, true},
		{"all below", []float64{90, 91, 90, 92, 91}, false},
		{"all the same", []float64{99, 99, 99, 99, 99}, false},
		{"too few to tell", []float64{90, 105, 99}, false},
	} {
		r := run(map[string][]float64{"midspan": c.mine, "haproxy": {100, 100, 100, 100, 100}})
		q := Requirement{Workload: "w", Metric: "up", Against: haproxyDefault, AtLeast: 1, Rounds: 5}
		v := r.Evaluate("midspan", []Requirement{q})[0]
		if v.Outcome != Unmet || v.InNoise() != c.want {
			t.Errorf("%s: %+v, in noise %v", c.name, v, v.InNoise())
		}
	}
}

func TestRequirementsAreComplete(t *testing.T) {
	seen := map[Requirement]bool{}
	for _, q := range Requirements {
		if (q.AtLeast == 0) == (q.AtMost == 0) {
			t.Errorf("%+v: exactly one of AtLeast and AtMost", q)
		}
		if q.Against.Peer != "" && q.Against.Family != "" {
			t.Errorf("%+v: both Peer and Family", q)
		}
		if q.Workload == "" || q.Metric == "" || q.Rounds < 1 {
			t.Errorf("%+v: a field is empty", q)
		}
		key := Requirement{Subject: q.Subject, Workload: q.Workload, Metric: q.Metric, Against: q.Against}
		if seen[key] {
			t.Errorf("%+v: twice", key)
		}
		seen[key] = true
	}
}

func TestTally(t *testing.T) {
	ten := Stat{N: 10}
	q := Requirement{Rounds: 5}
	for _, c := range []struct {
		verdicts []Verdict
		want     string
	}{
		{nil, "0 of 0 met"},
		{[]Verdict{{q, Met, Peer{}, ten}, {q, Met, Peer{}, ten}}, "2 of 2 met"},
		{[]Verdict{{q, Met, Peer{}, ten}, {q, Unmet, Peer{}, ten}, {q, NotMeasured, Peer{}, Stat{}}}, "1 of 3 met, 1 not met, 1 not measured"},
		{[]Verdict{{q, Met, Peer{}, ten}, {q, Unmet, Peer{}, Stat{N: 10, Median: -1, SE: 1}}, {q, Unmet, Peer{}, ten}}, "1 of 3 met, 2 not met (1 within noise)"},
		{[]Verdict{{q, Met, Peer{}, Stat{N: 4}}}, "1 of 1 met (1 on too few rounds: an indication only)"},
	} {
		if got := Tally(c.verdicts); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
