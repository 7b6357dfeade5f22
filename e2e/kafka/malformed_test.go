package kafka

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// TestMalformed has a broker give answers that are not what they say. Each ends the
// connection that it came on, with a line in the log that says what was wrong; the
// others go on.
func TestMalformed(t *testing.T) {
	broker := &liar{t: t}
	server := rig.Serve(t, nil, "127.0.0.1:0", broker.serve)
	broker.addr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(server.Addr))
	base := rig.Ports(t, 2)
	listen, advertised := rig.Addr(t, "127.0.0.1"), fmt.Sprintf("kafka.example:%d", base+1)
	f := rig.NewFile(t)
	f.Write("routes:\n  orders:\n    mode: kafka\n    listen: %q\n    to: %q\n    advertise: { host: kafka.example, ports: %d-%d }\n    kafka: { discover: off }\n",
		listen, server.Addr, base, base+1)
	m := rig.Run(t, f)
	stays := dial(t, listen)
	if err := honest(stays, advertised); err != nil {
		t.Fatalf("before any lie: %v", err)
	}
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			before := m.Says(lie.says)
			c := dial(t, listen)
			begin := time.Now()
			got, err := ask(c, name, lie.key)
			for err == nil { // an answer is all right that a lie comes behind
				_, err = io.Copy(io.Discard, c)
				if err == nil {
					err = io.EOF
				}
			}
			if took := time.Since(begin); os.IsTimeout(err) || took > 5*time.Second {
				t.Errorf("the connection ended after %s, with %v", took, err)
			}
			if len(got) > 0 && name != "an answer to nobody" {
				t.Errorf("the client has got an answer of %d bytes", len(got))
			}
			rig.Until(t, 5*time.Second, "midspan says "+lie.says, func() bool { return m.Says(lie.says) > before })
			for what, c := range map[string]net.Conn{"that was there": stays, "that is new": dial(t, listen)} {
				if err := honest(c, advertised); err != nil {
					t.Errorf("after the lie, a connection %s: %v", what, err)
				}
			}
		})
	}
	if code := m.Probe(); code != 200 {
		t.Errorf("the probe says %d", code)
	}
	for line := range strings.Lines(m.Stderr()) {
		if strings.Contains(line, "answer") && !strings.Contains(line, "route=orders") {
			t.Errorf("a line of the log does not name the route: %s", line)
		}
	}
	if rss, err := rig.RSS(m.PID()); err != nil || rss > 200<<20 {
		t.Errorf("midspan has %d MiB (%v)", rss>>20, err)
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
