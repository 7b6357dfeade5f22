package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"midspan/e2e/rig"
)

// TestKernelSurvivesKill9 ends and starts the daemon in every way there is, and
// reloads it 100 times, while 64 connections are busy and others come and go.
// Nobody may notice.
func TestKernelSurvivesKill9(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	before := settings(t)
	a := rig.Serve(t, k.servers, "10.79.0.91:9092", rig.Echo)
	b := rig.Serve(t, k.servers, "10.79.0.92:9092", rig.Echo)
	k.greeter("10.79.0.93:9092", "quiet")
	write := func(weight int, more string) {
		k.routes("  busy: { listen: \"%%eth0:9092\", to: [{ server: %q, weight: %d }, %q] }\n"+
			"  quiet: { listen: 9093, to: \"10.79.0.93:9092\" }\n%s", a.Addr, weight, b.Addr, more)
	}
	write(1, "")
	m := rig.Run(t, k.f)
	busy, churn := k.load(front, 64, 0), k.load(front, 0, 4)
	quiet := []*flow{k.open("10.80.0.1:9093"), k.open("10.80.0.1:9093")}
	goOn := func(when string) {
		t.Helper()
		busy.wait(64, 0)
		churn.wait(0, 8)
		if n := busy.failed.Load() + churn.failed.Load(); n > 0 {
			t.Fatalf("%d connections failed %s", n, when)
		}
		wantAlive(t, when, quiet...)
	}
	goOn("at the start")

	m.Kill()
	goOn("after kill -9")
	m = rig.Run(t, k.f)
	goOn("after another start")
	ids := listed(t, m)
	for _, c := range busy.clients {
		if ids[c] == "" {
			t.Errorf("the connection of %s, from before the start, is not listed", c)
		}
	}
	m.Control("kill", ids[quiet[1].LocalAddr().String()])
	wantReset(t, quiet[1])
	quiet = quiet[:1]
	goOn("after one was killed")

	for i := range 100 {
		write([]int{1, 3, 2}[i%3], []string{
			"  extra: { listen: [9094, \"9100-9120\"], to: [\"10.79.0.83\", \"10.79.0.84\"] }\n", "",
			"  more: { listen: \"%eth0:9095\", to: \"10.79.0.83:80\", balance: source, allow: [10.0.0.0/8] }\n",
		}[i%3])
		m.Control("reload")
	}
	goOn("after 100 reloads")
	t.Logf("100 reloads: %d exchanges on 64 connections, %d new connections", busy.exchanges.Load(), churn.churned.Load())

	write(1, "nft: { keep: true }\n")
	m.Control("reload")
	m.Signal(syscall.SIGTERM)
	if code := m.Exit(25 * time.Second); code != 0 {
		t.Errorf("with keep: true the daemon ended with code %d", code)
	}
	if !k.hasTable() {
		t.Error("with keep: true the rules are gone")
	}
	goOn("after the end of a daemon with keep: true")

	write(1, "")
	m = rig.Run(t, k.f)
	goOn("after yet another start")
	churn.stop()
	m.Signal(syscall.SIGTERM)
	m.AwaitLog("draining: listeners are closed", rig.Patience)
	k.wantRefused("during a drain", front)
	busy.wait(64, 0)
	wantAlive(t, "during a drain", quiet...)
	if !m.Alive() {
		t.Error("the daemon has not waited for its connections")
	}
	busy.stop()
	quiet[0].Close()
	if code := m.Exit(25 * time.Second); code != 0 {
		t.Errorf("after the drain the daemon ended with code %d", code)
	}
	if k.hasTable() {
		t.Error("after the drain there are rules left")
	}
	wantSettings(t, "after the drain", before)
}

// TestKernelLeavesOthersAlone has rules of others, as Docker makes them, and a
// forwarding of theirs that shows servers the client's own address.
func TestKernelLeavesOthersAlone(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	k.script(`
		iptables -A INPUT -p tcp --dport 22 -j ACCEPT
		iptables -N DOCKER-USER
		iptables -N DOCKER
		iptables -A FORWARD -j DOCKER-USER
		iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
		iptables -A FORWARD -o docker0 -j DOCKER
		iptables -A DOCKER-USER -j RETURN
		iptables -t nat -N DOCKER
		iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
		iptables -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
		iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
		iptables -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 10.79.0.81:80
		iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
		nft add table inet theirs
		nft add chain inet theirs post { type nat hook postrouting priority 50; }
		nft add rule inet theirs post oifname wg0 masquerade
	`)
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	settingsBefore := settings(t)
	// Without masquerading, answers must find their way.
	err := k.servers.Do(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4(10, 80, 0, 0), Mask: net.CIDRMask(24, 32)}, Gw: net.IPv4(10, 79, 0, 1)})
	})
	if err != nil {
		t.Fatal(err)
	}
	server := rig.Serve(t, k.servers, "10.79.0.81:80", func(c *net.TCPConn) {
		rig.Greet(c.RemoteAddr().(*net.TCPAddr).IP.String())(c)
	})
	const theirs = "10.80.0.1:8081"
	saved, native := k.savedRules(), k.tool("nft", "-s", "list", "table", "inet", "theirs")
	same := func(when string) {
		t.Helper()
		if now := k.savedRules(); now != saved {
			t.Errorf("%s iptables-save says\n%s\nit said\n%s", when, now, saved)
		}
		if now := k.tool("nft", "-s", "list", "table", "inet", "theirs"); now != native {
			t.Errorf("%s the table of others is\n%s\nit was\n%s", when, now, native)
		}
		if from, err := k.visit(theirs); from != "10.80.0.2" || err != nil {
			t.Errorf("%s a connection by the rules of others comes from %q, %v; want the client's address", when, from, err)
		}
	}
	live := k.open(theirs)
	same("before")
	k.routes("  ours: { listen: [\"%%eth0:9092\", \"9100-9110\"], to: %q }\n", server.Addr)
	m := rig.Run(t, k.f)
	same("while midspan runs")
	if from, err := k.visit(front); from != "10.79.0.1" || err != nil {
		t.Errorf("a connection through midspan comes from %q, %v", from, err)
	}
	k.routes("  ours: { listen: \"%%eth0:9092\", to: %q }\n", server.Addr)
	m.Control("reload")
	same("after a reload")
	m.Signal(syscall.SIGTERM)
	if code := m.Exit(25 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	same("after its end")
	wantAlive(t, "after its end", live)
	if k.hasTable() {
		t.Error("there are rules of midspan left")
	}
	wantSettings(t, "after its end", settingsBefore)
}

