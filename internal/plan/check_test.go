package plan

import (
	"encoding/json"
	"testing"
	"time"
)

// TestChecks: what a check in the file becomes in the plan.
func TestChecks(t *testing.T) {
	timed := func(c Check) Check {
		c.Every, c.Timeout, c.Rise, c.Fall = Duration(5*time.Second), Duration(5*time.Second), 2, 3
		return c
	}
	for _, c := range []struct {
		defaults, route string
		want            Check
	}{
		{"", "off", Check{Kind: CheckOff}},
		{"", "redis", Check{Kind: CheckRedis}},
		{"", "{ kind: mysql, port: 3307 }", Check{Kind: CheckMySQL, Port: 3307}},
		{"", "{ kind: tls, host: a.example }", Check{Kind: CheckTLS, Host: "a.example"}},
		{"", "{ http: /x }", Check{Kind: CheckHTTP, Path: "/x", Status: defaultStatus}},
		{"", "{ http: /x, status: 204 }", Check{Kind: CheckHTTP, Path: "/x", Status: StatusSet{}.with(204, 204)}},
		{"", "{ http: /x, status: [200-299, 404], expect: \"\\xe9\" }", Check{Kind: CheckHTTP, Path: "/x", Status: StatusSet{}.with(200, 299).with(404, 404), Expect: "é"}},
		{"", `{ expect: "220 " }`, Check{Kind: CheckExpect, Expect: "220 "}},
		{"", `{ send: "\x00\xff\r\n", expect: "\xe9" }`, Check{Kind: CheckExpect, Send: "\x00\xff\r\n", Expect: "\xe9"}},
		// A route's own kind takes nothing over from that of the defaults …
		{"{ http: /d, expect: ok, host: h, status: 204 }", "tds", Check{Kind: CheckTDS}},
		{"{ http: /d, expect: ok }", "{ http: /r }", Check{Kind: CheckHTTP, Path: "/r", Status: defaultStatus}},
		{`{ send: "PING\r\n", expect: PONG }`, `{ expect: "220" }`, Check{Kind: CheckExpect, Expect: "220"}},
		{"{ http: /d }", "off", Check{Kind: CheckOff}},
		// … but what refines a kind may stand in either place.
		{"{ http: /d, host: h, status: 204 }", "{ http: /r }", Check{Kind: CheckHTTP, Path: "/r", Host: "h", Status: StatusSet{}.with(204, 204)}},
		{"{ http: /d, host: h, status: 204 }", "{ status: 200, host: i }", Check{Kind: CheckHTTP, Path: "/d", Host: "i", Status: StatusSet{}.with(200, 200)}},
		{"tls", "{ host: i }", Check{Kind: CheckTLS, Host: "i"}},
	} {
		text := "routes:\n  a: { listen: 80, to: \"h:80\", check: " + c.route + " }\n"
		if c.defaults != "" {
			text = "defaults: { check: " + c.defaults + " }\n" + text
		}
		if got := mustNew(t, text).Routes[0].Check; got != timed(c.want) {
			t.Errorf("%s\ngot  %+v\nwant %+v", text, got, timed(c.want))
		}
	}
}

// TestCheckAsTheRoute: a test does on its connection what the route does on its,
// unless it has a port of its own.
func TestCheckAsTheRoute(t *testing.T) {
	tls := UpstreamTLS{On: true, Name: "x", Min: "1.2"}
	for _, c := range []struct {
		route string
		proxy SendProxy
		tls   UpstreamTLS
	}{
		{"check: redis", "", UpstreamTLS{}},
		{"check: redis, send_proxy: v2, upstream_tls: {name: x}", SendV2, tls},
		{"check: redis, proxy_protocol: pass", SendV2, UpstreamTLS{}},
		{"check: redis, proxy_protocol: required", "", UpstreamTLS{}},
		{"check: {http: /}, send_proxy: v1, upstream_tls: {name: x}", SendV1, tls},
		{"check: tls, upstream_tls: {name: x}", "", tls},
		{"check: tcp, send_proxy: v2, upstream_tls: {name: x}", SendV2, UpstreamTLS{}},
		{"check: off, send_proxy: v2, upstream_tls: {name: x}", "", UpstreamTLS{}},
		{"check: {http: /, port: 81}, send_proxy: v2, upstream_tls: {name: x}", "", UpstreamTLS{}},
	} {
		got := mustNew(t, "routes:\n  a: {listen: 80, to: \"h:80\", "+c.route+"}\n").Routes[0].Check
		if got.SendProxy != c.proxy || got.TLS != c.tls {
			t.Errorf("%s: %q, %+v; want %q, %+v", c.route, got.SendProxy, got.TLS, c.proxy, c.tls)
		}
	}
}

func TestStatusSet(t *testing.T) {
	var zero StatusSet
	if zero.String() != "200-399" || zero.Has(199) || !zero.Has(200) || !zero.Has(399) || zero.Has(400) {
		t.Errorf("the zero set is %s", zero)
	}
	all := StatusSet{}.with(200, 599)
	for _, code := range []int{-1, 0, 199, 600, 647, 648, 1 << 20} {
		if all.Has(code) {
			t.Errorf("%d is in %s", code, all)
		}
	}
	one := StatusSet{}.with(599, 599).with(200, 200).with(263, 264)
	if one.String() != "200,263-264,599" || all.String() != "200-599" {
		t.Errorf("%s, %s", one, all)
	}
}

// Bytes that are not text must come out of JSON as what they are, not as U+FFFD.
func TestCheckJSON(t *testing.T) {
	got, err := json.Marshal(Check{Kind: CheckExpect, Send: "\x00\xff\r\n", Expect: "é"})
	want := `{"kind":"expect","send":"\\x00\\xff\\r\\n","expect":"é","every":"off","timeout":"off","rise":0,"fall":0}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
}
