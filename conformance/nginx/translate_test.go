package main

import (
	"os"
	"path/filepath"
	"testing"

	"midspan/internal/plan"
)

// planOf is the plan of a configuration.
func planOf(t *testing.T, conf string) *plan.Plan {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"nginx.conf": "events {}\n" + conf, "k.pem": "not looked into here"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f := newFront(&options{prefix: dir, file: "nginx.conf"}, os.Stderr)
	c, err := readConf(f.options)
	if err != nil {
		t.Fatal(err)
	}
	e, err := newEnds(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	tr := &translation{conf: c, ends: e, zones: map[string]bool{}}
	p, _, err := tr.plan()
	if err != nil {
		t.Fatalf("%v\n%s", err, tr.text.String())
	}
	return p
}

func TestTranslation(t *testing.T) {
	p := planOf(t, `stream {
		limit_conn_zone $binary_remote_addr zone=z:1m;
		upstream u { zone x 1m; hash $proxy_protocol_addr; server 127.0.0.1:1 weight=2 max_conns=1; server 127.0.0.1:1 max_conns=2; server 127.0.0.1:2 backup; server 127.0.0.1:3 down; }
		upstream gone { server 127.0.0.1:3 down; }
		map $server_port $to { 5001 u; default gone; }
		server { listen 127.0.0.1:5001; proxy_pass $to; proxy_next_upstream off; proxy_bind 127.0.0.2; limit_conn z 3; proxy_protocol on; proxy_timeout 5s; proxy_half_close on; }
		server { listen 127.0.0.1:5002; proxy_pass $to; allow 10.0.0.0/8; deny all; }
		server { listen 127.0.0.1:5003 proxy_protocol; return $remote_addr; deny all; }
		map $ssl_preread_server_name $n { "" 127.0.0.1:7; a.test 127.0.0.1:8; default $ssl_preread_server_name; }
		server { listen 127.0.0.1:5004; ssl_preread on; proxy_pass $n; }
		server { listen 127.0.0.1:5005; proxy_pass $remote_addr:1; }
	}`)
	if len(p.Routes) != 5 {
		t.Fatalf("%d routes", len(p.Routes))
	}
	r := p.Routes[0]
	if len(r.Servers) != 2 || r.Servers[0].Weight != 3 || r.Servers[0].MaxConnections != 3 || !r.Servers[1].Backup || r.Balance != plan.RoundRobin || r.Check.Fall != 1 {
		t.Errorf("servers: %+v %+v, %s, %+v", r.Servers[0], r.Servers[1], r.Balance, r.Check)
	}
	if r.Tries != 1 || len(r.Source) != 1 || r.PerSource.MaxConnections != 3 || r.SendProxy != plan.SendV1 || r.IdleTimeout.String() != "5s" || r.FinTimeout.String() != "1h" {
		t.Errorf("settings: %+v", r)
	}
	if r = p.Routes[1]; r.Servers[0].Host != "none.invalid" || len(r.Allow) != 1 || r.Allow[0].String() != "10.0.0.0/8" || r.FinTimeout.D() != halfClosed || r.Proxy.Mode != plan.ProxyPassed {
		t.Errorf("nowhere: %+v", r)
	}
	if r = p.Routes[2]; r.Proxy.Mode != plan.ProxyRequired || r.SendProxy != plan.SendV2 || len(r.Allow) != 1 || r.Allow[0] != nobodyNet {
		t.Errorf("return: %+v", r)
	}
	if r = p.Routes[3]; r.Mode != plan.ModeSNI || r.Servers[r.Default[0]].Port != 7 || len(r.Groups) != 3 || r.SNI.NotTLS != plan.ToDefault {
		t.Errorf("by name: %+v", r)
	}
	for _, g := range p.Routes[3].Groups {
		if port := p.Routes[3].Servers[g.Servers[0]].Port; map[string]uint16{"a.test": 8, "u": 1}[g.Match] != port && g.Match != "gone" {
			t.Errorf("%s leads to %d", g.Match, port)
		}
	}
	if r = p.Routes[4]; r.Servers[0].Host != "none.invalid" {
		t.Errorf("unknown: %+v", r)
	}
}

// TestRejects: a name that must be refused beside a default one leads to a route
// that knows no name.
func TestRejects(t *testing.T) {
	p := planOf(t, `stream { ssl_certificate c.pem; ssl_certificate_key k.pem;
		server { listen 127.0.0.1:5001 ssl; server_name a.test; proxy_pass 127.0.0.1:1; }
		server { listen 127.0.0.1:5001; server_name b.test; ssl_reject_handshake on; proxy_pass 127.0.0.1:1; } }`)
	at := map[string]*plan.Route{}
	for _, r := range p.Routes {
		at[r.Listen[0].String()] = r
	}
	names := at["127.0.0.1:5001"]
	if names == nil || names.Mode != plan.ModeSNI || len(names.Groups) != 2 || len(names.Default) != 1 {
		t.Fatalf("%+v", names)
	}
	for _, g := range names.Groups {
		s := names.Servers[g.Servers[0]]
		behind := at[s.Name]
		switch {
		case behind == nil:
			t.Errorf("%s leads to %s, where no route is", g.Match, s.Name)
		case g.Match == "a.test" && (behind.TLS == nil || behind.Proxy.Mode != plan.ProxyRequired):
			t.Errorf("a.test: %+v", behind)
		case g.Match == "b.test" && (behind.Mode != plan.ModeSNI || len(behind.Default) > 0):
			t.Errorf("b.test: %+v", behind)
		}
	}
}
