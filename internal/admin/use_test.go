package admin

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"midspan/internal/plan"
)

func (r *rig) use(t *testing.T, change func(*plan.Plan)) {
	t.Helper()
	r.set(change)
	if err := r.Use(r.plan); err != nil {
		t.Fatal(err)
	}
}

func answers(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func TestUseMovesEndpoints(t *testing.T) {
	r := start(t, nil)
	oldProbe, oldAdmin, oldControl := r.probeAddr(), r.adminURL(), r.plan.Control

	// A connection to an endpoint that stays is not touched by moving the
	// others.
	kept, err := net.Dial("tcp", r.probeAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	fmt.Fprint(kept, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := kept.Read(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	r.use(t, func(p *plan.Plan) { p.Admin, p.Control = loopback(freePort(t)), p.Control+"2" })
	fmt.Fprint(kept, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := kept.Read(make([]byte, 1000)); err != nil {
		t.Errorf("the probe was moved too: %v", err)
	}
	if !answers(r.probeAddr()) || answers(oldAdmin[len("http://"):]) || !answers(r.adminURL()[len("http://"):]) {
		t.Error("admin has not moved, or the probe has")
	}
	if _, err := Dial(oldControl).Version(t.Context()); err == nil {
		t.Error("the old control socket answers")
	}
	if _, err := os.Lstat(oldControl); err == nil {
		t.Error("the old control socket is still there")
	}
	if _, err := Dial(r.plan.Control).Version(t.Context()); err != nil {
		t.Error(err)
	}

	r.use(t, func(p *plan.Plan) { p.Health.Listen, p.Admin, p.Control = plan.Listen{}, plan.Listen{}, "off" })
	if answers(oldProbe) || answers(r.adminURL()) {
		t.Error("off, and still there")
	}
	if _, err := Dial(r.plan.Control).Version(t.Context()); err == nil {
		t.Error("control is off, and still there")
	}
}

// From all addresses to one and back, on the same port; and two endpoints that
// change places. The kernel would refuse each while the old socket is open.
func TestUseOnTheSamePort(t *testing.T) {
	r := start(t, func(p *plan.Plan) { p.Admin.Addr = netip.Addr{} })
	port := r.plan.Admin.From
	everywhere := fmt.Sprintf("[::1]:%d", port)
	if !answers(everywhere) || !answers(r.adminURL()[len("http://"):]) {
		t.Fatal("no answer on all addresses")
	}
	r.use(t, func(p *plan.Plan) { p.Admin = loopback(port) })
	if answers(everywhere) || !answers(r.adminURL()[len("http://"):]) {
		t.Error("not on loopback alone")
	}
	r.use(t, func(p *plan.Plan) { p.Admin.Addr = netip.Addr{} })
	if !answers(everywhere) {
		t.Error("not on all addresses again")
	}
	r.use(t, func(p *plan.Plan) { p.Admin, p.Health.Listen = p.Health.Listen, p.Admin })
	resp, err := http.Get(r.adminURL() + "/status")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	resp.Body.Close()
	if !strings.Contains(resp.Header.Get("Content-Type"), "json") {
		t.Error("admin and probe have not changed places")
	}
	other, err := net.Listen("tcp", everywhere)
	if err == nil {
		other.Close()
		t.Error("another socket may have the port")
	}
}

func TestUseThatFailsChangesNothing(t *testing.T) {
	r := start(t, nil)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	takenPort := taken.Addr().(*net.TCPAddr).AddrPort().Port()
	nowhere := r.plan.Control + "-absent/dir/socket"
	probe, admin, control := r.probeAddr(), r.adminURL(), r.plan.Control

	bad := *r.plan
	bad.Health.Listen = loopback(takenPort)
	bad.Admin = loopback(freePort(t))
	bad.Control = nowhere
	err = r.Use(&bad)
	want := fmt.Sprintf("health: cannot listen on 127.0.0.1:%d: address already in use; set `health: \":PORT\"`\n", takenPort) +
		"control: cannot listen on " + nowhere + ": no such file or directory; set `control:` to a path that this user may write, or to off"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if !answers(probe) || !answers(admin[len("http://"):]) || answers(dialable(bad.Admin)) {
		t.Error("something has moved")
	}
	if _, err := Dial(control).Version(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestListenErrors(t *testing.T) {
	for _, tt := range []struct {
		listen plan.Listen
		want   string
	}{
		{plan.Listen{Interface: "absent0", From: 8080, To: 8080}, "health: cannot listen on %absent0:8080: no such device (there is no interface absent0); set `health: \":PORT\"`"},
		{plan.Listen{Addr: netip.MustParseAddr("203.0.113.9"), From: 8080, To: 8080}, "cannot assign requested address (this host does not have the address)"},
	} {
		_, err := tcpPlace{tt.listen, "health", ":PORT"}.listen([slots]*endpoint{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.listen, err, tt.want)
		}
	}
	p := tcpPlace{plan.Listen{From: 80, To: 80}, "health", ":PORT"}
	if err := p.explain(&net.OpError{Op: "listen", Err: os.NewSyscallError("bind", unix.EACCES)}); !strings.Contains(err.Error(), "CAP_NET_BIND_SERVICE") || !errors.Is(err, unix.EACCES) {
		t.Error(err)
	}
}

// An address in the file means that family alone, as it does for routes.
func TestFamilies(t *testing.T) {
	for _, tt := range []struct {
		addr   string
		v4, v6 bool
	}{{"", true, true}, {"0.0.0.0", true, false}, {"::", false, true}} {
		port := freePort(t)
		l := plan.Listen{From: port, To: port}
		if tt.addr != "" {
			l.Addr = netip.MustParseAddr(tt.addr)
		}
		ln, err := tcpPlace{Listen: l}.listen([slots]*endpoint{})
		if err != nil {
			t.Fatal(err)
		}
		if v4, v6 := answers(fmt.Sprintf("127.0.0.1:%d", port)), answers(fmt.Sprintf("[::1]:%d", port)); v4 != tt.v4 || v6 != tt.v6 {
			t.Errorf("%q: IPv4 %v, IPv6 %v", tt.addr, v4, v6)
		}
		ln.Close()
	}
}

// An endpoint bound to the loopback interface answers on it.
func TestInterface(t *testing.T) {
	port := freePort(t)
	ln, err := tcpPlace{Listen: plan.Listen{Interface: "lo", From: port, To: port}}.listen([slots]*endpoint{})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if !answers(fmt.Sprintf("127.0.0.1:%d", port)) {
		t.Error("no answer")
	}
}

func TestUseAfterClose(t *testing.T) {
	r := start(t, nil)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if r.Use(r.plan) == nil {
		t.Error("Use after Close")
	}
}
