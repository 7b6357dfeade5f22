package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"midspan/internal/config"
	"midspan/internal/engine"
	"midspan/internal/engine/relay"
	"midspan/internal/freeport"
	"midspan/internal/health"
	"midspan/internal/plan"
)

// rig is a daemon on the relay, with a file that the test can change and a DNS
// server that the test answers for.
type rig struct {
	*Daemon
	t      *testing.T
	listen int // the first route's port
	file   atomic.Value
	log    lockedBuffer
	zone   zone
	notify chan string
	stop   context.CancelFunc
	ended  chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// zone is a DNS server on loopback; names without addresses get SERVFAIL.
type zone struct {
	addr  string
	mu    sync.Mutex
	names map[string][]string
}

func (z *zone) set(name string, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.names[name+"."] = addrs
}

func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	addrs := z.names[q.Question[0].Name]
	z.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	if len(addrs) == 0 {
		m.Rcode = dns.RcodeServerFailure
	}
	for _, a := range addrs {
		if q.Question[0].Qtype == dns.TypeA {
			rr, _ := dns.NewRR(q.Question[0].Name + " 1 IN A " + a)
			m.Answer = append(m.Answer, rr)
		}
	}
	_ = w.WriteMsg(m) // a lost answer is a slow test, which the deadlines catch
}

func newRig(t *testing.T, routes string) *rig {
	t.Helper()
	r := &rig{t: t, listen: freePort(t), notify: make(chan string, 100), ended: make(chan error, 1)}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.zone = zone{addr: pc.LocalAddr().String(), names: map[string][]string{}}
	server := &dns.Server{PacketConn: pc, Handler: &r.zone}
	go server.ActivateAndServe()
	t.Cleanup(func() { server.Shutdown() })
	r.write(routes)
	r.Daemon = New(Options{
		Load: func() (*plan.Plan, []string, error) {
			f, err := config.Parse("f.yaml", []byte(r.file.Load().(string)))
			if err != nil {
				return nil, nil, err
			}
			p, warnings, err := plan.New(f)
			return p, warnings.Lines(), err
		},
		Engine: func(h engine.Hooks) (engine.Engine, error) { return relay.New(relay.Options{Hooks: h}) },
		Notify: func(s string) { r.notify <- s },
		Log:    slog.New(slog.NewTextHandler(&r.log, nil)),
	})
	return r
}

// write makes the file: the routes, with PORT for the rig's own.
func (r *rig) write(routes string) {
	head := fmt.Sprintf("health: 65000\nadmin: off\ncontrol: off\ndrain: {detection: 2s, timeout: 30s}\ndns: {servers: [%q], timeout: 5s, min_ttl: 200ms, max_ttl: 1s}\n", r.zone.addr)
	r.file.Store(head + strings.ReplaceAll(routes, "PORT", fmt.Sprint(r.listen)))
}

func (r *rig) start() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.ended <- r.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		select {
		case <-r.ended:
		case <-time.After(30 * time.Second):
			r.t.Error("Run does not end")
		}
	})
	r.until("ready", func() bool {
		select {
		case err := <-r.ended:
			r.ended <- err
			r.t.Fatalf("not started: %v", err)
		default:
		}
		return r.Status().State == Running
	})
}

// until waits for a condition, at most half a minute.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("never %s; log:\n%s", what, r.log.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// who connects and returns the name that the server answers with.
func (r *rig) who() string {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", r.listen), 20*time.Second)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "refused"
	}
	if err != nil {
		return "reset" // as quick as the connect
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // a fresh socket
	b, err := io.ReadAll(c)
	if err != nil {
		return "reset"
	}
	return string(b)
}

