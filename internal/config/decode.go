package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Parse reads the text of a midspan.yaml; name stands for it in positions.
// The error is a Problems with all that is wrong with the text; the File then
// holds what could be read of it (whole routes only), for a look at the rest,
// and is nil if that is nothing.
func Parse(name string, data []byte) (*File, error) {
	d := &decoder{file: name}
	root := d.document(data)
	if root == nil {
		return nil, d.problems.Err()
	}
	f := &File{}
	object(fileKeys).decode(d, root, f)
	return f, d.problems.Err()
}

type decoder struct {
	file     string
	problems Problems
}

func (d *decoder) pos(n *yaml.Node) Pos { return Pos{d.file, n.Line, n.Column} }

func (d *decoder) addf(n *yaml.Node, format string, args ...any) {
	d.problems.Addf(d.pos(n), format, args...)
}

// document is the one YAML document in data, or nil after reporting why not.
func (d *decoder) document(data []byte) *yaml.Node {
	start := Pos{d.file, 1, 1}
	if len(data) > MaxSize {
		d.problems.Addf(start, "the file has %d bytes, at most %d are read; is it the right file?", len(data), MaxSize)
		return nil
	}
	if i := notText(data); i >= 0 {
		line := 1 + bytes.Count(data[:i], []byte("\n"))
		col := i - bytes.LastIndexByte(data[:i], '\n')
		d.problems.Addf(Pos{d.file, line, col}, "this is not text (byte 0x%02x); is it the right file?", data[i])
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) || (err == nil && isNull(doc.Content[0])) {
		d.problems.Addf(start, "the file is empty; the least is\n  routes:\n    sqlserver: { listen: 1434, to: \"sqlserver1.example.com:1433\" }")
		return nil
	} else if err != nil {
		d.syntax(err, data)
		return nil
	}
	if err := dec.Decode(&next); err == nil {
		d.addf(&next, "a second YAML document starts here; midspan reads one")
	} else if !errors.Is(err, io.EOF) {
		d.syntax(err, data)
	}
	return follow(doc.Content[0])
}

// notText is the place of the first byte that no text has, or -1.
func notText(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if (r == utf8.RuneError && size == 1) || (r < ' ' && r != '\t' && r != '\n' && r != '\r') {
			return i
		}
		i += size
	}
	return -1
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// syntaxHints are mistakes that YAML's own messages do not explain, in the order
// in which they are looked for, line by line.
var syntaxHints = []struct {
	line *regexp.Regexp // the first group is where the mistake is
	text string
}{
	{regexp.MustCompile(`^ *(\t)[ \t]*\S`), "a tab in the indentation; YAML is indented with spaces"},
	{regexp.MustCompile(`^[^#"']*[:,\[-] +(%[^\s,}\]]*)`), "a value that starts with %% must be in quotes; write %q"},
	{regexp.MustCompile(`^[^#"']*[:,\[-] +(\*:[^\s,}\]]*)`), "a value that starts with * must be in quotes; write %q, or the port alone"},
	{regexp.MustCompile(`^[^#"']*[:,\[-] +(\[[0-9a-fA-F:.]*\][^\s,}\]]*)`), "a value that starts with [ must be in quotes; write %q"},
}

// syntax reports an error of the YAML library: as one of the hints, or with the
// line at which the text stops being YAML. (The library's own line is often that
// of the block, or none.)
func (d *decoder) syntax(err error, data []byte) {
	lines := strings.Split(string(data), "\n")
	for i, l := range lines {
		for _, h := range syntaxHints {
			if m := h.line.FindStringSubmatchIndex(l); m != nil {
				text := h.text
				if strings.Contains(text, "%q") {
					text = fmt.Sprintf(text, clip(l[m[2]:m[3]]))
				}
				d.problems.Addf(Pos{d.file, i + 1, m[2] + 1}, "%s", text)
				return
			}
		}
	}
	text, line := err.Error(), 1
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		text = m[2]
		if m[1] != "" {
			line, _ = strconv.Atoi(m[1])
		}
	}
	if n := firstBadLine(lines); n > 0 {
		line = n
	}
	at := ""
	if line <= len(lines) {
		at = lines[line-1]
	}
	col := len(at) - len(strings.TrimLeft(at, " ")) + 1
	d.problems.Addf(Pos{d.file, line, col}, "not YAML: %s; look at this line's indentation, brackets and quotes", text)
}

