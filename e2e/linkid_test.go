package e2e

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// azureLink is the TLV in which a Private Link Service of Azure tells the link's
// id: a subtype of 1 and the id, little-endian.
func azureLink(id uint32) []byte {
	return binary.LittleEndian.AppendUint32([]byte{0xEE, 0, 5, 1}, id)
}

// awsEndpoint is the TLV in which AWS tells the endpoint's id: a subtype of 1 and
// the id as text.
func awsEndpoint(id string) []byte {
	return append([]byte{0xEA, 0, byte(len(id) + 1), 1}, id...)
}

// TestLinkOnTheWire has tshark's own dissector read what reaches midspan, and what
// leaves it for the server: the link's id is in both, with the same bytes.
func TestLinkOnTheWire(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	const in, out = 29001, 29002 // no protocol of tshark's is known by these
	addr := fmt.Sprintf("127.0.0.1:%d", in)
	rig.Serve(t, nil, fmt.Sprintf("127.0.0.2:%d", out), rig.Echo) // it sends the header back, too
	f := rig.NewFile(t)
	f.Log = "json"
	f.Write("routes:\n  db: { listen: %q, to: \"127.0.0.2:%d\", proxy_protocol: required, send_proxy: v2 }\n", addr, out)
	m := rig.Run(t, f)
	capture := rig.StartCapture(t, "lo", fmt.Sprintf("tcp dst port %d or tcp dst port %d", in, out))
	// Version 4.0 of tshark shows no TLVs of a header whose length field is not
	// above where they begin, so one more comes after Azure's: the name that was asked for.
	const name = "sql.example.com"
	authority := append([]byte{0x02, 0, byte(len(name))}, name...)
	for i, c := range []struct {
		tlv               []byte
		id, kind, payload string
	}{
		{azureLink(553665985), "azure:553665985", "", ""},
		{append(azureLink(553665985), authority...), "azure:553665985", "0xee,0x02", fmt.Sprintf("01c1450021,%x", name)},
		{awsEndpoint("vpce-08d2bf15fac5001c9"), "aws:vpce-08d2bf15fac5001c9", "0xea", fmt.Sprintf("01%x", "vpce-08d2bf15fac5001c9")},
	} {
		const from = "10.1.2.3"
		port := 40000 + i
		conn := dial(t, addr)
		header := proxyV2(1, fmt.Sprintf("%s:%d", from, port), "10.0.0.4:1434", c.tlv)
		if _, err := io.WriteString(conn, header+"hello"); err != nil {
			t.Fatal(err)
		}
		back := make([]byte, len(header)+len("hello"))
		if _, err := io.ReadFull(conn, back); err != nil || string(back) != header+"hello" {
			t.Errorf("the server had %q, %v; want the header as it came, and hello", back, err)
		}
		conn.Close()
		if r := lastRecord(t, m, "db", i+1); r.Link != c.id || r.Client != fmt.Sprintf("%s:%d", from, port) {
			t.Errorf("the log has link %q of %s", r.Link, r.Client)
		}
		for _, leg := range []int{in, out} {
			seen := capture.Await(1, fmt.Sprintf("proxy && tcp.dstport == %d && proxy.srcport == %d", leg, port),
				"proxy.version", "proxy.src.ipv4", "proxy.dst.ipv4", "proxy.dstport", "proxy.v2.tlv.type", "proxy.v2.tlv.value", "tcp.payload")
			seen = slices.Compact(seen) // a busy machine may send a packet again
			bytes := fmt.Sprintf("%x", header+"hello")
			want := strings.Join([]string{"2", from, "10.0.0.4", "1434", c.kind, c.payload, bytes}, "\t")
			if len(seen) != 1 || strings.ToLower(seen[0]) != want {
				t.Errorf("to port %d tshark sees %q, want %q", leg, seen, want)
			}
		}
	}
}

