package plan

import (
	"slices"
	"strings"
	"testing"

	"midspan/internal/config"
)

const layered = `
consumers:
  prod: {link_id: [553665985, 7], routes: [shared, sql], max_connections: 500, rate: 100/s}
  aws: {endpoint_id: vpce-08d2bf15fac5001c9, routes: shared}
  onprem: {from: 10.20.0.0/16, routes: sql}
routes:
  sql: {listen: 1434, to: "sql1:1433", proxy_protocol: {from: 10.1.0.0/24, timeout: 2s}, send_proxy: v2}
  shared:
    listen: 1435
    proxy_protocol: required
    to: {prod: "sql1:1433", aws: ["sql2:1433", "sql1:1433"], default: "sql4:1433"}
  names:
    mode: sni
    listen: 9094
    to: {Kafka1.example.com: "kafka1:9094", "*.example.com": ["a:9094", "b:9094"]}
  web:
    mode: http
    listen: 443
    tls: [a.pem, b.pem]
    upstream_tls: {name: Web.internal, verify: false}
    to: "w1:80"
    hosts:
      api.example.com: "api1:8080"
      app.example.com: {/: "app1:80", /api/: {to: ["api1:8080"], rewrite: /}}
    http: {host: server, response_timeout: 3s, max_header: 8KiB, request_headers: {set: {X-A: b}, remove: X-C}}
  plain: {listen: 7000, to: "p:1", rate: 30/m, when_full: reset, per_source: {max_connections: 2}, slow_start: 30s}
`

func TestLayers(t *testing.T) {
	p := mustNew(t, layered)
	sql, shared, names, web, plain := p.Routes[0], p.Routes[1], p.Routes[2], p.Routes[3], p.Routes[4]
	if !sql.Guarded || !shared.Guarded || names.Guarded || plain.Guarded {
		t.Error("the wrong routes are guarded")
	}
	if sql.Proxy.Mode != ProxyRequired || sql.Proxy.Timeout.String() != "2s" || len(sql.Proxy.From) != 1 || sql.SendProxy != SendV2 {
		t.Errorf("sql: %+v %s", sql.Proxy, sql.SendProxy)
	}
	if c := p.Consumers[0]; len(c.LinkIDs) != 2 || c.MaxConnections != 500 || c.Rate.String() != "100/s" || !c.MayUse("sql") || c.MayUse("web") {
		t.Errorf("consumer %+v", c)
	}
	at := func(r *Route, set []int) (all []string) {
		for _, i := range set {
			all = append(all, r.Servers[i].Name)
		}
		return all
	}
	if len(shared.Servers) != 3 || !slices.Equal(at(shared, shared.Groups[1].Servers), []string{"sql2:1433", "sql1:1433"}) || !slices.Equal(at(shared, shared.Default), []string{"sql4:1433"}) {
		t.Errorf("shared: %+v default %v", shared.Groups, shared.Default)
	}
	if names.SNI.NoName != Refuse || names.SNI.NotTLS != Refuse || names.Groups[0].Match != "kafka1.example.com" {
		t.Errorf("names: %+v %+v", names.SNI, names.Groups)
	}
	if g := web.Groups[2]; g.Match != "app.example.com" || g.Path != "/api/" || g.Rewrite != "/" || !slices.Equal(at(web, g.Servers), []string{"api1:8080"}) {
		t.Errorf("web: %+v", g)
	}
	if web.TLS == nil || len(web.TLS.ALPN) != 2 || web.UpstreamTLS.Name != "web.internal" || !web.UpstreamTLS.Insecure || web.HTTP.MaxHeader != 8192 || web.HTTP.Host != HostOfServer {
		t.Errorf("web: %+v %+v %+v", web.TLS, web.UpstreamTLS, web.HTTP)
	}
	if plain.Rate.String() != "30/m" || plain.WhenFull != Reset || plain.PerSource.MaxConnections != 2 || plain.SlowStart.String() != "30s" {
		t.Errorf("plain: %+v", plain)
	}
}

// TestLayersRoundTrip: what Encode writes is what was read.
func TestLayersRoundTrip(t *testing.T) {
	f, err := config.Parse("f.yaml", []byte(layered))
	if err != nil {
		t.Fatal(err)
	}
	again := mustNew(t, string(config.Encode(f)))
	if got, want := mustJSON(t, again), mustJSON(t, mustNew(t, layered)); string(got) != string(want) {
		t.Errorf("got  %s\nwant %s\nby\n%s", got, want, config.Encode(f))
	}
}

