package result

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// Measures of the chart, in pixels.
const (
	chartWidth = 960
	margin     = 24
	gap        = 16 // between panels
	columns    = 3
	panelWidth = (chartWidth - 2*margin - (columns-1)*gap) / columns

	headHeight = 104 // title, legend
	footLine   = 15
)

const style = `
  text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif;
    font-size: 11px; fill: #3d4757; font-variant-numeric: tabular-nums; }
  .card { fill: #f6f8fb; stroke: #d5dce6; }
  .panel { fill: #ffffff; stroke: #e1e6ee; }
  .title { font-size: 20px; font-weight: 700; fill: #16202e; }
  .name { font-size: 13px; font-weight: 600; fill: #16202e; }
  .quiet { fill: #6a7585; }
  .small { font-size: 10px; fill: #6a7585; }
  .own { font-weight: 700; fill: #0b57d0; }
  .won { font-size: 13px; }
  .midspan { fill: #0b57d0; }
  .build { fill: #6c9fee; }
  .own-kernel { fill: #00897b; }
  .best { fill: #8793a5; }
  .default { fill: #b9c2cf; }
  .kernel { fill: #dde2ea; }
  .spread { stroke: #16202e; stroke-opacity: .45; }
  .ceiling { stroke: #16202e; stroke-opacity: .7; stroke-dasharray: 3 2.5; }
`

// SVG draws one picture of the whole run: a panel per workload, in it a bar per peer for the primary metric, in one
// order everywhere. It brings its own background and needs no scripts or fonts.
func (r *Results) SVG(w io.Writer) error {
	panels := r.panels()
	rows := (len(panels) + columns - 1) / columns
	foot := r.footnotes()
	top := headHeight
	bottom := top + rows*(r.panelHeight()+gap)
	height := bottom + len(foot)*footLine + margin - 4

	c := &canvas{}
	c.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img">`+"\n", chartWidth, height)
	c.printf("<title>%s</title>\n<desc>%s</desc>\n<style>%s</style>\n", esc("Benchmark of midspan "+r.Midspan), esc(r.describe(panels)), style)
	c.printf(`<rect class="card" x=".5" y=".5" width="%d" height="%d" rx="10"/>`+"\n", chartWidth-1, height-1)
	r.head(c)
	for i, p := range panels {
		x, y := margin+i%columns*(panelWidth+gap), top+i/columns*(r.panelHeight()+gap)
		c.printf(`<g transform="translate(%d %d)">`+"\n", x, y)
		p.draw(c)
		c.printf("</g>\n")
	}
	for i, line := range foot {
		c.text(margin, float64(bottom+10+i*footLine), "quiet", line)
	}
	c.printf("</svg>\n")
	_, err := io.WriteString(w, c.String())
	return err
}

// head draws the title and the legend.
func (r *Results) head(c *canvas) {
	c.text(margin, 38, "title", "midspan beside the others, in one run")
	c.text(margin, 58, "quiet", r.Machine.line())
	x := float64(margin)
	for _, l := range r.legend() {
		if l.class == "ceiling" {
			c.printf(`<path class="ceiling" d="M%s 72v14"/>`+"\n", px(x+5))
		} else {
			c.printf(`<rect class="%s" x="%s" y="73" width="12" height="12" rx="2"/>`+"\n", l.class, px(x))
		}
		c.text(x+18, 83, l.textClass(), l.text)
		x += 18 + textWidth(l.text) + 14
		if l.class == "midspan" {
			x += 8 // it is bold
		}
	}
}

type legendEntry struct{ class, text string }

func (l legendEntry) textClass() string {
	if l.class == "midspan" {
		return "own"
	}
	return ""
}

// legend explains the shades that this run has.
func (r *Results) legend() []legendEntry {
	texts := []legendEntry{
		{"midspan", "midspan"},
		{"own-kernel", "midspan in the kernel"},
		{"build", "another build of midspan"},
		{"best", "others, set up for speed"},
		{"default", "others, defaults"},
		{"kernel", "others, in the kernel"},
		{"ceiling", "no forwarder"},
	}
	subject, _ := r.Subject()
	used := map[string]bool{}
	for _, p := range r.Peers {
		used[shade(p, subject)] = true
	}
	var shown []legendEntry
	for _, t := range texts {
		if used[t.class] {
			shown = append(shown, t)
		}
	}
	return shown
}

