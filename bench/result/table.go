package result

import (
	"strings"
	"unicode/utf8"
)

// table is a Markdown table whose columns line up in the source too.
type table struct {
	head  []string
	right []bool // columns that align right; the others align left
	rows  [][]string
}

func (t *table) write(b *strings.Builder) {
	width := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cellText(c)), 3)
		}
	}
	t.line(b, t.head, width)
	for i, n := range width {
		if t.isRight(i) {
			b.WriteString("|" + strings.Repeat("-", n+1) + ":")
		} else {
			b.WriteString("|" + strings.Repeat("-", n+2))
		}
	}
	b.WriteString("|\n")
	for _, row := range t.rows {
		t.line(b, row, width)
	}
	b.WriteString("\n")
}

func (t *table) line(b *strings.Builder, row []string, width []int) {
	for i, c := range row {
		c = cellText(c)
		pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
		if t.isRight(i) {
			c = pad + c
		} else {
			c += pad
		}
		b.WriteString("| " + c + " ")
	}
	b.WriteString("|\n")
}

func (t *table) isRight(i int) bool { return i < len(t.right) && t.right[i] }

var cellEscapes = strings.NewReplacer("|", `\|`, "<", "&lt;")

// cellText is what may stand in a cell: one line, without the separator and HTML.
func cellText(s string) string {
	return cellEscapes.Replace(strings.Join(strings.Fields(s), " "))
}
