package foreign

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"midspan/internal/config"
	"midspan/internal/plan"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// importers by the extension of the inputs in testdata.
var importers = map[string]func(name string, data []byte) (*Import, *ledger, error){
	".cfg":   importHAProxy,
	".conf":  func(name string, _ []byte) (*Import, *ledger, error) { return importNginx(name, diskFiles) },
	".sh":    importIPForward,
	".rules": importIPTables,
}

// diskFiles are the files in testdata.
var diskFiles = Files{
	Open: func(path string) (io.ReadCloser, error) { return os.Open(filepath.Join("testdata", path)) },
	Glob: func(pattern string) ([]string, error) {
		paths, err := filepath.Glob(filepath.Join("testdata", pattern))
		for i, p := range paths {
			paths[i] = strings.TrimPrefix(filepath.ToSlash(p), "testdata/")
		}
		return paths, err
	},
}

func TestGolden(t *testing.T) {
	for _, path := range inputs(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			imp, ledger := mustImport(t, path)
			base := strings.TrimSuffix(path, filepath.Ext(path))
			compare(t, base+".golden.yaml", config.Encode(imp.File))
			compare(t, base+".notes", []byte(shownNotes(imp)))
			roundTrips(t, imp)
			covered(t, path, ledger)
			for _, n := range imp.Notes {
				if strings.Contains(n.Text, "not known to this importer") && !strings.Contains(path, "unknown") {
					t.Errorf("no rule for: %s", n)
				}
			}
		})
	}
}

// shownNotes are the notes as stderr has them, and then the others.
func shownNotes(imp *Import) string {
	text := ""
	for _, n := range imp.Ranked() {
		text += n.String() + "\n"
	}
	if len(imp.Needless) > 0 {
		text += "\nNeeds no counterpart:\n"
	}
	for _, n := range imp.Needless {
		text += n.String() + "\n"
	}
	return text
}

// inputs are the files in testdata that an importer reads.
func inputs(t testing.TB) []string {
	paths, err := filepath.Glob("testdata/*")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range paths {
		if importers[filepath.Ext(p)] != nil {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		t.Fatal("no inputs in testdata")
	}
	return out
}

func read(t testing.TB, path string) []byte {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustImport(t *testing.T, path string) (*Import, *ledger) {
	imp, ledger, err := importers[filepath.Ext(path)](filepath.Base(path), read(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return imp, ledger
}

func compare(t *testing.T, golden string, got []byte) {
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test -update rewrites it); got:\n%s", golden, got)
	}
}

// roundTrips checks what the package promises of every File.
func roundTrips(t testing.TB, imp *Import) {
	text := config.Encode(imp.File)
	f, err := config.Parse("midspan.yaml", text)
	if err != nil {
		t.Fatalf("the result is not a midspan.yaml: %v\n%s", err, text)
	}
	if again := config.Encode(f); !bytes.Equal(withoutComments(again), withoutComments(text)) {
		t.Errorf("the result changes when it is read and written again:\n%s\n%s", text, again)
	}
	if _, _, err := plan.New(f); err != nil {
		t.Errorf("the result cannot be planned: %v\n%s", err, text)
	}
	for _, n := range slices.Concat(imp.Notes, imp.Needless) {
		if n.Pos.Line < 1 || n.Pos.Col < 1 || n.Pos.File == "" || strings.ContainsAny(n.Text, "\n\r") {
			t.Errorf("bad note %q at %+v", n.Text, n.Pos)
		}
	}
}

func withoutComments(yaml []byte) []byte {
	var out []byte
	for line := range bytes.Lines(yaml) {
		if trimmed := bytes.TrimSpace(line); len(trimmed) > 0 && trimmed[0] != '#' {
			out = append(out, line...)
		}
	}
	return out
}

// covered checks the promise of the package from the outside: each line of the
// input that is not blank and not a comment is within a statement, and each
// statement was carried over or noted.
func covered(t *testing.T, path string, l *ledger) {
	accounted(t, l)
	base := filepath.Base(path)
	lines := map[int]bool{}
	for _, s := range l.stmts {
		for no := s.pos.Line; s.pos.File == base && no <= s.end; no++ {
			lines[no] = true
		}
	}
	no := 0
	for line := range strings.Lines(string(read(t, path))) {
		no++
		text := strings.TrimSpace(line)
		if text == "" || text[0] == '#' || strings.Trim(text, "{}") == "" || lines[no] {
			continue
		}
		t.Errorf("%s:%d: in no statement: %s", base, no, text)
	}
}

var toLine = regexp.MustCompile(`\(to line (\d+)\)`)

// accounted checks that each statement was carried over or noted, and that
// each one that was not carried over is in one of the two lists: on its line,
// or within a block.
func accounted(t testing.TB, l *ledger) {
	type place struct {
		file string
		line int
	}
	listed := map[place]bool{}
	for _, n := range slices.Concat(l.notes, l.unneeded) {
		last := n.Pos.Line
		if m := toLine.FindStringSubmatch(n.Text); m != nil {
			last, _ = strconv.Atoi(m[1])
		}
		for no := n.Pos.Line; no <= last; no++ {
			listed[place{n.Pos.File, no}] = true
		}
	}
	for _, s := range l.stmts {
		switch {
		case !s.carried && !s.noted:
			t.Errorf("%s: %s was neither carried over nor noted", s.pos, s)
		case !s.carried && !listed[place{s.pos.File, s.pos.Line}]:
			t.Errorf("%s: %s was not carried over and is in no list", s.pos, s)
		}
	}
}
