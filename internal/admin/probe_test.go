package admin

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"midspan/internal/config"
	"midspan/internal/daemon"
	"midspan/internal/plan"
)

const (
	getRoot = "GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n"
	v1Text  = "PROXY TCP4 168.63.129.16 10.0.0.4 50000 8080\r\n"
	v2Start = "\r\n\r\n\x00\r\nQUIT\n"
	// What Azure puts in front of a probe: LOCAL, nothing about addresses.
	v2Local   = v2Start + "\x20\x00\x00\x00"
	v2Proxied = v2Start + "\x21\x11\x00\x0c\xa8\x3f\x81\x10\x0a\x00\x00\x04\xc3\x50\x1f\x90"
)

// v2With is a header of version 2 with n bytes of TLVs.
func v2With(command, family byte, addresses string, n int) string {
	tlvs := ""
	for n > 0 { // type NOOP, at most 0xffff long
		size := max(0, n-3)
		tlvs += "\x04" + string([]byte{byte(size >> 8), byte(size)}) + strings.Repeat("x", size)
		n = 0
	}
	rest := addresses + tlvs
	return v2Start + string([]byte{command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

// say sends text in pieces and returns all that comes back.
func say(t *testing.T, addr, text string, piece int) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	go func() {
		for p := range slices.Chunk([]byte(text), piece) {
			if _, err := c.Write(p); err != nil {
				return // refused already
			}
		}
	}()
	answer, _ := io.ReadAll(c) // a reset after an answer is fine
	return string(answer)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\r\n")
	return line
}

func TestProbe(t *testing.T) {
	r := restartProbe(t, func(l *limits) { l.header = time.Minute })
	const ok, refused = "HTTP/1.1 200 OK", "HTTP/1.1 400 Bad Request"
	for name, tt := range map[string]struct{ send, want string }{
		"no header":                    {getRoot, ok},
		"no header, old HTTP":          {"GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK"},
		"any path":                     {strings.Replace(getRoot, "/", "/healthz?x=1", 1), ok},
		"v1":                           {v1Text + getRoot, ok},
		"v1 UNKNOWN":                   {"PROXY UNKNOWN\r\n" + getRoot, ok},
		"v1 IPv6":                      {"PROXY TCP6 ::1 ::1 1 2\r\n" + getRoot, ok},
		"v2":                           {v2Proxied + getRoot, ok},
		"v2 with TLVs":                 {v2With(0x21, 0x11, v2Proxied[16:], 2000) + getRoot, ok},
		"v2 of no known family":        {v2With(0x21, 0x00, "", 0) + getRoot, ok},
		"v2 LOCAL":                     {v2Local + getRoot, ok},
		"v2 LOCAL with a few TLVs":     {v2With(0x20, 0x00, "", 9) + getRoot, ok},
		"v2 LOCAL with addresses":      {v2With(0x20, 0x11, v2Proxied[16:], 100) + getRoot, ok},
		"v2 LOCAL with TLVs, the most": {v2With(0x20, 0x00, "", 65535) + getRoot, ok},
		"HEAD":                         {strings.Replace(getRoot, "GET", "HEAD", 1), ok},
		"POST, which starts like v1":   {strings.Replace(getRoot, "GET", "POST", 1), "HTTP/1.1 405 Method Not Allowed"},
		"PROXYING, which does longer":  {strings.Replace(getRoot, "GET", "PROXYING", 1), "HTTP/1.1 405 Method Not Allowed"},
		"OPTIONS *":                    {strings.Replace(getRoot, "GET /", "OPTIONS *", 1), "HTTP/1.1 405 Method Not Allowed"},
		"v1 garbage":                   {"PROXY yes please\r\n" + getRoot, refused},
		"v1 without an end":            {"PROXY " + strings.Repeat("x", 300), refused},
		"v1 with a bare LF":            {"PROXY UNKNOWN\n" + getRoot, refused},
		"v1 of 10,000 bytes":           {"PROXY TCP4 " + strings.Repeat("1", 10_000) + "\r\n" + getRoot, refused},
		"v2 of version 3":              {v2Start + "\x31\x11\x00\x0c" + v2Proxied[16:] + getRoot, refused},
		"v2 with too few bytes":        {v2Start + "\x21\x11\x00\x02xx" + getRoot, refused},
		"v2 of 10,000 bytes":           {v2With(0x21, 0x11, v2Proxied[16:], 10_000) + getRoot, refused},
		"two headers":                  {v2Local + v1Text + getRoot, refused},
		"no HTTP":                      {"SSH-2.0-OpenSSH_9.2\r\n\r\n", refused},
		"a request of 20,000 bytes":    {"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 20_000) + "\r\n\r\n", "HTTP/1.1 431 Request Header Fields Too Large"},
	} {
		for how, piece := range map[string]int{"at once": len(tt.send), "byte by byte": 1} {
			if piece == 1 && len(tt.send) > 3000 {
				continue // takes long and shows nothing new
			}
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				if got := firstLine(say(t, r.probeAddr(), tt.send, piece)); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			})
		}
	}
}

func TestProbeIsNotLogged(t *testing.T) {
	r := start(t, nil)
	for _, send := range []string{getRoot, v1Text + getRoot, "PROXY garbage\r\n", "\x16\x03\x01garbage\r\n\r\n"} {
		say(t, r.probeAddr(), send, len(send))
	}
	c, err := net.Dial("tcp", r.probeAddr())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	eventually(t, "the probes are counted", func() bool {
		n := r.probes.counts()
		return n["200"] == 2 && n["400"] == 1 && n["tcp"] == 1
	})
	if s := r.log.String(); s != "" {
		t.Errorf("logged: %s", s)
	}
}

func TestProbeAnswers(t *testing.T) {
	r := start(t, nil)
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + r.probeAddr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		defer http.DefaultClient.CloseIdleConnections()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	check := func(when string, want map[string]string) {
		t.Helper()
		for path, w := range want {
			code, body := get(path)
			if got := fmt.Sprint(code, " ", body); got != w+"\n" {
				t.Errorf("%s, %s: %q, want %q", when, path, got, w)
			}
		}
	}
	check("running", map[string]string{
		"/":             "200 ok",
		"/route/sql":    "200 ok",
		"/route/spare":  "503 no server is up",
		"/route/absent": "404 no such route",
		"/route/":       "404 no such route",
		"/route/sql%2F": "404 no such route",
		"//":            "200 ok", // no redirect
	})
	r.set(func(p *plan.Plan) { p.Health.DownWhen = plan.DownAnyRoute })
	if err := r.daemon.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("a route is down", map[string]string{"/": "503 route spare has no server that is up", "/route/sql": "200 ok"})

	r.daemon.Drain()
	eventually(t, "draining", func() bool { return r.daemon.Status().State == daemon.Draining })
	check("draining", map[string]string{"/": "503 draining", "/route/sql": "503 draining", "/route/absent": "404 no such route"})
}

// TestProbeOfNodes: each node of a cluster answers for itself, and the route for the
// cluster.
func TestProbeOfNodes(t *testing.T) {
	r := start(t, func(p *plan.Plan) {
		at := func(host string, weight int) *plan.Server {
			return &plan.Server{Name: host + ":9092", Host: host, Port: 9092, Weight: weight}
		}
		p.Routes = append(p.Routes, &plan.Route{
			Name: "orders", Mode: plan.ModeKafka, Listen: []plan.Listen{{From: 19092, To: 19092}}, Default: []int{0},
			Servers: []*plan.Server{at("10.0.0.7", 1), at("10.0.0.8", 1), at("10.0.0.9", 0), {Name: "far", Port: 9092, Host: ""}},
			Check:   plan.Check{Kind: plan.CheckOff, Every: plan.Duration(time.Minute)},
			Kafka: &plan.Kafka{Host: "k.example", Ports: config.Ports{From: 19100, To: 19109}, Nodes: []plan.Node{
				{ID: 1, Server: 1, By: plan.NodeWritten}, {ID: 2, Server: 2, By: plan.NodeWritten}, {ID: 4, Server: 3, By: plan.NodeWritten},
			}},
		})
	})
	check := func(want map[string]string) {
		t.Helper()
		for path, w := range want {
			req, _ := http.NewRequest(http.MethodGet, path, nil)
			code, text := r.verdict(req)
			if got := fmt.Sprint(code, " ", text); got != w {
				t.Errorf("%s: %q, want %q", path, got, w)
			}
		}
	}
	check(map[string]string{
		"/route/orders":         "200 ok",
		"/route/orders/node/1":  "200 ok",
		"/route/orders/node/2":  "200 ok", // the weight is for who has a choice
		"/route/orders/node/4":  "503 the node is not up",
		"/route/orders/node/3":  "404 no such node is known",
		"/route/orders/node/99": "404 no such node is known",
		"/route/orders/node/":   "404 no such route",
		"/route/orders/node/-1": "404 no such route",
		"/route/orders/node/1/": "404 no such route",
		"/route/orders/node/x":  "404 no such route",
		"/route/sql/node/1":     "404 the route has no nodes: it is not of mode kafka",
		"/route/absent/node/1":  "404 no such route",
	})
	r.daemon.Drain()
	eventually(t, "draining", func() bool { return r.daemon.Status().State == daemon.Draining })
	check(map[string]string{"/route/orders/node/1": "503 draining", "/route/orders/node/3": "404 no such node is known"})
}

// Before the first plan nothing is known of routes, so no 404.
func TestProbeWhileStarting(t *testing.T) {
	s := New(Options{Daemon: daemon.New(daemon.Options{}), Version: "1.2.3"})
	for _, path := range []string{"/", "/route/sql", "/route/orders/node/1"} {
		req, _ := http.NewRequest(http.MethodGet, path, nil)
		if code, text := s.verdict(req); code != http.StatusServiceUnavailable || text != "starting" {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
}

func TestProbeKeepsConnections(t *testing.T) {
	r := start(t, nil)
	c, err := net.Dial("tcp", r.probeAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for i, connection := range []string{"keep-alive", "keep-alive", "close"} {
		prefix := ""
		if i == 0 {
			prefix = v2Local
		}
		fmt.Fprintf(c, "%sGET / HTTP/1.1\r\nHost: probe\r\nConnection: %s\r\n\r\n", prefix, connection)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(body) != "ok\n" || resp.Close != (connection == "close") {
			t.Errorf("request %d: %d %q, close %v", i, resp.StatusCode, body, resp.Close)
		}
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("after Connection: close: %v", err)
	}
}

func TestProbeTimesOut(t *testing.T) {
	r := restartProbe(t, func(l *limits) { l.header, l.idle = 100*time.Millisecond, 150*time.Millisecond })
	for name, send := range map[string]string{
		"silence":            "",
		"half a v1 header":   "PROXY TCP4 1",
		"half a v2 header":   v2Local[:13],
		"header, no request": v2Local,
		"half a request":     "GET / HT",
		"no end of headers":  "GET / HTTP/1.1\r\nHost: x\r\n",
		"no body":            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"idle":               "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			say(t, r.probeAddr(), send, max(1, len(send))) // returns when the server has closed
			if took := time.Since(began); took < 50*time.Millisecond || took > 20*time.Second {
				t.Errorf("closed after %s", took)
			}
		})
	}
}

// restartProbe is start with a probe endpoint that has other limits.
func restartProbe(t *testing.T, change func(*limits)) *rig {
	t.Helper()
	r := start(t, nil)
	off := *r.plan
	off.Health.Listen = plan.Listen{}
	if err := r.Use(&off); err != nil {
		t.Fatal(err)
	}
	r.Server.mu.Lock()
	change(&r.limits)
	r.Server.mu.Unlock()
	if err := r.Use(r.plan); err != nil {
		t.Fatal(err)
	}
	return r
}

// Silent clients cannot keep the load balancer out.
func TestProbeCrowd(t *testing.T) {
	r := restartProbe(t, func(l *limits) { l.conns = 8 })
	var silent []net.Conn
	for range 30 {
		c, err := net.Dial("tcp", r.probeAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	if got := firstLine(say(t, r.probeAddr(), getRoot, len(getRoot))); got != "HTTP/1.1 200 OK" {
		t.Errorf("got %q", got)
	}
	if isOpen(silent[0], 20*time.Second) {
		t.Error("the oldest is still open")
	}
	if !isOpen(silent[29], 20*time.Millisecond) {
		t.Error("the newest is closed")
	}
	if n := r.probes.counts()["tcp"]; n != 0 {
		t.Errorf("%d connections that were turned out count as TCP probes", n)
	}
}

// isOpen tells whether c is still open after a while.
func isOpen(c net.Conn, after time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(after))
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

func TestTCPProbesLeaveNothing(t *testing.T) {
	const n = 1000
	r := restartProbe(t, func(l *limits) { l.conns = n }) // those that are turned out do not count
	for i := range n {
		c, err := net.Dial("tcp", r.probeAddr())
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 { // as some load balancers do: reset
			_ = c.(*net.TCPConn).SetLinger(0)
		}
		c.Close()
	}
	eventually(t, "all are counted", func() bool { return r.probes.counts()["tcp"] >= n/2 }) // a reset may be seen before the accept
	if s := r.log.String(); s != "" {
		t.Errorf("logged: %s", s)
	}
}
