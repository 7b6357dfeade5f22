package foreign

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"testing"
	"time"

	"midspan/internal/config"
)

// slow is far above what any input may take, also on a machine that is busy.
const slow = 30 * time.Second

// fuzzed checks what holds for any input: an importer ends soon, and either
// makes a File that midspan runs, or says with a place why not.
func fuzzed(t *testing.T, run func() (*Import, *ledger, error)) {
	start := time.Now()
	imp, ledger, err := run()
	if d := time.Since(start); d > slow {
		t.Errorf("took %s", d)
	}
	if err != nil {
		var ps config.Problems
		if !errors.As(err, &ps) || len(ps) == 0 {
			t.Fatalf("the error is a %T: %v", err, err)
		}
		for _, p := range ps {
			if p.Pos.Line < 1 || p.Pos.Col < 1 || p.Pos.File == "" {
				t.Errorf("no place: %+v", p)
			}
		}
		return
	}
	roundTrips(t, imp)
	for _, s := range ledger.stmts {
		if !s.carried && !s.noted {
			t.Errorf("%s: %s was neither carried over nor noted", s.pos, s)
		}
	}
}

// seeds are the inputs in testdata with that extension, and small ones from
// the tables of those tests.
func seeds(f *testing.F, ext string, tables ...string) [][]byte {
	var out [][]byte
	all := statements()
	for _, name := range tables {
		for i, c := range all[name].list {
			if i%4 == 0 {
				out = append(out, fmt.Appendf(nil, all[name].file, c.in))
			}
		}
	}
	for _, path := range inputs(f) {
		if filepath.Ext(path) == ext {
			out = append(out, read(f, path))
		}
	}
	return out
}

func FuzzHAProxy(f *testing.F) {
	for _, data := range seeds(f, ".cfg", "global", "listen", "frontend", "backend", "resolvers", "haproxy", "web") {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzed(t, func() (*Import, *ledger, error) { return importHAProxy("haproxy.cfg", data) })
	})
}

func FuzzNginx(f *testing.F) {
	for _, data := range seeds(f, ".conf", "nginx main", "nginx stream", "nginx server", "nginx upstream", "nginx http") {
		f.Add(data, []byte("server { listen 3306; proxy_pass mysql1.corp.example.com:3306; }\n"))
	}
	f.Fuzz(func(t *testing.T, main, included []byte) {
		fuzzed(t, func() (*Import, *ledger, error) { return importNginx("nginx.conf", twoFiles(main, included)) })
	})
}

// twoFiles are nginx.conf and one more, which every other path stands for.
func twoFiles(main, included []byte) Files {
	return Files{
		Open: func(path string) (io.ReadCloser, error) {
			switch {
			case path == "nginx.conf" || path == "in":
				return io.NopCloser(bytes.NewReader(main)), nil
			case len(included) == 0:
				return nil, fs.ErrNotExist
			}
			return io.NopCloser(bytes.NewReader(included)), nil
		},
		Glob: func(pattern string) ([]string, error) {
			if len(pattern)%5 == 0 {
				return nil, filepath.ErrBadPattern
			}
			return []string{"a.conf", "b.conf"}, nil
		},
	}
}

func FuzzIPForward(f *testing.F) {
	for _, data := range seeds(f, ".sh", "script") {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzed(t, func() (*Import, *ledger, error) { return importIPForward("setup.sh", data) })
	})
}

func FuzzIPTables(f *testing.F) {
	for _, data := range seeds(f, ".rules", "rules") {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzed(t, func() (*Import, *ledger, error) { return importIPTables("rules.v4", data) })
	})
}
