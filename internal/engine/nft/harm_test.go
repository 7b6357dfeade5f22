package nft

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/internal/conntrack"
	"midspan/internal/engine"
	"midspan/internal/netns"
	"midspan/internal/plan"
)

// These guard against harm that an early version could do.

// TestStaysClosed: a host that forwarded nothing forwards what routes say, and
// nothing else.
func TestStaysClosed(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	for n, route := range map[*netns.Net][2]string{w.client: {"10.1.0.0/24", here}, w.server: {"10.0.0.0/24", "10.1.0.254"}} {
		if err := n.Route(netip.MustParsePrefix(route[0]), netip.MustParseAddr(route[1])); err != nil {
			t.Fatal(err)
		}
	}
	w.start(routes("web: {listen: 81, to: 10.1.0.1:80}"))
	w.connect(here + ":81")
	err := w.client.Do(func() error {
		c, err := net.DialTimeout("tcp", "10.1.0.1:80", time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err == nil {
		t.Error("a client reaches the server as through a router")
	}
	w.close()

	// Who forwarded before goes on as before.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) })
	w.start(routes("web: {listen: 81, to: 10.1.0.1:80}"))
	w.connect("10.1.0.1:80")
}

// TestFailedStart: an engine that cannot start leaves the one that runs alone.
func TestFailedStart(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	text := routes("web: {listen: 80, to: 10.1.0.1:80}")
	w.start(text)
	second, err := New(Options{State: w.engine.settings.Dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Apply(context.Background(), makePlan(t, text, nil)); err == nil || !strings.Contains(err.Error(), "another midspan") {
		t.Errorf("a second engine: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	w.connect(here + ":80")
	w.crash()

	// The next one fails at a port that is taken. The kernel goes on.
	l, err := net.Listen("tcp", ":81")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	third, err := New(Options{State: second.settings.Dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := third.Apply(context.Background(), makePlan(t, routes("web: {listen: [80, 81], to: 10.1.0.1:80}"), nil)); err == nil {
		t.Error("a port that is taken was taken")
	}
	if err := third.Close(); err != nil {
		t.Error(err)
	}
	w.connect(here + ":80")
	w.start(text)
}

// TestNothingLeftOfThePast: rules of an earlier process end with a plan that has
// no kernel route.
func TestNothingLeftOfThePast(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	w.start(routes("web: {listen: 80, to: 10.1.0.1:80}"))
	w.crash()
	if !Present() {
		t.Error("the table of a process that has died is not seen")
	}
	var err error
	if w.engine, err = New(Options{State: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	relayOnly := makePlan(t, "routes:\n  web: {listen: 80, to: 10.1.0.1:80}\n", nil)
	if _, err := w.engine.Apply(context.Background(), relayOnly.Of(plan.NFT)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.dial(w.client, "", here+":80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a route that is gone: %v", err)
	}
	w.close()
	if Present() {
		t.Error("the table is left")
	}
}

// TestHalfOpen: a client that does not finish its handshake says nothing about
// the server.
func TestHalfOpen(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_syn_recv", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_syn_recv", []byte("60"), 0) })
	w.start(routes("web: {listen: 80, to: 10.1.0.1:80}"))
	w.nft("add table inet deaf; add chain inet deaf in { type filter hook input priority 0; }; add rule inet deaf in tcp flags & (syn|ack) == syn|ack drop")
	err := w.client.Do(func() error {
		d := net.Dialer{Timeout: 500 * time.Millisecond}
		if c, err := d.Dial("tcp", here+":80"); err == nil {
			c.Close()
			return errors.New("a client that is deaf is connected")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// The kernel tells of an entry that has expired when it next looks at it.
	w.until("the end is recorded", func() bool {
		w.engine.Conns()
		return w.records.ends()[engine.LostClient] == 1
	})
	if e := w.engine.Status().Routes[0].Endpoints[0]; e.Failures != 0 || e.LastError != "" {
		t.Errorf("the server is blamed: %+v", e)
	}
}

// TestCutThatFails: connections that cannot be told are cut all the same, and
// nothing waits for ever.
func TestCutThatFails(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	text := routes("web: {listen: 80, to: [10.1.0.1:80, 10.1.0.2:80], balance: first, on_down: cut}")
	w.start(text)
	c, _ := w.connect(here + ":80")
	runNFT(t, "", "add", "table", "inet", "mute")
	t.Cleanup(func() { runNFT(t, "", "delete", "table", "inet", "mute") })
	runNFT(t, "", "add", "chain", "inet", "mute", "out", "{ type filter hook output priority 0; }")
	runNFT(t, "", "add", "rule", "inet", "mute", "out", "tcp", "flags", "&", "(syn|rst|ack)", "==", "ack", "drop")
	w.apply(text, "10.1.0.1")
	w.engine.Status()
	if err := alive(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection: %v", err)
	}
	if !strings.Contains(w.log.String(), "cannot be reset at both ends") {
		t.Errorf("the log does not say so:\n%s", w.log)
	}
}

// TestLimitCountsOn: a change of servers does not forget who is connected.
func TestLimitCountsOn(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	w.serve("10.1.0.2:80")
	w.start(routes("web: {listen: 80, to: 10.1.0.1:80, max_connections: 2}"))
	for range 2 {
		w.connect(here + ":80")
	}
	w.apply(routes("web: {listen: 80, to: [10.1.0.1:80, 10.1.0.2:80], max_connections: 2, allow: 10.0.0.0/8}"))
	err := w.client.Do(func() error {
		c, err := net.DialTimeout("tcp", here+":80", 500*time.Millisecond)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err == nil {
		t.Error("a third connection was let in")
	}
}

// TestUDPFollows: a client that sends all the time gets to where the rules lead
// now, and not to where they led when it began.
func TestUDPFollows(t *testing.T) {
	w := newWorld(t)
	w.serveUDP("10.1.0.1:53")
	w.serveUDP("10.1.0.2:53")
	w.start(routes("other: {listen: 54, mode: udp, to: 10.1.0.1:53}")) // so that flows are tracked
	var c net.Conn
	err := w.client.Do(func() (err error) {
		c, err = net.Dial("udp", here+":53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer := func() string {
		c.Write([]byte("?"))
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err != nil {
			return "none"
		}
		return string(buf[:n])
	}
	answer() // begins a flow that leads nowhere
	text := routes("other: {listen: 54, mode: udp, to: 10.1.0.1:53}", "dns: {listen: 53, mode: udp, balance: first, to: [10.1.0.1:53, 10.1.0.2:53]}")
	w.apply(text)
	w.until("the first server answers", func() bool { return answer() == "10.1.0.1:53" })
	w.apply(text, "10.1.0.1")
	w.until("the second server answers", func() bool { return answer() == "10.1.0.2:53" })
}

// TestCountsNeverFall: not while connections come and go, either.
func TestCountsNeverFall(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	w.start(routes("web: {listen: 80, to: 10.1.0.1:80}"))
	var up, down uint64
	for range 30 {
		c, _ := w.connect(here + ":80")
		if err := alive(c); err != nil {
			t.Fatal(err)
		}
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
		_ = w.engine.flows.Dump(markOurs, markOursBits, func(f *conntrack.Flow) { _ = w.engine.flows.Delete(f) }) // as time does
		n := w.engine.Status().Routes[0].Counters
		if n.BytesUp < up || n.BytesDown < down {
			t.Fatalf("%d and %d bytes after %d and %d", n.BytesUp, n.BytesDown, up, down)
		}
		up, down = n.BytesUp, n.BytesDown
	}
	if up == 0 || down == 0 {
		t.Error("nothing was counted")
	}
}
