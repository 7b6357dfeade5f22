package foreign

import (
	"fmt"
	"slices"
	"strings"

	"midspan/internal/config"
)

// word is one word of a statement, without its quotes.
type word struct {
	text string
	pos  config.Pos
	env  string // the environment variable that its value depends on, if any
}

// stmt is one statement of a foreign text: a line of an haproxy.cfg, a
// directive of an nginx.conf, a command, a rule.
type stmt struct {
	pos     config.Pos
	end     int    // its last line
	raw     string // as it was written, for notes
	words   []word
	carried bool
	noted   bool
}

// arg is the text of the i-th word, "" where there are fewer.
func (s *stmt) arg(i int) string { return s.word(i).text }

func (s *stmt) word(i int) word {
	if i < len(s.words) {
		return s.words[i]
	}
	return word{pos: s.pos}
}

// String is the statement in a note.
func (s *stmt) String() string { return quote(s.raw) }

// ledger has every statement of an input, and what became of it.
type ledger struct {
	stmts    []*stmt
	notes    config.Problems
	unneeded config.Problems // notes on what needs no counterpart
	problems config.Problems
}

// How a reason begins, which is what stands in a note after the statement. A
// mark goes in front of the statement.
const (
	isNone = "has no counterpart and needs none: "
	isGone = "is not carried over: "

	openMark = "every source may connect: "
	moreMark = "more may connect: "
)

// widens tells whether a note begins with the mark of one that widens access.
func widens(text string) bool {
	return strings.HasPrefix(text, openMark) || strings.HasPrefix(text, moreMark)
}

func (l *ledger) add(s *stmt) *stmt {
	l.stmts = append(l.stmts, s)
	return s
}

// carry records that some part of the File comes from s.
func (l *ledger) carry(s *stmt) { s.carried = true }

// note records, at the place of s, what did not become of it.
func (l *ledger) note(s *stmt, format string, args ...any) { l.noteAt(s, s.pos, format, args...) }

// noteAt is note at the place of one of the words of s.
func (l *ledger) noteAt(s *stmt, pos config.Pos, format string, args ...any) {
	s.noted = true
	l.notes.Addf(pos, format, args...)
}

// because records, at pos, why what did not become of s; what is s or a part
// of it. How the reason begins tells where it belongs.
func (l *ledger) because(s *stmt, pos config.Pos, what, why string) {
	s.noted = true
	if strings.HasPrefix(why, isNone) {
		l.unneeded.Addf(pos, "%s %s", what, why)
		return
	}
	for _, mark := range []string{openMark, moreMark} {
		if rest, marked := strings.CutPrefix(why, mark); marked {
			what, why = mark+what, rest
		}
	}
	l.notes.Addf(pos, "%s %s", what, why)
}

// noteBlock notes head, and body by its line numbers.
func (l *ledger) noteBlock(head *stmt, body []*stmt, why string) {
	last := head.end
	for _, s := range body {
		s.noted = true
		if s.pos.File == head.pos.File {
			last = max(last, s.end)
		}
	}
	where := ""
	if last > head.pos.Line {
		where = fmt.Sprintf(" (to line %d)", last)
	}
	l.because(head, head.pos, head.String()+where, why)
}

// needless notes a statement that midspan can do without.
func (l *ledger) needless(s *stmt, why string) { l.because(s, s.pos, s.String(), isNone+why) }

// lost notes a statement whose effect is missed.
func (l *ledger) lost(s *stmt, why string) { l.because(s, s.pos, s.String(), isGone+why) }

// problem records what the foreign program itself would refuse.
func (l *ledger) problem(pos config.Pos, format string, args ...any) {
	l.problems.Addf(pos, format, args...)
}

// leftovers notes each statement that nobody claimed. This is what makes the
// promise of the package hold for directives that no table knows.
func (l *ledger) leftovers() {
	for _, s := range l.stmts {
		if !s.carried && !s.noted {
			l.note(s, "%s is not known to this importer and is not carried over", s)
		}
	}
}

// sorted is notes by place, with repetitions of one text on other lines of a
// file told in the first one: a parameter on each of 200 server lines is one
// thing to read, not 200.
func sorted(notes config.Problems) config.Problems {
	_ = notes.Err() // sorts
	first := map[config.Problem]int{}
	var out config.Problems
	var also [][]int
	for _, n := range notes {
		key := config.Problem{Pos: config.Pos{File: n.Pos.File}, Text: n.Text}
		i, again := first[key]
		if !again {
			first[key] = len(out)
			out, also = append(out, n), append(also, nil)
			continue
		}
		if n.Pos.Line != out[i].Pos.Line && !slices.Contains(also[i][max(0, len(also[i])-1):], n.Pos.Line) {
			also[i] = append(also[i], n.Pos.Line)
		}
	}
	for i, lines := range also {
		out[i].Text += alsoOn(lines)
	}
	return out
}

func alsoOn(lines []int) string {
	const most = 12
	switch n := len(lines); {
	case n == 0:
		return ""
	case n == 1:
		return fmt.Sprintf(" (also line %d)", lines[0])
	case n > most:
		return fmt.Sprintf(" (also lines %s and %d more)", join(lines[:most-1]), n-most+1)
	default:
		return fmt.Sprintf(" (also lines %s and %d)", join(lines[:n-1]), lines[n-1])
	}
}

func join(ns []int) string { return strings.Trim(strings.ReplaceAll(fmt.Sprint(ns), " ", ", "), "[]") }
