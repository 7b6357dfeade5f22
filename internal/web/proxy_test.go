package web

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"midspan/internal/config"
	"midspan/internal/plan"
)

// echo answers with the request as it was received: its line, its fields in the
// order of the wire, and its body.
func echo(t *testing.T) string {
	return rawServer(t, func(w *wire) {
		for {
			head, err := w.head()
			if err != nil {
				return
			}
			head = strings.TrimSuffix(head, "\r\n")
			body := ""
			for line := range strings.Lines(head) {
				var n int
				if _, err := fmt.Sscanf(line, "Content-Length: %d", &n); err == nil {
					b := make([]byte, n)
					io.ReadFull(w.r, b)
					body = string(b)
				}
				if strings.HasPrefix(line, "Transfer-Encoding") {
					for !strings.HasSuffix(body, "0\r\n\r\n") {
						c, err := w.r.ReadByte()
						if err != nil {
							return
						}
						body += string(c)
					}
				}
			}
			text := head + body
			w.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text))
		}
	})
}

// roundTrip sends a request and returns the whole response to it.
func (w *wire) roundTrip(request string) (head, body string) {
	w.t.Helper()
	w.send(request)
	method, _, _ := strings.Cut(request, " ")
	return w.response(method)
}

func (w *wire) response(method string) (head, body string) {
	w.t.Helper()
	head, err := w.head()
	if err != nil {
		w.t.Fatalf("%q: %v", head, err)
	}
	for line := range strings.Lines(head) {
		var n int
		if _, err := fmt.Sscanf(line, "Content-Length: %d", &n); err == nil && method != "HEAD" {
			b := make([]byte, n)
			if _, err := io.ReadFull(w.r, b); err != nil {
				w.t.Fatal(err)
			}
			body = string(b)
		}
	}
	return head, body
}

const forwarded = "X-Forwarded-For: 192.0.2.7|X-Forwarded-Proto: http|"

