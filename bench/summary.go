package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"text/tabwriter"

	"midspan/bench/result"
)

// summary is the short form of the tables, for the terminal: medians, and in
// brackets how midspan compares.
func summary(to io.Writer, r *result.Results) {
	subject, compared := r.Subject()
	for _, w := range r.Workloads {
		fmt.Fprintf(to, "\n%s (%s)\n", w.Title, w.Name)
		table := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
		for _, m := range w.Metrics {
			fmt.Fprintf(table, "\t%s", m.Name)
		}
		fmt.Fprintln(table, "\t")
		for _, p := range r.Peers {
			fmt.Fprint(table, p.Name)
			for _, m := range w.Metrics {
				cell := "\t"
				if s := r.Stat(w.Name, m.Name, p.Name); s.N > 0 {
					cell += figure(s.Median)
				}
				if ratio := r.Ratio(w.Name, m.Name, subject.Name, p.Name); compared && p.Name != subject.Name && ratio.N > 0 {
					cell += fmt.Sprintf(" (%.2f)", ratio.Median)
				}
				fmt.Fprint(table, cell)
			}
			fmt.Fprintln(table, "\t")
		}
		table.Flush()
	}
	if compared {
		fmt.Fprintf(to, "\nIn brackets: %s's figure divided by the peer's, the median of the rounds.\n", subject.Name)
	}
	for _, p := range r.Subjects() {
		fmt.Fprintf(to, "Requirements of %s: %s.\n", p.Title, result.Tally(r.Evaluate(p.Name, result.Requirements)))
	}
}

// figure has three significant digits, and all before the point.
func figure(v float64) string {
	if math.Abs(v) >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
