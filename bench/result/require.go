package result

import (
	"fmt"
	"strings"
)

// Requirement is a bound on the ratio of midspan's figure to an opponent's. Exactly one of AtLeast and AtMost is set.
type Requirement struct {
	Workload, Metric string
	Against          Opponent
	AtLeast, AtMost  float64
	// Rounds is how many pairs of figures a verdict needs to be more than an indication.
	Rounds int
}

// Opponent is whom a requirement compares with: one peer, or that one of a family which does best in the metric.
type Opponent struct{ Peer, Family string }

var (
	haproxyDefault = Opponent{Peer: HAProxy}
	haproxyBest    = Opponent{Family: "haproxy"}
	nginxBest      = Opponent{Family: "nginx"}
)

// enough rounds tell a difference from the drift of the machine; memory hardly varies.
const (
	enough       = 5
	enoughMemory = 2
)

// Requirements are all that midspan promises about its speed and size, beside the same peers in the same run.
var Requirements = []Requirement{
	{Workload: "bulk1", Metric: "gbps", Against: haproxyDefault, AtLeast: 2.2, Rounds: enough},
	{Workload: "bulk1", Metric: "gbps", Against: haproxyBest, AtLeast: 1.15, Rounds: enough},
	{Workload: "bulk1", Metric: "gbps", Against: nginxBest, AtLeast: 1.3, Rounds: enough},

	{Workload: "bulk8", Metric: "gbps", Against: haproxyDefault, AtLeast: 2.0, Rounds: enough},
	{Workload: "bulk8", Metric: "gbps", Against: haproxyBest, AtLeast: 1.15, Rounds: enough},
	{Workload: "bulk8", Metric: "gbps", Against: nginxBest, AtLeast: 1.3, Rounds: enough},

	{Workload: "mtu1", Metric: "gbps", Against: haproxyDefault, AtLeast: 1.5, Rounds: enough},
	{Workload: "mtu1", Metric: "gbps", Against: haproxyBest, AtLeast: 1.0, Rounds: enough},
	{Workload: "mtu1", Metric: "gbps", Against: nginxBest, AtLeast: 1.2, Rounds: enough},

	{Workload: "mtu8", Metric: "gbps", Against: haproxyDefault, AtLeast: 1.5, Rounds: enough},
	{Workload: "mtu8", Metric: "gbps", Against: haproxyBest, AtLeast: 1.0, Rounds: enough},
	{Workload: "mtu8", Metric: "gbps", Against: nginxBest, AtLeast: 1.2, Rounds: enough},

	{Workload: "conn", Metric: "conns_per_s", Against: haproxyDefault, AtLeast: 1.05, Rounds: enough},
	{Workload: "conn", Metric: "conns_per_s", Against: haproxyBest, AtLeast: 1.05, Rounds: enough},
	{Workload: "conn", Metric: "conns_per_s", Against: nginxBest, AtLeast: 1.05, Rounds: enough},

	{Workload: "pp64", Metric: "rtts_per_s", Against: haproxyDefault, AtLeast: 1.08, Rounds: enough},
	{Workload: "pp64", Metric: "rtts_per_s", Against: haproxyBest, AtLeast: 1.08, Rounds: enough},
	{Workload: "pp64", Metric: "rtts_per_s", Against: nginxBest, AtLeast: 1.08, Rounds: enough},
	{Workload: "pp64", Metric: "p99_us", Against: haproxyDefault, AtMost: 1.0, Rounds: enough},
	{Workload: "pp64", Metric: "p99_us", Against: haproxyBest, AtMost: 1.0, Rounds: enough},
	{Workload: "pp64", Metric: "p99_us", Against: nginxBest, AtMost: 1.0, Rounds: enough},

	{Workload: "idle", Metric: "rss_bytes_per_conn", Against: haproxyDefault, AtMost: 0.12, Rounds: enoughMemory},
	{Workload: "idle", Metric: "rss_bytes_per_conn", Against: haproxyBest, AtMost: 0.12, Rounds: enoughMemory},
	{Workload: "idle", Metric: "rss_bytes_per_conn", Against: nginxBest, AtMost: 0.05, Rounds: enoughMemory},

	{Workload: "routes", Metric: "ready_ms", Against: haproxyDefault, AtMost: 1.0, Rounds: enough},
}

// Outcome is what a run says about a requirement.
type Outcome string

// The outcomes. NotMeasured: the run has no pair of figures for it.
const (
	Met         Outcome = "met"
	Unmet       Outcome = "NOT MET"
	NotMeasured Outcome = "not measured"
)

// Verdict is a requirement with what a run says about it.
type Verdict struct {
	Requirement
	Outcome  Outcome
	Opponent Peer // the one that was compared with; of a family the best
	Ratio    Stat // per round; the median decides
}

// Enough says whether the verdict rests on as many rounds as the requirement asks for.
func (v Verdict) Enough() bool { return v.Ratio.N >= v.Rounds }

// Evaluate returns the verdict on every one of reqs for the build named subject.
func (r *Results) Evaluate(subject string, reqs []Requirement) []Verdict {
	verdicts := make([]Verdict, 0, len(reqs))
	for _, q := range reqs {
		verdicts = append(verdicts, r.evaluate(subject, q))
	}
	return verdicts
}

func (r *Results) evaluate(subject string, q Requirement) Verdict {
	v := Verdict{Requirement: q, Outcome: NotMeasured}
	var ok bool
	if v.Opponent, ok = r.opponent(q); !ok {
		return v
	}
	v.Ratio = r.Ratio(q.Workload, q.Metric, subject, v.Opponent.Name)
	switch {
	case v.Ratio.N == 0:
	case q.holds(v.Ratio.Median):
		v.Outcome = Met
	default:
		v.Outcome = Unmet
	}
	return v
}

func (r *Results) opponent(q Requirement) (Peer, bool) {
	if q.Against.Family != "" {
		return r.BestOf(q.Against.Family, q.Workload, q.Metric)
	}
	return r.Peer(q.Against.Peer)
}

func (q Requirement) holds(ratio float64) bool {
	if q.AtMost != 0 {
		return ratio <= q.AtMost
	}
	return ratio >= q.AtLeast
}

// Bound is the requirement's limit in words: "≥ 2.2×".
func (q Requirement) Bound() string {
	if q.AtMost != 0 {
		return fmt.Sprintf("≤ %v×", q.AtMost)
	}
	return fmt.Sprintf("≥ %v×", q.AtLeast)
}

// Tally counts outcomes in one line: "23 of 25 met, 1 not met, 1 not measured".
func Tally(verdicts []Verdict) string {
	n := map[Outcome]int{}
	few := 0
	for _, v := range verdicts {
		n[v.Outcome]++
		if v.Outcome != NotMeasured && !v.Enough() {
			few++
		}
	}
	parts := []string{fmt.Sprintf("%d of %d met", n[Met], len(verdicts))}
	if n[Unmet] > 0 {
		parts = append(parts, fmt.Sprintf("%d not met", n[Unmet]))
	}
	if n[NotMeasured] > 0 {
		parts = append(parts, fmt.Sprintf("%d not measured", n[NotMeasured]))
	}
	line := strings.Join(parts, ", ")
	if few > 0 {
		line += fmt.Sprintf(" (%d on too few rounds: an indication only)", few)
	}
	return line
}
