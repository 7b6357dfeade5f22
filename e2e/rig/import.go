package rig

import (
	"os"
	"path/filepath"
	"testing"
)

// Import is what `midspan import` makes of text, as it is: its endpoints are the
// default ones, so it is for use in Isolate. It must pass `midspan check`.
func Import(t testing.TB, format, text string) *File {
	t.Helper()
	out, notes, code := Command(t, text, "import", format)
	if code != 0 {
		t.Fatalf("midspan import %s: exit code %d\n%s%s", format, code, out, notes)
	}
	f := &File{t: t, Path: filepath.Join(t.TempDir(), "midspan.yaml"), Health: "127.0.0.1:8080", Admin: "127.0.0.1:9600"}
	if err := os.WriteFile(f.Path, []byte(out), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("midspan import %s:\n%s%s", format, out, notes)
	if out, problems, code := Command(t, "", "check", f.Path); code != 0 {
		t.Fatalf("midspan check: exit code %d\n%s%s", code, out, problems)
	}
	return f
}
