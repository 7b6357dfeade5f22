package foreign

import (
	"slices"
	"strings"

	"midspan/internal/config"
)

// section is one section of an haproxy.cfg.
type section struct {
	kind string // global, defaults, listen …
	name string
	from string // frontend NAME from DEFAULTS
	head *stmt
	body []*stmt
	last *section // the `defaults` before it
}

func (s *section) String() string { return printable(strings.TrimSpace(s.kind + " " + s.name)) }

// has tells whether some line of s starts with one of the words.
func (s *section) has(words ...string) bool {
	for _, st := range s.body {
		for _, w := range words {
			if st.arg(0) == w {
				return true
			}
		}
	}
	return false
}

// option tells whether s has `option NAME`.
func (s *section) option(name string) bool {
	return slices.ContainsFunc(s.body, func(st *stmt) bool { return st.arg(0) == "option" && st.arg(1) == name })
}

// sectionWords start a section. Those with a text have no counterpart.
var sectionWords = map[string]string{
	"global": "", "defaults": "", "listen": "", "frontend": "", "backend": "", "resolvers": "",

	"acme":        "has no counterpart: midspan holds no certificates",
	"cache":       "has no counterpart: midspan does not read HTTP",
	"crt-store":   "has no counterpart: midspan holds no certificates",
	"fcgi-app":    "has no counterpart: midspan does not speak FastCGI",
	"http-errors": "has no counterpart: midspan does not write HTTP answers",
	"log-forward": "has no counterpart: let journald or rsyslog forward logs",
	"log-profile": "has no counterpart: the log is json or tcplog",
	"mailers":     "has no counterpart: let alerts come from the metrics",
	"peers":       "has no counterpart: there are no stick tables to share",
	"program":     "has no counterpart: start the program from a systemd unit of its own",
	"ring":        "has no counterpart: midspan writes its log to stdout, stderr or a file",
	"traces":      isNone + "it is for debugging HAProxy",
	"userlist":    "has no counterpart: midspan does not read HTTP, so it asks nobody for a password",
}

// sections cuts the text into sections. What HAProxy itself would refuse is a
// problem.
func (h *haproxy) sections(text string) []*section {
	var out []*section
	var current, defaults *section
	no := 0
	for line := range strings.Lines(text) {
		no++
		s := h.statement(strings.TrimRight(line, "\r\n"), no)
		if s == nil {
			continue
		}
		if _, is := sectionWords[s.arg(0)]; is {
			current = &section{kind: s.arg(0), name: s.arg(1), head: s, last: defaults}
			if i := len(s.words) - 2; i >= 1 && s.arg(i) == "from" {
				current.from = s.arg(i + 1)
				if i == 1 {
					current.name = "" // defaults from X
				}
			}
			if current.kind == "defaults" {
				defaults = current
			}
			out = append(out, current)
			continue
		}
		switch {
		case strings.HasPrefix(s.arg(0), "."):
			h.preprocessor(s)
		case current == nil:
			h.outside = append(h.outside, s)
		default:
			current.body = append(current.body, s)
		}
	}
	return out
}

// preprocessor handles .if and its like, which act before sections are seen.
func (h *haproxy) preprocessor(s *stmt) {
	switch s.arg(0) {
	case ".notice", ".warning", ".alert", ".diag":
		h.needless(s, "it only prints a message")
	default:
		s.noted = true
		h.problem(s.pos, "%s: conditional blocks are not evaluated; take the lines that apply out of their block", s)
	}
}

// statement is the line as words, or nil if it is blank or a comment.
func (h *haproxy) statement(line string, no int) *stmt {
	lex := lineLexer{line: line, at: config.Pos{File: h.name, Line: no}}
	lex.run()
	for _, p := range lex.problems {
		h.problem(p.Pos, "%s", p.Text)
	}
	if len(lex.words) == 0 {
		return nil
	}
	first := lex.words[0].pos
	return h.add(&stmt{pos: first, end: no, raw: line[first.Col-1 : lex.end], words: lex.words})
}

// lineLexer cuts one line into words: section 2.2 of HAProxy's manual. What
// iptables-save prints is a part of that.
type lineLexer struct {
	line     string
	at       config.Pos // column: of the byte before i
	i        int
	end      int // after the last word
	words    []word
	problems config.Problems
}

func (x *lineLexer) pos() config.Pos {
	return config.Pos{File: x.at.File, Line: x.at.Line, Col: x.i + 1}
}

func (x *lineLexer) run() {
	for x.i < len(x.line) {
		switch c := x.line[x.i]; {
		case c == ' ' || c == '\t' || c == '\v' || c == '\f':
			x.i++
		case c == '#':
			return
		default:
			x.word()
		}
	}
}

// word reads one word, which may be put together from several quoted parts.
func (x *lineLexer) word() {
	w := word{pos: x.pos()}
	var b strings.Builder
	for x.i < len(x.line) && !strings.ContainsRune(" \t\v\f#", rune(x.line[x.i])) {
		switch c := x.line[x.i]; c {
		case '\'':
			x.strong(&b)
		case '"':
			x.weak(&b, &w)
		case '\\':
			x.escape(&b)
		default:
			b.WriteByte(c)
			x.i++
		}
	}
	w.text = b.String()
	x.words = append(x.words, w)
	x.end = x.i
}

// strong reads '…': nothing is special in it.
func (x *lineLexer) strong(b *strings.Builder) {
	open := x.pos()
	inner, _, closed := strings.Cut(x.line[x.i+1:], "'")
	b.WriteString(inner)
	x.i += 1 + len(inner)
	if !closed {
		x.problems.Addf(open, "the quote is not closed on this line")
		return
	}
	x.i++
}

// weak reads "…": escapes and environment variables work in it.
func (x *lineLexer) weak(b *strings.Builder, w *word) {
	open := x.pos()
	x.i++
	for x.i < len(x.line) {
		switch c := x.line[x.i]; c {
		case '"':
			x.i++
			return
		case '\\':
			x.escape(b)
		case '$':
			if w.env == "" {
				w.env = variable(x.line[x.i+1:])
			}
			fallthrough
		default:
			b.WriteByte(c)
			x.i++
		}
	}
	x.problems.Addf(open, "the quote is not closed on this line")
}

// variable is the name at the start of NAME… or {NAME…}.
func variable(s string) string {
	s = strings.TrimPrefix(s, "{")
	end := strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 || (!isAlnum(byte(r)) && r != '_' && r != '.') })
	if end < 0 {
		end = len(s)
	}
	return s[:end]
}

func (x *lineLexer) escape(b *strings.Builder) {
	if x.i+1 >= len(x.line) {
		b.WriteByte('\\')
		x.i++
		return
	}
	switch c := x.line[x.i+1]; c {
	case 'n':
		b.WriteByte('\n')
	case 'r':
		b.WriteByte('\r')
	case 't':
		b.WriteByte('\t')
	case 'x':
		if x.i+3 < len(x.line) && isHex(x.line[x.i+2]) && isHex(x.line[x.i+3]) {
			b.WriteByte(unhex(x.line[x.i+2])<<4 | unhex(x.line[x.i+3]))
			x.i += 4
			return
		}
		x.problems.Addf(x.pos(), `\x needs two hexadecimal digits`)
	case ' ', '\t', '#', '\\', '\'', '"', '$':
		b.WriteByte(c)
	default:
		// Not an escape: the backslash stays.
		b.WriteByte('\\')
		x.i++
		return
	}
	x.i += 2
}

func isHex(c byte) bool { return strings.IndexByte("0123456789abcdefABCDEF", c) >= 0 }

func unhex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	}
	return c - '0'
}
