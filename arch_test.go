package midspan_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// policy is the architecture: which package of ours may import which. Change
// it when the architecture changes, not to make a build pass.
const policy = `
config            :
resolve           :
freeport          :
netns             :
host              :
conntrack         :
proxyproto        :
clienthello       :
kafka             :
brokers           :
engine            : plan
certs             : plan
plan              : config
foreign           : config
health            : plan proxyproto certs
accesslog         : plan engine
engine/relay      : config plan engine host proxyproto clienthello certs web kafka
engine/nft        : config plan engine host conntrack
engine/split      : plan engine
engine/enginetest : config plan engine freeport netns
daemon            : plan engine health resolve brokers certs proxyproto
admin             : daemon plan engine health proxyproto
web/h1            :
web               : plan web/h1
brokers/brokertest: brokers
doctor            : config plan brokers certs
`

// testPolicy is what a package may import besides, in its tests only.
const testPolicy = `
foreign           : plan
engine/relay      : engine/enginetest freeport netns
engine/nft        : engine/enginetest netns
engine/split      : config
daemon            : config engine/relay freeport
admin             : config freeport
accesslog         :
web               : config
brokers           : brokers/brokertest
doctor            : brokers/brokertest
`

// pure packages turn values into values: no files, no network, no clock, no
// logger. net/netip is fine.
var pure = []string{"config", "plan", "foreign", "proxyproto", "clienthello", "kafka"}

var impure = []string{"os", "os/exec", "net", "net/http", "log", "log/slog", "syscall", "golang.org/x/sys/unix"}

type pkg struct {
	ImportPath   string
	Name         string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

const internal = "midspan/internal/"

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Name,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func readPolicy(text string) map[string][]string {
	allowed := map[string][]string{}
	for line := range strings.Lines(strings.TrimSpace(text)) {
		from, to, _ := strings.Cut(line, ":")
		allowed[strings.TrimSpace(from)] = strings.Fields(to)
	}
	return allowed
}

func TestImports(t *testing.T) {
	allowed, inTests := readPolicy(policy), readPolicy(testPolicy)
	seen := map[string]bool{}
	for _, p := range packages(t) {
		name, ours := strings.CutPrefix(p.ImportPath, internal)
		if !ours {
			continue // commands may import everything
		}
		seen[name] = true
		may, known := allowed[name]
		if !known {
			t.Errorf("package %s is not in the policy", name)
		}
		check := func(imports, may []string, where string) {
			for _, path := range imports {
				if dep, ours := strings.CutPrefix(path, internal); ours && dep != name && !slices.Contains(may, dep) {
					t.Errorf("%s%s imports %s: the policy allows %v", name, where, dep, may)
				}
				if path == "midspan" || strings.HasPrefix(path, "midspan/cmd") {
					t.Errorf("%s%s imports %s", name, where, path)
				}
			}
		}
		check(p.Imports, may, "")
		check(append(p.TestImports, p.XTestImports...), append(may, inTests[name]...), " (tests)")
		for _, path := range p.Imports {
			if slices.Contains(pure, name) && slices.Contains(impure, path) {
				t.Errorf("%s is pure and imports %s", name, path)
			}
		}
	}
	for name := range allowed {
		if !seen[name] {
			t.Errorf("the policy speaks of %s, which does not exist", name)
		}
	}
}

// TestSource holds every non-test source file to the rules that imports do not
// show.
func TestSource(t *testing.T) {
	documented := map[string]int{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if _, module := os.Stat(filepath.Join(path, "go.mod")); err == nil && d.IsDir() && path != "." && module == nil {
			return fs.SkipDir // a module of its own, with rules of its own
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		if file.Doc != nil {
			documented[dir]++
		} else if _, ok := documented[dir]; !ok {
			documented[dir] = 0
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil && n.Name.Name == "init" {
					t.Errorf("%s: init() has effects that no caller asked for", path)
				}
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				if !ok {
					break
				}
				switch call := x.Name + "." + n.Sel.Name; {
				case call == "os.Exit" && filepath.Base(path) != "main.go",
					strings.HasPrefix(call, "log.Fatal"),
					call == "runtime.LockOSThread" && dir != "internal/netns":
					t.Errorf("%s: %s", path, call)
				case call == "time.Now" && slices.Contains(pure, strings.TrimPrefix(dir, "internal/")):
					t.Errorf("%s is pure and reads the clock", path)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir, n := range documented {
		if n != 1 {
			t.Errorf("%s has %d package comments, want one", dir, n)
		}
	}
}

// TestExamples: every example is named in a document, so that none is orphaned.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("examples/*")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	docs := ""
	for _, pattern := range []string{"*.md", "docs/*.md", "examples/README.md"} {
		names, _ := filepath.Glob(pattern)
		for _, n := range names {
			text, err := os.ReadFile(n)
			if err != nil {
				t.Fatal(err)
			}
			docs += string(text)
		}
	}
	for _, f := range files {
		if !strings.Contains(docs, filepath.Base(f)) {
			t.Errorf("%s is named in no document", f)
		}
	}
}
