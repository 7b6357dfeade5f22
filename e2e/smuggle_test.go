package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// hidden is a request that must never become one of its own. Each time that it is
// sent its path is another one of the same length: one that comes late is known too.
const (
	hidden     = "GET " + hiddenPath + " HTTP/1.1\r\nHost: x\r\n\r\n"
	hiddenPath = "/smuggled-000"
)

// smuggling are requests that two programs may read in two ways. Each begins with
// a request line and Host.
var smuggling = map[string]string{
	"CL.TE":                     "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
	"CL.TE, all":                lengthOf("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"+hidden),
	"TE.CL":                     "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(hidden) + "0\r\n\r\n",
	"TE.CL, TE first":           "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + chunk(hidden) + "0\r\n\r\n",
	"TE.TE, another":            lengthOf("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", "0\r\n\r\n"+hidden),
	"TE.TE, identity":           lengthOf("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"+hidden),
	"TE twice":                  lengthOf("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+hidden),
	"TE unknown":                lengthOf("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"+hidden),
	"TE, a blank before :":      lengthOf("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"+hidden),
	"TE, a blank before":        lengthOf(" Transfer-Encoding: chunked\r\n", "0\r\n\r\n"+hidden),
	"TE, a tab":                 lengthOf("Transfer-Encoding:\tchunked\r\n", "0\r\n\r\n"+hidden),
	"TE, vertical tab":          lengthOf("Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n"+hidden),
	"TE, quoted":                lengthOf("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"+hidden),
	"TE, folded":                lengthOf("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"+hidden),
	"TE, bare LF":               lengthOf("X: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+hidden),
	"TE, bare CR":               lengthOf("X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+hidden),
	"TE, a null":                lengthOf("Transfer-Encoding: chunked\x00\r\n", "0\r\n\r\n"+hidden),
	"TE, underscore":            lengthOf("Transfer_Encoding: chunked\r\n", "0\r\n\r\n"+hidden),
	"TE, capitals":              lengthOf("TRANSFER-ENCODING: CHUNKED\r\n", "0\r\n\r\n"+hidden),
	"CL.CL, smaller first":      fmt.Sprintf("Content-Length: 0\r\nContent-Length: %d\r\n\r\n%s", len(hidden), hidden),
	"CL.CL, larger first":       fmt.Sprintf("Content-Length: %d\r\nContent-Length: 0\r\n\r\n%s", len(hidden), hidden),
	"CL list":                   fmt.Sprintf("Content-Length: 0, %d\r\n\r\n%s", len(hidden), hidden),
	"CL +":                      fmt.Sprintf("Content-Length: +%d\r\n\r\n%s", len(hidden), hidden),
	"CL -":                      "Content-Length: -1\r\n\r\n" + hidden,
	"CL hex":                    "Content-Length: 0x10\r\n\r\n" + hidden,
	"CL blank inside":           "Content-Length: 1 0\r\n\r\n" + hidden,
	"CL empty":                  "Content-Length:\r\n\r\n" + hidden,
	"CL huge":                   "Content-Length: 18446744073709551616\r\n\r\n" + hidden,
	"CL, a blank before :":      fmt.Sprintf("Content-Length : %d\r\n\r\n%s", len(hidden), hidden),
	"chunk size huge":           "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n" + hidden,
	"chunk size negative":       "Transfer-Encoding: chunked\r\n\r\n-1\r\n" + hidden,
	"chunk size 0x":             "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + hidden,
	"chunk size empty":          "Transfer-Encoding: chunked\r\n\r\n\r\n" + hidden,
	"chunk ends in LF":          "Transfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n" + hidden,
	"chunk too short":           "Transfer-Encoding: chunked\r\n\r\n5\r\nabc\r\n0\r\n\r\n" + hidden,
	"chunk too long":            "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n" + hidden,
	"chunk extension with LF":   "Transfer-Encoding: chunked\r\n\r\n1;\nx\r\n0\r\n\r\n" + hidden,
	"chunk extension with CR":   "Transfer-Encoding: chunked\r\n\r\n1;a\rb\r\nx\r\n0\r\n\r\n" + hidden,
	"header without a colon":    "Transfer-Encoding chunked\r\n\r\n" + hidden,
	"header name with a blank":  "X Y: z\r\nContent-Length: 0\r\n\r\n" + hidden,
	"Host twice":                "Host: y\r\nContent-Length: 0\r\n\r\n" + hidden,
	"upgrade that is none":      "Connection: Upgrade\r\nUpgrade: e2e\r\nContent-Length: 0\r\n\r\n" + hidden,
	"upgrade to h2c":            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 0\r\n\r\n" + hidden,
	"Connection names a length": "Connection: close, Content-Length\r\nContent-Length: 48\r\n\r\n" + strings.Repeat("x", 4) + hidden,
}

// lengthOf is header lines with a length, and the body.
func lengthOf(lines, body string) string {
	return fmt.Sprintf("Content-Length: %d\r\n%s\r\n%s", len(body), lines, body)
}

func chunk(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

// ownPipeline are those of the above whose hidden request is, by RFC 9112, the
// client's own next one: a length of 0 ends what is before it.
var ownPipeline = map[string]bool{"upgrade that is none": true, "upgrade to h2c": true}

// TestSmuggling: whatever is sent, nginx behind never sees a request that the
// client did not make, and nobody gets another's answer.
func TestSmuggling(t *testing.T) {
	log := filepath.Join(t.TempDir(), "requests")
	back := rig.Addr(t, "127.0.0.1")
	rig.Web(t, back, fmt.Sprintf("log_format asked '$request';\nserver { listen %s; access_log %s asked; location / { return 200 \"$request_uri\"; } }", back, log))
	f, addr := httpFile(t, "    to: %q\n    http: { header_timeout: 2s }\n", back)
	m := rig.Run(t, f)
	asked := func(path string) int { return strings.Count(string(readIfThere(log)), " "+path+" ") }

	// What nginx sees is seen: two requests one after the other, in one segment.
	said := sayHTTP(t, addr, "GET /one HTTP/1.1\r\nHost: x\r\n\r\nGET /two HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", rig.Patience)
	if strings.Count(said, "HTTP/1.1 200 ") != 2 {
		t.Fatalf("for two requests the client got %q", said)
	}
	rig.Until(t, rig.Patience, "nginx has logged both", func() bool { return asked("/one") == 1 && asked("/two") == 1 })
	client := &http.Client{Timeout: rig.Patience}
	defer client.CloseIdleConnections()
	attacks := map[string]string{} // what was said to an attack, by its hidden path
	for _, name := range sortedKeys(smuggling) {
		for _, method := range []string{"POST", "GET"} {
			path := fmt.Sprintf("/smuggled-%03d", len(attacks))
			request := method + " /attack HTTP/1.1\r\nHost: x\r\n" + strings.ReplaceAll(smuggling[name], hiddenPath, path)
			said := sayHTTP(t, addr, request, 150*time.Millisecond)
			if !ownPipeline[name] {
				attacks[path] = fmt.Sprintf("%s, %s: the client got %.200q", name, method, said)
			} else {
				attacks[path] = ""
			}
			if n := strings.Count(said, "HTTP/1.1 200 "); n > 1 && !ownPipeline[name] {
				t.Errorf("%s, %s: %d answers: %.400q", name, method, n, said)
			}
			// Others on connections that are used again get their own answers.
			for i := range 3 {
				path := fmt.Sprintf("/victim%d", i)
				if words, err := fieldsOf(client, "http://"+addr+path); err != nil || len(words) != 1 || words[0] != path {
					t.Errorf("%s, %s: somebody else asks for %s and gets %q, %v", name, method, path, words, err)
				}
			}
		}
	}
	// Nginx, of one process, has logged by then what it was asked before.
	rig.Until(t, rig.Patience, "all connections but one have ended", func() bool { return metrics(t, m)["midspan_connections"] <= 1 })
	if _, err := fieldsOf(client, "http://"+addr+"/last"); err != nil {
		t.Error(err)
	}
	rig.Until(t, rig.Patience, "nginx has logged the last request", func() bool { return asked("/last") == 1 })
	for path, attack := range attacks {
		if attack != "" && asked(path) > 0 {
			t.Errorf("nginx has seen the hidden request of %s", attack)
		}
	}
	if now := metrics(t, m); now["midspan_panics_total"] != 0 {
		t.Errorf("%v panics", now["midspan_panics_total"])
	}
}

// sayHTTP sends text and returns what comes back until the end, or for a while.
func sayHTTP(t *testing.T, addr, text string, while time.Duration) string {
	t.Helper()
	c := dial(t, addr)
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(while)); err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(bufio.NewReader(c)) // however it ends
	return string(said)
}
