package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// Each fault of ip_fwd.sh, the script of iptables rules that engine nft takes
// the place of, has a test.

const (
	broker = "broker.corp.example.com"
	front  = "10.80.0.1:9092"
)

// brokers are two servers of one name, and a name server that knows them.
func brokers(k *kernelLab) (d *rig.DNS, first, second *rig.Server) {
	k.t.Helper()
	d = rig.StartDNS(k.t, rig.Addr(k.t, "127.0.0.1"), 1)
	d.Set(broker, "10.79.0.91", "10.79.0.92")
	return d, k.greeter("10.79.0.91:9092", "first"), k.greeter("10.79.0.92:9092", "second")
}

// byName writes a file with a route to broker.
func (k *kernelLab) byName(d *rig.DNS) {
	k.t.Helper()
	k.f.Write("dns: { servers: [%q], min_ttl: 1s, timeout: 2s }\nroutes:\n"+
		"  broker: { engine: nft, listen: \"%%eth0:9092\", to: \"%s:9092\" }\n", d.Addr, broker)
}

// TestIPFwdNameWithTwoAddresses: ip_fwd.sh takes the first address that the name
// has when it runs (host NAME | head -n1), for good.
func TestIPFwdNameWithTwoAddresses(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	d, _, _ := brokers(k)
	k.byName(d)
	rig.Run(t, k.f)
	flows := []*flow{k.open(front), k.open(front), k.open(front), k.open(front)}
	if seen := k.shares(front, 10); seen["first"] != 5 || seen["second"] != 5 {
		t.Errorf("10 connections went to %v, want 5 to each address", seen)
	}
	d.Set(broker, "10.79.0.92")
	begin := time.Now()
	rig.Until(t, rig.Patience, "no connection goes to the address that is gone", func() bool {
		return k.shares(front, 4)["second"] == 4
	})
	t.Logf("new connections followed after %s (TTL 1s)", time.Since(begin).Round(time.Millisecond))
	if seen := k.shares(front, 10); seen["second"] != 10 {
		t.Errorf("10 connections went to %v, want all to the address that is left", seen)
	}
	wantAlive(t, "after DNS has dropped an address", flows...)
	old := 0
	for _, f := range flows {
		if f.server == "first" {
			old++
		}
	}
	if old != 2 {
		t.Errorf("%d of 4 flows are to the address that is gone, want 2", old)
	}
}

// TestIPFwdNameThatFails: ip_fwd.sh writes "-j DNAT --to :9092" when it finds no
// address, and so leads clients to this machine's own port.
func TestIPFwdNameThatFails(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	own := rig.Serve(t, nil, "10.80.0.1:9093", rig.Greet("the VM itself"))
	k.ipFwd(9092, ":9093")
	if name, err := k.visit(front); name != "the VM itself" || err != nil {
		t.Fatalf("ip_fwd.sh's rule led to %q, %v: this test is about another fault", name, err)
	}
	k.noIPFwd()
	k.greeter("10.79.0.91:9093", "the server")
	d := rig.StartDNS(t, rig.Addr(t, "127.0.0.1"), 1)
	k.f.Write("dns: { servers: [%q], min_ttl: 1s, timeout: 2s }\nroutes:\n"+
		"  broker: { engine: nft, listen: \"%%eth0:9092\", to: \"%s:9093\" }\n", d.Addr, broker)
	before := own.Conns.Load()
	m := rig.Run(t, k.f)
	m.AwaitLog("does not resolve", rig.Patience)
	for range 5 {
		k.wantRefused("while the name has no address", front)
	}
	if code := m.Probe(); code != 503 {
		t.Errorf("the probe answers %d while no route has a server, want 503", code)
	}
	refused := k.status("broker").Counters.Ended["no server up"]
	if refused < 5 {
		t.Errorf("status counts %d connections without a server, want 5", refused)
	}
	d.Set(broker, "10.79.0.91")
	begin := time.Now()
	rig.Until(t, rig.Patience, "connections are forwarded", func() bool {
		name, err := k.visit(front)
		return name == "the server" && err == nil
	})
	t.Logf("forwarded %s after DNS was well", time.Since(begin).Round(time.Millisecond))
	if n := own.Conns.Load() - before; n != 0 {
		t.Errorf("%d connections were led to this machine's own port", n)
	}
	if n := k.status("broker").Counters.Ended["no server up"]; n < refused {
		t.Errorf("status counts %d connections without a server; it counted %d before there was one", n, refused)
	}
}