// TestRequestHeads: what a server gets for what a client sends, byte by byte.
func TestRequestHeads(t *testing.T) {
	for name, c := range map[string]struct {
		set      func(*plan.HTTP)
		in, want string
	}{
		"plain": {nil, "GET /a?b HTTP/1.1|hOST: x.example:80|Accept: */*|X:  y ", "GET /a?b HTTP/1.1|Host: x.example:80|Accept: */*|X:  y |" + forwarded + "X-Forwarded-Host: x.example:80|"},
		"hop by hop": {
			nil, "GET / HTTP/1.1|Host: x|A: 1|Connection: keep-alive, b|B: 2|Keep-Alive: 5|C: 3|Proxy-Connection: x|TE: gzip|Upgrade: h2c|HTTP2-Settings: x|D: 4",
			"GET / HTTP/1.1|Host: x|A: 1|C: 3|D: 4|" + forwarded + "X-Forwarded-Host: x|",
		},
		"h2c in a list":  {nil, "GET / HTTP/1.1|Host: x|Connection: Upgrade|Upgrade: a, H2C", "GET / HTTP/1.1|Host: x|" + forwarded + "X-Forwarded-Host: x|"},
		"h2c in another": {nil, "GET / HTTP/1.1|Host: x|Connection: Upgrade|Upgrade: a|Upgrade: h2c", "GET / HTTP/1.1|Host: x|" + forwarded + "X-Forwarded-Host: x|"},
		"trailers":       {nil, "GET / HTTP/1.1|Host: x|TE: trailers, gzip|Connection: TE", "GET / HTTP/1.1|Host: x|" + forwarded + "X-Forwarded-Host: x|TE: trailers|Connection: TE|"},
		"spoofed": {
			nil, "GET / HTTP/1.1|X-Forwarded-For: 1.1.1.1|Host: x|Forwarded: for=1.1.1.1|x-forwarded-host: y|X-Forwarded-Proto: https|X-Forwarded-Port: 1",
			"GET / HTTP/1.1|Host: x|" + forwarded + "X-Forwarded-Host: x|",
		},
		"spoofed for CGI": {
			nil, "GET / HTTP/1.1|X_Forwarded_For: 1.1.1.1|Host: x|x-forwarded_HOST: y|X_FORWARDED-PORT: 1|Xx_Forwarded: 2",
			"GET / HTTP/1.1|Host: x|Xx_Forwarded: 2|" + forwarded + "X-Forwarded-Host: x|",
		},
		"append": {
			func(h *plan.HTTP) { h.Forwarded = plan.ForwardedAppend }, "GET / HTTP/1.1|X-Forwarded-For: 1.1.1.1|Host: x|X-Forwarded-For: 2.2.2.2, 3.3.3.3|X-Forwarded-Proto: https",
			"GET / HTTP/1.1|Host: x|X-Forwarded-Proto: https|X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.7|X-Forwarded-Host: x|",
		},
		"off":         {func(h *plan.HTTP) { h.Forwarded = plan.ForwardedOff }, "GET / HTTP/1.1|Host: x|X-Forwarded-For: 1.1.1.1", "GET / HTTP/1.1|Host: x|X-Forwarded-For: 1.1.1.1|"},
		"host server": {func(h *plan.HTTP) { h.Host, h.Forwarded = plan.HostOfServer, plan.ForwardedOff }, "GET / HTTP/1.1|Host: x", "GET / HTTP/1.1|Host: s0|"},
		"host name":   {func(h *plan.HTTP) { h.Host = "y.example" }, "GET / HTTP/1.1|Host: x", "GET / HTTP/1.1|Host: y.example|" + forwarded + "X-Forwarded-Host: x|"},
		"old":         {nil, "GET / HTTP/1.0|Connection: keep-alive", "GET / HTTP/1.1|Host: s0|" + forwarded},
		"absolute":    {nil, "GET http://x/a HTTP/1.1|Host: x", "GET /a HTTP/1.1|Host: x|" + forwarded + "X-Forwarded-Host: x|"},
		"absolute ?":  {nil, "GET http://x?a HTTP/1.1|Host: x", "GET /?a HTTP/1.1|Host: x|" + forwarded + "X-Forwarded-Host: x|"},
		"options":     {nil, "OPTIONS * HTTP/1.1|Host: x", "OPTIONS * HTTP/1.1|Host: x|" + forwarded + "X-Forwarded-Host: x|"},
		"length":      {nil, "POST / HTTP/1.1|Host: x|Content-length: 003|Content-Length: 003|A: b||abc", "POST / HTTP/1.1|Host: x|A: b|" + forwarded + "X-Forwarded-Host: x|Content-Length: 3|abc"},
		"empty":       {nil, "POST / HTTP/1.1|Host: x|Content-Length: 0", "POST / HTTP/1.1|Host: x|" + forwarded + "X-Forwarded-Host: x|Content-Length: 0|"},
		"chunked":     {nil, "POST / HTTP/1.1|Host: x|Transfer-Encoding:  CHUNKED||3;a=b\r\nabc\r\n0\r\n\r\n", "POST / HTTP/1.1|Host: x|" + forwarded + "X-Forwarded-Host: x|Transfer-Encoding: chunked|3;a=b|abc|0||"},
		"set, removed": {
			func(h *plan.HTTP) {
				h.SetRequest = []config.Header{{Name: at("X-A"), Value: at("b")}, {Name: at("x-forwarded-proto"), Value: at("https")}}
				h.RemoveRequest = []string{"Cookie", "X-Forwarded-Host"}
			},
			"GET / HTTP/1.1|Host: x|x-a: 1|x_A: 3|cookie: c|X-B: 2", "GET / HTTP/1.1|Host: x|X-B: 2|X-Forwarded-For: 192.0.2.7|X-A: b|x-forwarded-proto: https|",
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr := echo(t)
			r := route(addr)
			if c.set != nil {
				c.set(r.HTTP)
			}
			f := newFront(t, r, addr)
			in := lines(c.in)
			for _, step := range []int{1, 7, len(in)} { // however it is cut
				w := f.dial()
				for at := 0; at < len(in); at += step {
					w.send(in[at:min(at+step, len(in))])
				}
				if _, body := w.response("GET"); strings.ReplaceAll(body, "\r\n", "|") != c.want {
					t.Errorf("is    %s\nwants %s", strings.ReplaceAll(body, "\r\n", "|"), c.want)
				}
				w.Close()
			}
		})
	}
}

