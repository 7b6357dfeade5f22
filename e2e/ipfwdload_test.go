package e2e

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// TestIPFwdTwoTargetsOnOnePort: of two rules of ip_fwd.sh for one port the second
// is never reached (see TestIPFwdTargetChangedWhileFlowsLive).
func TestIPFwdTwoTargetsOnOnePort(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	a, b := k.greeter("10.79.0.91:9092", "a"), k.greeter("10.79.0.92:9092", "b")
	k.routes("  even: { listen: \"%%eth0:9092\", to: [%q, %q] }\n"+
		"  weighted: { listen: \"%%eth0:9093\", to: [{ server: %q, weight: 3 }, %q] }\n", a.Addr, b.Addr, a.Addr, b.Addr)
	rig.Run(t, k.f)
	if seen := k.shares(front, 40); seen["a"] != 20 || seen["b"] != 20 {
		t.Errorf("40 connections went to %v, want 20 to each", seen)
	}
	if seen := k.shares("10.80.0.1:9093", 40); seen["a"] != 30 || seen["b"] != 10 {
		t.Errorf("with weights 3 and 1, 40 connections went to %v, want 30 and 10", seen)
	}
	s := k.status("weighted")
	if s.Counters.Accepted != 40 || s.Endpoints[0].Connects != 30 || s.Endpoints[1].Connects != 10 {
		t.Errorf("status says %+v", s)
	}
}