// named is a server that says its name and closes; with a name of "" it says
// nothing and closes when the client has.
func named(t *testing.T, addr, name string) (port int, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if name == "" {
					_, _ = io.Copy(io.Discard, c) // any end will do
				}
				_, _ = io.WriteString(c, name) // the reader may be gone
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port, func() { ln.Close() }
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := freeport.Find(1)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// TestStartWithoutDNS: a start does not need names; the route works as soon as
// the name has an address, and the log says both.
func TestStartWithoutDNS(t *testing.T) {
	port, _ := named(t, "127.0.0.1:0", "one")
	r := newRig(t, fmt.Sprintf("routes: {r: {listen: PORT, to: 'db.test:%d'}}", port))
	r.start()
	if got := r.who(); got != "reset" {
		t.Errorf("without an address: %s, want a reset at once", got)
	}
	if err := r.Ready(); err == nil {
		t.Error("ready without a server")
	}
	r.zone.set("db.test", "127.0.0.1")
	r.until("forwarding", func() bool { return r.who() == "one" })
	r.until("being ready", func() bool { return r.Ready() == nil }) // said after the engine has it
	if !strings.Contains(r.log.String(), "db.test") {
		t.Errorf("the log does not name the name:\n%s", r.log.String())
	}
}

// TestNameChanges: new connections follow the name, old ones live on, and a
// name that stops resolving keeps its last address.
func TestNameChanges(t *testing.T) {
	port, _ := named(t, "127.0.0.1:0", "one")
	named(t, fmt.Sprintf("127.0.0.2:%d", port), "two")
	r := newRig(t, fmt.Sprintf("routes: {r: {listen: PORT, to: 'db.test:%d'}}", port))
	r.zone.set("db.test", "127.0.0.1")
	r.start()
	r.until("forwarding", func() bool { return r.who() == "one" }) // a start waits for names, but not for ever
	r.zone.set("db.test", "127.0.0.2")
	r.until("following the name", func() bool { return r.who() == "two" })
	r.zone.set("db.test")
	r.until("noticing that DNS fails", func() bool { return r.Status().Names["db.test"].Problem != "" })
	if got := r.who(); got != "two" {
		t.Errorf("%s, want the last known good address", got)
	}
}

// TestHealth: a server that falls gets nothing, the other gets all, and when
// it is back it gets its share.
func TestHealth(t *testing.T) {
	one, stop := named(t, "127.0.0.1:0", "one")
	two, _ := named(t, "127.0.0.1:0", "two")
	r := newRig(t, fmt.Sprintf("routes: {r: {listen: PORT, to: ['127.0.0.1:%d', '127.0.0.1:%d'], check: {kind: tcp, every: 50ms, timeout: 10s, rise: 2, fall: 2}}}", one, two))
	r.start()
	up := func() (n int) {
		for _, e := range r.Status().Engine.Routes[0].Endpoints {
			if e.Up {
				n++
			}
		}
		return n
	}
	r.until("both up", func() bool { return up() == 2 && r.who() == "one" })
	stop()
	r.until("one down", func() bool { return up() == 1 })
	for range 20 {
		if got := r.who(); got != "two" {
			t.Fatalf("%s, want two while one is down", got)
		}
	}
	named(t, fmt.Sprintf("127.0.0.1:%d", one), "one")
	r.until("one back", func() bool { return up() == 2 && r.who() == "one" })
}

// TestPassive: without checks, failed connects take a server out, but never
// the last one.
func TestPassive(t *testing.T) {
	one, _ := named(t, "127.0.0.1:0", "one")
	dead := freePort(t)
	r := newRig(t, fmt.Sprintf("routes: {r: {listen: PORT, to: ['127.0.0.1:%d', '127.0.0.1:%d'], check: {every: 30s, fall: 2}}}", dead, one))
	r.start()
	for range 10 {
		if got := r.who(); got != "one" {
			t.Fatalf("%s, want one every time", got)
		}
	}
	r.until("the dead server out", func() bool { return !r.Status().Engine.Routes[0].Endpoints[0].Up })
	r.write(fmt.Sprintf("routes: {r: {listen: PORT, to: '127.0.0.1:%d', check: {every: 30s, fall: 2}}}", dead))
	if err := r.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if got := r.who(); got != "reset" {
			t.Fatalf("%s, want a reset", got)
		}
	}
	if !r.Status().Engine.Routes[0].Endpoints[0].Up {
		t.Error("the only server was taken away")
	}
	named(t, fmt.Sprintf("127.0.0.1:%d", dead), "risen")
	if got := r.who(); got != "risen" {
		t.Errorf("%s: the server is back and not used", got)
	}
}

