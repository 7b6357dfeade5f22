package foreign

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	crossplane "github.com/nginxinc/nginx-go-crossplane"

	"midspan/internal/config"
)

// Bounds that keep hostile input from taking the stack or the memory: the
// parser recurses into blocks, and a file that is included twice by one that
// is included twice grows by powers of two.
const (
	nginxDepth      = 50
	nginxStatements = 200_000
)

// node is a directive of nginx, with the directives of its block if it has
// one. Includes are replaced by what they include.
type node struct {
	*stmt
	isBlock bool
	block   []*node
}

// name is the directive's name.
func (n *node) name() string { return n.arg(0) }

// inner are the statements inside n, at any depth.
func (n *node) inner() []*stmt {
	var out []*stmt
	for _, m := range n.block {
		out = append(out, m.stmt)
		out = append(out, m.inner()...)
	}
	return out
}

// nginxReader gives files to the parser and keeps what it cannot keep.
type nginxReader struct {
	*ledger
	Files
	main   string
	texts  map[string]*nginxText
	globs  map[string][]string // what a pattern stands for
	failed map[string]error    // files and patterns that could not be read
	size   int

	mainText string // also of a file that is not nginx's
}

// nginxText is a file, with what the parser does not tell of its statements.
type nginxText struct {
	text  string
	lines []string
	ends  []int // the last line of each statement, in the order they begin
}

// open is the parser's way to files: each is read once, whole, and looked
// through before the parser sees it.
func (r *nginxReader) open(name string) (io.ReadCloser, error) {
	if t := r.texts[name]; t != nil {
		return io.NopCloser(strings.NewReader(t.text)), nil
	}
	if err := r.failed[name]; err != nil {
		return nil, err
	}
	t, err := r.read(name)
	if err != nil {
		r.failed[name] = err
		return nil, err
	}
	r.texts[name] = t
	return io.NopCloser(strings.NewReader(t.text)), nil
}

func (r *nginxReader) read(name string) (*nginxText, error) {
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, int64(config.MaxSize-r.size)+1))
	if err != nil {
		return nil, err
	}
	if r.size += len(data); r.size > config.MaxSize {
		return nil, fmt.Errorf("the configuration has more than %d bytes", config.MaxSize)
	}
	text := string(data)
	if name == r.main || len(strings.TrimSpace(text)) > 0 {
		if text, err = readable(name, data, "an nginx.conf with a `stream` block is expected"); err != nil {
			return nil, err
		}
	}
	if name == r.main {
		r.mainText = text
	}
	t := &nginxText{text: text, lines: strings.SplitAfter(text, "\n")}
	t.ends, err = nginxScan(name, text)
	return t, err
}

// glob lists the files of an include, less those that cannot be read: the
// parser would stop at one.
func (r *nginxReader) glob(pattern string) ([]string, error) {
	if r.Glob == nil {
		return nil, nil
	}
	paths, err := r.Glob(pattern)
	if err != nil {
		r.failed[pattern] = err
		return nil, nil
	}
	r.globs[pattern] = paths
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool {
		_, err := r.open(p)
		return err != nil
	}), nil
}

// parse is the tree of the main file with its includes. What nginx itself
// would refuse is a problem in the ledger.
func (r *nginxReader) parse() (tree []*node) {
	if _, err := r.open(r.main); err != nil {
		r.unreadable(r.main, err)
		return nil
	}
	payload, err := r.callParser()
	if err != nil {
		r.problem(config.Pos{File: r.main, Line: 1, Col: 1}, "%s", printable(err.Error()))
		return nil
	}
	for _, e := range payload.Errors {
		var pe *crossplane.ParseError
		if errors.As(e.Error, &pe) && strings.HasPrefix(pe.Statement, "include ") {
			continue // found again where the include stands
		}
		line := 1
		if e.Line != nil {
			line = max(1, *e.Line)
		}
		r.problem(config.Pos{File: e.File, Line: line, Col: 1}, "%s", printable(whatOf(e.Error)))
	}
	if len(payload.Config) == 0 {
		return nil
	}
	t := &nginxTree{nginxReader: r, payload: payload}
	return t.file(0)
}

// unreadable reports a file that is the reason why there is no import.
func (r *nginxReader) unreadable(name string, err error) {
	var ps config.Problems
	if errors.As(err, &ps) {
		r.problems = append(r.problems, ps...)
		return
	}
	r.problem(config.Pos{File: name, Line: 1, Col: 1}, "cannot be read: %s", printable(err.Error()))
}