// TestConsumers has two consumers on one listener with a server each. A third one
// is reset, and its id is in the log; and so is who has no business to send a
// header, whatever it says.
func TestConsumers(t *testing.T) {
	if !rig.Isolate(t) {
		return
	}
	clients := rig.NewNet(t)
	const balancer, stranger = "10.80.0.2", "10.80.0.3"
	rig.Cable(t, rig.End{Name: "eth0", Addrs: []string{"10.80.0.1/24"}},
		rig.End{Net: clients, Name: "cli0", Addrs: []string{balancer + "/24", stranger + "/24"}})
	first := rig.Serve(t, nil, "127.0.0.2:1433", rig.Greet("first"))
	second := rig.Serve(t, nil, "127.0.0.3:1433", rig.Greet("second"))
	f := rig.NewFile(t)
	f.Log = "json"
	f.Write(`consumers:
  databricks: { link_id: 553665985 }
  synapse: { endpoint_id: vpce-08d2bf15fac5001c9 }
  elsewhere: { link_id: 4711, routes: [other] }
routes:
  shared:
    listen: "10.80.0.1:1434"
    proxy_protocol: { from: [%s/32] }
    to: { databricks: %q, synapse: %q }
  other: { listen: "10.80.0.1:1435", proxy_protocol: required, to: %[2]q }
`, balancer, first.Addr, second.Addr)
	m := rig.Run(t, f)
	refused := map[string]float64{}
	for i, c := range []struct {
		name, from             string
		tlv                    []byte
		greeting, consumer     string
		link, reason, mustWarn string
	}{
		{"first", balancer, azureLink(553665985), "first", "databricks", "azure:553665985", "closed by client", ""},
		{"second", balancer, awsEndpoint("vpce-08d2bf15fac5001c9"), "second", "synapse", "aws:vpce-08d2bf15fac5001c9", "closed by client", ""},
		{"third", balancer, azureLink(777), "", "", "azure:777", "unknown consumer", "777"},
		{"no id", balancer, nil, "", "", "", "unknown consumer", ""},
		{"not on this route", balancer, azureLink(4711), "", "elsewhere", "azure:4711", "consumer not allowed", "elsewhere"},
		{"forged", stranger, azureLink(553665985), "", "", "", "PROXY header not allowed", stranger},
		{"first again", balancer, azureLink(553665985), "first", "databricks", "azure:553665985", "closed by client", ""},
	} {
		header := proxyV2(1, fmt.Sprintf("10.9.9.9:%d", 40000+i), "10.80.0.1:1434", c.tlv)
		greeting, err := greeted(clients, c.from, "10.80.0.1:1434", header)
		if c.greeting != "" && (err != nil || greeting != c.greeting) || c.greeting == "" && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: greeted by %q, %v; want %q, or a reset", c.name, greeting, err, c.greeting)
		}
		r := lastRecord(t, m, "shared", i+1)
		if r.Reason != c.reason || r.Link != c.link || r.Consumer != c.consumer {
			t.Errorf("%s: logged with link %q, consumer %q, reason %q; want %q, %q, %q", c.name, r.Link, r.Consumer, r.Reason, c.link, c.consumer, c.reason)
		}
		if c.mustWarn != "" {
			m.AwaitLog(c.mustWarn, rig.Patience)
		}
		if c.greeting == "" {
			refused[c.reason]++
		}
	}
	now := metrics(t, m)
	for reason, n := range refused {
		if got := now[`midspan_route_ended_total{reason="`+reason+`",route="shared"}`]; got != n {
			t.Errorf("%v connections are counted as %s, want %v", got, reason, n)
		}
	}
	if n := first.Conns.Load() + second.Conns.Load(); n != 3 {
		t.Errorf("the servers had %d connections, want 3", n)
	}
	if now[`midspan_consumer_accepted_total{consumer="databricks"}`] != 2 || now[`midspan_consumer_accepted_total{consumer="synapse"}`] != 1 {
		t.Errorf("consumers are counted as %v", consumerSeries(now))
	}
}

func consumerSeries(all rig.Metrics) rig.Metrics {
	some := rig.Metrics{}
	for series, v := range all {
		if strings.Contains(series, "consumer") {
			some[series] = v
		}
	}
	return some
}

// greeted connects from an address of a namespace, sends a header and a line, and
// returns what the server greets with.
func greeted(in *rig.Net, from, addr, header string) (string, error) {
	var c net.Conn
	err := in.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}
		c, err = d.Dial("tcp", addr)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, header+"hello\n"); err != nil {
		return "", err
	}
	r := bufio.NewReader(c)
	greeting, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	echo, err := r.ReadString('\n')
	if err == nil && echo != "hello\n" {
		err = errors.New("echo: " + strconv.Quote(echo))
	}
	return strings.TrimSpace(greeting), err
}
