package main

import (
	"errors"
	"strings"
	"testing"
)

func TestTAP(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		err  error
		want verdict
	}{
		"all well":              {"1..2\nok 1 - a\n# talk\nok 2 - b\n", nil, passes},
		"the plan at the end":   {"ok 1\nok 2\n1..2\n", nil, passes},
		"one fails":             {"1..2\nok 1\nnot ok 2 - b\n", nil, fails},
		"one is to do":          {"1..2\nok 1\nnot ok 2 - b # TODO not yet\n", nil, passes},
		"one is skipped":        {"1..2\nok 1\nok 2 # skip unsafe\n", nil, passes},
		"all are skipped":       {"1..0 # SKIP no stream available\n", nil, skipped},
		"too few":               {"1..3\nok 1\nok 2\n", nil, fails},
		"no plan":               {"ok 1\n", nil, fails},
		"nothing":               {"", nil, fails},
		"the interpreter fails": {"1..1\nok 1\n", errors.New("exit status 2"), fails},
	} {
		o, err := readTAP(strings.NewReader(c.text))
		if err != nil {
			t.Fatal(err)
		}
		if o.err = c.err; o.verdict() != c.want {
			t.Errorf("%s: %s (%+v), want %s", name, o.verdict(), o, c.want)
		}
	}
	o, _ := readTAP(strings.NewReader("1..1\nnot ok 1 - the name\n"))
	if len(o.not) != 1 || o.not[0] != "the name" {
		t.Errorf("failed: %q", o.not)
	}
}

// TestTable: a file that does not end as the list says is an error only if the
// list says that it passes, or does not know it.
func TestTable(t *testing.T) {
	good := &outcome{planned: 1, passed: 1}
	bad := &outcome{planned: 1, failed: 1, not: []string{"x"}}
	for name, c := range map[string]struct {
		file string
		o    *outcome
		ok   bool
		text string
	}{
		"passes":          {"stream_proxy.t", good, true, "1 pass"},
		"fails":           {"stream_proxy.t", bad, false, "(listed: passes)"},
		"is skipped":      {"stream_proxy.t", &outcome{why: "no perl"}, false, "(listed: passes)"},
		"better":          {"stream_limit_rate.t", good, true, "(listed: fails)"},
		"as bad as said":  {"stream_limit_rate.t", bad, true, "1 fail"},
		"not in the list": {"stream_new.t", good, false, "not in the list"},
		"not run":         {"stream_udp_proxy.t", nil, true, "not run"},
	} {
		var b strings.Builder
		if ok := table(&b, []string{c.file}, []*outcome{c.o}); ok != c.ok || !strings.Contains(b.String(), c.text) {
			t.Errorf("%s: %v\n%s", name, ok, b.String())
		}
	}
}
