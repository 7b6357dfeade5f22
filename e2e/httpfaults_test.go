package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// TestHTTPEarlyAnswer: nginx refuses a body that is too long before it has read
// it. The client gets that answer, and no reset, as it does without midspan.
func TestHTTPEarlyAnswer(t *testing.T) {
	back := rig.Addr(t, "127.0.0.1")
	rig.Web(t, back, fmt.Sprintf("client_max_body_size 100k; server { listen %s; location / { proxy_pass http://127.0.0.1:1; } }", back))
	f, addr := httpFile(t, "    to: %q\n", back)
	rig.Run(t, f)
	body := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(body, make([]byte, 50<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"Expect":    {"--http1.1", "-H", "Expect: 100-continue"},
		"no Expect": {"--http1.1", "-H", "Expect:"},
		"chunks":    {"--http1.1", "-H", "Expect:", "-H", "Transfer-Encoding: chunked"},
	} {
		for range 3 {
			args := append([]string{"-T", body, "-o", "/dev/null", "-w", "%{http_code}"}, args...)
			direct, _ := rig.Curl(t, append(args, "http://"+back+"/")...)
			out, code := rig.Curl(t, append(args, "http://"+addr+"/")...)
			if out != "413" {
				t.Errorf("%s: curl ends with %d and got %q, want 413; directly %q", name, code, out, direct)
			}
		}
	}
	// Of HTTP/2 the curl of Debian 12 takes no answer before its body has gone, nor
	// does it from nginx directly.
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Timeout: rig.Patience, Transport: &http.Transport{Protocols: &protocols}}
	defer client.CloseIdleConnections()
	for range 10 {
		resp, err := client.Post("http://"+addr+"/", "", io.LimitReader(endless{}, 50<<20))
		if err != nil {
			t.Fatalf("HTTP/2: %v", err)
		}
		_, err = io.ReadAll(resp.Body)
		if resp.Body.Close(); err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge || resp.ProtoMajor != 2 {
			t.Errorf("HTTP/2: %s %s, %v; want 413", resp.Proto, resp.Status, err)
		}
	}
}

// TestHTTPMoreThanAsked: a server that says more than it was asked for spoils its
// own connection, and nobody else's answer.
func TestHTTPMoreThanAsked(t *testing.T) {
	const more = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned"
	for name, answer := range map[string]string{
		"two answers":       "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine" + more,
		"after HEAD":        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine" + more,
		"after 204":         "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nfine" + more,
		"after 304":         "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nfine" + more,
		"two lengths":       "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 100\r\n\r\nfine" + more,
		"length and chunks": "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n" + more,
		"after the chunks":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n" + more,
		"late":              "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
	} {
		t.Run(name, func(t *testing.T) {
			said := make(chan bool, 100)
			server := rig.Serve(t, nil, "127.0.0.1:0", func(c *net.TCPConn) {
				r := bufio.NewReader(c)
				for {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					if _, err := io.WriteString(c, answer); err != nil {
						return
					}
					if name == "late" {
						time.Sleep(20 * time.Millisecond) // its connection is kept by now
						_, _ = io.WriteString(c, more)
						said <- true
					}
				}
			})
			f, addr := httpFile(t, "    to: %q\n", server.Addr)
			rig.Run(t, f)
			method := http.MethodGet
			if name == "after HEAD" {
				method = http.MethodHead
			}
			client := &http.Client{Timeout: rig.Patience}
			defer client.CloseIdleConnections()
			for range 20 {
				req, err := http.NewRequest(method, "http://"+addr+"/", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := client.Do(req)
				if err != nil {
					continue // it is no answer of another's
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if strings.Contains(string(body), "poisoned") {
					t.Fatalf("somebody got an answer that was for nobody: %s %q", resp.Status, body)
				}
				if name == "late" {
					<-said // before the next request begins
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
}

// TestHTTPAborted: clients that go away in the middle leave nothing behind, at
// midspan or at the server.
func TestHTTPAborted(t *testing.T) {
	f, addr := httpFile(t, "    to: %q\n", counting(t))
	m := rig.Run(t, f)
	if err := download(http.DefaultClient, addr, 1000, ""); err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	open := func() int {
		fds, err := rig.FDs(m.PID())
		if err != nil {
			t.Fatal(err)
		}
		return fds["socket"] + fds["pipe"]
	}
	for i := range 200 {
		c := dial(t, addr)
		switch i % 4 {
		case 0: // in the middle of an answer
			fmt.Fprintf(c, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", 100<<20)
			_, _ = io.CopyN(io.Discard, c, 1<<20)
		case 1: // of a request
			fmt.Fprintf(c, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n%s", strings.Repeat("x", 5000))
		case 2: // of a request in chunks
			fmt.Fprintf(c, "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")
		case 3: // of a head
			fmt.Fprintf(c, "GET / HT")
		}
		if i%8 < 4 {
			reset(t, c)
		} else {
			c.Close()
		}
	}
	rig.Until(t, rig.Patience, "no connection is left", func() bool { return metrics(t, m)["midspan_connections"] == 0 })
	// Connections to the server may be kept, where the answer was whole.
	rig.Until(t, rig.Patience, "no descriptor is left", func() bool { return open() < 40 })
	if err := download(http.DefaultClient, addr, 1<<20, ""); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if n := metrics(t, m)["midspan_panics_total"]; n != 0 {
		t.Errorf("%v panics", n)
	}
}