// TestIPFwdUDP: ip_fwd.sh forwards TCP only.
func TestIPFwdUDP(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	a, b := k.udpServer("10.79.0.91:5353", "a"), k.udpServer("10.79.0.92:5353", "b")
	d := rig.StartDNS(t, rig.Addr(t, "127.0.0.1"), 1)
	k.f.Write("dns: { servers: [%q], min_ttl: 1s, timeout: 2s }\ndefaults: { engine: nft }\nroutes:\n"+
		"  both: { mode: udp, listen: \"%%eth0:5353\", to: [\"10.79.0.91:5353\", \"10.79.0.92:5353\"] }\n"+
		"  nobody: { mode: udp, listen: \"%%eth0:5354\", to: \"%s:5353\" }\n", d.Addr, broker)
	rig.Run(t, k.f)
	const both, nobody = "10.80.0.1:5353", "10.80.0.1:5354"
	seen := map[string]int{}
	var flows []net.Conn
	for range 10 {
		c, err := k.clients.DialTimeout("udp", both, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		flows = append(flows, c)
		name, err := askUDP(c, "hello")
		if err != nil {
			t.Fatalf("after %v: %v", seen, err)
		}
		seen[name]++
	}
	if seen["a hello"] != 5 || seen["b hello"] != 5 {
		t.Errorf("10 flows had answers %v, want 5 of each server", seen)
	}
	for i, c := range flows {
		again, err := askUDP(c, fmt.Sprint("datagram ", i))
		if err != nil || !strings.HasSuffix(again, fmt.Sprint("datagram ", i)) {
			t.Errorf("flow %d: answer %q, %v", i, again, err)
		}
	}
	for _, s := range []net.PacketConn{a, b} {
		s.Close()
	}
	for i, c := range flows[:2] {
		if answer, err := askUDP(c, "anybody there?"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("flow %d, to a server that is down: answer %q, %v, want refused", i, answer, err)
		}
	}
	c, err := k.clients.DialTimeout("udp", nobody, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if answer, err := askUDP(c, "anybody there?"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a route without a server: answer %q, %v, want refused", answer, err)
	}
	d.Set(broker, "10.79.0.91")
	k.udpServer("10.79.0.91:5353", "a")
	rig.Until(t, rig.Patience, "datagrams are forwarded", func() bool {
		answer, err := askUDP(c, "hello")
		return answer == "a hello" && err == nil
	})
}

// udpServer answers a datagram with its name and what came.
func (k *kernelLab) udpServer(addr, name string) net.PacketConn {
	k.t.Helper()
	var s net.PacketConn
	err := k.servers.Do(func() (err error) {
		s, err = net.ListenPacket("udp", addr)
		return err
	})
	if err != nil {
		k.t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := s.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = s.WriteTo(append([]byte(name+" "), buf[:n]...), from) // the client counts
		}
	}()
	k.t.Cleanup(func() { s.Close() })
	return s
}

// askUDP sends a datagram and returns the answer to it.
func askUDP(c net.Conn, what string) (string, error) {
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte(what)); err != nil {
		return "", err
	}
	buf := make([]byte, 2000)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// TestIPFwdPortExhaustion: when the source ports to a target are used up,
// ip_fwd.sh's new connections get no answer, and nobody says why.
func TestIPFwdPortExhaustion(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	addAddress(t, "srv0", "10.79.0.2/24")
	k.greeter("10.79.0.91:9092", "one source")
	k.greeter("10.79.0.92:9092", "two sources")
	k.f.Write("nft: { ports: 20000-20063 }\ndefaults: { engine: nft }\nroutes:\n" +
		"  one: { listen: \"%%eth0:9092\", to: \"10.79.0.91:9092\" }\n" +
		"  two: { listen: \"%%eth0:9093\", to: \"10.79.0.92:9092\", source: [10.79.0.1, 10.79.0.2] }\n")
	m := rig.Run(t, k.f)
	var flows []*flow
	for range 58 {
		flows = append(flows, k.open(front))
	}
	m.AwaitLog("source ports to 10.79.0.91:9092: ", rig.Patience) // and it must not be the last word
	for range 6 {
		flows = append(flows, k.open(front))
	}
	if c, err := k.clients.DialTimeout("tcp", front, 1500*time.Millisecond); err == nil {
		c.Close()
		t.Error("the 65th connection with 64 ports got an answer")
	} else if ne := net.Error(nil); !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("the 65th connection with 64 ports ended with %v", err)
	}
	m.AwaitLog("source ports to 10.79.0.91:9092: 64 of 64 in use; new connections get no answer", rig.Patience)
	wantWords(t, m.Stderr(), "give the route more addresses (source: [..]), or nft: { ports: .. } a wider range")
	if e := k.status("one").Endpoints[0]; e.Ports != 64 || e.MaxPorts != 64 || e.Active != 64 {
		t.Errorf("status says %+v, want 64 of 64 ports", e)
	}
	wantAlive(t, "with all ports in use", flows...)
	reset(t, flows[0].Conn.(*net.TCPConn))
	begin := time.Now()
	rig.Until(t, rig.Patience, "there is room again", func() bool {
		c, err := k.clients.DialTimeout("tcp", front, 1500*time.Millisecond)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	t.Logf("room again %s after a reset", time.Since(begin).Round(100*time.Millisecond))

	var more []*flow
	for range 128 {
		more = append(more, k.open("10.80.0.1:9093"))
	}
	if e := k.status("two").Endpoints[0]; e.Ports != 128 || e.MaxPorts != 128 || e.Active != 128 {
		t.Errorf("status says %+v, want 128 of 128 ports", e)
	}
	wantAlive(t, "with all ports of two addresses in use", more...)
}

// TestIPFwdForeignFlush: whoever loads a firewall takes ip_fwd.sh's rules away
// (nft -f files begin with "flush ruleset"), and they are not put back.
func TestIPFwdForeignFlush(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	k := newKernelLab(t)
	echo := rig.Serve(t, k.servers, "10.79.0.91:9092", rig.Echo)
	k.greeter("10.79.0.92:9092", "quiet")
	k.routes("  busy: { listen: \"%%eth0:9092\", to: %q }\n  quiet: { listen: \"%%eth0:9093\", to: \"10.79.0.92:9092\" }\n", echo.Addr)
	m := rig.Run(t, k.f)
	quiet := []*flow{k.open("10.80.0.1:9093"), k.open("10.80.0.1:9093")}
	load := k.load(front, 16, 0)
	before := k.rules()
	last := metrics(t, m)
	for i, tampering := range []string{
		"flush ruleset",
		"delete table inet midspan",
		"flush chain inet midspan prerouting",
		"delete chain inet midspan postrouting",
		"flush table inet midspan",
		"insert rule inet midspan forward drop",
		"add chain inet midspan theirs",
	} {
		load.wait(16, 0)
		begin := time.Now()
		k.script("nft " + tampering)
		rig.Until(t, rig.Patience, "the rules are put back after nft "+tampering, func() bool {
			return m.Says("were changed by somebody else: put back") == i+1
		})
		took := time.Since(begin)
		t.Logf("put back %s after nft %s", took.Round(time.Millisecond), tampering)
		// It waits longer from one time to the next, here up to a second.
		if took > 4*time.Second {
			t.Errorf("it took %s to put the rules back", took)
		}
		if now := k.rules(); now != before {
			t.Errorf("after nft %s the rules are\n%s\nthey were\n%s", tampering, now, before)
		}
		if name, err := k.visit("10.80.0.1:9093"); name != "quiet" || err != nil {
			t.Errorf("after nft %s a new connection went to %q, %v", tampering, name, err)
		}
		load.wait(16, 0)
		now := metrics(t, m)
		for _, s := range last.Shrunk(now) {
			t.Errorf("after nft %s: %s", tampering, s)
		}
		last = now
	}
	load.stop()
	wantAlive(t, "after all that", quiet...)
	if n := strings.Count(m.Stderr(), `who="nft (pid `); n != 7 {
		t.Errorf("the log names nft %d times, want 7", n)
	}
}
