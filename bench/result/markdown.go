package result

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"
)

// Markdown writes a report: the requirements first, then every workload, then how it was measured.
func (r *Results) Markdown(w io.Writer) error {
	var b strings.Builder
	r.intro(&b)
	r.requirements(&b)
	r.failures(&b)
	b.WriteString("## Workloads\n\n")
	b.WriteString("Medians, in brackets the lowest and the highest round. ↑ higher is better, ↓ lower is better.")
	if s, ok := r.Subject(); ok {
		fmt.Fprintf(&b, " \"%s ÷\" is %[1]s's\nfigure divided by this row's figure of the same round.", s.Title)
	}
	b.WriteString("\n\n")
	for _, wl := range r.Workloads {
		r.workload(&b, wl)
	}
	r.machine(&b)
	r.peers(&b)
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}

func (r *Results) intro(b *strings.Builder) {
	fmt.Fprintf(b, "# Benchmark of midspan %s\n\n", r.Midspan)
	fmt.Fprintf(b, "%s; %s.\n", r.Started.UTC().Format("2006-01-02 15:04 UTC"), r.Setup.line())
	if m := r.Machine.line(); m != "" {
		fmt.Fprintf(b, "%s.\n", m)
	}
	b.WriteString("Ratios within this run mean something; the figures themselves are this machine's.\n\n")
	fmt.Fprintf(b, "![All workloads as bars](%s)\n\n", FileSVG)
}

func (r *Results) requirements(b *strings.Builder) {
	b.WriteString("## Requirements\n\n")
	subjects := r.Subjects()
	if len(subjects) == 0 {
		b.WriteString("midspan was not measured.\n\n")
		return
	}
	b.WriteString("± is two standard errors of the median. Where the bound of a miss lies within, another run may say otherwise.\n\n")
	for _, p := range subjects {
		verdicts := r.Evaluate(p.Name, Requirements)
		if len(subjects) > 1 {
			fmt.Fprintf(b, "### %s\n\n", p.Title)
		}
		fmt.Fprintf(b, "%s.\n\n", Tally(verdicts))
		t := table{head: []string{"workload", "figure", "against", "required", "measured", "±", "rounds", "verdict"}, right: []bool{4: true, 5: true, 6: true}}
		for _, v := range verdicts {
			if _, ran := r.Workload(v.Workload); ran {
				c := r.verdict(v)
				t.rows = append(t.rows, []string{c.workload, c.figure, c.against, c.required, c.measured, c.error, fmt.Sprint(v.Measured.N), c.outcome + c.noise + c.few})
			}
		}
		if len(t.rows) > 0 {
			t.write(b)
		}
	}
	if _, ok := r.Peer(MidspanNFT); !ok {
		b.WriteString("The kernel engine was not measured.\n\n")
	}
}

// verdictCells are what tables show of a verdict. noise and few are remarks on the outcome.
type verdictCells struct{ workload, figure, against, required, measured, error, outcome, noise, few string }

func (r *Results) verdict(v Verdict) verdictCells {
	w, _ := r.Workload(v.Workload)
	m, _ := w.Metric(v.Metric)
	c := verdictCells{
		workload: cmp.Or(w.Title, v.Workload), figure: cmp.Or(m.Title, v.Metric), against: r.against(v), measured: "–", outcome: string(v.Outcome),
	}
	in := scaleFor(m, max(v.Measured.Median, v.bound()))
	c.required = v.limit(in)
	s := v.Measured
	if s.N == 0 {
		return c
	}
	show := func(x float64) string { return fmt.Sprintf("%.3f", x) }
	c.measured = show(s.Median) + "×"
	if v.absolute() {
		show = in.show
		c.measured = show(s.Median) + " " + in.unit
	}
	c.measured += fmt.Sprintf(" (%s–%s)", show(s.Min), show(s.Max))
	if s.SE > 0 {
		c.error = show(2 * s.SE)
	}
	if v.Outcome == Unmet && v.InNoise() {
		c.noise = ", within noise"
	}
	if !v.Enough() {
		c.few = ", too few rounds"
	}
	return c
}

