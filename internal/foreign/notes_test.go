package foreign

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"midspan/internal/config"
)

// statement is one line of a foreign file put into a small whole one.
type statement struct {
	in   string
	note string // how the note at its place begins; "": there is none
	has  string // what the YAML has because of it
}

// around puts a statement into a file and tells its line there.
type around struct {
	file string // with %s for the statement
	line int
	run  func(name string, data []byte) (*Import, *ledger, error)
}

func nginxFile(name string, data []byte) (*Import, *ledger, error) {
	return importNginx(name, Files{Open: twoFiles(data, nil).Open})
}

var (
	inListen   = around{"listen l\n  bind :5000\n  server a 10.0.0.1:5001 check\n%s\n", 4, importHAProxy}
	inFrontend = around{"frontend f\n  bind :5000\n%s\n  default_backend b\nbackend b\n  server a 10.0.0.1:5001\n", 3, importHAProxy}
	inBackend  = around{"frontend f\n  bind :5000\n  default_backend b\nbackend b\n%s\n  server a 10.0.0.1:5001 check\n", 5, importHAProxy}
	inWeb      = around{"frontend f\n  bind :5000\n  mode http\n%s\n  default_backend b\nbackend b\n  mode http\n  server a 10.0.0.1:5001\nbackend c\n  mode http\n  server c 10.0.0.2:80\n", 4, importHAProxy}
	inGlobal   = around{"global\n%s\nlisten l\n  bind :5000\n  server a 10.0.0.1:5001\n", 2, importHAProxy}
	inResolver = around{"resolvers r\n%s\nlisten l\n  bind :5000\n  server a 10.0.0.1:5001\n", 2, importHAProxy}
	inHAProxy  = around{"%s\nlisten l\n  bind :5000\n  server a 10.0.0.1:5001\n", 1, importHAProxy}
	inMain     = around{"%s\nstream { server { listen 5000; proxy_pass 10.0.0.1:5001; } }\n", 1, nginxFile}
	inStream   = around{"stream {\n%s\n  server { listen 5000; proxy_pass 10.0.0.1:5001; }\n}\n", 2, nginxFile}
	inServer   = around{"stream {\n  server {\n    listen 5000; proxy_pass u;\n%s\n  }\n  upstream u { server 10.0.0.1:5001; }\n}\n", 4, nginxFile}
	inUpstream = around{"stream {\n  server { listen 5000; proxy_pass u; }\n  upstream u { server 10.0.0.1:5001;\n%s\n  }\n}\n", 4, nginxFile}
	inHTTP     = around{"http {\n%s\n  server { location / { proxy_pass http://10.0.0.1; } }\n}\n", 2, nginxFile}
	inScript   = around{"./ip_fwd.sh -i eth0 -f 5000 -a db.example.com -b 5001\n%s\n", 2, importIPForward}
	inRules    = around{"*nat\n-A PREROUTING -i eth0 -p tcp --dport 5000 -j DNAT --to-destination 10.0.0.1:5001\n%s\nCOMMIT\n", 3, importIPTables}
)

func TestStatements(t *testing.T) {
	for where, cases := range statements() {
		for _, c := range cases.list {
			t.Run(where+"/"+c.in, func(t *testing.T) {
				in := fmt.Sprintf(cases.file, c.in)
				imp, ledger, err := cases.run("in", []byte(in))
				if err != nil {
					t.Fatalf("%v\n%s", err, in)
				}
				roundTrips(t, imp)
				if text := string(config.Encode(imp.File)); !strings.Contains(text, c.has) {
					t.Errorf("the YAML lacks %q:\n%s", c.has, text)
				}
				checkNote(t, imp, cases.line, c.note)
				accounted(t, ledger)
			})
		}
	}
}

// checkNote wants a note on the line that begins like that, or none.
func checkNote(t *testing.T, imp *Import, line int, want string) {
	var got []string
	for needless, notes := range map[bool]config.Problems{false: imp.Notes, true: imp.Needless} {
		for _, n := range notes {
			if n.Pos.Line != line {
				continue
			}
			if strings.Contains(n.Text, isNone) != needless {
				t.Errorf("in the wrong list (needless: %t): %s", needless, n)
			}
			got = append(got, n.Text)
		}
	}
	if want != "" && slices.ContainsFunc(got, func(text string) bool { return strings.HasPrefix(text, want) }) {
		return
	}
	if want != "" || len(got) > 0 {
		t.Errorf("notes on line %d:\n%s\nwant %q", line, strings.Join(got, "\n"), want)
	}
}

// TestTexts: what stands in the tables reads as a sentence after the statement.
func TestTexts(t *testing.T) {
	check := func(where, note string) {
		for _, start := range []string{isNone, "has no counterpart: ", isGone, "is NOT carried over: ", openMark + "is not carried over", moreMark + isGone} {
			if strings.HasPrefix(note, start) && !strings.HasSuffix(note, ".") {
				return
			}
		}
		t.Errorf("%s: %q", where, note)
	}
	for _, rules := range []map[string]rule{globalRules, proxyRules} {
		for name, r := range rules {
			if r.do == nil {
				check(name, r.note)
			}
		}
	}
	for _, p := range globalPrefixes {
		check(p.prefix, p.rule.note)
	}
	for _, params := range []map[string]param{bindParams, serverParams} {
		for name, p := range params {
			check(name, p.note)
		}
	}
	for _, table := range []noteTable{mainNotes, streamNotes, upstreamNotes, webUpstreamNotes, httpNotes} {
		for name, note := range table.names {
			check(name, note)
		}
		for _, p := range table.prefixes {
			check(p.prefix, p.why)
		}
	}
	for name, note := range listenParams {
		check(name, note)
	}
}

func TestSorted(t *testing.T) {
	var notes config.Problems
	for line := 30; line > 0; line-- {
		at := config.Pos{File: "f", Line: line, Col: 1}
		notes.Addf(at, "on many lines")
		notes.Addf(at, "on many lines")
		if line < 3 {
			notes.Addf(at, "on two")
		}
		if line < 4 {
			notes.Addf(at, "on three")
		}
	}
	notes.Addf(config.Pos{File: "g", Line: 1, Col: 1}, "on three")
	const want = `f:1:1: on many lines (also lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 18 more)
f:1:1: on two (also line 2)
f:1:1: on three (also lines 2 and 3)
g:1:1: on three`
	if got := sorted(notes).Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
