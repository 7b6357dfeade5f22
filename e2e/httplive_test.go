package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"midspan/e2e/rig"
)

// TestHTTPFailover kills one of two servers under load. What it was answering is
// lost; every other request is answered, whether the client keeps its connection
// or not, and no check is needed for that.
func TestHTTPFailover(t *testing.T) {
	const workers, size = 16, 16 << 10
	for name, keepAlive := range map[string]bool{"new connections": false, "kept connections": true} {
		t.Run(name, func(t *testing.T) {
			first, second := rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1")
			victim := rig.WebServer(t, nil, first, "first", size)
			rig.WebServer(t, nil, second, "second", size)
			f, addr := httpFile(t, "    to: [%q, %q]\n", first, second)
			rig.Run(t, f)
			load := startHTTPLoad(t, "http://"+addr+"/", workers, size, keepAlive)
			begin := time.Now()
			rig.Until(t, rig.Patience, "both get requests", func() bool { return load.seen("first", begin) && load.seen("second", begin) })
			time.Sleep(time.Second) // of load
			kill := time.Now()
			victim.Kill()
			dead := time.Now()
			time.Sleep(2 * time.Second) // of load
			restart := time.Now()
			rig.WebServer(t, nil, first, "first", size)
			rig.Until(t, rig.Patience, "the first has requests again", func() bool { return load.seen("first", restart) })
			load.stop()
			before, dying, after := load.phase("before", begin, kill), load.phase("as it dies", kill, dead), load.phase("without it", dead, time.Now())
			t.Logf("\n%s\n%s\n%s", before, dying, after)
			if n := len(before.failed) + len(dying.failed); n > workers {
				t.Errorf("%d requests were lost with the server, of %d workers", n, workers)
			}
			after.wantFailures(t, 0)
		})
	}
}

