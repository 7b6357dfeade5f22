package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the list into the document")

const (
	document = "../../../docs/conformance.md"
	begin    = "<!-- list: written by `cd conformance/nginx && go test ./suite -update`, from suite/list.go -->\n"
	end      = "<!-- end of list -->\n"
)

// TestDocument: the document has the list that the runner goes by.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no place for the list", document)
	}
	want := before + begin + markdown() + end + after
	if *update {
		if err := os.WriteFile(document, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(text) != want {
		t.Errorf("%s has another list than suite/list.go; `go test ./suite -update` writes it", document)
	}
}

// markdown is the list as the document has it.
func markdown() string {
	count := map[verdict]int{}
	kinds := map[kind]int{}
	var b strings.Builder
	for _, e := range list {
		count[e.verdict]++
		if e.verdict == passes {
			kinds[e.judges]++
		}
	}
	fmt.Fprintf(&b, "\nOf %d files %d pass, %d are skipped and %d fail. Of those that pass, %d judge midspan's own work, %d mostly the front's\nvariables over plain forwarding, and %d forwarding between the front's bridges to Unix sockets.\n\n",
		len(list), count[passes], count[skipped], count[fails], kinds[ofMidspan], kinds[ofFront], kinds[ofBridge])
	b.WriteString("| file | ends | judges | why, or what to know |\n|---|---|---|---|\n")
	for _, e := range list {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", e.file, e.verdict, e.judges, e.why)
	}
	return b.String() + "\n"
}

// TestList: each file once, in order, each with what its verdict asks for.
func TestList(t *testing.T) {
	if !slices.IsSortedFunc(list, func(a, b entry) int { return strings.Compare(a.file, b.file) }) {
		t.Error("the list is not in order")
	}
	for i, e := range list {
		switch {
		case i > 0 && list[i-1].file == e.file:
			t.Errorf("%s stands twice", e.file)
		case !strings.HasPrefix(e.file, "stream_") || !strings.HasSuffix(e.file, ".t"):
			t.Errorf("%s is no stream file", e.file)
		case e.verdict == passes && e.judges == "":
			t.Errorf("%s passes, and judges nothing", e.file)
		case e.verdict != passes && (e.why == "" || e.judges != ""):
			t.Errorf("%s does not pass, without a reason", e.file)
		case e.never && e.verdict != fails:
			t.Errorf("%s is never run, and does not fail", e.file)
		}
	}
}
