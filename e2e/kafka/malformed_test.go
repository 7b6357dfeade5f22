package kafka

import (
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// TestMalformed has a broker give answers that are not what they say. Each ends the
// connection that it came on, with a line in the log that says what was wrong; the
// others go on. Each lie has a route, since one says such a thing only now and then.
func TestMalformed(t *testing.T) {
	ca := rig.NewCA(t, "e2e")
	i := ca.Issue("kafka.example")
	t.Run("plain", func(t *testing.T) { tellLies(t, "", dial) })
	t.Run("TLS", func(t *testing.T) {
		tellLies(t, fmt.Sprintf("    tls: { cert: %s, key: %s }\n", i.Cert, i.Key), func(t *testing.T, addr string) net.Conn {
			t.Helper()
			return tls.Client(dial(t, addr), &tls.Config{RootCAs: ca.Pool, ServerName: "kafka.example"})
		})
	})
}

// tellLies tells them all, each to clients of a route with these settings.
func tellLies(t *testing.T, settings string, dial dialer) {
	broker := &liar{t: t}
	server := rig.Serve(t, nil, "127.0.0.1:0", broker.serve)
	broker.addr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(server.Addr))
	names := slices.Sorted(maps.Keys(lies))
	first := rig.Ports(t, 2*len(names))
	port := func(i int) int { return first + 2*i } // and the node's
	routes := "defaults: { check: off }\nroutes:\n"
	for i := range names {
		routes += fmt.Sprintf("  lie%d:\n    mode: kafka\n    listen: \"127.0.0.1:%d\"\n    to: %q\n"+
			"    advertise: { host: kafka.example, ports: %[4]d-%[4]d, first_node: 1 }\n    kafka: { discover: off }\n%s", i, port(i), server.Addr, port(i)+1, settings)
	}
	f := rig.NewFile(t)
	f.Write("%s", routes)
	m := rig.Run(t, f)
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			to := victim{dial, fmt.Sprintf("127.0.0.1:%d", port(i)), fmt.Sprintf("kafka.example:%d", port(i)+1)}
			to.tell(t, m, name)
			if line := fmt.Sprintf("route=lie%d reason=\"bad response\"", i); m.Says(line) != 1 {
				t.Errorf("the log has %d lines with %s", m.Says(line), line)
			}
		})
	}
	if code := m.Probe(); code != 200 {
		t.Errorf("the probe says %d", code)
	}
	if rss, err := rig.RSS(m.PID()); err != nil || rss > 200<<20 {
		t.Errorf("midspan has %d MiB (%v)", rss>>20, err)
	}
}

// dialer connects to a route.
type dialer func(t *testing.T, addr string) net.Conn

// victim is a route whose clients are lied to.
type victim struct {
	dial       dialer
	listen     string
	advertised string // what clients are told for the broker
}

// tell has a client be lied to, and sees what becomes of it and of others.
func (v victim) tell(t *testing.T, m *rig.Midspan, name string) {
	t.Helper()
	lie := lies[name]
	stays := v.dial(t, v.listen)
	if err := honest(stays, v.advertised); err != nil {
		t.Fatalf("before the lie: %v", err)
	}
	before := m.Says(lie.says)
	c := v.dial(t, v.listen)
	begin := time.Now()
	got, err := ask(c, name, lie.key)
	if err == nil { // it comes behind a true answer
		_, err = io.Copy(io.Discard, c)
	}
	if took := time.Since(begin); os.IsTimeout(err) || took > lieTime/2 {
		t.Errorf("the connection ended after %s, with %v", took, err)
	}
	if len(got) > 0 && name != "an answer to nobody" {
		t.Errorf("the client has got an answer of %d bytes", len(got))
	}
	rig.Until(t, rig.Patience, "midspan says "+lie.says, func() bool { return m.Says(lie.says) > before })
	for what, c := range map[string]net.Conn{"that was there": stays, "that is new": v.dial(t, v.listen)} {
		if err := honest(c, v.advertised); err != nil {
			t.Errorf("after the lie, a connection %s: %v", what, err)
		}
	}
}

// dial connects; the connection is closed with the test.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
