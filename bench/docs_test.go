package main

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"

	"midspan/bench/result"
)

var update = flag.Bool("update", false, "write what is made from results.json")

const (
	document = "../docs/performance.md"
	begin    = "<!-- results: written by `cd bench && go test . -update`, from bench/results.json -->\n"
	end      = "<!-- end of results -->\n"
)

// TestDocuments: the committed report, the chart and the tables in the documents
// are those of the committed results.
func TestDocuments(t *testing.T) {
	f, err := os.Open(result.FileJSON)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := result.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	var report, chart, short bytes.Buffer
	for _, err := range []error{r.Markdown(&report), r.SVG(&chart), r.Short(&short)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no place for results", document)
	}
	for file, want := range map[string]string{
		result.FileMarkdown: report.String(),
		result.FileSVG:      chart.String(),
		document:            before + begin + short.String() + end + after,
	} {
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is not what %s says; go test . -update writes it", file, result.FileJSON)
		}
	}
}
