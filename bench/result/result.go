// Package result holds what a benchmark run measured, and turns it into numbers and pictures that a reader can use:
// medians and ratios, the verdict on every requirement, JSON, Markdown and one SVG chart. It does no input or output
// of its own beyond the io.Writer that it is given.
package result

import "time"

// Schema is the version of the JSON form. It changes whenever a reader of the old form would misread the new one.
const Schema = 1

// Peers that the calculations know by name. Every other peer is known by its Family and Kind alone.
const (
	Direct     = "direct"      // no forwarder at all: the ceiling of the machine
	Midspan    = "midspan"     // the build under test
	MidspanNFT = "midspan-nft" // its kernel engine
	MidspanTCP = "midspan-tcp" // it, with no look at names
	HAProxy    = "haproxy"     // HAProxy with its defaults
	IPTables   = "iptables"    // what the kernel engine replaces
)

// Names of the files that a run leaves. The Markdown shows the chart by its name.
const (
	FileJSON     = "results.json"
	FileMarkdown = "results.md"
	FileSVG      = "results.svg"
)

// Units of metrics. Any other text will do too and is shown as it is. Large figures in bytes are shown in KiB or MiB,
// large ones in microseconds in ms, and the chart says what there are so many of per second.
const (
	Bytes        = "B"
	Microseconds = "µs"
	PerSecond    = "1/s"
)

// Results is one complete run.
type Results struct {
	Schema    int        `json:"schema"`
	Started   time.Time  `json:"started"`
	Took      Seconds    `json:"took_seconds"`
	Midspan   string     `json:"midspan"` // its version
	Machine   Machine    `json:"machine"`
	Setup     Setup      `json:"setup"`
	Peers     []Peer     `json:"peers"`     // in the order of presentation
	Workloads []Workload `json:"workloads"` // in the order of presentation
	Samples   []Sample   `json:"samples"`
	Failures  []Failure  `json:"failures"`
}

// Machine says where the run took place.
type Machine struct {
	CPU               string `json:"cpu"`
	Cores             int    `json:"cores"`
	MemoryBytes       int64  `json:"memory_bytes"`
	Kernel            string `json:"kernel"`
	OS                string `json:"os"`
	Virtual           string `json:"virtual"` // the hypervisor, "" for none or unknown
	CongestionControl string `json:"congestion_control"`
	Note              string `json:"note"`
}

// Setup says how the run was made.
type Setup struct {
	Rounds  int     `json:"rounds"`
	Seconds float64 `json:"seconds"` // the measured window of one sample
	Layout  string  `json:"layout"`
	Quick   bool    `json:"quick"`
}

// Kind is what sort of thing a peer is.
type Kind string

// The kinds of peers.
const (
	KindNone    Kind = "none"   // the client reaches the target without a forwarder
	KindKernel  Kind = "kernel" // address translation
	KindProxy   Kind = "proxy"
	KindMidspan Kind = "midspan"
)

// Peer is one way of getting from the client to the target.
type Peer struct {
	Name    string `json:"name"`
	Title   string `json:"title"` // labels a bar of the chart: at most 18 characters
	Version string `json:"version"`
	Config  string `json:"config"` // the full text as run
	Kind    Kind   `json:"kind"`
	// Family joins the variants of one program: its defaults and the settings that its manual recommends.
	Family string `json:"family"`
	// Best marks the variant that its authors would choose for this use.
	Best bool `json:"best"`
}

// Workload is one kind of load. Primary names the metric that stands for it in the chart.
type Workload struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"` // heads a panel of the chart: at most 32 characters
	Text    string   `json:"text"`
	Primary string   `json:"primary"`
	Metrics []Metric `json:"metrics"`
}

// Metric is one figure of a workload.
type Metric struct {
	Name           string `json:"name"`
	Title          string `json:"title"` // in lower case, as in "connections"
	Unit           string `json:"unit"`
	HigherIsBetter bool   `json:"higher_is_better"`
}

// Sample is what one peer reached in one workload in one round.
type Sample struct {
	Workload string             `json:"workload"`
	Peer     string             `json:"peer"`
	Round    int                `json:"round"`
	Values   map[string]float64 `json:"values"`
}

// Failure is a cell that gave no sample: a run with an error is no result.
type Failure struct {
	Workload string `json:"workload"`
	Peer     string `json:"peer"`
	Round    int    `json:"round"`
	Error    string `json:"error"`
}

// Seconds is a duration that JSON shows as a number of seconds.
type Seconds float64

// Since returns the time passed since t.
func Since(t time.Time) Seconds { return Seconds(time.Since(t).Seconds()) }

// Duration returns s as a time.Duration.
func (s Seconds) Duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// Peer returns the peer of that name.
func (r *Results) Peer(name string) (Peer, bool) {
	for _, p := range r.Peers {
		if p.Name == name {
			return p, true
		}
	}
	return Peer{}, false
}

// Workload returns the workload of that name.
func (r *Results) Workload(name string) (Workload, bool) {
	for _, w := range r.Workloads {
		if w.Name == name {
			return w, true
		}
	}
	return Workload{}, false
}

// Metric returns the metric of that name.
func (w *Workload) Metric(name string) (Metric, bool) {
	for _, m := range w.Metrics {
		if m.Name == name {
			return m, true
		}
	}
	return Metric{}, false
}
