package e2e

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// TestProbe asks the health endpoint in every way that load balancers do. Azure
// puts a PROXY header with a link ID before each probe once any Private Link
// Service on the balancer has that protocol on.
func TestProbe(t *testing.T) {
	f, addr := echoFile(t, "json")
	m := rig.Run(t, f)
	const get = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	for _, c := range []struct{ name, send, status string }{
		{"HTTP/1.1", get, "200"},
		{"HTTP/1.0 without a host", "GET / HTTP/1.0\r\n\r\n", "200"},
		{"HEAD", "HEAD / HTTP/1.0\r\n\r\n", "200"},
		{"a path", "GET /healthz HTTP/1.0\r\n\r\n", "200"},
		{"a route", "GET /route/echo HTTP/1.0\r\n\r\n", "200"},
		{"a route there is not", "GET /route/none HTTP/1.0\r\n\r\n", "404"},
		{"PROXY v1", "PROXY TCP4 168.63.129.16 10.0.0.4 50000 8080\r\n" + get, "200"},
		{"PROXY v1 unknown", "PROXY UNKNOWN\r\n" + get, "200"},
		{"PROXY v2", proxyV2(1, "168.63.129.16:50000", "10.0.0.4:8080", nil) + get, "200"},
		{"PROXY v2 with a link ID", proxyV2(1, "10.1.2.3:50000", "10.0.0.4:8080", []byte{0xEE, 0, 5, 1, 0xA1, 0x02, 0x01, 0x21}) + get, "200"},
		{"PROXY v2 local", proxyV2(0, "", "", nil) + get, "200"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", f.Health)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, c.send); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if !strings.HasPrefix(resp.Status, c.status) {
				t.Errorf("answered %s, want %s", resp.Status, c.status)
			}
		})
	}
	if err := once(addr, 1); err != nil {
		t.Error(err)
	}
	rig.Until(t, rig.Patience, "the connection is logged", func() bool { return strings.Count(m.Stdout(), "\n") >= 2 })
	if n := strings.Count(m.Stdout(), "\n"); n != 2 {
		t.Errorf("probes are in the access log:\n%s", m.Stdout())
	}
}

// proxyV2 is a header of the PROXY protocol, version 2: command 1 is PROXY, 0 is
// LOCAL, which has no addresses.
func proxyV2(command byte, from, to string, tlv []byte) string {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x20|command)
	var rest []byte
	family := byte(0)
	if command == 1 {
		family = 0x11 // TCP over IPv4
		src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
		rest = append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
		rest = binary.BigEndian.AppendUint16(rest, src.Port())
		rest = binary.BigEndian.AppendUint16(rest, dst.Port())
	}
	rest = append(rest, tlv...)
	b = binary.BigEndian.AppendUint16(append(b, family), uint16(len(rest)))
	return string(append(b, rest...))
}
