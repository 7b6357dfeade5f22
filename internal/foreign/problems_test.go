package foreign

import (
	"path/filepath"
	"strings"
	"testing"

	"midspan/internal/config"
)

// TestProblems: what the foreign program itself would refuse, or what is not
// its input, is an error with its place.
func TestProblems(t *testing.T) {
	listen := "listen l\n  bind :80\n  server a 10.0.0.1:81\n"
	for _, c := range []struct {
		in   string
		run  func(string, []byte) (*Import, *ledger, error)
		want string
	}{
		{"", importHAProxy, "in:1:1: the input is empty; an haproxy.cfg with a `listen` section"},
		{" \n\t\n", nginxFile, "in:1:1: the input is empty; an nginx.conf with a `stream` block"},
		{"", importIPForward, "in:1:1: the input is empty; command lines of ip_fwd.sh"},
		{"\n", importIPTables, "in:1:1: the input is empty; the output of iptables-save"},
		{"a\nb\x00c", importHAProxy, "in:2:2: this is not text (byte 0x00); is it the right file?"},
		{"\xff\xfea\x00", nginxFile, "in:1:1: the input is UTF-16; save it as UTF-8"},
		{"\x7fELF", importIPTables, "in:1:1: this is not text (byte 0x7f); is it the right file?"},
		{strings.Repeat("#", config.MaxSize+1), importIPForward, "in:1:1: the input has 4194305 bytes, at most 4194304 are read; is it the right file?"},
		{"some words\n", importHAProxy, "in:1:1: no section of an haproxy.cfg (listen, frontend, backend) was found"},
		{"x\n" + listen, importHAProxy, "in:1:1: `x` stands before the first section"},
		{listen + "server b 10.0.0.2 weight 300", importHAProxy, "in:4:26: `server b 10.0.0.2 weight 300`: weight `300` is not a number from 0 to 256"},
		{listen + "server b 10.0.0.2 port 0", importHAProxy, "in:4:24: `server b 10.0.0.2 port 0`: port `0` is not a number from 1 to 65535"},
		{listen + "server b 10.0.0.2 inter", importHAProxy, "in:4:1: `server b 10.0.0.2 inter`: `` is not a time; HAProxy's are 500ms, 30s, 5m, 1h, 1d\nin:4:19: `server b 10.0.0.2 inter`: `inter` needs a value"},
		{listen + "timeout client soon", importHAProxy, "in:4:16: `timeout client soon`: `soon` is not a time"},
		{listen + "timeout client", importHAProxy, "in:4:1: `timeout client`: a value is missing"},
		{listen + "maxconn many", importHAProxy, "in:4:9: `maxconn many`: `many` is not a number from 0"},
		{listen + "bind \":$PORT\"", importHAProxy, "in:4:6: `bind \":$PORT\"`: the environment variable PORT is not known here; write its value, then import again"},
		{listen + "bind \":80", importHAProxy, "in:4:6: the quote is not closed on this line"},
		{listen + "bind ':80", importHAProxy, "in:4:6: the quote is not closed on this line"},
		{".if defined(X)\n" + listen + ".endif", importHAProxy, "in:1:1: `.if defined(X)`: conditional blocks are not evaluated; take the lines that apply out of their block\nin:5:1: `.endif`"},
		{"frontend f\n bind :80\n default_backend b\n", importHAProxy, "in:1:1: no `listen` section and no `frontend` with a backend could be carried over\nin:1:1: `frontend f` (to line 3) is not carried over: backend b is not in this file"},
		{"listen l from x\n bind :80\n server a 10.0.0.1\n", importHAProxy, "in:1:1: `listen l from x`: there is no `defaults x` in this file"},
		{"stream {", nginxFile, "in:1:1: unexpected end of file, expecting \"}\""},
		{"stream { } }", nginxFile, "in:1:1: unexpected \"}\""},
		{"stream {\n server { listen 80 }\n}", nginxFile, "in:2:1: a directive ends at \"}\"; is there a \";\" missing before it?"},
		{"stream { server { listen 80; proxy_pass a:1; } }\nx", nginxFile, "in:2:1: the last directive does not end in \";\""},
		{"; a;", nginxFile, "in:1:1: unexpected \";\""},
		{"include;", nginxFile, "in:1:1: `include` without a file"},
		{strings.Repeat("a {", 60), nginxFile, "in:1:1: blocks are nested deeper than 50"},
		{"events { }\n", nginxFile, "in:1:1: no `server` of a `stream` block, and none of an `http` block that passes requests on, could be carried over\nin:1:1: `events` has no counterpart and needs none"},
		{"include nginx.conf;", nginxFile, "in:1:1: "},
		{"./ip_fwd.sh -i eth0 -f 80 -a a.example.com", importIPForward, "in:1:1: `./ip_fwd.sh -i eth0 -f 80 -a a.example.com`: -b (the backend port) is missing"},
		{"./ip_fwd.sh -i eth0 -f 80 -a a.example.com -b", importIPForward, "in:1:44: -b needs a value"},
		{"./ip_fwd.sh -i eth0 -f 0 -a a.example.com -b 80", importIPForward, "in:1:24: `./ip_fwd.sh -i eth0 -f 0 -a a.example.com -b 80`: `0` is not a port (1 to 65535)"},
		{"./ip_fwd.sh -i eth0 -f 80 -a a..b -b 80", importIPForward, "in:1:30: "},
		{"./ip_fwd.sh -i eth0/1 -f 80 -a a.b -b 80", importIPForward, "in:1:16: `./ip_fwd.sh -i eth0/1 -f 80 -a a.b -b 80`: `eth0/1` is not the name of a network interface"},
		{"./ip_fwd.sh -i eth0 -f 80 -a $HOST -b 80", importIPForward, "in:1:30: the value of $HOST is not known here"},
		{"./ip_fwd.sh -i eth0 -f 80 -a $(cat host) -b 80", importIPForward, "in:1:30: the value of $(cat host) is not known here"},
		{"./ip_fwd.sh -x -i eth0 -f 80 -a a.b -b 80", importIPForward, "in:1:13: `-x` is not a flag of ip_fwd.sh"},
		{"./ip_fwd.sh -i 'eth0", importIPForward, "in:1:1: `./ip_fwd.sh -i 'eth0`: -f (the frontend port) is missing\nin:1:16: the quote is not closed"},
		{"echo hello\n", importIPForward, "in:1:1: no command line of ip_fwd.sh (ip_fwd.sh -i eth0 -f 9092 -a kafka1.example.com -b 9092) was found\nin:1:1: `echo hello` has no counterpart and needs none"},
		{"while getopts 'i:f:a:b:' OPTS; do\n", importIPForward, "in:1:1: no command line of ip_fwd.sh (ip_fwd.sh -i eth0 -f 9092 -a kafka1.example.com -b 9092) was found; this is ip_fwd.sh itself"},
		{"*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n", importIPTables, "in:1:1: no DNAT rule for TCP or UDP ports in chain PREROUTING"},
		{"*nat\n-A PREROUTING --comment \"a\nCOMMIT\n", importIPTables, "in:2:25: the quote is not closed on this line"},
		{"routes:\n  a: { listen: 80, to: b }\n", importHAProxy, "in:1:1: no section of an haproxy.cfg (listen, frontend, backend) was found; this looks like a midspan.yaml, which needs no import"},
	} {
		name := strings.ReplaceAll(c.in[:min(40, len(c.in))], "\n", "|")
		t.Run(name, func(t *testing.T) {
			_, _, err := c.run("in", []byte(c.in))
			if err == nil {
				t.Fatal("no error")
			}
			var got []string
			for line := range strings.SplitSeq(err.Error(), "\n") {
				got = append(got, line)
			}
			want := strings.Split(c.want, "\n")
			for i, w := range want {
				if i >= len(got) || !strings.HasPrefix(got[i], w) {
					t.Errorf("got\n%s\nwant\n%s", err, c.want)
					return
				}
			}
		})
	}
}