// callParser calls the parser, and survives it.
func (r *nginxReader) callParser() (payload *crossplane.Payload, err error) {
	defer func() {
		if p := recover(); p != nil {
			payload, err = nil, fmt.Errorf("the parser of nginx configurations fails on this input: %v", p)
		}
	}()
	return crossplane.Parse(r.main, &crossplane.ParseOptions{
		Open: r.open,
		Glob: r.glob,
		// nginx's own check is better than a list of the directives and
		// contexts of one version of it.
		SkipDirectiveContextCheck: true,
		SkipDirectiveArgsCheck:    true,
	})
}

// nginxTree turns what was parsed into nodes.
type nginxTree struct {
	*nginxReader
	payload *crossplane.Payload
	count   int
}

// file is the tree of one parsed file.
func (t *nginxTree) file(i int) []*node {
	parsed := t.payload.Config[i]
	text := t.texts[parsed.File]
	places := &placer{file: parsed.File, nginxText: text}
	return t.nodes(parsed.Parsed, places)
}

func (t *nginxTree) nodes(ds crossplane.Directives, places *placer) []*node {
	var out []*node
	for _, d := range ds {
		if t.count++; t.count > nginxStatements {
			if t.count == nginxStatements+1 {
				t.problem(config.Pos{File: t.main, Line: 1, Col: 1}, "more than %d directives, includes counted each time; split the configuration", nginxStatements)
			}
			return out
		}
		n := &node{stmt: t.add(places.stmt(d)), isBlock: d.IsBlock()}
		n.block = t.nodes(d.Block, places)
		if d.Directive == "include" && !n.isBlock && len(d.Args) > 0 && !d.IsMapBlockParameter {
			out = append(out, t.include(n, d)...)
			continue
		}
		out = append(out, n)
	}
	return out
}

// include is what stands in the files that n includes.
func (t *nginxTree) include(n *node, d *crossplane.Directive) []*node {
	pattern := d.Args[0]
	if !path.IsAbs(pattern) {
		pattern = path.Join(path.Dir(t.main), pattern)
	}
	magic := strings.ContainsAny(pattern, "*?[")
	switch err := t.failed[pattern]; {
	case err != nil:
		t.notRead(n, pattern, err)
	case magic && t.Glob == nil:
		t.lost(n.stmt, "included files are not read here")
	case magic && len(d.Includes) == 0:
		t.needless(n.stmt, "no file matches it here")
	default:
		t.carry(n.stmt)
	}
	for _, p := range t.globs[pattern] {
		if err := t.failed[p]; err != nil {
			t.notRead(n, p, err)
		}
	}
	var out []*node
	for _, i := range d.Includes {
		if i < len(t.payload.Config) {
			out = append(out, t.file(i)...)
		}
	}
	return out
}

// notRead notes an include that could not be read, or reports it if it could
// but is not in the syntax.
func (t *nginxTree) notRead(n *node, name string, err error) {
	var ps config.Problems
	if errors.As(err, &ps) {
		n.noted = true
		t.problems = append(t.problems, ps...)
		return
	}
	t.lost(n.stmt, fmt.Sprintf("%s cannot be read (%s)", printable(name), printable(err.Error())))
}

// placer finds the column of each statement, which the parser does not tell,
// by looking for its first word from where the last one was found.
type placer struct {
	*nginxText
	file string
	seen int // statements
	line int // 1-based, of the last one
	col  int // 0-based, after its first word
}

func (p *placer) stmt(d *crossplane.Directive) *stmt {
	if d.Line != p.line {
		p.line, p.col = d.Line, 0
	}
	pos := config.Pos{File: p.file, Line: max(1, d.Line), Col: 1}
	if d.Line >= 1 && d.Line <= len(p.lines) && p.col <= len(p.lines[d.Line-1]) {
		if i := strings.Index(p.lines[d.Line-1][p.col:], d.Directive); i >= 0 {
			pos.Col = p.col + i + 1
			p.col += i + len(d.Directive)
		}
	}
	s := &stmt{pos: pos, end: d.Line, words: []word{{text: d.Directive, pos: pos}}}
	if p.seen < len(p.ends) {
		s.end = max(s.end, p.ends[p.seen])
	}
	p.seen++
	s.raw = d.Directive
	for _, a := range d.Args {
		s.words = append(s.words, word{text: a, pos: pos})
		s.raw += " " + a
	}
	return s
}
