package main

import (
	"fmt"
	"io"
	"strings"
)

// table prints how each file ended, and tells whether those ended well that the
// list says end well.
func table(w io.Writer, names []string, results []*outcome) (ok bool) {
	ok = true
	count := map[verdict]int{}
	for i, name := range names {
		entry, o := find(name), results[i]
		got, about := fails, ""
		switch {
		case o == nil:
			got, about = entry.verdict, entry.why+" (not run)"
		default:
			got, about = o.verdict(), detail(o)
		}
		count[got]++
		mark := "  "
		switch {
		case entry == nil:
			mark, ok = "? ", false
			about += " (not in the list)"
		case got != entry.verdict && (entry.verdict == passes || got == passes):
			mark = "! "
			about += fmt.Sprintf(" (listed: %s)", entry.verdict)
			ok = ok && entry.verdict != passes
		}
		fmt.Fprintf(w, "%s%-40s %-8s %s\n", mark, name, got, about)
	}
	fmt.Fprintf(w, "\n%d files: %d pass, %d skipped, %d fail\n", len(names), count[passes], count[skipped], count[fails])
	return ok
}

// detail is what the table says of an outcome.
func detail(o *outcome) string {
	switch {
	case o.why != "":
		return o.why
	case o.verdict() == passes:
		return fmt.Sprintf("%d tests", o.passed)
	}
	text := fmt.Sprintf("%d of %d", o.failed, o.planned)
	if len(o.not) > 0 {
		text += ": " + strings.Join(o.not[:min(3, len(o.not))], "; ")
	}
	if o.err != nil && o.failed == 0 {
		text = o.err.Error()
	}
	return text
}
