package nft

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/internal/conntrack"
	"midspan/internal/engine"
)

// TestTakesOver: the kernel forwards without the process, and the next engine
// has what the last one had.
func TestTakesOver(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	text := routes("web: {listen: 80, to: 10.1.0.1:80}")
	w.start(text)
	old, _ := w.connect(here + ":80")
	w.until("the start is recorded", func() bool { return len(w.records.list()) == 1 })
	id := w.engine.Conns()[0].ID
	w.crash()

	if err := alive(old); err != nil {
		t.Errorf("without an engine: %v", err)
	}
	between, _ := w.connect(here + ":80")

	w.records.forget()
	w.start(text)
	s := w.engine.Status()
	if c := s.Routes[0].Counters; c.Accepted != 2 || c.Active != 2 {
		t.Errorf("after a restart the counters are %+v", c)
	}
	if all := w.engine.Conns(); len(all) != 2 || all[0].ID != id || all[0].Server != "10.1.0.1:80" {
		t.Errorf("connections are %+v", all)
	}
	if got := w.records.list(); len(got) > 0 {
		t.Errorf("what was recorded before is recorded again: %+v", got[0])
	}
	for _, c := range []net.Conn{old, between} {
		if err := alive(c); err != nil {
			t.Errorf("after a restart: %v", err)
		}
		c.Close()
	}
	w.until("both ends are recorded", func() bool { return w.records.ends()[engine.ClosedByClient] == 2 })
}

// TestPutsBack: what somebody else does to the table is undone, and said.
func TestPutsBack(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	w.start(routes("web: {listen: 80, to: 10.1.0.1:80}"))
	c, _ := w.connect(here + ":80")
	want := listed(t)
	for i, command := range []string{"flush ruleset", "delete table inet midspan", "flush chain inet midspan prerouting", "add rule inet midspan forward drop"} {
		runNFT(t, "", strings.Fields(command)...)
		w.until("a line in the log", func() bool { return strings.Count(w.log.String(), "put back") == i+1 })
		if got := listed(t); got != want {
			t.Errorf("after %q:\n%s", command, got)
		}
		if err := alive(c); err != nil {
			t.Errorf("after %q: %v", command, err)
		}
	}
	if !strings.Contains(w.log.String(), "who=\"nft (pid ") {
		t.Errorf("the log does not name the culprit:\n%s", w.log)
	}
	// What is not ours is not our business.
	runNFT(t, "", "add", "table", "inet", "other")
	w.apply(routes("web: {listen: 80, to: 10.1.0.1:80}", "more: {listen: 81, to: 10.1.0.1:80}"))
	w.connect(here + ":81")
	if n := strings.Count(w.log.String(), "put back"); n != 4 {
		t.Errorf("the table was put back %d times", n)
	}
	runNFT(t, "", "delete", "table", "inet", "other")
}