// TestWrongFormat: an input given to another importer is told which it is for.
func TestWrongFormat(t *testing.T) {
	names := map[string]string{".cfg": "haproxy", ".conf": "nginx", ".sh": "ip_fwd", ".rules": "iptables"}
	for _, path := range inputs(t) {
		data := read(t, path)
		for ext, run := range map[string]func(string, []byte) (*Import, *ledger, error){
			".cfg": importHAProxy, ".conf": nginxFile, ".sh": importIPForward, ".rules": importIPTables,
		} {
			own := strings.HasSuffix(path, ext)
			if own {
				continue
			}
			_, _, err := run("in", data)
			want := "use `midspan import " + names[path[strings.LastIndexByte(path, '.'):]] + "`"
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s as %s: got %v, want one line with %q", path, ext, err, want)
			}
		}
	}
}

// TestComments: what stands in comments does not make a file another format.
func TestComments(t *testing.T) {
	const others = "# ./ip_fwd.sh -i eth0 -f 80 -a a -b 1\n # stream {\n#*nat\n# -A PREROUTING\n#listen l\n# routes:\n"
	for _, path := range inputs(t) {
		run := importers[filepath.Ext(path)]
		if filepath.Ext(path) == ".conf" {
			run = nginxFile // the one from the disk reads its own data
		}
		if _, _, err := run("in", append([]byte(others), read(t, path)...)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	bare := "server { listen 80; proxy_pass a.b:1; }\n"
	if _, _, err := nginxFile("in", []byte(bare)); err != nil {
		t.Errorf("the inside of a stream block: %v", err)
	}
}
