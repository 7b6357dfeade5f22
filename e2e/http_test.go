package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// httpFile is a file with one route in mode http.
func httpFile(t *testing.T, format string, args ...any) (f *rig.File, addr string) {
	t.Helper()
	f, addr = rig.NewFile(t), rig.Addr(t, "127.0.0.1")
	f.Write("routes:\n  web:\n    mode: http\n    listen: %q\n%s", addr, fmt.Sprintf(format, args...))
	return f, addr
}

// telling is an nginx that answers every request with its name and what it was
// asked: on which of its connections, the how-manieth there, and more.
func telling(t *testing.T, name, more string) string {
	t.Helper()
	addr := rig.Addr(t, "127.0.0.1")
	rig.Web(t, addr, fmt.Sprintf("server { listen %s; %s location / { return 200 \"%s $connection $connection_requests $request_method $host $request_uri "+
		"for=$http_x_forwarded_for proto=$http_x_forwarded_proto\"; } }", addr, more, name))
	return addr
}

// TestHTTPRules: hosts, paths and what is told about the client, as nginx hears
// it from curl.
func TestHTTPRules(t *testing.T) {
	web, api, static := telling(t, "web", ""), telling(t, "api", ""), telling(t, "static", "")
	f, addr := httpFile(t, `    to: %q
    hosts:
      "*.static.example.com": %q
      app.example.com: { /: %q, /api/: { to: %q, rewrite: / } }
`, web, static, web, api)
	f.Log = "json"
	rig.Run(t, f)
	_, port, _ := net.SplitHostPort(addr)
	for _, c := range []struct{ host, path, server, asked string }{
		{"other.example.com", "/x?y=1", "web", "/x?y=1"},
		{"a.static.example.com", "/x", "static", "/x"},
		{"app.example.com", "/", "web", "/"},
		{"app.example.com", "/api", "web", "/api"},
		{"app.example.com", "/api/x%20y", "api", "/x%20y"},
		{"APP.example.com", "/api/", "api", "/"},
	} {
		out, code := rig.Curl(t, "--resolve", rig.Resolve(c.host, addr), "-H", "X-Forwarded-For: 1.2.3.4", "http://"+c.host+":"+port+c.path)
		words := strings.Fields(out)
		if code != 0 || len(words) != 8 || words[0] != c.server || words[4] != strings.ToLower(c.host) || words[5] != c.asked {
			t.Errorf("%s%s: %q; want %s, asked for %s", c.host, c.path, out, c.server, c.asked)
			continue
		}
		if words[6] != "for=127.0.0.1" || words[7] != "proto=http" {
			t.Errorf("%s: nginx is told %q of the client", c.host, words[6:])
		}
	}
}

// TestHTTPKeepAlive: connections to nginx are used again, whatever clients do
// with theirs, and an nginx that ends its own while it is asked loses nothing.
func TestHTTPKeepAlive(t *testing.T) {
	for _, c := range []struct {
		name           string
		clientKeeps    bool
		most           int // connections of nginx's
		more           string
		workers, times int
	}{
		{"one client that keeps its connection", true, 2, "", 1, 300},
		{"a connection for each request", false, 8, "", 1, 300},
		{"an nginx that ends connections early", true, 1000, "keepalive_requests 10;", 16, 300},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, addr := httpFile(t, "    to: %q\n", telling(t, "web", c.more))
			m := rig.Run(t, f)
			client := &http.Client{Timeout: rig.Patience, Transport: &http.Transport{DisableKeepAlives: !c.clientKeeps, MaxIdleConnsPerHost: c.workers}}
			defer client.CloseIdleConnections()
			var mu sync.Mutex
			conns := map[string]int{}
			var all sync.WaitGroup
			for range c.workers {
				all.Go(func() {
					for range c.times {
						words, err := fieldsOf(client, "http://"+addr+"/")
						if err != nil || len(words) < 3 {
							t.Errorf("%q, %v", words, err)
							return
						}
						mu.Lock()
						conns[words[1]]++
						mu.Unlock()
					}
				})
			}
			all.Wait()
			if len(conns) > c.most {
				t.Errorf("nginx saw %d connections for %d requests, want %d at the most", len(conns), c.workers*c.times, c.most)
			}
			if n := metrics(t, m)[`midspan_panics_total`]; n != 0 {
				t.Errorf("%v panics", n)
			}
		})
	}
}

// fieldsOf asks and splits the answer into words.
func fieldsOf(client *http.Client, url string) ([]string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return strings.Fields(string(text)), err
}

