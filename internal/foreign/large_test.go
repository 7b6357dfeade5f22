package foreign

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"midspan/internal/config"
)

// TestLarge: the time an import takes is bounded, and a small input cannot
// become a huge File.
func TestLarge(t *testing.T) {
	repeat := func(n int, format string) string {
		var b strings.Builder
		for i := range n / shrink {
			fmt.Fprintf(&b, format, i%60000+1, i+2)
		}
		return b.String()
	}
	same := func(n int, text string) string { return strings.Repeat(text, n/shrink) }
	const listen = "listen l\n bind :1\n server a b.c:1\n"
	for name, c := range map[string]struct {
		in  string
		run func(string, []byte) (*Import, *ledger, error)
	}{
		"haproxy lines":       {listen + same(100_000, "stick on src\n"), importHAProxy},
		"haproxy notes":       {listen + repeat(100_000, "blink %[2]d\n"), importHAProxy},
		"haproxy sections":    {same(100_000, "listen l\n"), importHAProxy},
		"haproxy binds":       {listen + repeat(100_000, "bind :%[1]d\n"), importHAProxy},
		"haproxy use_backend": {listen + same(50_000, "use_backend b if x\n") + same(50_000, "use_backend b\n"), importHAProxy},
		"haproxy frontends": {
			repeat(5000, "frontend f\n bind :%[1]d\n default_backend b\n") + "backend b\n" + repeat(2000, " server s%[2]d 10.0.0.1:%[1]d\n"),
			importHAProxy,
		},
		"haproxy defaults":    {repeat(50_000, "defaults d%[1]d from d%[2]d\n") + "listen l from d1\n bind :1\n server a b.c:1\n", importHAProxy},
		"haproxy names":       {"frontend f\n bind :1\n" + repeat(50_000, "use_backend b if { req.ssl_sni a%[2]d.b.c }\n") + "backend b\n server a b.c:1\n", importHAProxy},
		"haproxy some names":  {"frontend f\n bind :1\n" + repeat(4000, "use_backend b if { req.ssl_sni a%[2]d.b.c }\n") + "backend b\n server a b.c:1\n", importHAProxy},
		"haproxy paths":       {"frontend f\n bind :1\n mode http\n" + repeat(9000, "use_backend b if { path_beg /a%[2]d }\n") + "backend b\n server a b.c:1\n", importHAProxy},
		"haproxy conditions":  {"frontend f\n bind :1\n mode http\n use_backend b if " + same(30_000, "{ path_beg /a /b } or { path /c } ") + "\n" + same(30_000, "acl x path_beg /x\n") + " use_backend b if x x x x x x\n default_backend b\nbackend b\n server a b.c:1\n", importHAProxy},
		"haproxy kinds":       {"listen l\n mode http\n" + repeat(2000, "bind :%[1]d ssl crt a%[2]d\n") + same(2000, "http-request deny if { src 10.0.0.1 }\n") + " server a b.c:1\n", importHAProxy},
		"haproxy sources":     {listen + repeat(50_000, "tcp-request connection reject if { src 10.%[2]d.0.1 fd00::%[1]d }\n"), importHAProxy},
		"haproxy one line":    {listen + "server x a.b:1" + same(1<<19, " x"), importHAProxy},
		"haproxy quotes":      {listen + same(1<<20, "\"'"), importHAProxy},
		"nginx servers":       {"stream {" + repeat(9000, "server { listen %[1]d; proxy_pass a.b:1; }\n") + "}", nginxFile},
		"nginx too many":      {"stream {" + repeat(60_000, "server { listen %[1]d; proxy_pass a.b:1; }\n") + "}", nginxFile},
		"nginx directives":    {"stream {" + same(100_000, "blink;\n") + "server { listen 1; proxy_pass a.b:1; } }", nginxFile},
		"nginx open blocks":   {same(1<<20, "a{"), nginxFile},
		"nginx closed blocks": {same(1<<19, "a{") + same(1<<19, "}"), nginxFile},
		"nginx hidden blocks": {same(1<<18, "a{'}'"), nginxFile},
		"nginx map":           {"stream {map $ssl_preread_server_name $n {" + repeat(9000, "a%[2]d.b.c d.e:1;\n") + "}\n ssl_preread on;" + repeat(9000, "server { listen %[1]d; proxy_pass $n; }\n") + "}", nginxFile},
		"nginx hosts":         {"http {" + repeat(30_000, "server { server_name a%[2]d.b.c; location / { proxy_pass http://a.b; } }\n") + "}", nginxFile},
		"nginx some hosts":    {"http {" + repeat(4000, "server { server_name a%[2]d.b.c; location / { proxy_pass http://a.b; } }\n") + "}", nginxFile},
		"nginx http servers":  {"http {" + repeat(9000, "server { listen %[1]d; location / { proxy_pass http://a.b; } }\n") + "}", nginxFile},
		"nginx locations":     {"http { server {" + repeat(3000, "location /%[2]d { proxy_pass http://a.b; }\n") + "} }", nginxFile},
		"nginx access":        {"stream {" + repeat(50_000, "deny 10.%[2]d.0.1; deny fd00::%[1]d;") + "server { listen 1; proxy_pass a.b:1; } }", nginxFile},
		"nginx one word":      {same(1<<21, "a"), nginxFile},
		"nginx quotes":        {same(1<<18, "\"a\\\" "), nginxFile},
		"ip_fwd lines":        {repeat(100_000, "./ip_fwd.sh -i eth0 -f %[1]d -a a.b -b 1\n"), importIPForward},
		"ip_fwd variables":    {"A=ip_fwd.sh\n" + same(50_000, "A=$A$A\n") + same(1<<18, "$A"), importIPForward},
		"ip_fwd expansions":   {"ip_fwd.sh -i " + same(1<<20, "$("), importIPForward},
		"iptables lines":      {"*nat\n" + repeat(50_000, "-A PREROUTING -p tcp --dport %[1]d -j DNAT --to-destination 10.0.0.1\n"), importIPTables},
		"iptables same":       {"*nat\n" + same(50_000, "-A PREROUTING -p tcp --dport 1 -j DNAT --to-destination 10.0.0.1\n"), importIPTables},
		"iptables shared":     {"*nat\n" + repeat(30_000, "-A PREROUTING -p tcp --dport 1 -m statistic -j DNAT --to-destination 10.0.0.0-10.0.0.63:%[1]d\n"), importIPTables},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			imp, _, err := c.run("in", []byte(c.in))
			if d := time.Since(start); d > slow {
				t.Errorf("took %s", d)
			}
			if err == nil {
				if n := len(config.Encode(imp.File)); n > config.MaxSize {
					t.Errorf("%d bytes", n)
				}
			} else if n := strings.Count(err.Error(), "\n"); n > maxProblems {
				t.Errorf("%d lines of problems", n)
			}
		})
	}
}