// TestKernelConflicts has the rules of others that keep forwarding from working,
// and does what the log says.
func TestKernelConflicts(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	k.greeter("10.79.0.81:9092", "old target")
	k.greeter("10.79.0.91:9092", "server")
	k.ipFwd(9092, "10.79.0.81:9092")
	k.script("iptables -P FORWARD DROP")
	k.routes("  broker: { listen: \"%%eth0:9092\", to: \"10.79.0.91:9092\" }\n")
	m := rig.Run(t, k.f)
	const (
		accept     = "iptables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT"
		remove     = "iptables -t nat -D PREROUTING -i eth0 -p tcp --dport 9092 -j DNAT --to-destination 10.79.0.81:9092"
		masquerade = "iptables -t nat -D POSTROUTING -o srv0 -j MASQUERADE"
	)
	for _, words := range []string{
		"a rule that is not midspan's is in the way", "chain FORWARD of table ip filter may drop", accept,
		"sends port tcp 9092 to 10.79.0.81:9092", remove, masquerade,
	} {
		m.AwaitLog(words, rig.Patience) // it looks while it forwards
	}
	if c, err := k.clients.DialTimeout("tcp", front, 500*time.Millisecond); err == nil {
		c.Close()
		t.Error("a connection got through although the policy is DROP: this test is about another fault")
	}
	k.script(accept)
	if name, err := k.visit(front); name != "server" || err != nil {
		t.Errorf("once the packets are accepted a connection went to %q, %v; want midspan's server, whatever the old rule says", name, err)
	}
	k.script(remove + "\n" + masquerade)
	if name, err := k.visit(front); name != "server" || err != nil {
		t.Errorf("once the old rules are gone a connection went to %q, %v", name, err)
	}
	m.Kill()
	next := rig.Run(t, k.f)
	next.Signal(syscall.SIGTERM) // before its end it has looked
	if code := next.Exit(rig.Patience); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, told := range []string{"in the way", "masquerades all"} {
		if next.Says(told) > 0 {
			t.Errorf("after all was done as the log says, it says %q again", told)
		}
	}
}

// TestKernelLocalClient connects from the forwarder itself.
func TestKernelLocalClient(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	k.greeter("10.79.0.91:9092", "server")
	k.routes("  broker: { listen: 9092, to: \"10.79.0.91:9092\" }\n")
	rig.Run(t, k.f)
	for _, addr := range []string{front, "10.79.0.1:9092"} {
		wantServer(t, addr, "server")
		if name, err := talk(k.clients, front); name != "server" || err != nil {
			t.Errorf("from the clients' side: arrived at %q, %v", name, err)
		}
	}
	// The kernel forwards nothing from loopback; then it must not look like a
	// server that does not answer.
	if c, err := net.DialTimeout("tcp", "127.0.0.1:9092", 10*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		if err == nil {
			c.Close()
		}
		t.Errorf("127.0.0.1:9092 ended with %v, want refused", err)
	}
	if n := k.status("broker").Counters.Accepted; n != 4 {
		t.Errorf("status counts %d connections, want 4", n)
	}
}

// TestKernelEngineChange moves a route from the relay to the kernel and back,
// while connections are busy and others come and go.
func TestKernelEngineChange(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	echo := rig.Serve(t, k.servers, "10.79.0.91:9092", rig.Echo)
	k.greeter("10.79.0.92:9092", "quiet")
	write := func(engine string) {
		k.f.Write("routes:\n  busy: { engine: %s, listen: 9092, to: %q }\n  quiet: { engine: %s, listen: \"%%eth0:9093\", to: \"10.79.0.92:9092\" }\n", engine, echo.Addr, engine)
	}
	write("relay")
	m := rig.Run(t, k.f)
	load := k.load(front, 16, 4)
	quiet := []*flow{k.open("10.80.0.1:9093")}
	for i := range 20 {
		engine := []string{"nft", "relay"}[i%2]
		write(engine)
		m.Control("reload")
		load.wait(16, 8)
		quiet = append(quiet, k.open("10.80.0.1:9093"))
		if load.failed.Load() > 0 {
			t.Fatalf("%d connections failed at change %d, to %s", load.failed.Load(), i+1, engine)
		}
	}
	load.stop()
	wantAlive(t, "after 20 changes", quiet...)
	t.Logf("20 changes: %d exchanges on 16 connections, %d new connections, %d failures", load.exchanges.Load(), load.churned.Load(), load.failed.Load())
}

// linkMTU sets the MTU of an interface.
func linkMTU(t *testing.T, in *rig.Net, name string, mtu int) {
	t.Helper()
	err := in.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, mtu)
	})
	if err != nil {
		t.Fatal(fmt.Errorf("MTU of %s: %w", name, err))
	}
}