// TestHTTPReload reloads under load, while a WebSocket is open: nobody notices.
func TestHTTPReload(t *testing.T) {
	const size = 4 << 10
	a, b, ws := rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1"), echoWebSocket(t)
	rig.WebServer(t, nil, a, "a", size)
	rig.WebServer(t, nil, b, "b", size)
	hosts := fmt.Sprintf("    hosts: { ws.example.com: %q }\n", ws)
	f, addr := httpFile(t, "    to: %q\n%s", a, hosts)
	m := rig.Run(t, f)
	variants := []string{
		fmt.Sprintf("    to: [%q, %q]\n%s", a, b, hosts),
		fmt.Sprintf("    to: %q\n%s    http: { forwarded: append, response_headers: { set: { X-A: b } } }\n", b, hosts),
		fmt.Sprintf("    to: [%q, %q]\n%s    http: { sticky: SRV }\n", b, a, hosts),
		fmt.Sprintf("    to: %q\n%s", a, hosts),
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*rig.Patience)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+addr, &websocket.DialOptions{Host: "ws.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	begin := time.Now()
	kept, fresh := startHTTPLoad(t, "http://"+addr+"/", 8, size, true), startHTTPLoad(t, "http://"+addr+"/", 4, size, false)
	for i := range 20 {
		f.Write("routes:\n  web:\n    mode: http\n    listen: %q\n%s", addr, variants[i%len(variants)])
		m.Control("reload")
		if err := c.Write(ctx, websocket.MessageText, fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatalf("the WebSocket after reload %d: %v", i, err)
		}
		if _, b, err := c.Read(ctx); err != nil || string(b) != fmt.Sprint(i) {
			t.Fatalf("the WebSocket after reload %d: %q, %v", i, b, err)
		}
		time.Sleep(50 * time.Millisecond) // of load
	}
	kept.stop()
	fresh.stop()
	for name, load := range map[string]*httpLoad{"kept connections": kept, "new connections": fresh} {
		all := load.phase(name, begin, time.Now())
		t.Log(all)
		all.wantFailures(t, 0)
		if all.by["a"] == 0 || all.by["b"] == 0 {
			t.Errorf("%s: answered by %v; want both servers", name, all.by)
		}
	}
}

// TestHTTPDrain: at the end an answer under way arrives whole, and a connection
// that rests between requests does not hold it up.
func TestHTTPDrain(t *testing.T) {
	slow := rig.Serve(t, nil, "127.0.0.1:0", func(c *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
		for range 20 {
			time.Sleep(100 * time.Millisecond) // the slowness
			fmt.Fprint(c, "x")
		}
	})
	addr, f := rig.Addr(t, "127.0.0.1"), rig.NewFile(t)
	f.Write("drain: { detection: 100ms, timeout: 20s }\nroutes:\n  web:\n    mode: http\n    listen: %q\n    to: %q\n    hosts: { quick.example.com: %q }\n",
		addr, slow.Addr, telling(t, "quick", ""))
	m := rig.Run(t, f)
	rest := dial(t, addr)
	if _, err := io.WriteString(rest, "GET / HTTP/1.1\r\nHost: quick.example.com\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(rest)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	got := make(chan request, 1)
	go func() { got <- ask(&http.Client{Timeout: 20 * time.Second}, "http://"+addr+"/", 20) }()
	rig.Until(t, rig.Patience, "the slow request is at its server", func() bool { return slow.Conns.Load() == 1 })
	begin := time.Now()
	m.Signal(syscall.SIGTERM)
	if answer := <-got; answer.err != nil {
		t.Errorf("the answer under way: %v", answer.err)
	}
	if code := m.Exit(rig.Patience); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("it took %s to end; the slow answer takes two, and one that waited for all connections 20", took)
	}
	if b, err := r.ReadByte(); err == nil {
		t.Errorf("the connection that rested got %q", b)
	}
}

// httpRecord is a line of the JSON log of an http route.
type httpRecord struct {
	Event, Route, Client, Method, Host, Path, Protocol, Reason, Server string
	Status                                                             int
	Bytes                                                              int64 `json:"bytes_down"`
}

// TestHTTPLog: a line for each request, kept connections or not, also for those
// that midspan answers by itself.
func TestHTTPLog(t *testing.T) {
	addr, f := rig.Addr(t, "127.0.0.1"), rig.NewFile(t)
	f.Log = "json"
	f.Write("routes:\n  web: { mode: http, listen: %q, hosts: { x: %q, dead: %q } }\n", addr, telling(t, "web", ""), rig.Addr(t, "127.0.0.1"))
	m := rig.Run(t, f)
	c := dial(t, addr)
	r := bufio.NewReader(c)
	for _, request := range []struct {
		line, host string
		status     int
	}{
		{"GET /a?b=c", "x", 200},
		{"HEAD /a", "x", 200},
		{"DELETE /b", "x", 200},
		{"GET /", "unknown", 404},
		{"GET /", "dead", 502},
	} {
		method, path, _ := strings.Cut(request.line, " ")
		fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: %s\r\n\r\n", request.line, request.host)
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%s: %v", request.line, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != request.status && (request.status != 502 || resp.StatusCode != 503) {
			t.Errorf("%s of %s: %s, want %d", request.line, request.host, resp.Status, request.status)
		}
		var last httpRecord
		rig.Until(t, rig.Patience, request.line+" is logged", func() bool {
			for line := range strings.Lines(m.Stdout()) {
				var one httpRecord
				if err := json.Unmarshal([]byte(line), &one); err == nil && one.Method == method && one.Host == request.host {
					last = one
				}
			}
			return last.Method != ""
		})
		if last.Path != path && last.Path != strings.SplitN(path, "?", 2)[0] || last.Status != resp.StatusCode || last.Client != c.LocalAddr().String() || last.Route != "web" {
			t.Errorf("%s of %s is logged as %+v", request.line, request.host, last)
		}
	}
}
