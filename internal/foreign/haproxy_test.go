package foreign

import (
	"strings"
	"testing"
)

// TestHAProxyNotes: notes that depend on more than one line.
func TestHAProxyNotes(t *testing.T) {
	const (
		http  = "as it does in HAProxy without `mode http`"
		names = "server names are not carried over"
		a     = " server a a.b:1\n"
	)
	for name, c := range map[string]struct{ in, has, lacks string }{
		"http name":            {"listen http_in\n bind :5000\n" + a, http, names},
		"http port":            {"listen l\n bind :8080\n" + a, http, ""},
		"httplog":              {"listen l\n bind :5000\n option httplog\n" + a, http, ""},
		"mode http":            {"listen l\n bind :5000\n mode http\n" + a, "", http},
		"own mode tcp":         {"listen http_in\n bind :8080\n mode tcp\n option httplog\n" + a, "", http},
		"mode tcp by defaults": {"defaults\n mode tcp\n option httplog\nlisten redis\n bind *:8080\n" + a, "", http},
		"mode tcp of backend":  {"frontend http_in\n bind :80\n default_backend b\nbackend b\n mode tcp\n" + a, "", http},

		"name is the host":    {"listen l\n bind :1\n server a.b a.b:1\n server A A.c:1\n", "", names},
		"name is not":         {"listen l\n bind :1\n server x a.b:1\n", "in:3:11: " + names + ": metrics, log and status call a server by its host:port (x is a.b:1); dash", ""},
		"names":               {"listen l\n bind :1\n" + a + " server x c.b:1\n server y d.b:1\n server z e.b:1\n server u f.b:1\n", "in:4:11: " + names + ": metrics, log and status call a server by its host:port (x is c.b:1, y is d.b:1, z is e.b:1, 1 more); dash", ""},
		"names, two routes":   {"frontend f\n bind :1\n default_backend b\nfrontend g\n bind :2\n default_backend b\nbackend b\n server x a.b:1\n", "(x is a.b:1);", ""},
		"name without a port": {"listen l\n bind :1\n server x 10.0.0.1\n", "(x is 10.0.0.1)", ""},

		"check over TLS":              {"listen l\n bind :1\n option httpchk\n server a a.b:1 check ssl verify none\n", "", "over TLS"},
		"check on its own port":       {"listen l\n bind :1\n option httpchk\n server a a.b:1 check ssl verify none port 80\n", "", "over TLS"},
		"check-ssl":                   {"listen l\n bind :1\n option httpchk\n server a a.b:1 check check-ssl port 80\n", "the check of listen l is http over TLS in HAProxy; midspan's test speaks TLS where the route does", ""},
		"check-send-proxy":            {"listen l\n bind :1\n server a a.b:1 send-proxy check check-send-proxy port 80\n", "`check-send-proxy` is not carried over", ""},
		"check by PROXY":              {"listen l\n bind :1\n server a a.b:1 send-proxy check check-send-proxy\n", "", "check-send-proxy"},
		"TLS at both ends":            {"listen l\n bind :1 ssl crt x.pem\n server a a.b:1 ssl verify none\n", "", "ssl"},
		"the name is looked at":       {"listen l\n bind :1\n server a a.b:1 ssl ca-file x.pem\n", "the certificate of server a must also have its host (a.b)", ""},
		"two names":                   {"listen l\n bind :1\n server a a.b:1 ssl ca-file x.pem sni str(c.d) verifyhost e.f\n", "the name that server a is asked for (c.d) is not the one that its certificate must have (e.f)", ""},
		"a name by request":           {"listen l\n bind :1\n server a a.b:1 ssl ca-file x.pem sni req.hdr(host)\n", "`req.hdr(host)` is not carried over: midspan asks servers for one name", ""},
		"a backup that is plain":      {"listen l\n bind :1\n server a a.b:1 ssl verify none\n server b b.b:1 backup\n", "server b is not carried over: midspan speaks with all servers", ""},
		"redirects only":              {"listen l\n mode http\n bind :1\n bind :2 ssl crt x.pem\n redirect scheme https unless { ssl_fc }\n" + a, "in:3:2: `bind :1` is not carried over: all that HAProxy does there is to send clients to https (line 5)", "redirect scheme"},
		"HTTP/1.0 by ALPN":            {"listen l\n mode http\n bind :1 ssl crt x.pem alpn h2,http/1.0\n" + a, "in:3:29: `http/1.0` of `alpn` is not carried over", ""},
		"a long label":                {"frontend f\n bind :1\n use_backend b if { req.ssl_sni " + strings.Repeat("a", 64) + ".x }\n default_backend b\nbackend b\n" + a, "is not a host name", ""},
		"redirects some":              {"listen l\n mode http\n bind :1\n redirect location /x if { path /y }\n" + a, "`redirect location /x if { path /y }` is not carried over: a route forwards", ""},
		"TLS alone":                   {"listen l\n mode http\n bind :1\n http-request set-header X-A b if { ssl_fc }\n" + a, "", "X-A"},
		"headers of some":             {"listen l\n mode http\n bind :1\n http-request set-header X-A b if { path /y }\n" + a, "midspan changes headers of every request", ""},
		"a header by request":         {"listen l\n mode http\n bind :1\n http-request set-header X-A %[src]\n" + a, "midspan sets headers to constant values; what clients send in it is taken out", ""},
		"a header more by request":    {"listen l\n mode http\n bind :1\n http-request add-header X-A %[src]\n" + a, "midspan sets headers to constant values", "taken out"},
		"deny for some":               {"listen l\n mode http\n bind :1\n http-request deny if { path_beg /admin }\n" + a, openMark + "`http-request deny if { path_beg /admin }` is not carried over", ""},
		"deny in a backend":           {"frontend f\n mode http\n bind :1\n default_backend b\nbackend b\n mode http\n http-request deny if { src 10.0.0.1 }\n" + a, openMark + "`http-request deny if { src 10.0.0.1 }` is not carried over", ""},
		"headers of one backend":      {"frontend f\n mode http\n bind :1\n use_backend c if { path_beg /c }\n default_backend b\nbackend b\n mode http\n http-request set-header X-A b\n" + a + "backend c\n mode http\n server c c.b:1\n", "it is for backend b only, and midspan has one `http` for a route", ""},
		"a rewrite by the wrong path": {"listen l\n mode http\n bind :1\n http-request replace-path /x/(.*) /\\1\n" + a, "midspan replaces the beginning of a path that servers are chosen by", ""},
		"cookie prefix":               {"listen l\n mode http\n bind :1\n cookie S prefix\n" + a, "`cookie S prefix` is not carried over: midspan sets a cookie of its own", ""},
		"forwardfor except":           {"listen l\n mode http\n bind :1\n option forwardfor except 10.0.0.0/8\n" + a, "`except 10.0.0.0/8` is not carried over", ""},
		"a line that is too late":     {"frontend f\n bind :1\n use_backend b if { req.ssl_sni -m end .x.y }\n use_backend c if { req.ssl_sni a.x.y }\nbackend b\n" + a + "backend c\n server c c.b:1\n", "in:4:2: `use_backend c if { req.ssl_sni a.x.y }` has no counterpart and needs none: earlier lines take all", ""},
		"use-server":                  {"listen l\n bind :1\n use-server x if { req.ssl_sni a.x.y }\n server x a.b:1\n", "while the server is down, these connections are refused", ""},
		"use-server nobody":           {"listen l\n bind :1\n use-server y if { req.ssl_sni a.x.y }\n" + a, "listen l has no server `y`", ""},
		"a silent client":             {"frontend f\n bind :1\n tcp-request content accept if { req.ssl_hello_type 1 }\n tcp-request content reject\n default_backend b\nbackend b\n" + a, "midspan looks for a ClientHello in mode sni only", ""},
		"all backups":                 {"frontend f\n bind :1\n use_backend b if { req.ssl_sni a.x.y }\n default_backend c\nbackend b\n server b b.b:1 ssl verify none\nbackend c\n" + a, "`backend b` is not carried over: its servers and those of backend c (line 7) differ in `ssl`", ""},
		"server is a listener":        {"listen l\n bind :1\n server a 127.0.0.1:2\n" + a + "listen m\n bind :2\n server b 127.0.0.1:1\n" + a, "in:3:11: server 127.0.0.1:2 is not carried over: route m listens there (line 6)", ""},
		"a frontend into another":     {"listen l\n bind :1\n server a 127.0.0.1:2\n" + "listen m\n bind :2\n" + a, "", "not carried over: route"},
		"route into another":          {"listen l\n bind :1\n server a 127.0.0.1\nlisten m\n bind :2\n" + a, "in:1:1: route l is not carried over: no server is left", ""},
		"server beside health":        {"listen l\n bind :8080\n server a 127.0.0.1:8081\n", "`health` moves to 8082", ""},
		"weight 0 is left":            {"listen l\n bind :1\n server a 127.0.0.1:1\n server b a.b:3 weight 0\nlisten m\n bind :2\n" + a, "every server of route l has weight 0", ""},
		"rules of a lost section":     {"listen k\n bind :1\n" + a + "frontend l\n bind :2\n tcp-request connection reject\n", "`frontend l` (to line 6) is not carried over", openMark},
	} {
		t.Run(name, func(t *testing.T) {
			imp, _, err := importHAProxy("in", []byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			roundTrips(t, imp)
			got := shownNotes(imp)
			if !strings.Contains(got, c.has) || (c.lacks != "" && strings.Contains(got, c.lacks)) {
				t.Errorf("got\n%swant %q, not %q", got, c.has, c.lacks)
			}
		})
	}
}

// TestTLSAlone: where nothing else is there, the notes are the reasons.
func TestTLSAlone(t *testing.T) {
	_, _, err := importHAProxy("in", []byte("global\n daemon\nlisten l\n bind :443 ssl\n server a a.b:80\n"))
	if err == nil || !strings.Contains(err.Error(), "\nin:4:2: `bind :443 ssl` is not carried over: it has no certificate") || strings.Contains(err.Error(), "daemon") {
		t.Error(err)
	}
}

// TestRanked: what widens access comes first; Notes keep the order of the file.
func TestRanked(t *testing.T) {
	in := "*nat\n-A PREROUTING -p udp -j DNAT --to-destination 10.0.0.1\n" +
		"-A PREROUTING ! -s 10.0.0.0/8 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.1\nCOMMIT\n" +
		"*filter\n-A FORWARD -s 10.0.0.0/8 -j ACCEPT\n-A FORWARD -j ACCEPT\nCOMMIT\n"
	imp, _, err := importIPTables("in", []byte(in))
	if err != nil {
		t.Fatal(err)
	}
	order := ""
	for _, n := range imp.Ranked() {
		order += n.Pos.String() + " "
	}
	if want := "in:3:1 in:2:1 in:3:1 in:3:1 "; order != want {
		t.Errorf("ranked %s, want %s:\n%s", order, want, imp.Notes)
	}
	if imp.Notes[0].Pos.Line != 2 || len(imp.Needless) != 2 || imp.Needless[0].Pos.Line != 6 {
		t.Errorf("notes\n%s\nneedless\n%s", imp.Notes, imp.Needless)
	}
}
