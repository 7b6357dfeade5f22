package result

import (
	"math"
	"testing"
)

func TestSummarize(t *testing.T) {
	for _, c := range []struct {
		name   string
		values []float64
		want   Stat
	}{
		{"nothing", nil, Stat{}},
		{"one", []float64{3}, Stat{3, 3, 3, 0, 1}},
		{"an even number: between the middle two", []float64{4, 1, 2, 10}, Stat{3, 1, 10, 1.2533 / 1.349 * 3.75 / 2, 4}},
		{"an odd number: the middle", []float64{9, 1, 5}, Stat{5, 1, 9, 0, 3}},
		{"below zero", []float64{-1, -3, 0}, Stat{-1, -3, 0, 0, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Summarize(c.values); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestStandardError: that of the median of normally distributed figures is 1.2533 of the mean's.
func TestStandardError(t *testing.T) {
	const n, sd = 2001, 3
	var values []float64
	for i := range n {
		values = append(values, 50+sd*math.Sqrt2*math.Erfinv(2*(float64(i)+0.5)/n-1))
	}
	if got, want := Summarize(values).SE, 1.2533*sd/math.Sqrt(n); math.Abs(got/want-1) > 0.01 {
		t.Errorf("got %v, want %v", got, want)
	}
	if wild := Summarize([]float64{1, 1.01, 0.99, 1.02, 0.98, 1, 900}).SE; wild > 0.02 {
		t.Errorf("one wild figure makes it %v", wild)
	}
}

// run is a workload "w" with the metrics "up" and "down", and the figures of each peer round by round, 0 for none.
func run(figures map[string][]float64) *Results {
	r := &Results{
		Workloads: []Workload{{Name: "w", Title: "W", Primary: "up", Metrics: []Metric{
			{Name: "up", HigherIsBetter: true}, {Name: "down"},
		}}},
		Peers: []Peer{
			{Name: "midspan", Kind: KindMidspan, Family: "midspan"},
			{Name: "haproxy", Kind: KindProxy, Family: "haproxy"},
			{Name: "haproxy-splice", Kind: KindProxy, Family: "haproxy"},
			{Name: "nginx", Kind: KindProxy, Family: "nginx"},
			{Name: "midspan-nft", Kind: KindKernel, Family: "midspan-nft"},
		},
	}
	for peer, list := range figures {
		for round, v := range list {
			if v != 0 {
				r.Samples = append(r.Samples, Sample{"w", peer, round + 1, map[string]float64{"up": v, "down": v}})
			}
		}
	}
	return r
}

func TestRatio(t *testing.T) {
	for _, c := range []struct {
		name         string
		mine, theirs []float64
		want         Stat
	}{
		{"paired by round, not the ratio of the medians", []float64{10, 20, 90}, []float64{10, 10, 30}, Stat{2, 1, 3, 0, 3}},
		{"rounds that one of them lacks do not count", []float64{10, 0, 90}, []float64{5, 10, 0}, Stat{2, 2, 2, 0, 1}},
		{"nothing in common", []float64{10, 0}, []float64{0, 10}, Stat{}},
		{"a figure below zero is no divisor", []float64{10, 10}, []float64{-5, 5}, Stat{2, 2, 2, 0, 1}},
		{"not measured", nil, []float64{1}, Stat{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := run(map[string][]float64{"midspan": c.mine, "haproxy": c.theirs})
			if got := r.Ratio("w", "up", "midspan", "haproxy"); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestBestOf(t *testing.T) {
	for _, c := range []struct {
		name, metric string
		figures      map[string][]float64
		want         string
	}{
		{"the higher", "up", map[string][]float64{"haproxy": {1}, "haproxy-splice": {2}, "nginx": {9}}, "haproxy-splice"},
		{"the lower", "down", map[string][]float64{"haproxy": {1}, "haproxy-splice": {2}}, "haproxy"},
		{"by the median, not the highest", "up", map[string][]float64{"haproxy": {3, 3, 3}, "haproxy-splice": {1, 2, 9}}, "haproxy"},
		{"only one measured", "up", map[string][]float64{"haproxy-splice": {2}}, "haproxy-splice"},
		{"equal: the first", "up", map[string][]float64{"haproxy": {2}, "haproxy-splice": {2}}, "haproxy"},
		{"none measured", "up", map[string][]float64{"nginx": {2}}, ""},
		{"no such metric", "sideways", map[string][]float64{"haproxy": {2}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, ok := run(c.figures).BestOf("haproxy", "w", c.metric)
			if p.Name != c.want || ok != (c.want != "") {
				t.Errorf("got %q, %v; want %q", p.Name, ok, c.want)
			}
		})
	}
}

func TestSubject(t *testing.T) {
	build := func(name string) Peer { return Peer{Name: name, Kind: KindMidspan} }
	for _, c := range []struct {
		name  string
		peers []Peer
		want  string
	}{
		{"none", []Peer{{Name: "haproxy", Kind: KindProxy}}, ""},
		{"named midspan", []Peer{build("old"), build("midspan")}, "midspan"},
		{"the kernel engine alone", []Peer{{Name: "iptables", Kind: KindKernel}, {Name: "midspan-nft", Kind: KindKernel}}, "midspan-nft"},
		{"a build before it", []Peer{{Name: "midspan-nft", Kind: KindKernel}, build("old")}, "old"},
		{"the first build", []Peer{{Name: "haproxy"}, build("old"), build("new")}, "old"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, ok := (&Results{Peers: c.peers}).Subject()
			if p.Name != c.want || ok != (c.want != "") {
				t.Errorf("got %q, %v; want %q", p.Name, ok, c.want)
			}
		})
	}
}
