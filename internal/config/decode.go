package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
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

// syntax reports an error of the YAML library with its line, and a tab in the
// indentation for what it is.
func (d *decoder) syntax(err error, data []byte) {
	text, line := err.Error(), 1
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		text = m[2]
		if m[1] != "" {
			line, _ = strconv.Atoi(m[1])
		}
	}
	for i, l := range bytes.Split(data, []byte("\n")) {
		if blank := l[:len(l)-len(bytes.TrimLeft(l, " \t"))]; bytes.ContainsRune(blank, '\t') && len(blank) < len(l) {
			d.problems.Addf(Pos{d.file, i + 1, bytes.IndexByte(l, '\t') + 1}, "a tab in the indentation; YAML is indented with spaces")
			return
		}
	}
	d.problems.Addf(Pos{d.file, line, 1}, "not YAML: %s", text)
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