// TestIPFwdRunAgain: each run of ip_fwd.sh adds its rules once more.
func TestIPFwdRunAgain(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	k.greeter("10.79.0.91:9092", "server")
	k.ipFwd(9092, "10.79.0.91:9092")
	k.ipFwd(9092, "10.79.0.91:9092")
	if n := strings.Count(k.savedRules(), "-j DNAT"); n != 2 {
		t.Fatalf("ip_fwd.sh left %d rules after two runs: this test is about another fault", n)
	}
	k.noIPFwd()
	const route = "  broker: { listen: \"%eth0:9092\", to: \"10.79.0.91:9092\" }\n"
	const more = "  more: { listen: [9093, \"9100-9110\"], to: [\"10.79.0.92\", \"10.79.0.93\"], balance: source }\n"
	k.routes("%s", route)
	m := rig.Run(t, k.f)
	before := k.rules()
	for i := range 20 {
		k.routes("%s", []string{route, route + more, route + more, route}[i%4])
		m.Control("reload")
	}
	if after := k.rules(); after != before {
		t.Errorf("after 20 reloads the rules are\n%s\nthey were\n%s", after, before)
	}
	g := rig.NewFile(t)
	g.Write("routes:\n  other: { engine: nft, listen: 9099, to: \"10.79.0.91:9092\" }\n")
	wantNoStart(t, g, "another midspan has the nft engine in this network namespace", "stop it, or write engine: relay")
	if after := k.rules(); after != before {
		t.Errorf("after a second daemon tried to start the rules are\n%s\nthey were\n%s", after, before)
	}
	m.Kill()
	rig.Run(t, k.f)
	if after := k.rules(); after != before {
		t.Errorf("after kill -9 and another start the rules are\n%s\nthey were\n%s", after, before)
	}
	if tables := k.tool("nft", "list", "tables"); strings.Count(tables, "table inet midspan\n") != 1 || strings.Contains(tables, "table ip ") {
		t.Errorf("the tables are\n%s\nwant midspan's alone", tables)
	}
	wantAlive(t, "after all that", k.open(front))
}

// TestIPFwdReboot: the rules of ip_fwd.sh are gone after a reboot.
func TestIPFwdReboot(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	t.Setenv("STATE_DIRECTORY", t.TempDir())
	k := newKernelLab(t)
	d, _, _ := brokers(k)
	k.byName(d)
	m := rig.Run(t, k.f)
	if _, err := k.visit(front); err != nil {
		t.Fatalf("before the reboot: %v", err)
	}
	names := filepath.Join(os.Getenv("STATE_DIRECTORY"), "names.json")
	rig.Until(t, rig.Patience, "the addresses are kept", func() bool {
		text, err := os.ReadFile(names)
		return err == nil && strings.Contains(string(text), "10.79.0.92")
	})

	m.Kill()
	k.tool("nft", "delete", "table", "inet", "midspan")
	k.eth0.Pull()
	d.Fail(true)
	err := errors.Join(os.RemoveAll("/run/midspan"), os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	out, problems, code := rig.Command(t, "", "load", k.f.Path)
	t.Logf("midspan load: exit code %d\n%s%s", code, out, problems)
	if code != 0 {
		t.Fatal("the rules are not in force")
	}
	k.plug(t)
	var flows []*flow
	for range 4 {
		flows = append(flows, k.open(front)) // from the first connection on
	}
	if flows[0].server == flows[1].server {
		t.Errorf("two connections went to the same of two servers")
	}
	wantAlive(t, "before the daemon starts", flows...)

	m = rig.Run(t, k.f)
	wantAlive(t, "once the daemon has started", flows...)
	if ids := listed(t, m); len(ids) != len(flows) {
		t.Errorf("the daemon lists %d connections, want the %d from before its start", len(ids), len(flows))
	}
	if seen := k.shares(front, 10); seen["first"] != 5 || seen["second"] != 5 {
		t.Errorf("without DNS, 10 connections went to %v, want 5 to each address", seen)
	}
	d.Fail(false)
	d.Set(broker, "10.79.0.91")
	rig.Until(t, rig.Patience, "the daemon follows DNS again", func() bool { return k.shares(front, 4)["first"] == 4 })
	wantAlive(t, "with DNS again", flows...)
}

// TestIPFwdTargetDown: ip_fwd.sh does not know that its target is down.
func TestIPFwdTargetDown(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	first, second := k.greeter("10.79.0.91:9092", "first"), k.greeter("10.79.0.92:9092", "second")
	const fall, every = 3, 300 * time.Millisecond
	k.routes("  checked: { listen: \"%%eth0:9092\", to: [%q, %q], check: { kind: tcp, every: %s, fall: %d, rise: 2 } }\n"+
		"  plain: { listen: \"%%eth0:9093\", to: [%q, \"10.79.0.93:9092\"] }\n", first.Addr, second.Addr, every, fall, first.Addr)
	m := rig.Run(t, k.f)
	wantAlive(t, "at the start", k.open(front))

	second.Close()
	begin := time.Now()
	refused := 0
	rig.Until(t, rig.Patience, "the server counts as down", func() bool {
		if name, err := k.visit(front); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a connection to %q ended with %v, want refused", name, err)
		} else if err != nil {
			refused++
		}
		return !k.status("checked").Endpoints[1].Up
	})
	took := time.Since(begin)
	t.Logf("down after %s, with %d connections refused until then", took.Round(time.Millisecond), refused)
	if took > fall*every+5*time.Second { // with the defaults it would be 15 s
		t.Errorf("it took %s to see the server down, want %s and a little", took, fall*every)
	}
	if seen := k.shares(front, 20); seen["first"] != 20 {
		t.Errorf("with the second server down 20 connections went to %v", seen)
	}

	first.Close()
	rig.Until(t, rig.Patience, "no server is up", func() bool { return m.Says("level=WARN") > 0 && !k.status("checked").Endpoints[0].Up })
	for range 5 {
		k.wantRefused("with all servers down", front)
	}
	k.greeter("10.79.0.92:9092", "second")
	rig.Until(t, rig.Patience, "connections go to the server that is back", func() bool {
		name, err := k.visit(front)
		return name == "second" && err == nil
	})
	k.greeter("10.79.0.91:9092", "first")
	rig.Until(t, rig.Patience, "both servers are used again", func() bool { return k.shares(front, 2)["first"] == 1 })

	t.Run("without a check", func(t *testing.T) {
		const plain = "10.80.0.1:9093"
		rig.Until(t, rig.Patience, "a server that refuses is passed by", func() bool {
			for range 4 {
				if _, err := k.visit(plain); err != nil {
					return false
				}
			}
			return true
		})
		// Now and then it is tried again.
		rig.Until(t, rig.Patience, "status tells of a server that refuses", func() bool {
			e := k.status("plain").Endpoints[1]
			return e.Failures > 0 && e.LastError == "connection refused" && !e.Up
		})
	})
}

