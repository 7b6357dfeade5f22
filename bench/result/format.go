package result

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// number shows three digits, or a whole number with its thousands apart.
func number(v float64) string {
	switch a := math.Abs(v); {
	case v == 0:
		return "0"
	case a < 0.001:
		return strconv.FormatFloat(v, 'g', 2, 64)
	case a < 0.9995:
		return strconv.FormatFloat(v, 'f', 3, 64)
	case a < 9.995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case a < 99.95:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return thousands(strconv.FormatFloat(v, 'f', 0, 64))
}

// thousands puts commas into a whole number.
func thousands(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// ratio shows a quotient: 2.16, but 0.087.
func ratio(v float64) string {
	if math.Abs(v) < 0.2 {
		return strconv.FormatFloat(v, 'f', 3, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// scale is the unit in which all figures of a metric are shown, and how many of the metric's own unit it is.
type scale struct {
	unit string
	per  float64
}

// scaleFor chooses the unit by the largest figure.
func scaleFor(m Metric, largest float64) scale {
	switch {
	case m.Unit == Bytes && largest >= 4<<20:
		return scale{unit: "MiB", per: 1 << 20}
	case m.Unit == Bytes && largest >= 4<<10:
		return scale{unit: "KiB", per: 1 << 10}
	case m.Unit == Microseconds && largest >= 10_000:
		return scale{unit: "ms", per: 1000}
	}
	return scale{unit: m.Unit, per: 1}
}

// scale chooses one for a metric of a workload by the medians of all peers.
func (r *Results) scale(workload string, m Metric) scale {
	largest := 0.0
	for _, p := range r.Peers {
		largest = max(largest, r.Stat(workload, m.Name, p.Name).Median)
	}
	return scaleFor(m, largest)
}

func (s scale) show(v float64) string { return number(v / s.per) }

// spread shows a median with the lowest and the highest figure.
func (s scale) spread(st Stat) string {
	if st.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%s–%s)", s.show(st.Median), s.show(st.Min), s.show(st.Max))
}

// spreadRatio is spread for a ratio.
func spreadRatio(st Stat) string {
	if st.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%s–%s)", ratio(st.Median), ratio(st.Min), ratio(st.Max))
}

// line is the machine in one line.
func (m Machine) line() string {
	var parts []string
	add := func(known bool, format string, args ...any) {
		if known {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(m.CPU != "", "%s", m.CPU)
	add(m.Cores == 1, "1 core")
	add(m.Cores > 1, "%d cores", m.Cores)
	add(m.MemoryBytes > 0, "%.1f GiB", float64(m.MemoryBytes)/(1<<30))
	add(m.Virtual != "", "virtual (%s)", m.Virtual)
	add(m.OS != "", "%s", m.OS)
	add(m.Kernel != "", "Linux %s", m.Kernel)
	return strings.Join(parts, ", ")
}

// line is how the run was made in one line.
func (s Setup) line() string {
	text := fmt.Sprintf("%d interleaved rounds of %v s each", s.Rounds, s.Seconds)
	if s.Quick {
		text += "; a quick run: an indication only"
	}
	return text
}
