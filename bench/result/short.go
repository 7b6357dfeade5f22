package result

import (
	"fmt"
	"io"
	"strings"
)

// Short writes what a document shows of the results: how midspan compares with every peer in each workload's primary
// metric, and the requirements.
func (r *Results) Short(w io.Writer) error {
	var b strings.Builder
	subject, ok := r.Subject()
	if !ok {
		return fmt.Errorf("there is no midspan in these results")
	}
	fmt.Fprintf(&b, "Measured on %s; %s.\n\n", r.Machine.line(), r.Setup.line())
	fmt.Fprintf(&b, "%s's figure divided by the peer's of the same round, median of the rounds (↑ more is better, ↓ less is):\n\n", subject.Title)
	r.ratios(&b, subject)
	b.WriteString("What is promised, and whether this run keeps it:\n\n")
	t := table{head: []string{"workload", "figure", "against", "required", "measured", "verdict"}, right: []bool{4: true}}
	for _, v := range r.Evaluate(subject.Name, Requirements) {
		row := r.verdict(v)
		t.rows = append(t.rows, append(row[:5:5], row[6]))
	}
	t.write(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// ratios is a table of workloads and peers.
func (r *Results) ratios(b *strings.Builder, subject Peer) {
	t := table{head: []string{"workload", "of", subject.Title}, right: []bool{2: true}}
	var peers []Peer
	for _, p := range r.Peers {
		if p.Name != subject.Name {
			peers = append(peers, p)
			t.head = append(t.head, "÷ "+p.Title)
			t.right = append(t.right, true)
		}
	}
	for _, wl := range r.Workloads {
		m, ok := wl.Metric(wl.Primary)
		if !ok {
			continue
		}
		s := r.scale(wl.Name, m)
		row := []string{fmt.Sprintf("%s (`%s`)", wl.Title, wl.Name), m.heading(s.unit), s.show(r.Stat(wl.Name, m.Name, subject.Name).Median)}
		for _, p := range peers {
			cell := ""
			if ratio := r.Ratio(wl.Name, m.Name, subject.Name, p.Name); ratio.N > 0 {
				cell = fmt.Sprintf("%.2f", ratio.Median)
			}
			row = append(row, cell)
		}
		t.rows = append(t.rows, row)
	}
	t.write(b)
}