func TestLayersRefused(t *testing.T) {
	const route = "routes:\n  a: {listen: 80, to: 'h:81', %}\n"
	for name, c := range map[string]struct{ text, want string }{
		"sni without names": {strings.Replace(route, "%", "mode: sni", 1), "mode sni chooses servers by name"},
		"sni keys":          {strings.Replace(route, "%", "sni: {no_name: reset}", 1), "`sni` is for mode sni"},
		"http keys":         {strings.Replace(route, "%", "http: {sticky: A}", 1), "`http` is for mode http"},
		"hosts":             {strings.Replace(route, "%", "hosts: {a.b: 'h:1'}", 1), "`hosts` is for mode http"},
		"http to names":     {"routes:\n  a: {mode: http, listen: 80, to: {a.b: 'h:1'}}\n", "mode http chooses servers by `hosts`"},
		"like a consumer":   {"consumers: {finance: {from: 10.0.0.0/8}}\nroutes:\n  a: {listen: 80, to: {financ: 'h:1', default: 'h:2'}}\n", `there is no consumer "financ"; did you mean "finance"?`},
		"like a route":      {"consumers: {c: {from: 10.0.0.0/8, routes: sqlservr}}\nroutes:\n  sqlserver: {listen: 80, to: 'h:1'}\n", `there is no route "sqlservr"; did you mean "sqlserver"?`},
		"no servers for it": {"consumers: {c: {from: 10.0.0.0/8, routes: a}, d: {from: 11.0.0.0/8, routes: a}}\nroutes:\n  a: {listen: 80, to: {c: 'h:1'}}\n", `f.yaml:1:77: consumer "d": route "a" has no servers for it`},
		"no consumer":       {"routes:\n  a: {listen: 80, to: {x: 'h:1'}}\n", `there is no consumer "x"; add it`},
		"names without sni": {"routes:\n  a: {listen: 80, to: {x.y: 'h:1'}}\n", "write mode: sni"},
		"twice":             {"routes:\n  a: {mode: sni, listen: 80, to: {X.y: 'h:1', x.y: 'h:2'}}\n", "x.y stands here again (first on line 2)"},
		"no default":        {"routes:\n  a: {mode: sni, listen: 80, to: {x.y: 'h:1'}, sni: {no_name: default}}\n", "there is no default server"},
		"two weights":       {"routes:\n  a: {mode: sni, listen: 80, to: {x.y: 'h:1', z.y: {server: 'h:1', weight: 2}}}\n", "stands elsewhere with other settings"},
		"tls in sni":        {"routes:\n  a: {mode: sni, listen: 80, to: {x.y: 'h:1'}, tls: c.pem}\n", "mode sni decrypts nothing"},
		"key of two":        {strings.Replace(route, "%", "tls: {cert: [a, b], key: c}", 1), "one key cannot be that of 2"},
		"no certificate":    {strings.Replace(route, "%", "tls: {min: '1.3'}", 1), "has no certificate"},
		"client_ca":         {strings.Replace(route, "%", "tls: {cert: a, client_cert: optional}", 1), "add client_ca"},
		"nft":               {strings.Replace(route, "%", "engine: nft, send_proxy: v2", 1), "engine nft cannot send anything"},
		"when_full":         {strings.Replace(route, "%", "when_full: reset", 1), "there is none"},
		"from":              {strings.Replace(route, "%", "proxy_protocol: {mode: pass, from: 10.0.0.0/8}", 1), "headers that are read"},
		"pass, sni":         {"routes:\n  a: {mode: sni, listen: 80, to: {x.y: 'h:1'}, proxy_protocol: pass}\n", "passed on only where"},
		"pass, tls":         {strings.Replace(route, "%", "tls: a.pem, proxy_protocol: pass", 1), "passed on only where"},
		"framing":           {"routes:\n  a: {mode: http, listen: 80, to: 'h:81', http: {request_headers: {set: {Content-Length: '3'}}}}\n", "the proxy's own"},
		"unknown route":     {"consumers: {c: {from: 10.0.0.0/8, routes: b}}\n" + strings.Replace(route, "%", "", 1), `there is no route "b"`},
		"no id":             {"consumers: {c: {routes: a}}\n" + strings.Replace(route, "%", "", 1), "cannot be told from others"},
		"no header":         {"consumers: {c: {link_id: 1, routes: a}}\n" + strings.Replace(route, "%", "", 1), "comes in a PROXY header"},
		"same id":           {"consumers: {c: {link_id: 1}, d: {link_id: 1}}\n" + strings.Replace(route, "%", "proxy_protocol: required", 1), `is consumer "c" already`},
		"same network":      {"consumers: {c: {from: 10.0.0.0/8}, d: {from: 10.0.0.0/8}}\n" + strings.Replace(route, "%", "", 1), `f.yaml:1:46: consumer "d": 10.0.0.0/8 is consumer "c" already`},
		"servers of another": {
			"consumers: {c: {from: 10.0.0.0/8, routes: a}, d: {from: 11.0.0.0/8, routes: b}}\nroutes:\n  b: {listen: 81, to: 'h:82'}\n  a: {listen: 80, to: {c: 'h:1', d: 'h:2'}}\n",
			`f.yaml:4:34: route "a": consumer "d" may not use it`,
		},
		"servers of an id": {
			"consumers: {c: {link_id: 1, routes: b}}\nroutes:\n  b: {listen: 81, to: 'h:82', proxy_protocol: required}\n  a: {listen: 80, to: {c: 'h:1', default: 'h:2'}}\n",
			`f.yaml:4:24: route "a": consumer "c" is known by its id`,
		},
		"empty label":     {"routes:\n  a: {mode: sni, listen: 80, to: {x..y: 'h:1'}}\n", "x..y is no host's name"},
		"twice, dot":      {"routes:\n  a: {mode: sni, listen: 80, to: {x.y: 'h:1', x.y.: 'h:2'}}\n", "x.y stands here again"},
		"alpn":            {strings.Replace(route, "%", "mode: http, tls: {cert: a.pem, alpn: [h2, h3]}", 1), "and not h3"},
		"warm, tls":       {strings.Replace(route, "%", "warm: 2, tls: a.pem", 1), "`warm` is for plain TCP"},
		"warm, http":      {strings.Replace(route, "%", "warm: 2, mode: http", 1), "`warm` is for plain TCP"},
		"consumer on nft": {"consumers: {c: {from: 10.0.0.0/8, routes: a}}\n" + strings.Replace(route, "%", "engine: nft", 1), "knows no consumers"},
	} {
		f, err := config.Parse("f.yaml", []byte(c.text))
		if err == nil {
			_, _, err = New(f)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want …%s…", name, err, c.want)
		}
	}
}