// TestIPFwdTargetChangedWhileFlowsLive: a new rule of ip_fwd.sh comes after the
// old one and is never reached; to take the old one away is a second command.
func TestIPFwdTargetChangedWhileFlowsLive(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	k.greeter("10.79.0.91:9092", "old")
	k.greeter("10.79.0.92:9092", "new")
	k.ipFwd(9092, "10.79.0.91:9092")
	k.ipFwd(9092, "10.79.0.92:9092")
	if seen := k.shares(front, 4); seen["old"] != 4 {
		t.Fatalf("ip_fwd.sh's second rule led to %v: this test is about another fault", seen)
	}
	k.noIPFwd()

	to := func(addrs, more string) {
		k.routes("  broker: { listen: \"%%eth0:9092\", to: %s, check: { kind: tcp, every: 200ms, fall: 2, rise: 1 }%s }\n", addrs, more)
	}
	to(`"10.79.0.91:9092"`, "")
	m := rig.Run(t, k.f)
	flows := []*flow{k.open(front), k.open(front)}
	for i := range 6 {
		to([]string{`"10.79.0.92:9092"`, `"10.79.0.91:9092"`}[i%2], "")
		m.Control("reload")
		want := []string{"new", "old"}[i%2]
		if seen := k.shares(front, 10); seen[want] != 10 {
			t.Errorf("after reload %d 10 connections went to %v, want the %s server", i+1, seen, want)
		}
		flows = append(flows, k.open(front))
		wantAlive(t, fmt.Sprint("after reload ", i+1), flows...)
	}

	dying := k.greeter("10.79.0.93:9092", "dying")
	to(`["10.79.0.92:9092", "10.79.0.93:9092"]`, ", on_down: cut")
	m.Control("reload")
	var kept, cut []*flow
	for _, f := range flows {
		if f.server == "old" { // which is in the file no more
			wantReset(t, f)
		} else {
			kept = append(kept, f)
		}
	}
	wantAlive(t, "after on_down: cut", kept...)
	for range 8 {
		if f := k.open(front); f.server == "dying" {
			cut = append(cut, f)
		} else {
			kept = append(kept, f)
		}
	}
	if len(cut) != 4 {
		t.Fatalf("%d of 8 flows went to one of two servers", len(cut))
	}
	dying.Refuse() // its flows would live on
	for _, f := range cut {
		wantReset(t, f)
	}
	wantAlive(t, "after another server went down", kept...)
	m.AwaitLog("connections to servers that are down were cut", rig.Patience)
}
