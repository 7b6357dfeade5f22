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
		c := r.verdict(v)
		t.rows = append(t.rows, []string{c.workload, c.figure, c.against, c.required, c.measured, c.outcome + c.few})
	}
	t.write(&b)
	if kernel, ok := r.Peer(MidspanNFT); ok && kernel.Name != subject.Name {
		r.kernelPromises(&b, kernel)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// kernelPromises is a table of its own: most of the kernel engine's bounds ask it to be equal to iptables, and two that
// are equal are apart by noise alone, so the table says how much that is.
func (r *Results) kernelPromises(b *strings.Builder, kernel Peer) {
	fmt.Fprintf(b, "What is promised of the kernel engine (%s); ± is two standard errors of the median:\n\n", kernel.Title)
	t := table{head: []string{"workload", "figure", "against", "required", "measured", "±", "verdict"}, right: []bool{4: true, 5: true}}
	for _, v := range r.Evaluate(kernel.Name, Requirements) {
		c := r.verdict(v)
		t.rows = append(t.rows, []string{c.workload, c.figure, c.against, c.required, c.measured, c.error, c.outcome + c.noise + c.few})
	}
	t.write(b)
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