// TestWarmByDefault: connections kept ready are for routes that use them, and a
// server's limit has nothing to do with them on the others.
func TestWarmByDefault(t *testing.T) {
	for more, want := range map[string]int{"": 5, "tls: a.pem": 0, "upstream_tls: on": 0, "mode: http": 0} {
		to := "'h:1'"
		if want == 0 {
			to = "{server: 'h:1', max_connections: 9}"
		}
		p := mustNew(t, "defaults: {warm: 5}\nroutes: {r: {listen: 80, to: "+to+", "+more+"}}")
		if got := p.Routes[0].Warm; got != want {
			t.Errorf("%q: %d kept ready, want %d", more, got, want)
		}
	}
}

// TestNoFollowUps: a consumer or route that has a problem of its own is known by its
// name, and what else is wrong is told beside it.
func TestNoFollowUps(t *testing.T) {
	f, _ := config.Parse("f.yaml", []byte(`
consumers:
  finance: {link_id: BAD, routes: [nope, a, broken]}
  nobody: {}
routes:
  a: {listen: 80, to: {finance: 'h:1', default: 'h:2'}}
  b: {listen: 81, to: 'h:1'}
  broken: {listen: x, to: 'h:1'}
`))
	_, _, err := New(f)
	const want = "f.yaml:3:36: consumer \"finance\": there is no route \"nope\"; write the name of one\n" +
		"f.yaml:4:3: consumer \"nobody\" cannot be told from others; give it a link_id, an endpoint_id or `from`"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestServersFor(t *testing.T) {
	r := &Route{Default: []int{0}, Groups: []Group{
		{Match: "*.com", Servers: []int{1}}, {Match: "*.example.com", Servers: []int{2}}, {Match: "a.example.com", Servers: []int{3}},
	}}
	for name, want := range map[string]int{"a.example.com": 3, "b.example.com": 2, "x.b.example.com": 2, "example.com": 1, "com": 0, ".com": 0, "": 0} {
		if got := r.ServersFor(name)[0]; got != want {
			t.Errorf("%q: set %d, want %d", name, got, want)
		}
	}
}
