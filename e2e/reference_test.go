package e2e

import (
	"net"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// way is one connection that a reference input must make possible.
type way struct {
	from   string // "": this machine; else the clients' side of eth0
	to     string
	server string // where it must arrive
}

// reference are the five configurations that midspan was asked to replace, as
// they were given.
var reference = []struct {
	name, format, text string
	ways               []way
}{
	{"haproxy tcp", "haproxy", `listen sqlserver
    bind *:1434
    mode tcp
    option tcplog
    balance roundrobin
    server sqlserver1 sqlserver1.org.example.com:1433 check
`, []way{
		{"", "127.0.0.1:1434", "10.79.0.84:1433"},
		{"eth0", "10.80.0.1:1434", "10.79.0.84:1433"},
	}},
	{"haproxy http", "haproxy", `frontend http_frontend
    bind *:80
    default_backend webservers

backend webservers
    balance roundrobin
    server webserver1 webserver1.org.example.com:80 check
`, []way{
		{"", "127.0.0.1:80", "10.79.0.81:80"},
		{"eth0", "10.80.0.1:80", "10.79.0.81:80"},
	}},
	{"nginx mysql", "nginx", nginxMySQL, []way{
		{"", "127.0.0.1:3306", "10.79.0.82:3306"},
		{"eth0", "10.80.0.1:3306", "10.79.0.82:3306"},
	}},
	{"nginx web", "nginx", `stream {
    server {
        listen 80;
        proxy_pass web_backend;
    }
    upstream web_backend {
        server 10.79.0.82:80;
    }
}
`, []way{
		{"", "127.0.0.1:80", "10.79.0.82:80"},
		{"eth0", "10.80.0.1:80", "10.79.0.82:80"},
	}},
	{"ip_fwd kafka", "ip_fwd", `sudo ./ip_fwd.sh -i eth0 -f 9092 -a kafka1.corp.example.com -b 9092
sudo ./ip_fwd.sh -i eth0 -f 9093 -a kafka2.corp.example.com -b 9092
sudo ./ip_fwd.sh -i eth0 -f 9094 -a kafka3.corp.example.com -b 9092
`, []way{
		{"eth0", "10.80.0.1:9092", "10.79.0.91:9092"},
		{"eth0", "10.80.0.1:9093", "10.79.0.92:9092"},
		{"eth0", "10.80.0.1:9094", "10.79.0.93:9092"},
	}},
}

// TestReferenceInputs imports, checks and runs each as it is, and sends bytes
// through it to the server that it names.
func TestReferenceInputs(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	l := newLab(t)
	for _, in := range reference {
		t.Run(in.name, func(t *testing.T) {
			started := map[string]bool{}
			for _, w := range in.ways {
				if !started[w.server] {
					rig.Serve(t, l.servers, w.server, rig.Greet(w.server))
					started[w.server] = true
				}
			}
			m := rig.Run(t, rig.Import(t, in.format, in.text))
			rig.Until(t, rig.Patience, "the probe is answered with 200", func() bool { return m.Probe() == 200 })
			for _, w := range in.ways {
				var from *rig.Net
				if w.from != "" {
					from = l.clients
				}
				got, err := talk(from, w.to)
				if err != nil || got != w.server {
					t.Errorf("%s %s: arrived at %q, %v; want %s", w.from, w.to, got, err, w.server)
				}
			}
			t.Log("\n" + m.Control("status"))
			if in.format == "ip_fwd" {
				onlyOn(t, "127.0.0.1:9092")
			}
		})
	}
}

// onlyOn wants addr, which is not on the interface that was named, refused.
func onlyOn(t *testing.T, addr string) {
	t.Helper()
	if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
		c.Close()
		t.Errorf("%s is served, although the file names another interface", addr)
	}
}
