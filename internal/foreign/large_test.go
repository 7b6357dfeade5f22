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
		"haproxy one line":    {listen + "server x a.b:1" + same(1<<19, " x"), importHAProxy},
		"haproxy quotes":      {listen + same(1<<20, "\"'"), importHAProxy},
		"nginx servers":       {"stream {" + repeat(9000, "server { listen %[1]d; proxy_pass a.b:1; }\n") + "}", nginxFile},
		"nginx too many":      {"stream {" + repeat(60_000, "server { listen %[1]d; proxy_pass a.b:1; }\n") + "}", nginxFile},
		"nginx directives":    {"stream {" + same(100_000, "blink;\n") + "server { listen 1; proxy_pass a.b:1; } }", nginxFile},
		"nginx open blocks":   {same(1<<20, "a{"), nginxFile},
		"nginx closed blocks": {same(1<<19, "a{") + same(1<<19, "}"), nginxFile},
		"nginx hidden blocks": {same(1<<18, "a{'}'"), nginxFile},
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
