package e2e

import (
	"strings"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// The reference snippet with a second server.
const haproxyWeb = `frontend http_frontend
    bind *:80
    default_backend webservers

backend webservers
    balance roundrobin
    server webserver1 webserver1.org.example.com:80 check
    server webserver2 webserver2.org.example.com:80 check
`

const (
	webWorkers = 32
	webSize    = 16 << 10

	// HAProxy's defaults: inter 2s, fall 3, rise 2.
	webEvery  = 2 * time.Second
	webDetect = 3 * webEvery
	webReturn = 2*webEvery + rig.Patience // and what a busy machine takes
)

// TestWebFailover kills one of two web servers under load and brings it back.
// Requests that were on the dead server when it died are lost, as they would be
// without midspan; others must not notice.
func TestWebFailover(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	rig.Need(t, "nginx", "nginx")
	l := newLab(t)
	for _, mode := range []struct {
		name      string
		keepAlive bool
		victim    string
	}{
		{"new connections", false, "webserver1"},
		{"keep-alive", true, "webserver2"},
	} {
		t.Run(mode.name, func(t *testing.T) {
			start := func(name string) *rig.Nginx {
				return rig.WebServer(t, l.servers, labHosts[name+".org.example.com"]+":80", name, webSize)
			}
			servers := map[string]*rig.Nginx{"webserver1": start("webserver1"), "webserver2": start("webserver2")}
			m := rig.Run(t, rig.Import(t, "haproxy", haproxyWeb))
			load := startHTTPLoad(t, "http://127.0.0.1:80/", webWorkers, webSize, mode.keepAlive)
			failover(t, m, load, mode.victim, servers[mode.victim].Kill, func() { start(mode.victim) }, mode.keepAlive)
		})
	}
}

// failover kills a server, brings it back, and judges what clients saw.
func failover(t *testing.T, m *rig.Midspan, load *httpLoad, name string, killServer, startServer func(), keepAlive bool) {
	begin := time.Now()
	rig.Until(t, rig.Patience, name+" gets requests", func() bool { return load.seen(name, begin) })
	time.Sleep(2 * time.Second) // of load; nothing is waited for

	kill := time.Now()
	killServer()
	dead := time.Now()
	rig.Until(t, webDetect+rig.Patience, name+" is shown as down", func() bool {
		return strings.Contains(m.Control("status"), "DOWN")
	})
	noticed := time.Since(dead)
	if noticed > 2*webDetect { // with midspan's own defaults it would be 15 s
		t.Errorf("it took %s to see the server down, want %s", noticed, webDetect)
	}
	time.Sleep(time.Until(dead.Add(webDetect)))
	detected := time.Now()
	time.Sleep(2 * time.Second)

	restart := time.Now()
	startServer()
	rig.Until(t, webReturn, name+" gets requests again", func() bool { return load.seen(name, restart) })
	back := time.Since(restart)
	time.Sleep(time.Second)
	load.stop()
	end := time.Now()

	f := failure{
		victim: name, keepAlive: keepAlive, kill: kill,
		before: load.phase("before", begin, kill),
		dying:  load.phase("as it dies", kill, dead),
		window: load.phase("until fall × inter has passed", dead, detected),
		after:  load.phase("after that", detected, restart),
		again:  load.phase("with the server back", restart, end),
	}
	f.judge(t)
	t.Logf("shown as down after %s, had requests again after %s", noticed.Round(time.Millisecond), back.Round(time.Millisecond))
}

// failure is what clients saw of a server that died and came back.
type failure struct {
	victim                              string
	keepAlive                           bool
	kill                                time.Time
	before, dying, window, after, again phase
}

func (f failure) judge(t *testing.T) {
	t.Helper()
	for _, p := range []phase{f.before, f.dying, f.window, f.after, f.again} {
		t.Log(p)
	}
	// What was under way on the dead server is one request a worker.
	f.before.wantFailures(t, webWorkers)
	for _, r := range f.before.failed {
		if r.end.Before(f.kill) {
			t.Errorf("a request failed before the kill: %v", r.err)
		}
	}
	if len(f.before.failed)+len(f.dying.failed) > webWorkers {
		t.Errorf("%d requests were lost with the server, of %d workers", len(f.before.failed)+len(f.dying.failed), webWorkers)
	}
	// A connect that fails is tried at the other server, so a new connection does
	// not notice even before the server is known to be down. A client that keeps
	// its connections finds them cut, and most ask again by themselves.
	if f.keepAlive {
		f.window.wantFailures(t, webWorkers)
	} else {
		f.window.wantFailures(t, 0)
	}
	f.after.wantFailures(t, 0)
	f.again.wantFailures(t, 0)
	if n := f.after.by[f.victim]; n > 0 {
		t.Errorf("%d requests were answered by a server that was dead", n)
	}
}