// TestHTTPSticky: curl with its jar of cookies stays with a server until that is
// gone; without, it is sent around.
func TestHTTPSticky(t *testing.T) {
	first, second := rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1")
	servers := map[string]*rig.Nginx{"first": rig.WebServer(t, nil, first, "first", 10), "second": rig.WebServer(t, nil, second, "second", 10)}
	f, addr := httpFile(t, "    to: [%q, %q]\n    http: { sticky: SRV }\n    check: { kind: tcp, every: 200ms, timeout: 5s, rise: 1, fall: 1 }\n", first, second)
	m := rig.Run(t, f)
	ask := func(args ...string) string {
		t.Helper()
		out, code := rig.Curl(t, append(args, "-o", "/dev/null", "-w", "%header{served-by} %{http_code}", "http://"+addr+"/")...)
		name, status, _ := strings.Cut(out, " ")
		if code != 0 || status != "200" {
			t.Errorf("curl got %q", out)
		}
		return name
	}
	seen := map[string]bool{}
	for range 6 {
		seen[ask()] = true
	}
	if len(seen) != 2 {
		t.Errorf("without a cookie requests went to %v", sortedKeys(seen))
	}
	for range 3 { // each jar may begin elsewhere
		jar := filepath.Join(t.TempDir(), "jar")
		home := ask("-c", jar, "-b", jar)
		for range 10 {
			if got := ask("-c", jar, "-b", jar); got != home {
				t.Fatalf("with the cookie of %s: %s", home, got)
			}
		}
	}
	jar := filepath.Join(t.TempDir(), "jar")
	home := ask("-c", jar, "-b", jar)
	servers[home].Kill()
	rig.Until(t, rig.Patience, home+" is down", func() bool { return strings.Contains(m.Control("status"), "DOWN") })
	away := ask("-c", jar, "-b", jar)
	if away == home {
		t.Errorf("%s answers, and is dead", home)
	}
	for range 5 {
		if got := ask("-c", jar, "-b", jar); got != away {
			t.Errorf("with a new cookie, of %s: %s", away, got)
		}
	}
}

// TestHTTPSlow: 200 clients that send their requests a byte at a time, and never
// all of it, stop nobody else, and are sent away in time.
func TestHTTPSlow(t *testing.T) {
	const limit = 8 * time.Second
	f, addr := httpFile(t, "    to: %q\n    http: { header_timeout: %s }\n", telling(t, "web", ""), limit)
	rig.Run(t, f)
	var all sync.WaitGroup
	for i := range 200 {
		begin := time.Now()
		c := dial(t, addr)
		all.Go(func() { trickle(c) })
		all.Go(func() {
			answer, err := io.ReadAll(c)
			if len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") || len(answer) == 0 && err == nil {
				t.Errorf("slow client %d got %.60q, %v; want 408", i, answer, err)
			}
			if took := time.Since(begin); took < limit-time.Second || took > 2*limit {
				t.Errorf("slow client %d was sent away after %s, want %s", i, took, limit)
			}
		})
	}
	client := &http.Client{Timeout: rig.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	var worst time.Duration
	for range 200 {
		asked := time.Now()
		if _, err := fieldsOf(client, "http://"+addr+"/"); err != nil {
			t.Fatal(err)
		}
		worst = max(worst, time.Since(asked))
	}
	if worst > limit/2 { // it would be all of it, or the slow ones are gone
		t.Errorf("a request took %s beside the slow ones", worst)
	}
	all.Wait()
	t.Logf("200 requests beside them, the longest of %s", worst.Round(time.Microsecond))
}

// trickle sends a request that does not end, a byte at a time, until nobody takes
// it any more.
func trickle(c net.Conn) {
	const request = "GET /slow HTTP/1.1\r\nHost: x\r\nX-Slow: "
	for i := 0; ; i++ {
		b := byte('x')
		if i < len(request) {
			b = request[i]
		}
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond) // the slowness
	}
}

// TestHTTPTruncated kills an nginx half-way through an answer: the client must
// see that it is not whole, in every form that answers have.
func TestHTTPTruncated(t *testing.T) {
	const size = 64 << 20
	for _, c := range []struct{ name, more, args string }{
		{"length", "", "--http1.1"},
		{"chunks", "", "--http1.1"},
		{"h2", "", "--http2-prior-knowledge"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var to string
			var kill func()
			if c.name == "chunks" {
				to, kill = chunkedUntilKilled(t)
			} else {
				addr := rig.Addr(t, "127.0.0.1")
				server := rig.WebServer(t, nil, addr, "web", size)
				to, kill = addr, server.Kill
			}
			f, addr := httpFile(t, "    to: %q\n", to)
			rig.Run(t, f)
			var got atomic.Int64
			var code int
			out := filepath.Join(t.TempDir(), "body")
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, code = rig.Curl(t, c.args, "--limit-rate", "4M", "-o", out, "http://"+addr+"/")
			}()
			rig.Until(t, rig.Patience, "curl has a part", func() bool { got.Store(int64(len(readIfThere(out)))); return got.Load() > 1<<20 })
			kill()
			<-done
			// Of curl's manual: 18 is a partial file, 56 a failure to receive, 92 an
			// error of an HTTP/2 stream.
			if code != 18 && code != 56 && code != 92 {
				t.Errorf("curl ends with %d after %d of %d bytes, and takes that for an answer", code, len(readIfThere(out)), size)
			}
		})
	}
}