// shade is the class of a peer's bar.
func shade(p, subject Peer) string {
	switch {
	case p.Name == subject.Name:
		return "midspan"
	case p.Kind == KindMidspan:
		return "build"
	case p.Name == MidspanNFT:
		return "own-kernel"
	case p.Kind == KindNone:
		return "ceiling"
	case p.Kind == KindKernel:
		return "kernel"
	case p.Best:
		return "best"
	}
	return "default"
}

func (r *Results) footnotes() []string {
	text := "Bars: medians; thin lines: lowest to highest; of " + r.Setup.line() + "."
	if rival, ok := r.Peer(HAProxy); ok {
		text += fmt.Sprintf(" “× %s”: midspan ÷ %[1]s of the same round, the median.", rival.Title)
	}
	lines := wrap(text, chartWidth-2*margin)
	lines = append(lines, wrap(r.versions(), chartWidth-2*margin)...)
	if n := len(r.Failures); n > 0 {
		lines = append(lines, fmt.Sprintf("Failed runs, not shown: %d.", n))
	}
	return lines
}

// versions names the programs, each family once.
func (r *Results) versions() string {
	parts := []string{strings.TrimSpace("midspan " + r.Midspan)}
	seen := map[string]bool{}
	for _, p := range r.Peers {
		if p.Kind != KindProxy || p.Version == "" || seen[p.Family] {
			continue
		}
		seen[p.Family] = true
		if p.Version[0] >= '0' && p.Version[0] <= '9' {
			p.Version = p.Title + " " + p.Version
		}
		parts = append(parts, p.Version)
	}
	return strings.Join(parts, ", ") + "; " + r.Started.UTC().Format("2006-01-02") + "."
}

// describe says in words what the picture shows.
func (r *Results) describe(panels []panel) string {
	var parts []string
	for _, p := range panels {
		if p.headline != "" {
			parts = append(parts, p.title+": "+p.headline)
		}
	}
	return "Bars for each workload and forwarder. midspan's figure: " + strings.Join(parts, "; ") + "."
}

// canvas collects SVG elements.
type canvas struct{ strings.Builder }

func (c *canvas) printf(format string, args ...any) { fmt.Fprintf(c, format, args...) }

func (c *canvas) text(x, y float64, class, s string) { c.textAt(x, y, class, "", s) }

// textAt is text with an anchor other than its start: "middle" or "end".
func (c *canvas) textAt(x, y float64, class, anchor, s string) {
	attrs := ""
	if class != "" {
		attrs += ` class="` + class + `"`
	}
	if anchor != "" {
		attrs += ` text-anchor="` + anchor + `"`
	}
	c.printf(`<text x="%s" y="%s"%s>%s</text>`+"\n", px(x), px(y), attrs, esc(s))
}

// esc is s as text of an element.
func esc(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder does not fail
	return b.String()
}

// px is a coordinate, to a tenth of a pixel.
func px(v float64) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
}

// textWidth is about what 11 pixel text needs: fonts differ, so it errs on the wide side.
func textWidth(s string) float64 {
	n := 0.0
	for _, ch := range s {
		switch {
		case strings.ContainsRune("iljtfr.,:;'|!()- ", ch):
			n += 4
		case strings.ContainsRune("mwMW", ch):
			n += 9.5
		default:
			n += 6.8
		}
	}
	return n
}

// fit shortens s to a width.
func fit(s string, width float64) string {
	if textWidth(s) <= width {
		return s
	}
	runes := []rune(s)
	for len(runes) > 0 && textWidth(string(runes)+"…") > width {
		runes = runes[:len(runes)-1]
	}
	return strings.TrimRight(string(runes), " ") + "…"
}

// wrap breaks s into lines of a width.
func wrap(s string, width float64) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(s) {
		if line != "" && textWidth(line+" "+word) > width {
			lines, line = append(lines, line), word
			continue
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, line)
}
