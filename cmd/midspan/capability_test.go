package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"midspan/internal/plan"
)

var updateTable = flag.Bool("update-capabilities", false, "write the table into docs/kernel.md")

// TestCapabilityTable: what the document says of the engines is what plan holds
// files to.
func TestCapabilityTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("\n| | relay | nft |\n|---|---|---|\n")
	for _, c := range plan.Capabilities {
		row := "| " + c.Means
		for _, e := range []plan.Engine{plan.Relay, plan.NFT} {
			if e.Carries(c.Feature) {
				row += " | yes"
			} else {
				row += " | no"
			}
		}
		b.WriteString(row + " |\n")
	}
	b.WriteString("\n")
	file := filepath.Join(root, "docs/kernel.md")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), "holds it to that -->\n")
	old, after, ok2 := strings.Cut(rest, "<!-- end -->")
	if !ok || !ok2 {
		t.Fatal("docs/kernel.md has no place for the table")
	}
	if *updateTable {
		if err := os.WriteFile(file, []byte(before+"holds it to that -->\n"+b.String()+"<!-- end -->"+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if old != b.String() {
		t.Errorf("docs/kernel.md has\n%s\nnot\n%s(-update-capabilities writes it)", old, b.String())
	}
}
