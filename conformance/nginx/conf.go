package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// directive is one statement of the configuration, with its block if it has
// one. Includes are replaced by what they include.
type directive struct {
	name  string
	args  []string
	file  string
	line  int
	block []*directive
	open  bool // it has a block, which may be empty
}

func (d *directive) arg(i int) string {
	if i >= 0 && i < len(d.args) {
		return d.args[i]
	}
	return ""
}

// errorf is an error at d, in nginx's words: "… in FILE:LINE".
func (d *directive) errorf(format string, args ...any) error {
	return fmt.Errorf("%s in %s:%d", fmt.Sprintf(format, args...), d.file, d.line)
}

// token is a word, or one of ; { }.
type token struct {
	text string
	mark byte // ';', '{', '}', or 0 for a word
	line int
}

// lex splits text as nginx does: a quote counts only where a word begins, a
// backslash takes the next character with it, and ${ is no block.
func lex(text string) ([]token, error) {
	var all []token
	line := 1
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == '\n':
			line++
			i++
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
		case c == ';' || c == '{' || c == '}':
			all = append(all, token{mark: c, line: line})
			i++
		default:
			word, n, err := lexWord(text[i:])
			if err != nil {
				return nil, fmt.Errorf("%w (line %d)", err, line)
			}
			all = append(all, token{text: word, line: line})
			line += strings.Count(text[i:i+n], "\n")
			i += n
		}
	}
	return all, nil
}

// lexWord is the word that text begins with, and its length in text.
func lexWord(text string) (string, int, error) {
	var b strings.Builder
	quote := byte(0)
	i := 0
	if text[0] == '"' || text[0] == '\'' {
		quote = text[0]
		i = 1
	}
	for ; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\\' && i+1 < len(text):
			i++
			b.WriteString(unescape(text[i]))
		case quote != 0 && c == quote:
			return b.String(), i + 1, nil
		case quote != 0:
			b.WriteByte(c)
		case c == '$' && strings.HasPrefix(text[i:], "${"):
			b.WriteString("${")
			i++
		case strings.IndexByte(" \t\r\n;", c) >= 0, c == '{':
			return b.String(), i, nil
		default:
			b.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", 0, fmt.Errorf("unexpected end of file, expecting %q", quote)
	}
	return b.String(), i, nil
}

// unescape is what a backslash and c stand for. One before any other character
// is kept: it may be a regular expression's.
func unescape(c byte) string {
	switch c {
	case 't':
		return "\t"
	case 'r':
		return "\r"
	case 'n':
		return "\n"
	case '"', '\'', '\\':
		return string(c)
	}
	return "\\" + string(c)
}

// reader reads files relative to the prefix.
type reader struct {
	prefix string
	depth  int // of includes
	dump   []string
}

// path is name as nginx takes it: relative to the prefix.
func (r *reader) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(r.prefix, name)
}

// maxIncludes bounds includes that include themselves.
const maxIncludes = 20

// file is the tree of one file.
func (r *reader) file(name string) ([]*directive, error) {
	if r.depth++; r.depth > maxIncludes {
		return nil, fmt.Errorf("includes are nested too deep at %s", name)
	}
	defer func() { r.depth-- }()
	path := r.path(name)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("open() %q failed: %w", path, err)
	}
	r.dump = append(r.dump, fmt.Sprintf("# configuration file %s:\n%s\n", path, text))
	return r.text(path, string(text))
}

func (r *reader) text(name, text string) ([]*directive, error) {
	tokens, err := lex(text)
	if err != nil {
		return nil, fmt.Errorf("%w in %s", err, name)
	}
	tree, rest, err := r.tree(name, tokens, false)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("unexpected \"}\" in %s:%d", name, rest[0].line)
	}
	return tree, err
}

// tree reads statements until the end, or until the brace that closes the
// block; rest begins with that brace.
func (r *reader) tree(name string, tokens []token, inside bool) (all []*directive, rest []token, err error) {
	for len(tokens) > 0 {
		if tokens[0].mark == '}' {
			return all, tokens, nil
		}
		d := &directive{file: name, line: tokens[0].line}
		var words []string
		for len(tokens) > 0 && tokens[0].mark == 0 {
			words = append(words, tokens[0].text)
			tokens = tokens[1:]
		}
		if len(tokens) == 0 || len(words) == 0 || tokens[0].mark == '}' {
			return nil, nil, d.errorf("directive %q is not terminated by \";\"", strings.Join(words, " "))
		}
		d.name, d.args = words[0], words[1:]
		if tokens[0].mark == '{' {
			d.open = true
			if d.block, tokens, err = r.tree(name, tokens[1:], true); err != nil {
				return nil, nil, err
			}
			if len(tokens) == 0 {
				return nil, nil, d.errorf("unexpected end of file, expecting \"}\"")
			}
		}
		tokens = tokens[1:]
		if d.name != "include" {
			all = append(all, d)
			continue
		}
		included, err := r.include(d)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, included...)
	}
	return all, nil, nil
}

func (r *reader) include(d *directive) (all []*directive, err error) {
	paths := []string{r.path(d.arg(0))}
	if strings.ContainsAny(d.arg(0), "*?[") {
		if paths, err = filepath.Glob(paths[0]); err != nil {
			return nil, d.errorf("include %q: %v", d.arg(0), err)
		}
	}
	for _, p := range paths {
		tree, err := r.file(p)
		if err != nil {
			return nil, err
		}
		all = append(all, tree...)
	}
	return all, nil
}

// find is the first directive of that name.
func find(ds []*directive, name string) *directive {
	for _, d := range ds {
		if d.name == name {
			return d
		}
	}
	return nil
}
