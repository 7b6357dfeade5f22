package result

import (
	"strings"
	"testing"
)

func TestNumber(t *testing.T) {
	for _, c := range []struct {
		v    float64
		want string
	}{
		{0, "0"},
		{0.000426, "0.00043"},
		{0.115, "0.115"},
		{0.9994, "0.999"},
		{0.9996, "1.00"},
		{9.994, "9.99"},
		{9.996, "10.0"},
		{33.44, "33.4"},
		{99.96, "100"},
		{999.6, "1,000"},
		{13331.4, "13,331"},
		{1234567, "1,234,567"},
		{-12.34, "-12.3"},
		{-123456, "-123,456"},
	} {
		if got := number(c.v); got != c.want {
			t.Errorf("%v: got %s, want %s", c.v, got, c.want)
		}
	}
}

func TestScale(t *testing.T) {
	for _, c := range []struct {
		unit    string
		largest float64
		v       float64
		want    string
	}{
		{"Gbit/s", 1e6, 33.4, "33.4 Gbit/s"},
		{Bytes, 900, 780, "780 B"},
		{Bytes, 9000, 768, "0.750 KiB"},
		{Bytes, 80 << 20, 15 << 20, "15.0 MiB"},
		{Microseconds, 9999, 223, "223 µs"},
		{Microseconds, 15000, 12345, "12.3 ms"},
	} {
		s := scaleFor(Metric{Unit: c.unit}, c.largest)
		if got := s.show(c.v) + " " + s.unit; got != c.want {
			t.Errorf("%v %s beside %v: got %s, want %s", c.v, c.unit, c.largest, got, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	tb := table{head: []string{"a", "µs"}, right: []bool{1: true}, rows: [][]string{{"x | y\nz", "1"}, {"", "1,234"}}}
	tb.write(&b)
	want := "" +
		"| a        |    µs |\n" +
		"|----------|------:|\n" +
		"| x \\| y z |     1 |\n" +
		"|          | 1,234 |\n\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestFenced(t *testing.T) {
	for text, want := range map[string]string{
		"a\n":         "```\na\n```\n",
		"```\na\n```": "````\n```\na\n```\n````\n",
	} {
		if got := fenced(text); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestFitAndWrap(t *testing.T) {
	if got := fit("short", 100); got != "short" {
		t.Errorf("got %q", got)
	}
	long := strings.Repeat("word ", 20)
	if got := fit(long, 100); textWidth(got) > 100 || !strings.HasSuffix(got, "…") || len(got) < 10 {
		t.Errorf("got %q", got)
	}
	lines := wrap(long, 100)
	if strings.Join(lines, " ") != strings.TrimSpace(long) {
		t.Errorf("words got lost: %q", lines)
	}
	for _, l := range lines {
		if textWidth(l) > 100 {
			t.Errorf("too wide: %q", l)
		}
	}
}
