package peer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var two = []Route{{Port: 20000, To: "10.9.2.1:9000"}, {Port: 20001, To: "10.9.2.1:9001"}}

// TestConfig: every route is in every configuration, with its limit where the
// program's default would not do.
func TestConfig(t *testing.T) {
	for _, p := range append(All(), Build("midspan", "midspan", nil), InKernel("midspan", "midspan", nil)) {
		text := p.Config(two, Limits{Conns: 4321})
		if p.argsFor != nil {
			text = strings.Join(p.argsFor(two), " ")
		}
		if p.Kind == None {
			if text != "" {
				t.Errorf("%s has a configuration:\n%s", p.Name, text)
			}
			continue
		}
		for _, want := range []string{"20000", "20001", "10.9.2.1"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %s in\n%s", p.Name, want, text)
			}
		}
	}
}

// TestModeConfig: every mode that a peer has is in its configuration.
func TestModeConfig(t *testing.T) {
	words := map[string]map[Mode]string{
		"haproxy": {ModeSNI: "req.ssl_sni -i " + ServerName, ModeHTTP: "mode http\n", ModeTLS: "ssl crt server.pem", ModeProxy: "send-proxy-v2"},
		"nginx":   {ModeSNI: "ssl_preread on;", ModeHTTP: "proxy_pass http://r20000;", ModeTLS: "ssl_certificate server.pem;", ModeProxy: "proxy_protocol on;"},
		"envoy":   {ModeSNI: "server_names: [" + ServerName, ModeHTTP: "http_connection_manager", ModeTLS: "filename: server.pem"},
		"midspan": {ModeSNI: "mode: sni", ModeHTTP: "mode: http", ModeTLS: "tls: server.pem", ModeProxy: "send_proxy: v2", ModeKafka: "mode: kafka"},
	}
	for _, p := range append(All(), Build("midspan", "midspan", nil)) {
		for mode, word := range words[p.Family] {
			text := p.Config([]Route{{Port: 20000, To: "10.9.2.1:9000", Mode: mode}}, Limits{Conns: 100})
			if !p.Can(mode) || !strings.Contains(text, word) || !strings.Contains(text, "10.9.2.1") {
				t.Errorf("%s, %s: no %q in\n%s", p.Name, mode, word, text)
			}
		}
		if len(words[p.Family]) == 0 && p.Can(ModeTLS) {
			t.Errorf("%s can do TLS", p.Name)
		}
	}
	plain := Plain("new", "/b/new", nil)
	sni := []Route{{Port: 20000, To: "10.9.2.1:9000", Mode: ModeSNI}}
	if text := plain.Config(sni, Limits{}); plain.Name != "new-tcp" || strings.Contains(text, "sni") || plain.Can(ModeTCP) || !plain.Can(ModeSNI) {
		t.Errorf("%+v\n%s", plain, text)
	}
	if text := nginx64k().Config([]Route{{Port: 1, To: "10.9.2.1:1", Mode: ModeHTTP}}, Limits{}); !strings.Contains(text, "keepalive 64;") || strings.Contains(text, "stream {") {
		t.Errorf("nginx keeps no connections:\n%s", text)
	}
}

func TestVariants(t *testing.T) {
	best := map[string]int{}
	for _, p := range All() {
		if p.Best {
			best[p.Family]++
		}
	}
	for _, family := range []string{"haproxy", "nginx"} {
		if best[family] != 1 {
			t.Errorf("%d variants of %s are its best", best[family], family)
		}
	}
	text := haproxySplice().Config(two, Limits{Conns: 8000})
	for _, want := range []string{"maxconn 8000\n", "maxpipes 500\n", "option splice-request\n", "option splice-response\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if text := haproxy().Config(two, Limits{Conns: 8000}); strings.Contains(text, "splice") || strings.Contains(text, "maxpipes") {
		t.Errorf("the default splices:\n%s", text)
	}
}

// TestInKernel: the two engines of a build differ in nothing but the engine.
func TestInKernel(t *testing.T) {
	user, kernel := Build("new", "/b/new", nil), InKernel("new", "/b/new", nil)
	text := kernel.Config(two, Limits{})
	if kernel.Name != "new-nft" || kernel.Title != "new, nft" || kernel.Kind != Kernel || kernel.FDs != 0 {
		t.Errorf("%+v", kernel)
	}
	if strings.Replace(text, "defaults: { engine: nft }\n", "", 1) != user.Config(two, Limits{}) || !strings.Contains(text, "engine: nft") {
		t.Errorf("got\n%s", text)
	}
}

func TestMissing(t *testing.T) {
	p := &Peer{program: "no-such-program", remedy: "make it", needs: []need{{"/no/such/file", "find it"}}}
	err := p.Missing()
	if err == nil {
		t.Fatal("nothing is missing")
	}
	for _, want := range []string{"no-such-program", "make it", "/no/such/file", "find it"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %q", want, err)
		}
	}
	if err := direct().Missing(); err != nil {
		t.Error(err)
	}
}

func TestVersion(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$1 1.2.3\" >&2\necho more\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := &Peer{program: program, version: []string{"-v"}}
	if got, err := p.Version(); err != nil || got != "1.2.3" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestCountedTroubles(t *testing.T) {
	const well = `# HELP midspan_panics_total Defects.
midspan_accept_errors_total 0
midspan_panics_total 0
midspan_endpoint_connects_total{endpoint="10.9.2.1:9000",result="failure",route="r",server="s"} 0
midspan_endpoint_connects_total{endpoint="10.9.2.1:9000",result="success",route="r",server="s"} 1000
midspan_route_ended_total{reason="reset by client",route="r"} 64
midspan_route_ended_total{reason="connect failed",route="r"} 0
`
	if err := countedTroubles(strings.NewReader(well)); err != nil {
		t.Error(err)
	}
	for _, line := range []string{
		`midspan_panics_total 1`,
		`midspan_accept_errors_total 3e+06`,
		`midspan_endpoint_connects_total{endpoint="e",result="failure",route="r",server="s"} 10`,
		`midspan_route_ended_total{reason="connect failed",route="r"} 7`,
	} {
		if err := countedTroubles(strings.NewReader(well + line + "\n")); err == nil || !strings.Contains(err.Error(), line) {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestRules(t *testing.T) {
	want := []string{
		"-t nat -A PREROUTING -p tcp -i client0 --dport 20001 -j DNAT --to-destination 10.9.2.1:9001",
		"-t nat -A POSTROUTING -p tcp -o target0 -d 10.9.2.1 --dport 9001 -j MASQUERADE",
	}
	got := rules(two[1])
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q", got)
	}
}

func TestVersionIn(t *testing.T) {
	for text, want := range map[string]string{
		"HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nStatus: long-term": "2.6.12-1+deb12u4",
		"nginx version: nginx/1.22.1\n": "1.22.1",
		"\nenvoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL\n": "1.40.0",
		"iptables v1.8.9 (nf_tables)":             "1.8.9",
		"midspan 96c742f (go1.26.8, linux/amd64)": "midspan 96c742f (go1.26.8, linux/amd64)",
	} {
		if got := versionIn(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
