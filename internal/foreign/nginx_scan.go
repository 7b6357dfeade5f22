package foreign

import (
	"errors"
	"fmt"
	"strings"

	crossplane "github.com/nginxinc/nginx-go-crossplane"

	"midspan/internal/config"
)

// nginxScanner goes through the tokens of a file before the parser does, for
// what the parser does not check (a missing ";" before "}", the depth of
// blocks) or what would make it stop in the middle (an include of nothing).
type nginxScanner struct {
	ends    []int // the last line of each statement, in the order they begin
	words   int   // of the statement that is being read
	include bool  // it is an include
	depth   int

	line    int    // of the first problem
	problem string // "": none yet
}

// nginxScan is the ends of the statements in text. The error is a
// config.Problems.
func nginxScan(name, text string) (ends []int, err error) {
	s := nginxScanner{}
	// The channel must be read to its end, or the lexer never ends.
	for t := range crossplane.Lex(strings.NewReader(text)) {
		s.token(t)
	}
	if s.words > 0 {
		s.fail(s.ends[len(s.ends)-1], "the last directive does not end in \";\"")
	}
	if s.problem != "" {
		return nil, config.Problems{{Pos: config.Pos{File: name, Line: s.line, Col: 1}, Text: s.problem}}
	}
	return s.ends, nil
}

// fail keeps the first problem: the others mostly come from it.
func (s *nginxScanner) fail(line int, format string, args ...any) {
	if s.problem == "" {
		s.line, s.problem = max(1, line), printable(fmt.Sprintf(format, args...))
	}
}

func (s *nginxScanner) token(t crossplane.NgxToken) {
	switch {
	case t.Error != nil:
		s.fail(t.Line, "%s", whatOf(t.Error))
	case t.IsQuoted || (t.Value != "{" && t.Value != "}" && t.Value != ";"):
		if t.IsQuoted || !strings.HasPrefix(t.Value, "#") {
			s.word(t)
		}
	case t.Value == "}" && s.words > 0:
		s.fail(t.Line, "a directive ends at \"}\"; is there a \";\" missing before it?")
	case t.Value == "}":
		s.depth--
	case s.words == 0:
		s.fail(t.Line, "unexpected \"%s\"", t.Value)
	default:
		s.end(t)
	}
}

// word is one of a directive's.
func (s *nginxScanner) word(t crossplane.NgxToken) {
	if s.words++; s.words == 1 {
		s.include = t.Value == "include"
		s.ends = append(s.ends, t.Line)
	}
	s.ends[len(s.ends)-1] = t.Line
}

// end is the ";" or "{" of a directive.
func (s *nginxScanner) end(t crossplane.NgxToken) {
	s.ends[len(s.ends)-1] = t.Line
	if s.include && s.words == 1 {
		s.fail(t.Line, "`include` without a file")
	}
	s.words = 0
	if t.Value == "{" {
		if s.depth++; s.depth > nginxDepth {
			s.fail(t.Line, "blocks are nested deeper than %d", nginxDepth)
		}
	}
}

// whatOf is the parser's error without the place, which stands before it.
func whatOf(err error) string {
	var pe *crossplane.ParseError
	if errors.As(err, &pe) {
		return pe.What
	}
	return err.Error()
}