// TestPassiveSets: the last server of each set is kept, also beside another set
// that is well.
func TestPassiveSets(t *testing.T) {
	one, _ := named(t, "127.0.0.1:0", "one")
	dead := freePort(t)
	r := newRig(t, fmt.Sprintf(`consumers: {local: {from: 127.0.0.0/8}}
routes: {r: {listen: PORT, to: {local: '127.0.0.1:%d', default: '127.0.0.1:%d'}, check: {every: 30s, fall: 2}}}`, dead, one))
	r.start()
	for range 5 {
		if got := r.who(); got != "reset" {
			t.Fatalf("%s, want a reset", got)
		}
	}
	for _, e := range r.Status().Engine.Routes[0].Endpoints {
		if !e.Up || e.LastResort != (e.Addr.Port() == uint16(dead)) {
			t.Errorf("%+v", e)
		}
	}
	named(t, fmt.Sprintf("127.0.0.1:%d", dead), "risen")
	r.until("the server of the set back", func() bool { return r.who() == "risen" })
}

// TestReload: a good file comes into force; a bad one, and one whose port is
// taken, leave all as it was and say so.
func TestReload(t *testing.T) {
	one, _ := named(t, "127.0.0.1:0", "one")
	two, _ := named(t, "127.0.0.1:0", "two")
	taken, _ := named(t, "0.0.0.0:0", "taken")
	r := newRig(t, fmt.Sprintf("routes: {r: {listen: PORT, to: '127.0.0.1:%d'}}", one))
	r.start()
	r.write(fmt.Sprintf("routes: {r: {listen: PORT, to: '127.0.0.1:%d'}}", two))
	if err := r.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := r.who(); got != "two" {
		t.Errorf("%s, want two after the reload", got)
	}
	for name, c := range map[string]struct{ routes, want string }{
		"unknown key": {"routes: {r: {listen: PORT, too: 'h:1'}}", `unknown key "too"`},
		"port taken":  {fmt.Sprintf("routes: {r: {listen: PORT, to: '127.0.0.1:%d'}, s: {listen: %d, to: 'h:1'}}", one, taken), `route "s": cannot listen on`},
	} {
		r.write(c.routes)
		err := r.Reload(context.Background())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if got := r.who(); got != "two" {
			t.Errorf("%s: %s answers, want two as before", name, got)
		}
		if s := r.Status(); !strings.Contains(s.FailedLoad, c.want) || s.State != Running {
			t.Errorf("%s: status %q, %s", name, s.FailedLoad, s.State)
		}
	}
	if s := r.Status(); s.Reloads != 1 || s.FailedLoads != 2 {
		t.Errorf("%d reloads, %d failed; want 1, 2", s.Reloads, s.FailedLoads)
	}
	var states []string
	for len(r.notify) > 0 {
		s, _, _ := strings.Cut(<-r.notify, "\n")
		states = append(states, s)
	}
	want := "READY=1 " + strings.TrimSpace(strings.Repeat("RELOADING=1 READY=1 ", 3))
	if got := strings.Join(states, " "); got != want {
		t.Errorf("the service manager was told %s, want %s", got, want)
	}
}

// TestDrain: the probe fails first while listeners are still open, then they
// close, live connections go on, and the end comes with the last of them.
func TestDrain(t *testing.T) {
	port, _ := named(t, "127.0.0.1:0", "")
	r := newRig(t, fmt.Sprintf("routes: {r: {listen: PORT, to: '127.0.0.1:%d'}}", port))
	r.start()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.listen))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r.until("connected", func() bool { return r.Status().Engine.Connections == 1 })
	r.Drain()
	if s := r.Status(); s.State != Draining {
		t.Errorf("asked to drain and still %s", s.State)
	}
	if err := r.Ready(); err == nil || err.Error() != "draining" {
		t.Errorf("ready: %v, want draining", err)
	}
	if err, known := r.RouteReady("r"); err == nil || !known {
		t.Errorf("route ready: %v, %v", err, known)
	}
	second, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.listen))
	if err != nil {
		t.Fatalf("refused within the detection time: %v", err)
	}
	defer second.Close()
	r.until("closed", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.listen))
		if err == nil {
			c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	r.until("left with the two", func() bool { return r.Status().Engine.Connections == 2 })
	if err := r.Reload(context.Background()); err == nil {
		t.Error("a reload while draining")
	}
	c.Close()
	second.Close()
	select {
	case err := <-r.ended:
		if err != nil {
			t.Error(err)
		}
		r.ended <- nil
	case <-time.After(20 * time.Second):
		t.Fatal("not ended with its last connection")
	}
}