// TestLeavesNothing: after Close there is no table, and settings are as before;
// with keep both stay.
func TestLeavesNothing(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	setting := func() string {
		text, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	before := setting()
	w.start(routes("web: {listen: 80, to: 10.1.0.1:80}"))
	if setting() != "1" {
		t.Error("ip_forward is not set")
	}
	w.close()
	if out := runNFT(t, "", "list", "tables"); out != "" || setting() != before {
		t.Errorf("left are tables %q; ip_forward is %s and was %s", out, setting(), before)
	}

	w.start("nft: {keep: true}\n" + routes("web: {listen: 80, to: 10.1.0.1:80}"))
	c, _ := w.connect(here + ":80")
	w.close()
	if err := alive(c); err != nil {
		t.Error(err)
	}
	w.connect(here + ":80")
	w.start(routes("web: {listen: 80, to: 10.1.0.1:80}"))
}

// TestIdle: the connection that rests is cut, the other is not.
func TestIdle(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	w.start(routes("web: {listen: 80, to: 10.1.0.1:80, idle_timeout: 2s}"))
	rests, _ := w.connect(here + ":80")
	busy, _ := w.connect(here + ":80")
	stop := time.Now().Add(4 * time.Second)
	for time.Now().Before(stop) {
		if err := alive(busy); err != nil {
			t.Fatalf("a busy connection: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if _, err := rests.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the idle one sees %v", err)
	}
	w.until("the reason is recorded", func() bool { return w.records.ends()[engine.IdleTimeout] == 1 })
}

// TestFinAgain: a client whose FIN is lost, or the answer to it, sends it again. That
// is not the server's: the connection lives on, and what still comes is counted.
func TestFinAgain(t *testing.T) {
	w := newWorld(t)
	const size = 1 << 20
	goOn := make(chan bool)
	w.listen("10.1.0.1:80", func(c net.Conn) {
		io.WriteString(c, "hello")
		<-goOn
		c.Write(make([]byte, size))
	})
	w.start(routes("web: {listen: 80, to: 10.1.0.1:80}"))
	c, _ := w.connect(here + ":80")
	w.nft("add table ip deaf; add chain ip deaf input { type filter hook input priority 0; policy drop; }")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	w.until("connection tracking takes the second FIN for the server's", func() (is bool) {
		err := w.engine.flows.Dump(markOurs, markOursBits, func(f *conntrack.Flow) { is = is || f.State == conntrack.TimeWait })
		if err != nil && !errors.Is(err, conntrack.ErrInterrupted) {
			t.Fatal(err)
		}
		return is
	})
	w.nft("delete table ip deaf")
	if n := w.engine.Status().Connections; n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	close(goOn)
	if got, err := io.ReadAll(c); len(got) != size || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	w.until("the end is recorded", func() bool { return w.records.ends()[engine.ClosedByClient] == 1 })
	for _, r := range w.records.list() {
		if !r.End.IsZero() && r.BytesDown < size {
			t.Errorf("%d bytes down are recorded, want %d and headers", r.BytesDown, size)
		}
	}
}

// TestCut: on_down decides about live connections to a server that goes down.
func TestCut(t *testing.T) {
	w := newWorld(t)
	for _, a := range []string{"10.1.0.1:80", "10.1.0.2:80"} {
		w.serve(a)
	}
	text := routes("cut: {listen: 80, to: [10.1.0.1:80, 10.1.0.2:80], on_down: cut}", "keep: {listen: 81, to: [10.1.0.1:80, 10.1.0.2:80]}")
	w.start(text)
	conns := map[string]net.Conn{}
	for _, port := range []string{"80", "81"} {
		for range 2 {
			c, line := w.connect(here + ":" + port)
			server, _, _ := strings.Cut(line, " ")
			conns[port+" "+server] = c
		}
	}
	if len(conns) != 4 {
		t.Fatalf("connections went to %v", conns)
	}
	w.apply(text, "10.1.0.1")
	for name, c := range conns {
		err := alive(c)
		if want := name == "80 10.1.0.1"; want != errors.Is(err, syscall.ECONNRESET) || !want && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.until("the reason is recorded", func() bool { return w.records.ends()[engine.ServerDown] == 1 })
}

// TestAllow: who is not in the list is refused, and counted.
func TestAllow(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	w.serve("[fd01::1]:80")
	w.start(routes("web: {listen: 80, to: [10.1.0.1:80, \"[fd01::1]:80\"], allow: [10.0.0.3, 10.9.0.0/16]}", "six: {listen: 81, to: \"[fd01::1]:80\", allow: \"fd00::/64\"}"))
	for _, c := range []struct {
		source, to string
		ok         bool
	}{
		{"10.0.0.3", here + ":80", true},
		{"10.0.0.2", here + ":80", false},
		{"fd00::2", "[" + here6 + "]:80", false},
		{"fd00::2", "[" + here6 + "]:81", true},
	} {
		_, _, err := w.dial(w.client, c.source, c.to)
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("from %s to %s: %v", c.source, c.to, err)
		}
	}
	s := w.engine.Status().Routes[0].Counters
	if s.Ended[engine.NotAllowed] != 2 || s.Accepted != 3 {
		t.Errorf("counters are %+v", s)
	}
}

// TestSources: connections come from the addresses that the route names.
func TestSources(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	w.start(routes("web: {listen: 80, to: 10.1.0.1:80, source: [10.1.0.253, 10.1.0.254]}"))
	seen := map[string]int{}
	for range 6 {
		_, line := w.connect(here + ":80")
		seen[line]++
	}
	if seen["10.1.0.1 from 10.1.0.253"] != 3 || seen["10.1.0.1 from 10.1.0.254"] != 3 {
		t.Errorf("connections came as %v", seen)
	}
}

// TestFromThisHost: a client here gets there too, by any address but loopback.
func TestFromThisHost(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	w.serve("[fd01::1]:80")
	w.start(routes("web: {listen: 80, to: [10.1.0.1:80, \"[fd01::1]:80\"]}"))
	for _, to := range []string{here + ":80", "[" + here6 + "]:80"} {
		if c, _, err := w.dial(nil, "", to); err != nil {
			t.Errorf("%s: %v", to, err)
		} else if err := alive(c); err != nil {
			t.Errorf("%s: %v", to, err)
		}
	}
	if _, _, err := w.dial(nil, "", "127.0.0.1:80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("127.0.0.1: %v", err)
	}
}

// TestUDP: datagrams are forwarded, in turn, and refused when nobody is there.
func TestUDP(t *testing.T) {
	w := newWorld(t)
	for _, a := range []string{"10.1.0.1:53", "10.1.0.2:53"} {
		w.serveUDP(a)
	}
	text := routes("dns: {listen: 53, mode: udp, to: [10.1.0.1:53, 10.1.0.2:53]}")
	w.start(text)
	seen := map[string]int{}
	for range 4 {
		answer, err := w.ask(here + ":53")
		if err != nil {
			t.Fatal(err)
		}
		seen[answer]++
	}
	if seen["10.1.0.1:53"] != 2 || seen["10.1.0.2:53"] != 2 {
		t.Errorf("answers came from %v", seen)
	}
	if all := w.engine.Conns(); len(all) != 4 || all[0].State != "open" {
		t.Errorf("flows are %+v", all)
	}
	w.apply(text, "10.1.0.1", "10.1.0.2")
	if answer, err := w.ask(here + ":53"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("without a server: %q, %v", answer, err)
	}
}

func (w *world) serveUDP(at string) {
	w.Helper()
	var p net.PacketConn
	err := w.server.Do(func() (err error) {
		p, err = net.ListenPacket("udp", at)
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { p.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			p.WriteTo([]byte(at), from)
		}
	}()
}

func (w *world) ask(to string) (string, error) {
	var c net.Conn
	err := w.client.Do(func() (err error) {
		c, err = net.Dial("udp", to)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// TestOverrun: what the kernel could not tell of is found in its table.
func TestOverrun(t *testing.T) {
	w := newWorld(t)
	w.serve("10.1.0.1:80")
	w.start(routes("web: {listen: 80, to: 10.1.0.1:80}"))
	stays, _ := w.connect(here + ":80")
	goes, _ := w.connect(here + ":80")
	w.until("both are known", func() bool { return len(w.records.list()) == 2 })
	tr := w.engine.tracker
	// As if all that follows had not been told.
	tr.mu.Lock()
	for _, l := range tr.lives {
		l.id ^= 1
	}
	tr.lives = map[conntrack.Tuple]*life{}
	tr.active = 0
	tr.mu.Unlock()
	w.engine.unread(w.engine.tracker.resync())
	w.until("both are known again", func() bool { return len(w.records.list()) == 4 })
	goes.Close()
	w.until("the end is recorded", func() bool { return w.records.ends()[engine.ClosedByClient] == 1 })
	if err := alive(stays); err != nil {
		t.Error(err)
	}
}
