package foreign

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"midspan/internal/config"
)

// quote shows a piece of foreign text in a note or a comment: one line, only
// printable characters, not too long.
func quote(s string) string { return "`" + oneLine(s, 100) + "`" }

// oneLine is s for people: one line, single spaces, not too long.
func oneLine(s string, most int) string {
	s = clip(strings.ReplaceAll(strings.ReplaceAll(s, "\\\r\n", " "), "\\\n", " "), 4*most)
	return printable(clip(strings.Join(strings.Fields(s), " "), most))
}

// printable is s on one line. A line break or a control character that got
// into a comment of the YAML would end the comment.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case !unicode.IsPrint(r) || r == unicode.ReplacementChar:
			return '?'
		}
		return r
	}, s)
}

func clip(s string, most int) string {
	if len(s) > 8*most {
		s = s[:8*most] // a line of 4 MiB is not worth decoding
	}
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// format is one of the inputs that are known, to tell a user who mixed them up.
type format struct {
	name string
	hint string
	re   *regexp.Regexp
}

const (
	formatHAProxy  = "haproxy"
	formatNginx    = "nginx"
	formatIPFwd    = "ip_fwd"
	formatIPTables = "iptables"
)

// The order matters: of several that match, the first is named.
var formats = []format{
	{"midspan", "this looks like a midspan.yaml, which needs no import", regexp.MustCompile(`(?m)^routes:\s*(#.*)?$`)},
	{formatIPTables, "this looks like the output of iptables-save: use `midspan import iptables`", regexp.MustCompile(`(?m)^(\*(nat|filter|mangle|raw)\s*$|(\[\d+:\d+\]\s+)?-A [A-Z])`)},
	{"script", "this is ip_fwd.sh itself: import the command lines that call it, or the output of iptables-save", regexp.MustCompile(`getopts\s+['"]?:?i:f:a:b:`)},
	{formatIPFwd, "this looks like command lines of ip_fwd.sh: use `midspan import ip_fwd`", regexp.MustCompile(`ip_fwd(\.sh)?["']?\s+(-|\\)`)},
	{formatNginx, "this looks like an nginx configuration: use `midspan import nginx`", regexp.MustCompile(`(?m)^\s*(stream|http|events|server|upstream\s+\S+)\s*\{`)},
	{formatHAProxy, "this looks like an haproxy.cfg: use `midspan import haproxy`", regexp.MustCompile(`(?m)^\s*((listen|frontend|backend)\s+[^\s;{]+\s*(#.*)?|(global|defaults)\s*)$`)},
}

// otherFormat says, after a "; ", what text looks like if not like own.
func otherFormat(text, own string) string {
	text = uncommented(text)
	hint := ""
	for _, f := range formats {
		switch found := f.re.MatchString(text); {
		case found && f.name == own:
			return ""
		case found && hint == "":
			hint = "; " + f.hint
		}
	}
	return hint
}

// uncommented is text without the lines that are comments: they may well show
// what the file replaces.
func uncommented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimLeft(line, " \t"), "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// readable is data as text, or the reason why it is none.
func readable(name string, data []byte, wanted string) (string, error) {
	fail := func(line, col int, format string, args ...any) error {
		return config.Problems{{Pos: config.Pos{File: name, Line: line, Col: col}, Text: fmt.Sprintf(format, args...)}}
	}
	if len(data) > config.MaxSize {
		return "", fail(1, 1, "the input has %d bytes, at most %d are read; is it the right file?", len(data), config.MaxSize)
	}
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return "", fail(1, 1, "the input is UTF-16; save it as UTF-8")
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if i := bytes.IndexFunc(data, isBinary); i >= 0 {
		line := 1 + bytes.Count(data[:i], []byte("\n"))
		return "", fail(line, i-bytes.LastIndexByte(data[:i], '\n'), "this is not text (byte 0x%02x); is it the right file?", data[i])
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return "", fail(1, 1, "the input is empty; %s", wanted)
	}
	return string(data), nil
}

// isBinary is lenient about bytes that are not UTF-8: a comment in Latin-1
// does not make a configuration binary.
func isBinary(r rune) bool {
	return (r < ' ' && !strings.ContainsRune("\t\n\v\f\r", r)) || r == 0x7f
}