// TestNotStarted: what stands in the way of a start is returned, and nothing
// is left behind.
func TestNotStarted(t *testing.T) {
	taken, _ := named(t, "0.0.0.0:0", "taken")
	for name, c := range map[string]struct{ routes, want string }{
		"bad file":   {"routes: {r: {}}", `"listen" is missing`},
		"port taken": {fmt.Sprintf("routes: {r: {listen: PORT, to: 'h:1'}, s: {listen: %d, to: 'h:1'}}", taken), "address already in use"},
	} {
		r := newRig(t, c.routes)
		err := r.Run(context.Background())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if got := r.who(); got != "refused" {
			t.Errorf("%s: %s answers", name, got)
		}
	}
	r := newRig(t, "routes: {r: {listen: PORT, to: 'h:1'}}")
	failed := errors.New("no probe endpoint")
	r.o.Prepare = func(*plan.Plan) error { return failed }
	if err := r.Run(context.Background()); !errors.Is(err, failed) {
		t.Errorf("%v, want the error of Prepare", err)
	}
}

// TestPending: a listener on an interface that does not exist makes the machine
// not ready, and is in force as soon as it can be.
func TestPending(t *testing.T) {
	r := newRig(t, "routes: {r: {listen: '%nosuchdevice0:PORT', to: '127.0.0.1:1'}}")
	r.start()
	if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "nosuchdevice0") {
		t.Errorf("ready: %v", err)
	}
	if s := r.Status(); len(s.Engine.Pending) != 1 || s.NotReady == "" {
		t.Errorf("pending %v, not ready %q", s.Engine.Pending, s.NotReady)
	}
}

// TestDownWhen: the three policies, on one state: a route that is dead and one
// that is not; and on all dead.
func TestDownWhen(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	for _, c := range []struct {
		policy           plan.DownWhen
		oneDead, allDead bool // ready?
	}{
		{plan.DownSelf, true, true},
		{plan.DownNoRoute, true, false},
		{plan.DownAnyRoute, false, false},
	} {
		route := func(up bool) *plan.Route {
			return &plan.Route{Name: "r", Servers: []*plan.Server{{Weight: 1, Endpoints: []plan.Endpoint{{Addr: addr, Up: up}}}}}
		}
		d := New(Options{})
		d.setState(Running)
		d.now = &plan.Plan{Health: plan.Health{DownWhen: c.policy}, Routes: []*plan.Route{route(true), route(false)}}
		if ready := d.Ready() == nil; ready != c.oneDead {
			t.Errorf("%s, one route dead: ready %v", c.policy, ready)
		}
		d.now.Routes[0] = route(false)
		if ready := d.Ready() == nil; ready != c.allDead {
			t.Errorf("%s, all dead: ready %v", c.policy, ready)
		}
		d.health.Close()
	}
}

// TestLatePassive: a route with the wrong name for TLS takes the server away from
// no route that does without, and from one that has another name.
func TestLatePassive(t *testing.T) {
	d := &Daemon{o: Options{}, health: health.New(health.Options{})}
	defer d.health.Close()
	a := netip.MustParseAddr("127.0.0.1")
	p := &plan.Plan{}
	for name, tls := range map[string]plan.UpstreamTLS{"pass": {}, "bad": {On: true, Name: "other"}, "good": {On: true, Name: "right"}} {
		r := &plan.Route{Name: name, UpstreamTLS: tls, Listen: []plan.Listen{{From: 443, To: 443}}, Check: plan.Check{Kind: plan.CheckOff, Fall: 1}}
		r.Servers = []*plan.Server{{Name: "s", Host: "s", Port: 443, Endpoints: []plan.Endpoint{{Addr: a}}}}
		p.Routes = append(p.Routes, r)
	}
	d.watchHealth(p)
	d.names = newNames(nil, nil, nil)
	d.dialled(engine.Dial{Route: "bad", Server: "s", Addr: netip.AddrPortFrom(a, 443), Err: errors.New("TLS: no"), Late: true})
	for _, r := range p.Routes {
		if up := d.health.Up(target(r, r.Servers[0], a)); up != (r.Name != "bad") {
			t.Errorf("route %s: up is %t", r.Name, up)
		}
	}
}