// against names the opponent, and of a family the one that did best.
func (r *Results) against(v Verdict) string {
	f := v.Against.Family
	switch {
	case v.absolute():
		return ""
	case f == "" && v.Opponent.Name == "":
		return v.Against.Peer
	case f == "":
		return v.Opponent.Title
	case v.Opponent.Name == "":
		return "best of " + f
	}
	return fmt.Sprintf("best of %s: %s", f, v.Opponent.Title)
}

func (r *Results) failures(b *strings.Builder) {
	if len(r.Failures) == 0 {
		return
	}
	b.WriteString("## Failures\n\nA run with an error is no result: these are not in the figures.\n\n")
	t := table{head: []string{"workload", "peer", "round", "error"}, right: []bool{2: true}}
	for _, f := range r.Failures {
		t.rows = append(t.rows, []string{f.Workload, f.Peer, fmt.Sprint(f.Round), f.Error})
	}
	t.write(b)
}

func (r *Results) workload(b *strings.Builder, w Workload) {
	fmt.Fprintf(b, "### %s (`%s`)\n\n", w.Title, w.Name)
	if w.Text != "" {
		fmt.Fprintf(b, "%s\n\n", w.Text)
	}
	subject, _ := r.Subject()
	t := table{head: []string{"peer"}, right: []bool{false}}
	scales := map[string]scale{}
	for _, m := range w.Metrics {
		scales[m.Name] = r.scale(w.Name, m)
		t.head = append(t.head, m.heading(scales[m.Name].unit))
		t.right = append(t.right, true)
		if subject.Name != "" {
			t.head, t.right = append(t.head, subject.Title+" ÷"), append(t.right, true)
		}
	}
	for _, p := range r.Peers {
		if r.measured(w, p) {
			t.rows = append(t.rows, r.row(w, p, subject, scales))
		}
	}
	if len(t.rows) == 0 {
		b.WriteString("Not measured.\n\n")
		return
	}
	t.write(b)
}

// heading is "throughput, Gbit/s ↑".
func (m Metric) heading(unit string) string {
	text := m.Title
	if unit != "" {
		text += ", " + unit
	}
	if m.HigherIsBetter {
		return text + " ↑"
	}
	return text + " ↓"
}

// measured says whether p has any figure in w.
func (r *Results) measured(w Workload, p Peer) bool {
	for _, m := range w.Metrics {
		if r.Stat(w.Name, m.Name, p.Name).N > 0 {
			return true
		}
	}
	return false
}

func (r *Results) row(w Workload, p, subject Peer, scales map[string]scale) []string {
	bold := ""
	if p.Name == subject.Name {
		bold = "**"
	}
	row := []string{bold + p.Title + bold}
	for _, m := range w.Metrics {
		row = append(row, bold+scales[m.Name].spread(r.Stat(w.Name, m.Name, p.Name))+bold)
		switch {
		case subject.Name == "":
		case bold != "":
			row = append(row, "")
		default:
			row = append(row, spreadRatio(r.Ratio(w.Name, m.Name, subject.Name, p.Name)))
		}
	}
	return row
}

func (r *Results) machine(b *strings.Builder) {
	b.WriteString("## How it was measured\n\n")
	t := table{head: []string{"what", "value"}}
	for _, row := range [][]string{
		{"machine", r.Machine.line()},
		{"congestion control", r.Machine.CongestionControl},
		{"rounds", r.Setup.line()},
		{"whole run", r.Took.Duration().Round(time.Second).String()},
		{"note", r.Machine.Note},
	} {
		if row[1] != "" {
			t.rows = append(t.rows, row)
		}
	}
	t.write(b)
	if r.Setup.Layout != "" {
		fmt.Fprintf(b, "%s\n", fenced(r.Setup.Layout))
	}
}

func (r *Results) peers(b *strings.Builder) {
	b.WriteString("## Peers\n\n")
	t := table{head: []string{"name", "peer", "version"}}
	for _, p := range r.Peers {
		t.rows = append(t.rows, []string{"`" + p.Name + "`", p.Title, p.Version})
	}
	t.write(b)
	for _, p := range r.Peers {
		if p.Config != "" {
			fmt.Fprintf(b, "### %s, as it ran\n\n%s\n", p.Title, fenced(p.Config))
		}
	}
}

// fenced is text in a code block, whatever the text contains.
func fenced(text string) string {
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	return fence + "\n" + strings.TrimRight(text, "\n") + "\n" + fence + "\n"
}
