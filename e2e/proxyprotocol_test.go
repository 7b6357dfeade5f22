package e2e

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// dialFrom connects from a loopback address that nobody else uses, so that who
// names it has heard of this client.
func dialFrom(t *testing.T, from, addr string) *net.TCPConn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// get asks for / on a connection, which may begin with more, and returns the
// answer's text; it closes the connection.
func get(c net.Conn, before string) (string, error) {
	defer c.Close()
	if _, err := io.WriteString(c, before+"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return strings.TrimSpace(string(text)), err
}

// lastRecord waits for the end record of a route's n-th connection.
func lastRecord(t *testing.T, m *rig.Midspan, route string, n int) record {
	t.Helper()
	var last record
	rig.Until(t, rig.Patience, fmt.Sprintf("connection %d of %s is logged", n, route), func() bool {
		ended := 0
		out := m.Stdout()
		for _, r := range parseRecords(t, out[:strings.LastIndexByte(out, '\n')+1]) {
			if r.Event == "end" && r.Route == route {
				ended++
				last = r
			}
		}
		return ended >= n
	})
	return last
}

// proxySenders are peers that put a header before what they forward.
var proxySenders = []struct {
	name  string
	start func(t *testing.T, addr, to string)
}{
	{"HAProxy v1", haproxySends("send-proxy")},
	{"HAProxy v2", haproxySends("send-proxy-v2")},
	{"HAProxy v2 with a checksum", haproxySends("send-proxy-v2 proxy-v2-options crc32c,unique-id")},
	{"nginx v1", func(t *testing.T, addr, to string) {
		rig.Stream(t, addr, fmt.Sprintf("server { listen %s; proxy_protocol on; proxy_pass %s; }", addr, to))
	}},
}

func haproxySends(words string) func(t *testing.T, addr, to string) {
	return func(t *testing.T, addr, to string) {
		rig.HAProxyWith(t, addr, fmt.Sprintf("listen sender\n  bind %s\n  unique-id-format call-%%pid\n  server s %s %s\n", addr, to, words))
	}
}

// TestProxyFromPeers: midspan believes the headers of HAProxy and nginx, and says
// in its log who the client is, and who sent the header.
func TestProxyFromPeers(t *testing.T) {
	for i, sender := range proxySenders {
		t.Run(sender.name, func(t *testing.T) {
			echo := rig.Serve(t, nil, "127.0.0.1:0", rig.Echo)
			f := rig.NewFile(t)
			f.Log = "json"
			addr, front := rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1")
			f.Write("routes:\n  echo: { listen: %q, to: %q, proxy_protocol: required }\n", addr, echo.Addr)
			m := rig.Run(t, f)
			sender.start(t, front, addr)
			c := dialFrom(t, fmt.Sprintf("127.0.5.%d", i+1), front)
			if err := exchangeBoth(c, bufio.NewReader(c), 1<<20); err != nil {
				t.Fatal(err)
			}
			c.Close()
			r := lastRecord(t, m, "echo", 1)
			if r.Client != c.LocalAddr().String() || !strings.HasPrefix(r.Peer, "127.0.0.1:") {
				t.Errorf("the log has client %s and peer %q; want %s and 127.0.0.1", r.Client, r.Peer, c.LocalAddr())
			}
			if r.BytesUp != 1<<20 || r.BytesDown != 1<<20 {
				t.Errorf("the log has %d bytes up and %d down; the header is none of them", r.BytesUp, r.BytesDown)
			}
		})
	}
}

// proxyReceivers are peers that take a header and say who the client is.
var proxyReceivers = []struct {
	name  string
	start func(t *testing.T, addr string)
}{
	{"HAProxy", func(t *testing.T, addr string) {
		rig.HAProxyWith(t, addr, fmt.Sprintf("frontend receiver\n  mode http\n  bind %s accept-proxy\n"+
			"  http-request return status 200 content-type text/plain lf-string \"%%[src]:%%[src_port] %%[dst]:%%[dst_port]\"\n", addr))
	}},
	{"nginx", func(t *testing.T, addr string) {
		rig.Web(t, addr, fmt.Sprintf("server { listen %s proxy_protocol; location / { return 200 \"$proxy_protocol_addr:$proxy_protocol_port "+
			"$proxy_protocol_server_addr:$proxy_protocol_server_port\"; } }", addr))
	}},
}

// TestProxyToPeers: HAProxy and nginx believe midspan's headers.
func TestProxyToPeers(t *testing.T) {
	for _, receiver := range proxyReceivers {
		for _, version := range []string{"v1", "v2"} {
			t.Run(receiver.name+" "+version, func(t *testing.T) {
				back, addr := rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1")
				receiver.start(t, back)
				f := rig.NewFile(t)
				f.Write("routes:\n  out: { listen: %q, to: %q, send_proxy: %s }\n", addr, back, version)
				rig.Run(t, f)
				for i := range 3 { // also on a socket that is used again
					c := dialFrom(t, fmt.Sprintf("127.0.6.%d", i+1), addr)
					said, err := get(c, "")
					if want := c.LocalAddr().String() + " " + addr; err != nil || said != want {
						t.Errorf("%s says %q, %v; want %q", receiver.name, said, err, want)
					}
				}
			})
		}
	}
}

// TestProxyThrough has HAProxy on both sides. What the first one says besides
// addresses reaches the second one, which checks the checksum of the header that
// midspan wrote.
func TestProxyThrough(t *testing.T) {
	back, addr, front := rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1")
	rig.HAProxyWith(t, back, fmt.Sprintf("frontend receiver\n  mode http\n  bind %s accept-proxy\n"+
		"  http-request return status 200 content-type text/plain lf-string \"%%[src]:%%[src_port] %%[fc_pp_unique_id]\"\n", back))
	f := rig.NewFile(t)
	f.Write("routes:\n  through: { listen: %q, to: %q, proxy_protocol: required, send_proxy: v2 }\n", addr, back)
	rig.Run(t, f)
	haproxySends("send-proxy-v2 proxy-v2-options crc32c,unique-id")(t, front, addr)
	c := dialFrom(t, "127.0.7.1", front)
	said, err := get(c, "")
	if want := c.LocalAddr().String() + " call-"; err != nil || !strings.HasPrefix(said, want) {
		t.Errorf("the HAProxy behind midspan says %q, %v; want %q and a number", said, err, want)
	}
}

// withSum is a header of version 2 with a checksum over all of it, which bad makes
// wrong. Source: proxy-protocol.txt, 2.2.3: CRC32C, in network order, over the
// header with zeros in its place.
func withSum(from, to string, bad bool) string {
	h := []byte(proxyV2(1, from, to, []byte{0x03, 0, 4, 0, 0, 0, 0}))
	sum := crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli))
	if bad {
		sum ^= 1
	}
	binary.BigEndian.PutUint32(h[len(h)-4:], sum)
	return string(h)
}

