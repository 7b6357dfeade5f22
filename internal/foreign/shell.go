package foreign

import (
	"strings"

	"midspan/internal/config"
)

// maxShellWord bounds what variables can make of a word: in a few lines they
// can double each other to any length.
const maxShellWord = 1024

// command is one simple command of a shell script.
type command struct {
	*stmt
	// after is the operator before it: "" at the start of a line, ";", "&&",
	// "||", "|" or "&".
	after string
}

// shell cuts a script into simple commands. It knows quotes, comments, line
// continuations, the operators between commands, and variables that the script
// itself sets to a plain value. It runs nothing: control flow is words.
type shell struct {
	*ledger
	name string
	text string
	i    int
	line int
	bol  int // index of the first byte of the line
	vars map[string]string

	words []word
	start int // index of the first byte of the command
	pos   config.Pos
}

func (s *shell) at() config.Pos {
	return config.Pos{File: s.name, Line: s.line, Col: s.i - s.bol + 1}
}

// commands gives each command to f as it is read, so that f can set variables
// for the next ones.
func (s *shell) commands(f func(command)) {
	s.line = 1
	operator := ""
	for s.i < len(s.text) {
		switch c := s.text[s.i]; {
		case c == '\n':
			s.end(operator, f)
			operator = ""
			s.newline()
		case c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f':
			s.i++
		case c == '\\' && s.continuation() > 0:
			s.i += s.continuation()
			s.newlineAt()
		case c == '#':
			s.skipLine()
		case strings.IndexByte(";&|", c) >= 0 && !s.redirects():
			s.end(operator, f)
			operator = s.operator()
		default:
			s.word()
		}
	}
	s.end(operator, f)
}

func (s *shell) operator() string {
	c := s.text[s.i : s.i+1]
	s.i++
	if s.i < len(s.text) && s.text[s.i] == c[0] {
		s.i++
		return c + c
	}
	return c
}

// redirects tells whether the byte at i belongs to a redirection: 2>&1, &>f, >|f.
func (s *shell) redirects() bool {
	before := s.i > 0 && strings.IndexByte("<>", s.text[s.i-1]) >= 0
	after := s.i+1 < len(s.text) && s.text[s.i+1] == '>'
	switch s.text[s.i] {
	case '&':
		return before || after
	case '|':
		return before
	}
	return false
}

// continuation is the length of a backslash and line end at i, or 0.
func (s *shell) continuation() int {
	switch rest := s.text[s.i:]; {
	case strings.HasPrefix(rest, "\\\n"):
		return 2
	case strings.HasPrefix(rest, "\\\r\n"):
		return 3
	}
	return 0
}

// newline steps over a line end at i; newlineAt is for one that ends before i.
func (s *shell) newline() {
	s.i++
	s.newlineAt()
}

func (s *shell) newlineAt() {
	s.line++
	s.bol = s.i
}

func (s *shell) skipLine() {
	for s.i < len(s.text) && s.text[s.i] != '\n' {
		s.i++
	}
}

// end finishes the command that has been read, if there is one.
func (s *shell) end(operator string, f func(command)) {
	if len(s.words) == 0 {
		return
	}
	raw := strings.TrimSpace(s.text[s.start:s.i])
	st := s.add(&stmt{pos: s.pos, end: s.line, raw: raw, words: s.words})
	s.words = nil
	f(command{st, operator})
}

// word reads one word, with its variables replaced.
func (s *shell) word() {
	w := word{pos: s.at()}
	if len(s.words) == 0 {
		s.start, s.pos = s.i, w.pos
	}
	var b strings.Builder
	for s.i < len(s.text) {
		c := s.text[s.i]
		switch {
		case strings.IndexByte(" \t\r\n\v\f;&|", c) >= 0 && !s.redirects():
			w.text = b.String()
			s.words = append(s.words, w)
			return
		case c == '\'':
			s.single(&b)
		case c == '"':
			s.double(&b, &w)
		case c == '\\' && s.continuation() > 0:
			s.i += s.continuation()
			s.newlineAt()
		case c == '\\' && s.i+1 < len(s.text):
			b.WriteByte(s.text[s.i+1])
			s.i += 2
		case c == '$' || c == '`':
			s.expand(&b, &w)
		default:
			b.WriteByte(c)
			s.i++
		}
	}
	w.text = b.String()
	s.words = append(s.words, w)
}

// step moves over one byte inside quotes.
func (s *shell) step() {
	if s.text[s.i] == '\n' {
		s.newline()
		return
	}
	s.i++
}

func (s *shell) single(b *strings.Builder) {
	open := s.at()
	for s.i++; s.i < len(s.text); s.step() {
		if s.text[s.i] == '\'' {
			s.i++
			return
		}
		b.WriteByte(s.text[s.i])
	}
	s.problem(open, "the quote is not closed")
}

func (s *shell) double(b *strings.Builder, w *word) {
	open := s.at()
	s.i++
	for s.i < len(s.text) {
		switch c := s.text[s.i]; {
		case c == '"':
			s.i++
			return
		case c == '\\' && s.continuation() > 0:
			s.i += s.continuation()
			s.newlineAt()
		case c == '\\' && s.i+1 < len(s.text) && strings.IndexByte("$`\"\\", s.text[s.i+1]) >= 0:
			b.WriteByte(s.text[s.i+1])
			s.i += 2
		case c == '$' || c == '`':
			s.expand(b, w)
		default:
			b.WriteByte(c)
			s.step()
		}
	}
	s.problem(open, "the quote is not closed")
}

// expand replaces $NAME or ${NAME}. What cannot be known makes the word
// unknown, and stays in it as it was written.
func (s *shell) expand(b *strings.Builder, w *word) {
	rest := s.text[s.i:]
	name, length := shellVariable(rest)
	if value, known := s.vars[name]; known && b.Len() < maxShellWord {
		b.WriteString(value)
		s.i += length
		return
	}
	if w.env == "" {
		w.env = clip(rest[:length], 40)
	}
	for end := s.i + length; s.i < end; {
		b.WriteByte(s.text[s.i])
		s.step()
	}
}

// shellVariable is the name of the plain variable at the start of s, "" for
// any other expansion, and the length of the expansion.
func shellVariable(s string) (name string, length int) {
	if s[0] == '`' {
		return "", through(s, "`")
	}
	end := 1
	for end < len(s) && (isAlnum(s[end]) || s[end] == '_') {
		end++
	}
	switch {
	case end > 1:
		return s[1:end], end
	case strings.HasPrefix(s, "$("):
		return "", nested(s, '(', ')')
	case strings.HasPrefix(s, "${"):
		n := nested(s, '{', '}')
		inner := strings.TrimSuffix(s[2:n], "}")
		if strings.ContainsFunc(inner, func(r rune) bool { return r >= 0x80 || (!isAlnum(byte(r)) && r != '_') }) {
			inner = ""
		}
		return inner, n
	case len(s) > 1 && strings.IndexByte("#@*?!-$", s[1]) >= 0:
		return "", 2
	}
	return "", 1
}

// through is the length of s up to and with the next mark after the first byte.
func through(s, mark string) int {
	if i := strings.Index(s[1:], mark); i >= 0 {
		return i + 2
	}
	return len(s)
}

// nested is the length of s up to and with the bracket that closes its first.
func nested(s string, open, shut byte) int {
	depth := 0
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case open:
			depth++
		case shut:
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}