func at(s string) config.Field[string] { return config.Field[string]{V: s} }

// TestResponses: what a client gets for what a server sends.
func TestResponses(t *testing.T) {
	for name, c := range map[string]struct {
		set           func(*plan.HTTP)
		request       string
		in, want      string
		closes, reuse bool // the client's connection; the server's
	}{
		"plain":           {nil, "", "HTTP/1.1 200 Fine|A: b|Content-length: 3||abc", "HTTP/1.1 200 Fine|A: b|Content-Length: 3||abc", false, true},
		"hop by hop":      {nil, "", "HTTP/1.1 200|A: b|Connection: x|X: y|Keep-Alive: timeout=5|Content-Length: 0", "HTTP/1.1 200 |A: b|Content-Length: 0||", false, true},
		"closes":          {nil, "", "HTTP/1.1 200 OK|Connection: close|Content-Length: 0", "HTTP/1.1 200 OK|Content-Length: 0||", false, false},
		"chunked":         {nil, "", "HTTP/1.1 200 OK|Transfer-Encoding: chunked|Trailer: T||3;x\r\nabc\r\n0\r\nT: u\r\n\r\n", "HTTP/1.1 200 OK|Trailer: T|Transfer-Encoding: chunked||3;x|abc|0|T: u||", false, true},
		"old server":      {nil, "", "HTTP/1.0 200 OK|Content-Length: 3||abc", "HTTP/1.1 200 OK|Content-Length: 3||abc", false, false},
		"too much":        {nil, "", "HTTP/1.1 200 OK|Content-Length: 3||abcd", "HTTP/1.1 200 OK|Content-Length: 3||abc", false, false},
		"chunks and more": {nil, "", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||0\r\n\r\nHTTP/1.1 200", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||0||", false, false},
		"204":             {nil, "", "HTTP/1.1 204 No Content|Content-Length: 0", "HTTP/1.1 204 No Content||", false, true},
		"304":             {nil, "", "HTTP/1.1 304 Not Modified|Content-Length: 3", "HTTP/1.1 304 Not Modified|Content-Length: 3||", false, true},
		"304 and a body":  {nil, "", "HTTP/1.1 304 Not Modified|Content-Length: 3||abc", "HTTP/1.1 304 Not Modified|Content-Length: 3||", false, false},
		"head":            {nil, "HEAD / HTTP/1.1|Host: x", "HTTP/1.1 200 OK|Content-Length: 3", "HTTP/1.1 200 OK|Content-Length: 3||", false, true},
		"head chunked":    {nil, "HEAD / HTTP/1.1|Host: x", "HTTP/1.1 200 OK|Transfer-Encoding: chunked", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||", false, true},
		"interim":         {nil, "", "HTTP/1.1 100 Continue||HTTP/1.1 103 Early Hints\r\nLink: x\r\nConnection: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 100 Continue||HTTP/1.1 103 Early Hints|Link: x||HTTP/1.1 200 OK|Content-Length: 3||abc", false, true},
		"interim, old":    {nil, "GET / HTTP/1.0", "HTTP/1.1 100 Continue||HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 200 OK|Content-Length: 3|Connection: close||abc", true, true},
		"client closes":   {nil, "GET / HTTP/1.1|Host: x|Connection: close", "HTTP/1.1 200 OK|Content-Length: 3||abc", "HTTP/1.1 200 OK|Content-Length: 3|Connection: close||abc", true, true},
		"old client":      {nil, "GET / HTTP/1.0", "HTTP/1.1 200 OK|Content-Length: 3||abc", "HTTP/1.1 200 OK|Content-Length: 3|Connection: close||abc", true, true},
		"old, keeps":      {nil, "GET / HTTP/1.0|Connection: keep-alive", "HTTP/1.1 200 OK|Content-Length: 3||abc", "HTTP/1.1 200 OK|Content-Length: 3|Connection: keep-alive||abc", false, true},
		"old, chunked":    {nil, "GET / HTTP/1.0|Connection: keep-alive", "HTTP/1.1 200 OK|Transfer-Encoding: chunked||3;x\r\nabc\r\n4\r\ndefg\r\n0\r\nT: u\r\n\r\n", "HTTP/1.1 200 OK|Connection: close||abcdefg", true, true},
		"set, removed": {func(h *plan.HTTP) {
			h.SetResponse = []config.Header{{Name: at("Server"), Value: at("m")}}
			h.RemoveResponse = []string{"X-Powered-By"}
		}, "", "HTTP/1.1 200 OK|server: x|X-POWERED-BY: y|A: b|Content-Length: 0", "HTTP/1.1 200 OK|A: b|Content-Length: 0|Server: m||", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			addr := says(t, lines(c.in))
			r := route(addr)
			if c.set != nil {
				c.set(r.HTTP)
			}
			f := newFront(t, r, addr)
			if c.request == "" {
				c.request = "GET / HTTP/1.1|Host: x"
			}
			rounds := 2 // a second one on the same connection, if it stays
			if c.closes {
				rounds = 1
			}
			w := f.dial()
			for range rounds {
				w.send(lines(c.request))
				w.expect(strings.ReplaceAll(c.want, "|", "\r\n"))
			}
			if c.closes {
				if rest, err := w.rest(); rest != "" || err != nil {
					t.Errorf("then %q, %v", rest, err)
				}
				return
			}
			f.recorded(2)
			want := int64(2)
			if c.reuse {
				want = 1
			}
			if n := f.servers.all[0].dials.Load(); n != want {
				t.Errorf("%d connections to the server, want %d", n, want)
			}
			w.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if b, err := w.r.ReadByte(); err == nil {
				t.Errorf("then a byte %q", b)
			}
		})
	}
}