// TestProxyChecksum: HAProxy and midspan take and refuse the same checksums.
func TestProxyChecksum(t *testing.T) {
	back, addr := rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1")
	proxyReceivers[0].start(t, back)
	f := rig.NewFile(t)
	f.Log = "json"
	// Version 1 has no checksum: it is midspan alone that looks at it.
	f.Write("routes:\n  out: { listen: %q, to: %q, proxy_protocol: required, send_proxy: v1 }\n", addr, back)
	m := rig.Run(t, f)
	for name, to := range map[string]string{"HAProxy": back, "midspan": addr} {
		good, err := get(dial(t, to), withSum("10.1.2.3:40000", "10.0.0.4:1433", false))
		if err != nil || good != "10.1.2.3:40000 10.0.0.4:1433" {
			t.Errorf("%s, a checksum that is right: %q, %v", name, good, err)
		}
		if to == addr {
			lastRecord(t, m, "out", 1) // or it might come behind the next one's
		}
		if said, err := get(dial(t, to), withSum("10.1.2.3:40000", "10.0.0.4:1433", true)); err == nil {
			t.Errorf("%s takes a wrong checksum: %q", name, said)
		}
	}
	if r := lastRecord(t, m, "out", 2); r.Reason != "bad PROXY header" || r.Error == "" {
		t.Errorf("the wrong checksum is logged as %+v", r)
	}
}

// TestProxyStrict: on a data port a header is required or refused, never guessed.
func TestProxyStrict(t *testing.T) {
	echo := rig.Serve(t, nil, "127.0.0.1:0", rig.Echo)
	f := rig.NewFile(t)
	f.Log = "json"
	must, none, pass := rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1"), rig.Addr(t, "127.0.0.1")
	f.Write(`routes:
  must: { listen: %q, to: %q, proxy_protocol: { timeout: 2s } }
  none: { listen: %q, to: %[2]q }
  pass: { listen: %[4]q, to: %[2]q, proxy_protocol: pass }
`, must, echo.Addr, none, pass)
	m := rig.Run(t, f)
	header := proxyV2(1, "10.1.2.3:40000", "10.0.0.4:1433", nil)
	n := map[string]int{}
	for _, c := range []struct{ route, addr, send, back, reason string }{
		{"must", must, header + "hello", "hello", "closed by client"},
		{"must", must, "PROXY TCP4 10.1.2.3 10.0.0.4 40000 1433\r\nhello", "hello", "closed by client"},
		{"must", must, header + header + "hello", "hello", "closed by client"},
		{"must", must, proxyV2(0, "", "", nil) + "hello", "hello", "closed by client"},
		{"must", must, "hello, this is no header", "", "bad PROXY header"},
		{"must", must, "PROXY TCP4 10.1.2.3 10.0.0.4 40000 99999\r\nhello", "", "bad PROXY header"},
		{"must", must, header[:20], "", "opening timeout"},
		{"none", none, header + "hello", "", "PROXY header not allowed"},
		{"none", none, "PROXY TCP4 10.1.2.3 10.0.0.4 40000 1433\r\nhello", "", "PROXY header not allowed"},
		{"pass", pass, header + "hello", header + "hello", "closed by client"},
	} {
		n[c.route]++
		conn := dial(t, c.addr)
		if _, err := io.WriteString(conn, c.send); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(c.back))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != c.back {
			t.Errorf("%s, %q: %q came back, %v", c.route, c.send, got, err)
		}
		if c.back == "" {
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s, %q: %v; want a reset", c.route, c.send, err)
			}
		}
		conn.Close()
		if r := lastRecord(t, m, c.route, n[c.route]); r.Reason != c.reason {
			t.Errorf("%s, %q: logged as %q (%s), want %q", c.route, c.send, r.Reason, r.Error, c.reason)
		}
	}
}
