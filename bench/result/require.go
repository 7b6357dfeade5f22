package result

import (
	"cmp"
	"fmt"
	"math"
	"strings"
)

// Requirement is a bound on the ratio of a figure of midspan's to an opponent's, or, where there is no opponent, on the
// figure itself. Exactly one of AtLeast and AtMost is set.
type Requirement struct {
	// Subject is the peer that it is asked of; "": any build of midspan.
	Subject          string
	Workload, Metric string
	Against          Opponent
	AtLeast, AtMost  float64
	// Rounds is how many figures, or pairs of them, a verdict needs to be more than an indication.
	Rounds int
}

// Opponent is whom a requirement compares with: one peer, or that one of a family which does best in the metric; or
// nobody.
type Opponent struct{ Peer, Family string }

var (
	nobody         = Opponent{}
	haproxyDefault = Opponent{Peer: HAProxy}
	haproxyBest    = Opponent{Family: "haproxy"}
	nginxBest      = Opponent{Family: "nginx"}
	iptables       = Opponent{Peer: IPTables}
	plain          = Opponent{Peer: MidspanTCP}
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

	// A look at a name costs a connection little, and its bytes nothing.
	{Workload: "sni-bulk", Metric: "gbps", Against: plain, AtLeast: 0.95, Rounds: enough},
	{Workload: "sni-conn", Metric: "conns_per_s", Against: plain, AtLeast: 0.95, Rounds: enough},

	// Reading Kafka's frames costs little beside moving them.
	{Workload: "kafka-fetch", Metric: "fwd_cpu_s_per_gb", Against: plain, AtMost: 1.3, Rounds: enough},
	{Workload: "kafka-1k", Metric: "added_us", Against: plain, AtMost: 1.2, Rounds: enough},

	{Workload: "http", Metric: "reqs_per_s", Against: haproxyDefault, AtLeast: 0.8, Rounds: enough},

	// The kernel engine does what iptables does, so with one route it is to be no slower; with many it looks up where
	// iptables searches.
	{Subject: MidspanNFT, Workload: "bulk1", Metric: "gbps", Against: iptables, AtLeast: 1.0, Rounds: enough},
	{Subject: MidspanNFT, Workload: "bulk8", Metric: "gbps", Against: iptables, AtLeast: 1.0, Rounds: enough},
	{Subject: MidspanNFT, Workload: "mtu1", Metric: "gbps", Against: iptables, AtLeast: 1.0, Rounds: enough},
	{Subject: MidspanNFT, Workload: "mtu8", Metric: "gbps", Against: iptables, AtLeast: 1.0, Rounds: enough},
	{Subject: MidspanNFT, Workload: "conn", Metric: "conns_per_s", Against: iptables, AtLeast: 1.0, Rounds: enough},
	{Subject: MidspanNFT, Workload: "pp1", Metric: "rtts_per_s", Against: iptables, AtLeast: 1.0, Rounds: enough},
	{Subject: MidspanNFT, Workload: "pp64", Metric: "rtts_per_s", Against: iptables, AtLeast: 1.0, Rounds: enough},
	{Subject: MidspanNFT, Workload: "pp64", Metric: "p99_us", Against: iptables, AtMost: 1.0, Rounds: enough},
	{Subject: MidspanNFT, Workload: "pp512", Metric: "rtts_per_s", Against: iptables, AtLeast: 1.0, Rounds: enough},
	{Subject: MidspanNFT, Workload: "kafka", Metric: "gbps", Against: iptables, AtLeast: 1.0, Rounds: enough},
	{Subject: MidspanNFT, Workload: "tls", Metric: "conns_per_s", Against: iptables, AtLeast: 1.0, Rounds: enough},
	{Subject: MidspanNFT, Workload: "conn1000", Metric: "conns_per_s", Against: iptables, AtLeast: 1.7, Rounds: enough},

	{Subject: MidspanNFT, Workload: "apply1000", Metric: "apply_ms", Against: nobody, AtMost: 150, Rounds: enough},
	{Subject: MidspanNFT, Workload: "apply1000", Metric: "flip_ms", Against: nobody, AtMost: 20, Rounds: enough},
	{Subject: MidspanNFT, Workload: "apply1000", Metric: "rss_bytes", Against: nobody, AtMost: 25 << 20, Rounds: enoughMemory},
}

// Outcome is what a run says about a requirement.
type Outcome string

// The outcomes. NotMeasured: the run has no figures for it.
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
	Measured Stat // the ratio of each round, or the figure; the median decides
}

// Enough says whether the verdict rests on as many rounds as the requirement asks for.
func (v Verdict) Enough() bool { return v.Measured.N >= v.Rounds }

// InNoise says whether another run like this may well say the opposite: the bound is within two standard errors of the
// median.
func (v Verdict) InNoise() bool {
	return v.Measured.SE > 0 && math.Abs(v.Measured.Median-v.bound()) <= 2*v.Measured.SE
}

// Evaluate returns the verdict on every one of reqs that is asked of the peer named subject.
func (r *Results) Evaluate(subject string, reqs []Requirement) []Verdict {
	var verdicts []Verdict
	for _, q := range reqs {
		if r.isAsked(q, subject) {
			verdicts = append(verdicts, r.evaluate(subject, q))
		}
	}
	return verdicts
}

func (r *Results) isAsked(q Requirement, subject string) bool {
	if q.Subject != "" {
		return q.Subject == subject
	}
	p, known := r.Peer(subject)
	return !known || p.Kind == KindMidspan
}

func (r *Results) evaluate(subject string, q Requirement) Verdict {
	v := Verdict{Requirement: q, Outcome: NotMeasured}
	if q.absolute() {
		v.Measured = r.Stat(q.Workload, q.Metric, subject)
	} else {
		var ok bool
		if v.Opponent, ok = r.opponent(q); !ok {
			return v
		}
		v.Measured = r.Ratio(q.Workload, q.Metric, subject, v.Opponent.Name)
	}
	switch {
	case v.Measured.N == 0:
	case q.holds(v.Measured.Median):
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

// absolute says that the bound is one of the figure itself.
func (q Requirement) absolute() bool { return q.Against == nobody }

func (q Requirement) bound() float64 { return cmp.Or(q.AtMost, q.AtLeast) }

func (q Requirement) holds(measured float64) bool {
	if q.AtMost != 0 {
		return measured <= q.AtMost
	}
	return measured >= q.AtLeast
}

// limit is the requirement's bound in words: "≥ 2.2×", or of a figure "≤ 25 MiB".
func (q Requirement) limit(in scale) string {
	text := fmt.Sprintf("%v×", q.bound())
	if q.absolute() {
		text = fmt.Sprintf("%v %s", q.bound()/in.per, in.unit)
	}
	if q.AtMost != 0 {
		return "≤ " + text
	}
	return "≥ " + text
}

// Tally counts outcomes in one line: "23 of 25 met, 1 not met (1 within noise), 1 not measured".
func Tally(verdicts []Verdict) string {
	n := map[Outcome]int{}
	few, noise := 0, 0
	for _, v := range verdicts {
		n[v.Outcome]++
		if v.Outcome == Unmet && v.InNoise() {
			noise++
		}
		if v.Outcome != NotMeasured && !v.Enough() {
			few++
		}
	}
	parts := []string{fmt.Sprintf("%d of %d met", n[Met], len(verdicts))}
	if n[Unmet] > 0 {
		part := fmt.Sprintf("%d not met", n[Unmet])
		if noise > 0 {
			part += fmt.Sprintf(" (%d within noise)", noise)
		}
		parts = append(parts, part)
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