// TestHosts: which servers get a request, and with what path.
func TestHosts(t *testing.T) {
	r := route("0", "1", "2", "3", "4", "5")
	r.Groups = []plan.Group{
		{Match: "api.example.com", Servers: []int{1}},
		{Match: "*.example.com", Servers: []int{2}},
		{Match: "*.static.example.com", Servers: []int{3}},
		{Match: "app.example.com", Path: "/", Servers: []int{4}},
		{Match: "app.example.com", Path: "/api/", Rewrite: "/", Servers: []int{5}},
		{Match: "app.example.com", Path: "/api/v2/", Rewrite: "/new/", Servers: []int{1}},
		{Match: "app.example.com", Path: "/old", Rewrite: "/", Servers: []int{1}},
		{Match: "part.example.com", Path: "/only/", Servers: []int{1}},
	}
	x := newRules(r, nil)
	for in, want := range map[string]string{
		"api.example.com /x":            "0 /x",
		"API.example.COM:8080 /x":       "0 /x",
		"api.example.com. /x":           "0 /x",
		"www.example.com /":             "1 /",
		"a.b.example.com /":             "1 /",
		"example.com /":                 "-1 /",
		".example.com /":                "-1 /",
		"a.static.example.com /":        "2 /",
		"static.example.com /":          "1 /",
		"other.org /":                   "-1 /",
		" /":                            "-1 /",
		"[::1]:80 /":                    "-1 /",
		"app.example.com /":             "3 /",
		"app.example.com /api":          "3 /api",
		"app.example.com /api/":         "4 /",
		"app.example.com /api/x?y=/z":   "4 /x?y=/z",
		"app.example.com /api/v2/x":     "5 /new/x",
		"app.example.com /api/v2?/":     "4 /v2?/",
		"app.example.com /old/x":        "6 /x",
		"app.example.com /older/x":      "6 /er/x", // plain text, as in nginx
		"app.example.com /old":          "6 /",
		"app.example.com ?q":            "3 /?q",
		"app.example.com *":             "-1 *",
		"part.example.com /only/x":      "7 /only/x",
		"part.example.com /other":       "-1 /other",
		strings.Repeat("a", 300) + " /": "-1 /",
	} {
		host, path, _ := strings.Cut(in, " ")
		target := x.match([]byte(host), []byte(path))
		if got := fmt.Sprintf("%d %s", target.group, target.appendPath(nil, []byte(path))); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	r.Groups = append(r.Groups, plan.Group{Match: "*", Path: "/a", Servers: []int{1}})
	if x = newRules(r, nil); x.match([]byte("other.org"), []byte("/abc")).group != 8 || x.match([]byte("other.org"), []byte("/b")).group != -1 {
		t.Error("every host")
	}
}

// TestNoRoute: a host that nobody serves.
func TestNoRoute(t *testing.T) {
	addr := echo(t)
	r := route(addr)
	r.Default, r.Groups = nil, []plan.Group{{Match: "a", Servers: []int{0}}}
	f := newFront(t, r, addr)
	w := f.dial()
	if head, body := w.roundTrip("GET / HTTP/1.1\r\nHost: b\r\n\r\n"); !strings.HasPrefix(head, "HTTP/1.1 404 Not Found\r\n") || body != "404 Not Found: no servers for this host and path\n" {
		t.Error(head, body)
	}
	if head, _ := w.roundTrip("GET / HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") {
		t.Error(head)
	}
	if head, _ := w.roundTrip("HEAD / HTTP/1.1\r\nHost: b\r\n\r\n"); !strings.Contains(head, "Content-Length: 49\r\n") {
		t.Error(head)
	}
	if x := f.recorded(3); x[0].Reason != NoRoute || x[0].Status != 404 || x[1].Status != 200 || x[1].Server != "s0" {
		t.Errorf("%+v", x)
	}
}

// TestSticky: a client comes back to its server, and a cookie does not tell
// which one that is.
func TestSticky(t *testing.T) {
	var addrs []string
	for i := range 3 {
		addrs = append(addrs, server(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, i) }))
	}
	r := route(addrs...)
	r.HTTP.Sticky = "SRV"
	f := newFront(t, r, addrs...)
	w := f.dial()
	head, first := w.roundTrip("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	_, cookie, _ := strings.Cut(head, "Set-Cookie: ")
	cookie, _, _ = strings.Cut(cookie, "\r\n")
	value, attributes, _ := strings.Cut(cookie, "; ")
	if attributes != "Path=/; HttpOnly; SameSite=Lax" || len(value) != len("SRV=")+16 || strings.Contains(value, "s"+first) {
		t.Fatal(head)
	}
	for range 6 {
		head, body := w.roundTrip("GET / HTTP/1.1\r\nHost: a\r\nCookie: x=y; " + value + "; z\r\n\r\n")
		if body != first || strings.Contains(head, "Set-Cookie") {
			t.Errorf("%s is not %s; %s", body, first, head)
		}
	}
	if head, _ := w.roundTrip("GET / HTTP/1.1\r\nHost: a\r\nCookie: SRV=unknown\r\n\r\n"); !strings.Contains(head, "Set-Cookie: SRV=") {
		t.Error(head)
	}
	if cookieValue("web", "s0") == cookieValue("other", "s0") {
		t.Error("cookie values")
	}
}

