package result

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// bad is the fixture with all that can go wrong in it.
func bad() *Results {
	r := fixture().without("conn", "midspan").without("bulk8", "haproxy")
	r.Peers[6].Title = `a <b> & "c" | with a very long name`
	r.Peers = append(r.Peers, Peer{Name: "new", Title: "midspan, new", Kind: KindMidspan, Family: "midspan"})
	for round := range 3 {
		r.Samples = append(r.Samples, Sample{"bulk1", "new", round + 1, map[string]float64{"gbps": 9}})
	}
	r.Failures = []Failure{{Workload: "conn", Peer: "midspan", Round: 1, Error: "connect:\nrefused | twice"}}
	r.Setup.Quick = true
	return r
}

func TestGolden(t *testing.T) {
	empty := &Results{Started: time.Unix(0, 0)}
	for _, c := range []struct {
		file  string
		write func(io.Writer) error
	}{
		{"good.md", fixture().Markdown},
		{"good.svg", fixture().SVG},
		{"short.md", fixture().Short},
		{"good.json", fixture().Encode},
		{"bad.md", bad().Markdown},
		{"bad.svg", bad().SVG},
		{"empty.md", empty.Markdown},
		{"empty.svg", empty.SVG},
	} {
		t.Run(c.file, func(t *testing.T) {
			var b bytes.Buffer
			if err := c.write(&b); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(c.file, ".svg") {
				wellFormed(t, b.Bytes())
			}
			compare(t, filepath.Join("testdata", c.file), b.Bytes())
		})
	}
}

func compare(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("differs from %s (if that is right: go test ./result -update). Got:\n%s", file, got)
	}
}

func wellFormed(t *testing.T, text []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(text))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
	}
}