// firstBadLine is the line after the longest beginning of the text that is YAML,
// or 0 where the text is too long to try.
func firstBadLine(lines []string) int {
	if len(lines) > 500 {
		return 0
	}
	for n := len(lines) - 1; n > 0; n-- {
		var doc yaml.Node
		if yaml.Unmarshal([]byte(strings.Join(lines[:n], "\n")), &doc) == nil {
			return n + 1
		}
	}
	return 1
}

// mapping calls f for each key of n, and reports keys that stand twice.
func (d *decoder) mapping(n *yaml.Node, f func(k, v *yaml.Node)) map[string]bool {
	first := map[string]*yaml.Node{}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], follow(n.Content[i+1])
		switch {
		case k.Kind != yaml.ScalarNode:
			d.addf(k, "%s stands where a key is expected", describe(k))
		case k.ShortTag() == "!!merge":
			d.addf(k, "merge keys (<<) are not read; use `defaults` for what routes share")
		case first[k.Value] != nil:
			d.addf(k, "key %q stands here again (first on line %d); keep one", k.Value, first[k.Value].Line)
		default:
			first[k.Value], seen[k.Value] = k, true
			f(k, v)
		}
	}
	return seen
}

// follow is the node that an alias stands for. An alias may be used at any
// depth: the tables of keys bound how deep the decoder goes.
func follow(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func isOff(n *yaml.Node) bool  { return n.Kind == yaml.ScalarNode && n.Value == "off" }
func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// describe says what n is, for "X stands where Y is expected".
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	}
	return strconv.Quote(clip(n.Value))
}

func clip(s string) string {
	if len(s) > 40 {
		return strings.ToValidUTF8(s[:40], "") + "…"
	}
	return s
}

// elsewhere are the words of other programs for our keys.
var elsewhere = map[string]string{
	"bind": "listen", "port": "listen", "ports": "listen", "frontend": "listen",
	"server": "to", "servers": "to", "backend": "to", "upstream": "to", "target": "to", "proxy_pass": "to",
	"route": "routes", "maxconn": "max_connections", "resolver": "dns", "resolvers": "dns", "healthcheck": "check",
}

// suggestKey proposes the key that an unknown one may stand for, and which it
// is, if it is one.
func suggestKey(got string, keys []string) (hint, key string) {
	if slices.Contains(keys, "kind") && slices.Contains(Checks, got) {
		return fmt.Sprintf("write kind: %s", got), "kind"
	}
	if ours := elsewhere[got]; slices.Contains(keys, ours) {
		return fmt.Sprintf("it is %q here", ours), ours
	}
	hint = suggest(got, keys)
	if _, err := fmt.Sscanf(hint, "did you mean %q", &key); err != nil {
		return hint, ""
	}
	return hint, key
}

// Closest is a question for the word of words that got may stand for, or "".
func Closest(got string, words []string) string {
	if hint := suggest(got, words); strings.HasPrefix(hint, "did you mean") {
		return hint
	}
	return ""
}

// suggest proposes the word of words that got is closest to, or all of them.
func suggest(got string, words []string) string {
	best, bestDistance := "", 3
	for _, w := range words {
		if dist := distance(clip(got), w); dist < bestDistance && 2*dist < len(w)+1 {
			best, bestDistance = w, dist
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "use " + strings.Join(words, ", ")
}

// distance is the number of insertions, deletions, replacements and swaps of
// neighbours that turn a into b (optimal string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