// TestStickySets: each set of servers has a cookie of its own, so that the answer of
// one does not take a client off its server in another; a single server has none.
func TestStickySets(t *testing.T) {
	var addrs []string
	for i := range 5 {
		addrs = append(addrs, server(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) }))
	}
	r := route(addrs...)
	r.HTTP.Sticky, r.Default = "SRV", []int{0, 1}
	r.Groups = []plan.Group{
		{Match: "*", Path: "/", Servers: []int{1, 0}}, {Match: "*", Path: "/two/", Servers: []int{2, 3}}, {Match: "*", Path: "/one/", Servers: []int{4}},
	}
	x := newRules(r, nil)
	two := x.match([]byte("a"), []byte("/two/")).cookie
	if len(two) != len("SRV-")+8 || !strings.HasPrefix(two, "SRV-") || x.other.cookie != "SRV" || x.match([]byte("a"), []byte("/")).cookie != "SRV" || x.match([]byte("a"), []byte("/one/")).cookie != "" {
		t.Fatalf("%q %+v %+v", two, x.other, x.wild)
	}
	protocols(t, func(t *testing.T, h2, _ bool) {
		f := newFront(t, r, addrs...)
		c := clientOf(t, h2)
		jar := map[string]string{}
		stay := map[string]string{}
		for range 6 {
			for _, path := range []string{"/", "/one/", "/two/"} {
				req, _ := http.NewRequest("GET", "http://"+f.addr+path, nil)
				for n, v := range jar {
					req.AddCookie(&http.Cookie{Name: n, Value: v})
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				for _, got := range resp.Cookies() {
					if jar[got.Name] != "" {
						t.Errorf("%s: another %s", path, got.Name)
					}
					jar[got.Name] = got.Value
				}
				if stay[path] == "" {
					stay[path] = string(body)
				} else if stay[path] != string(body) {
					t.Errorf("%s: from %s to %s", path, stay[path], body)
				}
			}
		}
		if len(jar) != 2 || jar["SRV"] == "" || jar[two] == "" {
			t.Error(jar)
		}
	})
}

