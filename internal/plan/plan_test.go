package plan

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"midspan/internal/config"
)

func parse(t *testing.T, text string) *config.File {
	t.Helper()
	f, err := config.Parse("f.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return f
}

func mustNew(t *testing.T, text string) *Plan {
	t.Helper()
	p, _, err := New(parse(t, text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return p
}

// TestRefused: each file is refused with these words, and no others.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"two routes, one port": {
			"routes:\n  a: {listen: 80, to: h:80}\n  b: {listen: 80, to: h:80}\n",
			`f.yaml:3:15: route "b" listens on 80, which route "a" has already (line 2); choose another port`,
		},
		"a range over a port": {
			"routes:\n  a: {listen: 80-90, to: h:80}\n  b: {listen: 10.0.0.1:85, to: h:80}\n",
			`f.yaml:3:15: route "b" listens on 10.0.0.1:85, which route "a" has already (line 2); choose another port`,
		},
		"one route, twice": {
			"routes:\n  a: {listen: [80, \"*:80\"], to: h:80}\n",
			`f.yaml:2:20: route "a" listens on 80, and on 80 already (line 2); choose another port`,
		},
		"the default of health": {
			"routes:\n  a: {listen: 8080, to: h:80}\n",
			`f.yaml:2:15: route "a" listens on 8080, which health has already (by default); choose another port, or set ` + "`health: \":PORT\"`",
		},
		"health and admin": {
			"health: 9600\nroutes:\n  a: {listen: 80, to: h:80}\n",
			`f.yaml:1:9: health listens on 9600, which admin has already (by default); choose another port, or set ` + "`admin: \":PORT\"`",
		},
		"health on a range": {
			"health: 80-90\nroutes:\n  a: {listen: 180, to: h:80}\n",
			`f.yaml:1:9: health listens on one port, not on the range 80-90`,
		},
		"a server twice": {
			"routes:\n  a: {listen: 80, to: [h:80, H:80]}\n",
			`f.yaml:2:30: route "a": server h:80 stands here again (first on line 2); give the first a weight instead`,
		},
		"no weight at all": {
			"routes:\n  a: {listen: 80, to: [{server: h:80, weight: 0}]}\n",
			`f.yaml:2:47: route "a": every server has weight 0, so no connection could go anywhere; give one a weight`,
		},
		"shift below 1": {
			"routes:\n  a: {listen: 80-90, to: h:-85}\n",
			`f.yaml:2:26: route "a": server h:-85 would need port -5 for listen *:80-90; choose another shift`,
		},
		"shift above 65535": {
			"routes:\n  a: {listen: 80-90, to: h:+65450}\n",
			`f.yaml:2:26: route "a": server h:+65450 would need port 65540 for listen *:80-90; choose another shift`,
		},
		"two checks": {
			"routes:\n  a: {listen: 80, to: h:80, check: {kind: tcp, http: /x}}\n",
			`f.yaml:2:54: route "a": a check is tcp or http, not both; keep one`,
		},
		"two checks in defaults, told once": {
			"defaults: {check: {kind: tds, send: x, expect: y}}\nroutes:\n  a: {listen: 80, to: h:80}\n  b: {listen: 81, to: h:80}\n",
			`f.yaml:1:37: defaults: ` + "`send` and `expect` are a check of their own, without `kind: tds`; keep one of the two",
		},
		"a request and bytes": {
			"routes:\n  a: {listen: 80, to: h:80, check: {http: /x, send: y}}\n",
			`f.yaml:2:53: route "a": an http check sends its own request; take ` + "`send` out, or `http`",
		},
		"a question without an answer": {
			"routes:\n  a: {listen: 80, to: h:80, check: {send: y}}\n",
			`f.yaml:2:43: route "a": ` + "`send` without `expect` tests nothing; add what the server must answer",
		},
		"no byte": {
			"routes:\n  a: {listen: 80, to: h:80, check: {expect: \"\u2713\"}}\n",
			`f.yaml:2:45: route "a": '✓' in expect is not a byte; write what it is encoded as, such as "\xc3\xa9"`,
		},
		"status without http": {
			"routes:\n  a: {listen: 80, to: h:80, check: {kind: tls, status: [200, 404]}}\n",
			`f.yaml:2:57: route "a": ` + "`status` is for an http check; add http: /path or take it out",
		},
		"host without http": {
			"routes:\n  a: {listen: 80, to: h:80, check: {kind: tcp, host: x}}\n",
			`f.yaml:2:54: route "a": ` + "`host` is for an http or tls check; add http: /path or take it out",
		},
		"port without check": {
			"routes:\n  a: {listen: 80, to: h:80, check: {port: 81}}\n",
			`f.yaml:2:43: route "a": ` + "`port` is given but no check; add kind: tcp or http: /path",
		},
		"ttl upside down": {
			"dns: {min_ttl: 1m, max_ttl: 1s}\nroutes:\n  a: {listen: 80, to: h:80}\n",
			`f.yaml:1:16: min_ttl (1m) is above max_ttl (1s); lower it`,
		},
		"a circle": {
			"routes:\n  a: {listen: 80, to: 127.0.0.1:80}\n",
			`f.yaml:2:23: route "a": server 127.0.0.1:80 is where route "a" listens (line 2), so connections would go in a circle; write the real target`,
		},
		"a circle by the second of two hits": {
			"routes:\n  a: {listen: 11000-11001, to: \"127.0.0.1:+10\"}\n  c: {listen: 11011, to: \"127.0.0.1:11001\"}\n  b: {listen: 11010, to: x:1}\n",
			`f.yaml:2:32: route "a": server 127.0.0.1:+10 is where route "c" listens (line 3), so connections would go in a circle; write the real target` + "\n" +
				`f.yaml:3:26: route "c": server 127.0.0.1:11001 is where route "a" listens (line 2), so connections would go in a circle; write the real target`,
		},
		"warm beside a server's limit": {
			"routes:\n  a: {listen: 80, to: [\"x:1\", \"x:1\", {server: y:2, max_connections: 5}, {server: z:3, max_connections: 5, backup: true}], warm: 4}\n",
			`f.yaml:2:31: route "a": server x:1 stands here again (first on line 2); give the first a weight instead` + "\n" +
				`f.yaml:2:69: route "a": max_connections of server y:2 does not count the 4 connections that ` + "`warm` keeps ready; leave one of the two out",
		},
		"a circle of two": {
			"routes:\n  a: {listen: 10.0.0.4:80-90, to: 10.0.0.5:70}\n  b: {listen: 10.0.0.5:70, to: [h:1, 10.0.0.4:85]}\n",
			`f.yaml:2:35: route "a": server 10.0.0.5:70 is where route "b" listens (line 3), so connections would go in a circle; write the real target` + "\n" +
				`f.yaml:3:38: route "b": server 10.0.0.4:85 is where route "a" listens (line 2), so connections would go in a circle; write the real target`,
		},
		"all at once": {
			"routes:\n  a: {listen: 8080, to: [h:80, h:80]}\n  b: {listen: 9600, to: h:80}\n",
			`f.yaml:2:15: route "a" listens on 8080, which health has already (by default); choose another port, or set ` + "`health: \":PORT\"`" + "\n" +
				`f.yaml:2:32: route "a": server h:80 stands here again (first on line 2); give the first a weight instead` + "\n" +
				`f.yaml:3:15: route "b" listens on 9600, which admin has already (by default); choose another port, or set ` + "`admin: \":PORT\"`",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, _, err := New(parse(t, c.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if p != nil {
				t.Error("half a plan was returned")
			}
			if err.Error() != c.want {
				t.Errorf("got:\n%s\nwant:\n%s", err, c.want)
			}
		})
	}
}

func TestNotRefused(t *testing.T) {
	for name, text := range map[string]string{
		"one port, two addresses":       "routes:\n  a: {listen: 10.0.0.1:80, to: h:80}\n  b: {listen: 10.0.0.2:80, to: h:80}\n",
		"one port, two interfaces":      "routes:\n  a: {listen: \"%eth0:80\", to: h:80}\n  b: {listen: \"%eth1:80\", to: h:80}\n",
		"neighbouring ranges":           "routes:\n  a: {listen: 80-89, to: h:80}\n  b: {listen: 90-99, to: h:80}\n",
		"IPv4 any and one IPv6":         "routes:\n  a: {listen: 0.0.0.0:80, to: h:80}\n  b: {listen: \"[fd00::1]:80\", to: h:80}\n",
		"a server on two ports":         "routes:\n  a: {listen: 80, to: [h:80, h:81]}\n",
		"health off":                    "health: off\nroutes:\n  a: {listen: 8080, to: h:80}\n",
		"a route that leads to another": "routes:\n  a: {listen: 80, to: 127.0.0.1:81}\n  b: {listen: 81, to: h:80}\n",
		"one standby weight 0":          "routes:\n  a: {listen: 80, to: [h:80, {server: i:80, weight: 0}]}\n",
	} {
		t.Run(name, func(t *testing.T) { mustNew(t, text) })
	}
}

func TestWarnings(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"all backups":         {"routes:\n  a: {listen: 80, to: {server: h:80, backup: true}}\n", "every server is a backup"},
		"slow check":          {"routes:\n  a: {listen: 80, to: h:80, check: {kind: tcp, every: 1s, timeout: 3s}}\n", "check timeout 3s is above `every` 1s"},
		"no keepalive":        {"routes:\n  a: {listen: 80, to: h:80, keepalive: off}\n", "without keepalive below 240s"},
		"late keepalive":      {"defaults: {keepalive: 300s}\nroutes:\n  a: {listen: 80, to: h:80}\n", "without keepalive below 240s"},
		"warm, mysql":         {"routes:\n  a: {listen: 80, to: h:80, check: mysql, warm: 5}\n", "the server speaks first"},
		"warm, greeting":      {"routes:\n  a: {listen: 80, to: h:80, check: {expect: \"220\"}, warm: 5}\n", "the server speaks first"},
		"headers of anybody":  {"routes:\n  a: {listen: 80, to: h:80, proxy_protocol: required, allow: 10.0.0.0/8}\n", "write proxy_protocol: { from: [NETWORK] }"},
		"sources of anybody":  {"routes:\n  a: {listen: 80, to: h:80, proxy_protocol: required, per_source: {max_connections: 2}}\n", "write proxy_protocol: { from: [NETWORK] }"},
		"no servers for one":  {"consumers: {c: {from: 10.0.0.0/8}, d: {from: 11.0.0.0/8}}\nroutes:\n  a: {listen: 80, to: {c: h:80}}\n", `consumer "d": route "a" has no servers for it`},
		"idle cut by default": {"defaults: {idle_timeout: 30s}\nroutes:\n  a: {listen: 80, to: h:80}\n", "cuts connection pools"},
	} {
		t.Run(name, func(t *testing.T) {
			_, warnings, err := New(parse(t, c.text))
			if err != nil {
				t.Fatal(err)
			}
			if len(warnings) != 1 || !strings.Contains(warnings[0].Text, c.want) || warnings[0].Pos.Line == 0 {
				t.Errorf("got %v; want one with %q", warnings, c.want)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	p := mustNew(t, "routes:\n  a: {listen: 80, to: h:81}\n")
	r := p.Routes[0]
	want := Route{
		Name: "a", Mode: TCP, Engine: Relay, EngineWhy: "default", OnDown: Keep, Listen: r.Listen, Balance: RoundRobin, Servers: r.Servers,
		Check:          Check{Kind: CheckOff, Every: Duration(5 * time.Second), Timeout: Duration(5 * time.Second), Rise: 2, Fall: 3},
		ConnectTimeout: Duration(3 * time.Second), Tries: 64, FinTimeout: Duration(time.Hour), UserTimeout: Duration(5 * time.Minute),
		Keepalive: Keepalive{Idle: Duration(time.Minute), Interval: Duration(15 * time.Second), Count: 4},
		WhenFull:  Queue, Proxy: Proxy{Mode: ProxyRefused}, SendProxy: SendNone,
	}
	if got, _ := json.Marshal(r); string(got) != string(mustJSON(t, want)) {
		t.Errorf("got %s\nwant %s", got, mustJSON(t, want))
	}
	if p.Health.Listen.String() != "*:8080" || p.Admin.String() != "127.0.0.1:9600" {
		t.Errorf("health %s, admin %s", p.Health.Listen, p.Admin)
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestInheritance: a route's settings win over the defaults', one by one.
func TestInheritance(t *testing.T) {
	p := mustNew(t, `
defaults: {balance: source, idle_timeout: 1h, keepalive: off, check: {http: /d, every: 9s}, warm: 3, max_connections: 9}
routes:
  a: {listen: 80, to: h:81}
  b: {listen: 81, to: h:81, balance: first, idle_timeout: off, keepalive: 30s, check: tcp, warm: 0, max_connections: 5}
  c: {listen: 82, to: h:81, check: {every: 1s}}
  d: {listen: 83, to: h:81, check: off}
`)
	a, b, c, d := p.Routes[0], p.Routes[1], p.Routes[2], p.Routes[3]
	if a.Balance != Source || a.IdleTimeout.D() != time.Hour || !a.Keepalive.Off || a.Check.Kind != CheckHTTP || a.Check.Path != "/d" || a.Check.Every.D() != 9*time.Second || a.Warm != 3 || a.MaxConnections != 9 {
		t.Errorf("a: %+v", a)
	}
	if b.Balance != First || b.IdleTimeout != 0 || b.Keepalive.Off || b.Keepalive.Idle.D() != 30*time.Second || b.Check.Kind != CheckTCP || b.Check.Every.D() != 9*time.Second || b.Warm != 0 || b.MaxConnections != 5 {
		t.Errorf("b: %+v", b)
	}
	if c.Check.Kind != CheckHTTP || c.Check.Every.D() != time.Second || c.Check.Timeout.D() != time.Second {
		t.Errorf("c: %+v", c.Check)
	}
	if d.Check.Kind != CheckOff {
		t.Errorf("d: %+v", d.Check)
	}
}

// TestUserTimeout: TCP_USER_TIMEOUT overrides keepalive's count, so it must
// leave room for all the probes.
func TestUserTimeout(t *testing.T) {
	p := mustNew(t, "routes:\n  a: {listen: 80, to: h:80, keepalive: {idle: 4m, interval: 30s, count: 5}}\n")
	if got := p.Routes[0].UserTimeout.D(); got != 4*time.Minute+150*time.Second {
		t.Errorf("user timeout %s", got)
	}
}

func TestWith(t *testing.T) {
	base := mustNew(t, "routes:\n  a: {listen: 80-81, to: [h:90, 10.0.0.9:91, {server: i, weight: 0}]}\n")
	before := string(mustJSON(t, base))
	one, two := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	p := base.With(func(host string) []netip.Addr {
		return map[string][]netip.Addr{"h": {one, two}, "i": {one}}[host]
	}, func(_ *Route, s *Server, a netip.Addr) (bool, bool) { return s.Host == "i" || a == two, false })
	if string(mustJSON(t, base)) != before {
		t.Error("With changed the plan it was made from")
	}
	s := p.Routes[0].Servers
	if len(s[0].Endpoints) != 2 || s[0].Endpoints[0].Up || !s[0].Endpoints[1].Up || len(s[1].Endpoints) != 1 || s[1].Endpoints[0].Up {
		t.Errorf("endpoints %+v %+v", s[0].Endpoints, s[1].Endpoints)
	}
	if !p.Routes[0].Usable() {
		t.Error("not usable with one endpoint up")
	}
	last := base.With(func(string) []netip.Addr { return []netip.Addr{one} }, func(*Route, *Server, netip.Addr) (bool, bool) { return true, true })
	if last.Routes[0].Usable() || !last.Routes[0].Servers[0].Endpoints[0].Up {
		t.Error("a last resort is up, and not counted on")
	}
	none := base.With(func(string) []netip.Addr { return []netip.Addr{one} }, func(_ *Route, s *Server, _ netip.Addr) (bool, bool) { return s.Weight == 0, false })
	if none.Routes[0].Usable() {
		t.Error("usable with nothing but a server of weight 0")
	}
	if got := base.Hosts(); len(got) != 2 || got[0] != "h" || got[1] != "i" {
		t.Errorf("hosts %v", got)
	}
	if p.Routes[0].Servers[2].PortFor(81) != 81 || s[0].PortFor(81) != 90 {
		t.Error("ports")
	}
	if got := p.WithoutListeners(); len(got.Routes) != 1 || len(got.Routes[0].Listen) != 0 || len(p.Routes[0].Listen) != 1 {
		t.Error("WithoutListeners")
	}
}
