package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestEngines: which engine a route gets, and why; or why it gets none.
func TestEngines(t *testing.T) {
	const server = "to: 10.1.0.1:80"
	for route, want := range map[string]string{
		"{listen: 80, " + server + "}":                                                   "relay, default",
		"{listen: 80, " + server + ", engine: nft}":                                      "nft, written",
		"{listen: 80, " + server + ", engine: relay, keepalive: off}":                    "relay, written",
		"{listen: 80, " + server + ", engine: auto}":                                     "relay, auto: only relay has keepalive (write keepalive: off where clients send them)",
		"{listen: 80, " + server + ", engine: auto, keepalive: off}":                     "nft, auto: the kernel can do all that the route asks for",
		"{listen: 80, " + server + ", engine: auto, keepalive: off, balance: leastconn}": "relay, auto: only relay has leastconn",
		"{listen: 80, " + server + ", engine: auto, keepalive: off, warm: 2}":            "relay, auto: only relay has warm",
		"{listen: 53, " + server + ", engine: auto, mode: udp}":                          "nft, auto: only nft has udp",
		"{listen: 80, to: \"[fd00::1]:80\", engine: auto, keepalive: off}":               "nft, auto: the kernel can do all that the route asks for",
		"{listen: \"10.0.0.1:80\", to: \"[fd00::1]:80\", engine: auto, keepalive: off}":  "relay, auto: only relay has families",

		"{listen: 53, " + server + ", mode: udp}":                           `mode udp: engine relay cannot forward datagrams; write engine: nft`,
		"{listen: 80, " + server + ", engine: nft, keepalive: 30s}":         `keepalive: engine nft cannot send keepalives`,
		"{listen: 80, " + server + ", engine: nft, connect_timeout: 2s}":    `connect_timeout: engine nft cannot limit the time of a connect`,
		"{listen: 80, " + server + ", engine: nft, balance: leastconn}":     `leastconn: engine nft cannot choose by the number of connections; write balance: roundrobin, or engine: relay`,
		"{listen: 80, " + server + ", engine: nft, user_timeout: 5s}":       `user_timeout: engine nft cannot set socket options`,
		"{listen: 80, " + server + ", engine: nft, warm: 1}":                `warm: engine nft cannot open connections`,
		"{listen: 80, to: {server: h:80, max_connections: 5}, engine: nft}": `server max_connections: engine nft cannot pass a full server by`,
		"{listen: \"127.0.0.1:80\", " + server + ", engine: nft}":           `listen 127.0.0.1:80: engine nft cannot forward from or to loopback addresses`,
		"{listen: 80, to: 127.0.0.1:81, engine: nft}":                       `server 127.0.0.1:81: engine nft cannot forward from or to loopback addresses`,
		"{listen: \"[fd00::2]:80\", " + server + ", engine: nft}":           `listen [fd00::2]:80 to server 10.1.0.1:80: engine nft cannot translate between IPv4 and IPv6`,
		"{listen: 80, " + server + ", source: 10.1.0.9}":                    "relay, default",
		"{listen: 80, " + server + ", allow: 10.0.0.0/8}":                   "relay, default",
		"{listen: 80, " + server + ", on_down: cut}":                        "relay, default",
		"{listen: 53, " + server + ", engine: nft, mode: udp, check: tcp}":  `a check is over TCP, and the route is udp`,
	} {
		p, _, err := New(parse(t, "routes:\n  r: "+route+"\n"))
		switch {
		case err != nil:
			if !strings.Contains(err.Error(), `route "r": `+want) || strings.Count(err.Error(), "\n") > 0 {
				t.Errorf("%s\n%v\nwant: %s", route, err, want)
			}
		case string(p.Routes[0].Engine)+", "+p.Routes[0].EngineWhy != want:
			t.Errorf("%s\n%s, %s\nwant: %s", route, p.Routes[0].Engine, p.Routes[0].EngineWhy, want)
		}
	}
}

// TestEngineDefaults: what `defaults` says for all routes is no reason to refuse
// the one that cannot have it, but for what would forward in another way.
func TestEngineDefaults(t *testing.T) {
	p := mustNew(t, "defaults: {connect_timeout: 2s, keepalive: 30s, user_timeout: 1m, warm: 2}\nroutes:\n  a: {listen: 80, to: h:80}\n  b: {listen: 81, to: h:80, engine: nft}\n")
	if got := p.Of(NFT).Routes; len(got) != 1 || got[0].Name != "b" || len(p.Of(Relay).Routes) != 1 {
		t.Errorf("routes of nft: %+v", got)
	}
	_, _, err := New(parse(t, "defaults: {balance: leastconn, engine: nft}\nroutes:\n  a: {listen: 80, to: h:80}\n"))
	if err == nil || !strings.HasPrefix(err.Error(), `f.yaml:1:21: route "a": leastconn: engine nft`) {
		t.Error(err)
	}
}

// TestKernelWarning names what a client has to set.
func TestKernelWarning(t *testing.T) {
	_, warnings, err := New(parse(t, "routes:\n  a: {listen: 80, to: h:80, engine: nft}\n  b: {listen: 53, to: h:53, engine: nft, mode: udp}\n"))
	if err != nil || len(warnings) != 1 {
		t.Fatal(warnings, err)
	}
	for _, part := range []string{`f.yaml:2:37: route "a"`, "240s", "connections.max.idle.ms=180000", "socket.keepalive.enable=true", "tcpKeepAlive=true", "kafka.connections.max.idle.ms"} {
		if !strings.Contains(warnings[0].String(), part) {
			t.Errorf("%q is not in %s", part, warnings[0])
		}
	}
	text := "defaults: {engine: nft}\nroutes:\n"
	for _, n := range strings.Fields("a b c d e") {
		text += "  " + n + ": {listen: " + fmt.Sprint(80+len(text)) + ", to: h:80}\n"
	}
	_, warnings, err = New(parse(t, text))
	if err != nil || len(warnings) != 1 || !strings.HasPrefix(warnings[0].String(), `f.yaml:1:20: routes "a", "b", "c", and 2 more: engine nft`) {
		t.Error(warnings, err)
	}
}

// TestPortsOfModes: TCP and UDP do not share ports.
func TestPortsOfModes(t *testing.T) {
	mustNew(t, "routes:\n  a: {listen: 53, to: h:53}\n  b: {listen: 53, to: h:53, engine: nft, mode: udp}\n")
}

// TestCapabilities: every row can be looked up, and says what an error needs.
func TestCapabilities(t *testing.T) {
	seen := map[Feature]bool{}
	for _, c := range Capabilities {
		if seen[c.Feature] || len(c.Engines) == 0 || c.Means == "" || (c.Asked && len(c.Engines) == 1) != (c.Lacks != "" && c.Instead != "") {
			t.Errorf("row %+v", c)
		}
		seen[c.Feature] = true
		for _, e := range []Engine{Relay, NFT} {
			if e.Carries(c.Feature) != slices.Contains(c.Engines, e) {
				t.Errorf("%s of %s", c.Feature, e)
			}
		}
	}
	if Relay.Carries("nonsense") {
		t.Error("a feature that does not exist is carried")
	}
}