// TestRecord: what is told of a request.
func TestRecord(t *testing.T) {
	addr := echo(t)
	f := newFront(t, route(addr), addr)
	w := f.dial()
	_, body := w.roundTrip("POST /a?b HTTP/1.1\r\nHost: h:1\r\nContent-Length: 5\r\n\r\nhello")
	w.roundTrip("GET http://h/ HTTP/1.0\r\n\r\n")
	x := f.recorded(2)
	a, b := x[0], x[1]
	if string(a.Method) != "POST" || string(a.Path) != "/a?b" || string(a.Host) != "h:1" || a.Protocol != "HTTP/1.1" || a.Status != 200 || a.Server != "s0" ||
		a.Endpoint.String() != addr || a.BytesUp != 5 || a.BytesDown != int64(len(body)) || a.Connect <= 0 || a.Wait < a.Connect || a.Duration < a.Wait || a.Reason != Done || a.Err != nil {
		t.Errorf("%+v", a)
	}
	if string(b.Method) != "GET" || string(b.Path) != "/" || string(b.Host) != "h" || b.Protocol != "HTTP/1.0" || b.Connect != 0 || b.BytesUp != 0 {
		t.Errorf("%+v", b)
	}
}

// TestPipelined: requests that come at once are answered in order.
func TestPipelined(t *testing.T) {
	addr := echo(t)
	f := newFront(t, route(addr), addr)
	w := f.dial()
	const n = 50
	all := ""
	for i := range n {
		switch i % 3 {
		case 0:
			all += fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
		case 1:
			all += fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", i)
		case 2:
			all += fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", i)
		}
	}
	for _, step := range []int{len(all), 11, 100} {
		go func() {
			for at := 0; at < len(all); at += step {
				w.send(all[at:min(at+step, len(all))])
			}
		}()
		for i := range n {
			if _, body := w.response(""); !strings.Contains(body, fmt.Sprintf(" /%d HTTP", i)) {
				t.Fatalf("%d: %s", i, body)
			}
		}
	}
}
