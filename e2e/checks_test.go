package e2e

import (
	"encoding/json"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// enough tests of a server to get on its nerves: MySQL gives up a host after 100
// by default. None of them may fail, so that each has seconds; of a server that
// hangs one that does is enough (fall: 1).
const enoughTests = 200

// checkLab is midspan in a namespace of its own beside that of the servers. The
// servers see it as 10.79.0.1.
type checkLab struct {
	*rig.Midspan
	t       *testing.T
	f       *rig.File
	servers *rig.Net
}

const dbHost = "10.79.0.82"

// newCheckLab makes the namespaces; it needs rig.Isolate.
func newCheckLab(t *testing.T) *checkLab {
	l := &checkLab{t: t, servers: rig.NewNet(t), f: rig.NewFile(t)}
	rig.Cable(t, rig.End{Name: "srv0", Addrs: []string{"10.79.0.1/24"}},
		rig.End{Net: l.servers, Name: "srv1", Addrs: []string{dbHost + "/24"}})
	return l
}

func (l *checkLab) run(routes string) {
	l.f.Write("defaults: { connect_timeout: 1s }\nroutes:\n%s", routes)
	l.Midspan = rig.Run(l.t, l.f)
}

// checked is what midspan says of the test of one server.
type checked struct {
	Endpoint  string `json:"endpoint"`
	Kind      string `json:"kind"`
	Up        bool   `json:"up"`
	Checked   bool   `json:"checked"`
	LastError string `json:"last_error"`
	Tests     int    `json:"tests"`
	Failed    int    `json:"failed"`
}

// state is that of an endpoint, as midspan status --json has it.
func (l *checkLab) state(endpoint string) checked {
	l.t.Helper()
	out, problems, code := rig.Command(l.t, "", "status", "--json", "--control", l.f.Control)
	if code > 1 { // 1: not ready, since a server is down
		l.t.Fatalf("midspan status: exit code %d: %s", code, problems)
	}
	var status struct {
		Health []checked `json:"health"`
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		l.t.Fatal(err)
	}
	var found []checked
	for _, c := range status.Health {
		if c.Endpoint == endpoint {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		l.t.Fatalf("%s is tested by %d probers: %s", endpoint, len(found), out)
	}
	return found[0]
}

// more waits until n more tests of an endpoint have ended, and wants all of them
// to have passed.
func (l *checkLab) more(endpoint string, n int) {
	l.t.Helper()
	before := l.state(endpoint)
	now := before
	rig.Until(l.t, 2*rig.Patience, "more tests of "+endpoint, func() bool {
		now = l.state(endpoint)
		return now.Tests >= before.Tests+n
	})
	if !now.Up || now.Failed != before.Failed {
		l.t.Errorf("%s: %d of %d tests failed: %s", endpoint, now.Failed-before.Failed, now.Tests-before.Tests, now.LastError)
	}
}

// passed waits until n tests of an endpoint have ended since the start, and wants
// all of them to have passed.
func (l *checkLab) passed(endpoint string, n int) {
	l.t.Helper()
	if before := l.state(endpoint); before.Tests < n {
		l.more(endpoint, n-before.Tests)
	}
	if s := l.state(endpoint); s.Failed != 0 {
		l.t.Errorf("%s: %d of %d tests failed: %s", endpoint, s.Failed, s.Tests, s.LastError)
	}
}

func (l *checkLab) awaitUp(endpoint string) {
	l.t.Helper()
	rig.Until(l.t, rig.Patience, endpoint+" is up", func() bool {
		s := l.state(endpoint)
		return s.Up && s.Checked
	})
}

// awaitDown waits until an endpoint is down, and midspan says that this is why.
func (l *checkLab) awaitDown(endpoint, why string) {
	l.t.Helper()
	var s checked
	rig.Until(l.t, rig.Patience, endpoint+" is down: "+why, func() bool {
		s = l.state(endpoint)
		return !s.Up && strings.Contains(s.LastError, why)
	})
	l.t.Logf("%s %s: %s", s.Kind, endpoint, s.LastError)
}

// hangs stops the server for a while: the kernel still accepts connections for
// it, but nothing is said on them.
func (l *checkLab) hangs(endpoint string, p *rig.Proc) {
	l.t.Helper()
	p.Signal(syscall.SIGSTOP)
	l.awaitDown(endpoint, "no answer in ")
	p.Signal(syscall.SIGCONT)
	l.awaitUp(endpoint)
}

// ends lets the server end, and start again.
func (l *checkLab) ends(endpoint string, end, restart func()) {
	l.t.Helper()
	end()
	l.awaitDown(endpoint, "connect: connection refused")
	restart()
	l.awaitUp(endpoint)
}

// TestCheckPostgres: 200 tests leave no line in the server's log.
func TestCheckPostgres(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	l := newCheckLab(t)
	// As clouds have it: nobody without TLS, nobody without a password.
	strict := rig.StartPostgres(t, l.servers, dbHost+":5432", "hostssl all all 0.0.0.0/0 scram-sha-256\n", "ssl=on", "max_connections=5", "superuser_reserved_connections=0",
		"client_connection_check_interval=100ms") // so that a session ends with its client
	// A pg_hba.conf that asks for nothing, and a role that is there for the test.
	open := rig.StartPostgres(t, l.servers, dbHost+":5433", "host all all 0.0.0.0/0 trust\n")
	open.Query("CREATE ROLE midspan LOGIN")
	said := map[*rig.Postgres]string{strict: strict.Stderr(), open: open.Stderr()}

	const check = "check: { kind: postgres, every: 20ms, timeout: 5s, fall: 1 } }\n"
	l.run("  strict: { listen: \"127.0.0.1:5432\", to: \"" + strict.Addr + "\", " + check +
		"  open: { listen: \"127.0.0.1:5433\", to: \"" + open.Addr + "\", " + check)
	for _, p := range []*rig.Postgres{strict, open} {
		l.passed(p.Addr, enoughTests)
		if now := p.Stderr(); now != said[p] {
			t.Errorf("the log of %s has got\n%s", p.Addr, strings.TrimPrefix(now, said[p]))
		}
	}
	// The last ones may still be about to end.
	rig.Until(t, rig.Patience, "tests have left no sessions behind", func() bool {
		n := strings.TrimSpace(open.Query("SELECT count(*) FROM pg_stat_activity WHERE usename = 'midspan'"))
		return n == "0" || n == "1"
	})

	t.Run("full", func(t *testing.T) {
		held := make([]*rig.Proc, 5)
		rig.Until(t, rig.Patience, "all sessions are held", func() bool {
			for i, p := range held {
				if p == nil || !p.Alive() { // refused, because a test had the last one
					held[i] = strict.Hold()
				}
			}
			return !l.state(strict.Addr).Up
		})
		l.awaitDown(strict.Addr, "sorry, too many clients already (53300)")
		for _, p := range held {
			p.Kill()
		}
		l.awaitUp(strict.Addr)
	})
	l.hangs(strict.Addr, strict.Proc)
	l.ends(strict.Addr, strict.Stop, strict.Restart)
}

// TestCheckRedis: 200 tests leave no line in the server's log, and a server that
// wants a password is up.
func TestCheckRedis(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	l := newCheckLab(t)
	open := rig.StartRedis(t, l.servers, dbHost+":6379", "--maxclients", "10")
	closed := rig.StartRedis(t, l.servers, dbHost+":6380", "--requirepass", "secret")
	open.Ask("CONFIG", "RESETSTAT")
	said := map[*rig.Redis]string{open: open.Stdout(), closed: closed.Stdout()}

	const check = "check: { kind: redis, every: 20ms, timeout: 5s, fall: 1 } }\n"
	l.run("  open: { listen: \"127.0.0.1:6379\", to: \"" + open.Addr + "\", " + check +
		"  closed: { listen: \"127.0.0.1:6380\", to: \"" + closed.Addr + "\", " + check)
	for _, r := range []*rig.Redis{open, closed} {
		l.passed(r.Addr, enoughTests)
		if now := r.Stdout(); now != said[r] {
			t.Errorf("the log of %s has got\n%s", r.Addr, strings.TrimPrefix(now, said[r]))
		}
	}
	stats := open.Ask("INFO", "everything")
	for _, want := range []string{"total_error_replies:0", "rejected_connections:0"} {
		if !strings.Contains(stats, want) {
			t.Errorf("the server's own counts have no %s:\n%s", want, stats)
		}
	}

	t.Run("full", func(t *testing.T) {
		var held []net.Conn
		rig.Until(t, rig.Patience, "all connections are held", func() bool {
			// It is refused when they are all taken, of which a test may have one.
			c, err := l.servers.Dial(open.Addr)
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, c)
			return len(held) >= 10 && !l.state(open.Addr).Up
		})
		l.awaitDown(open.Addr, "max number of clients reached (ERR)")
		for _, c := range held {
			c.Close()
		}
		l.awaitUp(open.Addr)
	})
	l.hangs(open.Addr, open.Proc)
	l.ends(open.Addr, open.Kill, open.Restart)
}

// TestCheckNginx: what TLS and the PROXY protocol are checked with leaves no
// line in the log of a server that knows both.
func TestCheckNginx(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	l := newCheckLab(t)
	const certificate = "ssl_certificate server.crt; ssl_certificate_key server.key; "
	servers := []struct{ name, addr, server, settings string }{
		{"tls13", dbHost + ":8443", "listen " + dbHost + ":8443 ssl; " + certificate, "check: { kind: tls, every: 20ms, timeout: 30s }"},
		{"tls12", dbHost + ":8444", "listen " + dbHost + ":8444 ssl; ssl_protocols TLSv1.2; " + certificate, "check: { kind: tls, every: 20ms, timeout: 30s }"},
		{"proxy1", dbHost + ":8081", "listen " + dbHost + ":8081 proxy_protocol; ", "send_proxy: v1, check: { http: /, expect: fine, every: 20ms, timeout: 30s }"},
		{"proxy2", dbHost + ":8082", "listen " + dbHost + ":8082 proxy_protocol; ", "send_proxy: v2, check: { http: /, expect: fine, every: 20ms, timeout: 30s }"},
		{"https", dbHost + ":8446", "listen " + dbHost + ":8446 ssl; " + certificate, "upstream_tls: { verify: false }, check: { http: /, expect: fine, every: 20ms, timeout: 30s }"},
		{"proxytls", dbHost + ":8445", "listen " + dbHost + ":8445 ssl proxy_protocol; " + certificate, "send_proxy: v2, check: { kind: tls, every: 20ms, timeout: 30s }"},
	}
	routes := ""
	var running []*rig.Nginx
	for _, s := range servers {
		running = append(running, rig.WebServerWith(t, l.servers, s.addr, s.server))
		_, port, _ := net.SplitHostPort(s.addr)
		routes += "  " + s.name + ": { listen: \"127.0.0.1:" + port + "\", to: \"" + s.addr + "\", " + s.settings + " }\n"
	}
	// The start has connected to see whether they listen.
	said := make([]string, len(servers))
	for i, n := range running {
		said[i] = n.Stderr()
	}
	l.run(routes)
	for i, s := range servers {
		l.passed(s.addr, enoughTests)
		if now := running[i].Stderr(); now != said[i] {
			t.Errorf("%s: the log has got\n%s", s.name, strings.TrimPrefix(now, said[i]))
		}
	}
	// A server that is not spoken to in its way says so: the log is looked at.
	c, err := l.servers.Dial(servers[2].addr)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	c.Close()
	rig.Until(t, rig.Patience, "nginx complains", func() bool { return strings.Contains(running[2].Stderr(), "broken header") })
}

// fake answers every connection's first bytes as a server would, and then waits
// for its end; what came is sent to got.
func fake(l net.Listener, answer string, got chan<- string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			c.SetDeadline(time.Now().Add(rig.Patience))
			buf := make([]byte, 1024)
			n, _ := c.Read(buf)
			io.WriteString(c, answer)
			if rest, err := io.Copy(io.Discard, c); rest != 0 || err != nil {
				n = 0 // not as it has to be
			}
			select {
			case got <- string(buf[:n]):
			default:
			}
		}()
	}
}

