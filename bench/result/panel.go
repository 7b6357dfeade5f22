package result

import (
	"cmp"
	"math"
	"slices"
)

// Measures within a panel, in pixels.
const (
	pad       = 14
	barHeight = 13
	barStep   = 19
	barsTop   = 56  // below the panel's title and unit
	barsFoot  = 30  // below the bars: the ceiling's label
	labelMax  = 112 // of the names
	valueRoom = 60  // right of the longest bar
)

// panel is one workload, ready to draw.
type panel struct {
	title, unit string
	direction   string // "higher is better →"
	headline    string // "2.16× HAProxy"
	better      bool   // than that
	bars        []bar
	label       float64 // width of the names
	limit       float64 // the figure at the right end
	ceiling     Stat    // of no forwarder
	scale       scale
}

// bar is one peer in a panel.
type bar struct {
	name, class string
	stat        Stat
	failed      bool // there are runs, and none is a result
}

// panels returns one for each workload that has figures.
func (r *Results) panels() []panel {
	var list []panel
	for _, w := range r.Workloads {
		m, ok := w.Metric(w.Primary)
		// A figure that nobody else has is no comparison.
		if n := r.having(w.Name, m.Name); !ok || n == 0 || n == 1 && len(r.Peers) > 1 {
			continue
		}
		list = append(list, r.panel(w, m))
	}
	return list
}

// having is how many peers have a figure.
func (r *Results) having(workload, metric string) (n int) {
	for _, p := range r.Peers {
		if r.Stat(workload, metric, p.Name).N > 0 {
			n++
		}
	}
	return n
}

func (r *Results) panel(w Workload, m Metric) panel {
	subject, _ := r.Subject()
	p := panel{title: w.Title, scale: r.scale(w.Name, m), direction: "← lower is better"}
	p.unit = cmp.Or(p.scale.unit, m.Title)
	if p.unit == PerSecond {
		p.unit = m.Title + " per second"
	}
	if m.HigherIsBetter {
		p.direction = "higher is better →"
	}
	for _, peer := range r.ranked() {
		st := r.Stat(w.Name, m.Name, peer.Name)
		p.limit = max(p.limit, st.Median)
		if peer.Kind == KindNone {
			p.ceiling = st
			continue
		}
		p.bars = append(p.bars, bar{name: peer.Title, class: shade(peer, subject), stat: st, failed: r.failed(w.Name, peer.Name)})
		p.label = max(p.label, min(textWidth(peer.Title)+2, labelMax))
	}
	if rival, ok := r.Peer(HAProxy); ok {
		if st := r.Ratio(w.Name, m.Name, subject.Name, rival.Name); st.N > 0 {
			p.headline = ratio(st.Median) + "× " + rival.Title
			p.better = !m.better(1, st.Median)
		}
	}
	return p
}

// ranked returns the peers in the order of the bars: the subject, its kernel engine, other builds, then the others as
// they come.
func (r *Results) ranked() []Peer {
	subject, _ := r.Subject()
	rank := func(p Peer) int {
		switch {
		case p.Name == subject.Name:
			return 0
		case p.Name == MidspanNFT:
			return 1
		case p.Kind == KindMidspan:
			return 2
		}
		return 3
	}
	return slices.SortedStableFunc(slices.Values(r.Peers), func(a, b Peer) int { return cmp.Compare(rank(a), rank(b)) })
}

// panelHeight is the same for all panels: they have the same bars.
func (r *Results) panelHeight() int {
	bars := 0
	for _, p := range r.Peers {
		if p.Kind != KindNone {
			bars++
		}
	}
	return barsTop + bars*barStep + barsFoot
}

// failed says whether a peer has failures in a workload.
func (r *Results) failed(workload, peer string) bool {
	return slices.ContainsFunc(r.Failures, func(f Failure) bool { return f.Workload == workload && f.Peer == peer })
}

// draw draws the panel at the origin.
func (p panel) draw(c *canvas) {
	height := barsTop + len(p.bars)*barStep + barsFoot
	c.printf(`<rect class="panel" x=".5" y=".5" width="%d" height="%d" rx="8"/>`+"\n", panelWidth-1, height-1)
	c.text(pad, 24, "name", fit(p.title, 0.8*(panelWidth-2*pad)))
	c.text(pad, 41, "quiet", p.unit)
	if p.headline != "" {
		class := "quiet won"
		if p.better {
			class = "own won"
		}
		c.textAt(panelWidth-pad, 41, class, "end", p.headline)
	}
	c.text(pad, float64(height-15), "small", p.direction)
	p.drawCeiling(c)
	for i, b := range p.bars {
		p.drawBar(c, b, float64(barsTop+i*barStep))
	}
}

// x is where a figure ends.
func (p panel) x(v float64) float64 {
	room := panelWidth - pad - p.left() - valueRoom
	return p.left() + room*math.Min(v/p.limit, 1.04)
}

// left is where the bars begin.
func (p panel) left() float64 { return pad + p.label + 8 }

func (p panel) drawBar(c *canvas, b bar, y float64) {
	base := y + barHeight - 3
	own := ""
	if b.class == "midspan" {
		own = "own"
	}
	c.printf("<g>")
	if b.stat.N > 0 {
		c.printf("<title>%s: %s %s</title>", esc(b.name), p.scale.spread(b.stat), esc(p.scale.unit))
	}
	c.printf("\n")
	c.textAt(p.left()-8, base, own, "end", fit(b.name, p.label))
	if b.stat.N == 0 || p.limit <= 0 {
		text := "–"
		if b.failed {
			text = "failed"
		}
		c.textAt(panelWidth-pad, base, "quiet", "end", text)
		c.printf("</g>\n")
		return
	}
	end := p.x(max(b.stat.Median, 0))
	c.printf(`<rect class="%s" x="%s" y="%s" width="%s" height="%d" rx="2"/>`+"\n",
		b.class, px(p.left()), px(y), px(max(end-p.left(), 1)), barHeight)
	if low, high := p.x(max(b.stat.Min, 0)), p.x(max(b.stat.Max, 0)); high-low >= 1 {
		c.printf(`<path class="spread" d="M%s %sv5m0-2.5H%sm0-2.5v5"/>`+"\n", px(low), px(y+barHeight/2.0-2.5), px(high))
	}
	c.textAt(panelWidth-pad, base, own, "end", p.scale.show(b.stat.Median))
	c.printf("</g>\n")
}

// drawCeiling draws what the machine does without a forwarder.
func (p panel) drawCeiling(c *canvas) {
	if p.ceiling.N == 0 || p.ceiling.Median <= 0 {
		return
	}
	x := p.x(p.ceiling.Median)
	foot := float64(barsTop + len(p.bars)*barStep)
	c.printf(`<path class="ceiling" d="M%s %dV%s"/>`+"\n", px(x), barsTop-5, px(foot+2))
	text := "no forwarder " + p.scale.show(p.ceiling.Median)
	// Centred below the line, as far as the panel and the text at its left allow.
	half := textWidth(text) / 2
	x = min(max(x, pad+textWidth(p.direction)+12+half), panelWidth-pad-half)
	c.textAt(x, foot+15, "small", "middle", text)
}
