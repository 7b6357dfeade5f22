package result

import (
	"math"
	"slices"
)

// Stat sums up the figures of several rounds.
type Stat struct {
	Median, Min, Max float64
	SE               float64 // the median's standard error; 0: not known
	N                int     // rounds; 0 means that there is nothing to show
}

// Summarize returns the Stat of values, in any order.
func Summarize(values []float64) Stat {
	if len(values) == 0 {
		return Stat{}
	}
	v := slices.Sorted(slices.Values(values))
	mid := len(v) / 2
	median := v[mid]
	if len(v)%2 == 0 {
		median = (v[mid-1] + v[mid]) / 2
	}
	return Stat{Median: median, Min: v[0], Max: v[len(v)-1], SE: standardError(v), N: len(v)}
}

// standardError is about that of the median of sorted values. It comes from the middle half of them: a round in which
// the machine did something else is to count no more here than it does in the median. For a normal distribution the
// standard deviation is that half's width / 1.349, and the median's error 1.2533 of the mean's. Of fewer than four
// values it says nothing.
func standardError(v []float64) float64 {
	if len(v) < 4 {
		return 0
	}
	return 1.2533 / 1.349 * (quantile(v, 0.75) - quantile(v, 0.25)) / math.Sqrt(float64(len(v)))
}

// quantile is that of sorted values, between the two that are nearest.
func quantile(v []float64, q float64) float64 {
	at := q * float64(len(v)-1)
	i := int(at)
	if i+1 == len(v) {
		return v[i]
	}
	return v[i] + (at-float64(i))*(v[i+1]-v[i])
}

// Stat sums up one metric of one peer in one workload.
func (r *Results) Stat(workload, metric, peer string) Stat {
	var values []float64
	for _, v := range r.byRound(workload, metric, peer) {
		values = append(values, v)
	}
	return Summarize(values)
}

// Ratio sums up subject's figure divided by peer's, paired by round: the speed of a machine drifts, most of all of a
// virtual one, and what ran within one round ran under nearly the same conditions. Rounds in which either has no
// figure, or peer's is not above zero, do not count.
func (r *Results) Ratio(workload, metric, subject, peer string) Stat {
	theirs := r.byRound(workload, metric, peer)
	var ratios []float64
	for round, mine := range r.byRound(workload, metric, subject) {
		if their, ok := theirs[round]; ok && their > 0 {
			ratios = append(ratios, mine/their)
		}
	}
	return Summarize(ratios)
}

// byRound returns the figure of every round that has one.
func (r *Results) byRound(workload, metric, peer string) map[int]float64 {
	figures := map[int]float64{}
	for _, s := range r.Samples {
		if s.Workload != workload || s.Peer != peer {
			continue
		}
		if v, ok := s.Values[metric]; ok {
			figures[s.Round] = v
		}
	}
	return figures
}

// BestOf returns the peer of a family with the best median in a metric, and false if none has a figure. Equal peers
// rank in the order of presentation.
func (r *Results) BestOf(family, workload, metric string) (Peer, bool) {
	w, _ := r.Workload(workload)
	m, ok := w.Metric(metric)
	if !ok {
		return Peer{}, false
	}
	var best Peer
	var top Stat
	for _, p := range r.Peers {
		if p.Family != family {
			continue
		}
		s := r.Stat(workload, metric, p.Name)
		if s.N > 0 && (top.N == 0 || m.better(s.Median, top.Median)) {
			best, top = p, s
		}
	}
	return best, top.N > 0
}

// better says whether a is a better figure than b.
func (m Metric) better(a, b float64) bool {
	if m.HigherIsBetter {
		return a > b
	}
	return a < b
}

// Subjects returns the peers of which something is required: the builds, and the kernel engine.
func (r *Results) Subjects() []Peer {
	all := r.Builds()
	if p, ok := r.Peer(MidspanNFT); ok {
		all = append(all, p)
	}
	return all
}

// Builds returns the peers that are midspan: usually one, more when builds are compared.
func (r *Results) Builds() []Peer {
	var builds []Peer
	for _, p := range r.Peers {
		if p.Kind == KindMidspan {
			builds = append(builds, p)
		}
	}
	return builds
}

// Subject returns the build that the others are compared with: the one named midspan, else the first; without any, its
// kernel engine.
func (r *Results) Subject() (Peer, bool) {
	if p, ok := r.Peer(Midspan); ok {
		return p, true
	}
	if builds := r.Builds(); len(builds) > 0 {
		return builds[0], true
	}
	return r.Peer(MidspanNFT)
}