// testFake: a fake of a protocol is up while it listens, and is asked and left
// as the protocol has it.
func testFake(t *testing.T, kind, question, answer string) {
	if !rig.Isolate(t) {
		return
	}
	l := newCheckLab(t)
	at := dbHost + ":7000"
	listen := func() net.Listener {
		listener, err := l.servers.Listen(at)
		if err != nil {
			t.Fatal(err)
		}
		return listener
	}
	listener := listen()
	got := make(chan string, 1)
	go fake(listener, answer, got)
	l.run("  fake: { listen: \"127.0.0.1:7000\", to: \"" + at + "\", check: { kind: " + kind + ", every: 20ms, timeout: 5s, fall: 1 } }\n")
	l.passed(at, enoughTests)
	if q := <-got; q != question {
		t.Errorf("the fake was asked %q, and not %q", q, question)
	}
	listener.Close()
	l.awaitDown(at, "connect: connection refused")
	listener = listen()
	defer listener.Close()
	go fake(listener, "HTTP/1.1 400 Bad Request\r\n\r\n", got)
	l.awaitDown(at, kind+": expected ")
	listener.Close()
	listener = listen()
	defer listener.Close()
	go fake(listener, answer, got)
	l.awaitUp(at)
}

// TestTDSFakeCheck is against a fake: the answer is that of MS-TDS section 4.2.
func TestTDSFakeCheck(t *testing.T) {
	testFake(t, "tds",
		"\x12\x01\x00\x2f\x00\x00\x01\x00\x00\x00\x1a\x00\x06\x01\x00\x20\x00\x01\x02\x00\x21\x00\x01\x03\x00\x22\x00\x04\x04\x00\x26\x00\x01\xff\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"\x04\x01\x00\x2b\x00\x00\x01\x00\x00\x00\x1a\x00\x06\x01\x00\x20\x00\x01\x02\x00\x21\x00\x01\x03\x00\x22\x00\x00\x04\x00\x22\x00\x01\xff\x09\x00\x07\xd0\x00\x00\x01\x00\x00")
}

// TestKafkaFakeCheck is against a fake: the answer is version 0 of ApiVersions,
// with one request in it.
func TestKafkaFakeCheck(t *testing.T) {
	testFake(t, "kafka", "\x00\x00\x00\x17\x00\x12\x00\x00mids\x00\x0dmidspan-check", "\x00\x00\x00\x10mids\x00\x00\x00\x00\x00\x01\x00\x12\x00\x00\x00\x04")
}
