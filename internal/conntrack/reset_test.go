package conntrack

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// forwarder is what the product's NAT does: only SYNs begin a flow.
const forwarder = `
table inet t {
	chain pre {
		type nat hook prerouting priority -100
		tcp flags & (fin|syn|rst|ack) != syn return
		meta nfproto ipv4 tcp dport 9000 ct mark set 0x7 dnat ip to 10.2.0.2:9009
		meta nfproto ipv6 tcp dport 9000 ct mark set 0x7 dnat ip6 to [fd02::2]:9009
	}
	chain post { type nat hook postrouting priority 100; ct mark 0x7 masquerade fully-random; }
}`

// network is a client, a server, and this namespace between them.
func network(t *testing.T) (client, server *end) {
	t.Helper()
	sysctl(t, "net/ipv4/ip_forward", "1")
	sysctl(t, "net/ipv6/conf/all/forwarding", "1")
	client = startEnd(t, "client", "10.1.0", "fd01")
	server = startEnd(t, "server", "10.2.0", "fd02")
	nft(t, forwarder)
	server.order(t, "serve 9009")
	server.expect(t, "serves")
	return client, server
}

// flowOf is that of the client's connection id, when the client has it.
func flowOf(t *testing.T, c *Conn, client *end, id string) Flow {
	t.Helper()
	client.expect(t, "up "+id+" ")
	client.mu.Lock()
	defer client.mu.Unlock()
	var port uint16
	for _, l := range client.lines {
		if strings.HasPrefix(l, "up "+id+" ") {
			fmt.Sscanf(l, "up "+id+" %d", &port)
		}
	}
	flows := dump(t, c, 7, ^uint32(0))
	i := slices.IndexFunc(flows, func(f Flow) bool { return f.Orig.Src.Port() == port })
	if i < 0 {
		t.Fatalf("%s: no flow from port %d in %+v", id, port, flows)
	}
	return flows[i]
}

var listeners = map[string]string{"v4": "10.1.0.1:9000", "v6": "[fd01::1]:9000"}

func TestReset(t *testing.T) {
	if !alone(t) {
		return
	}
	client, server := network(t)
	c := open(t)
	for name, address := range listeners {
		client.order(t, "dial keep%s %s echo", name, address)
		for _, mode := range []string{"idle", "half", "upload", "download"} {
			id := mode + name
			client.order(t, "dial %s %s %s", id, address, mode)
			f := flowOf(t, c, client, id)
			if mode == "half" { // its FIN and what answers it would begin a flow anew
				within(t, 30*time.Second, "half an end", func() bool {
					now, err := c.Get(f.Orig)
					return err == nil && now.State == CloseWait
				})
			}
			time.Sleep(50 * time.Millisecond) // the others get going
			if f.Status&(SrcNAT|DstNAT) != SrcNAT|DstNAT {
				t.Errorf("%s: %+v", id, f)
			}
			began := time.Now()
			if err := c.Reset(&f); err != nil {
				t.Errorf("%s: %v", id, err)
			}
			client.expect(t, "down "+id+" ")
			server.expect(t, "down "+id+" ")
			took := time.Since(began)
			t.Logf("%s: reset within %v", id, took)
			if took > 10*time.Second {
				t.Errorf("%s: reset took %v", id, took)
			}
			// What was under way while the flow was deleted may have begun a new one
			// between an end and this machine; in the same memory it has the same ID.
			now, err := c.Get(f.Orig)
			if err == nil && now.Status&(SrcNAT|DstNAT) != 0 {
				t.Errorf("%s: is still forwarded: %+v", id, now)
			}
			if err := c.Reset(&f); (mode == "idle" || mode == "half") && !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: second reset: %v", id, err)
			}
		}
	}
	for _, e := range []*end{client, server} {
		for _, l := range e.forget() {
			if strings.HasPrefix(l, "down") && !strings.Contains(l, "reset") && !strings.Contains(l, "broken pipe") {
				t.Errorf("not by a reset: %s", l)
			}
		}
	}
	for name := range listeners {
		client.order(t, "echo keep%s", name)
		client.expect(t, "pong keep"+name)
	}
	// What the segments began goes soon.
	for _, f := range dump(t, c, 0, 0xffffffff) {
		if f.Timeout > answerTime {
			t.Errorf("left: %+v", f)
		}
	}
}

func release(t *testing.T) string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestResetBehindFirewalls is what the doc comment of Reset says of them. The
// connection is idle: a busy one resets itself.
func TestResetBehindFirewalls(t *testing.T) {
	if !alone(t) {
		return
	}
	client, server := network(t)
	c := open(t)
	const (
		invalid = "ct state invalid drop; "
		strict  = "policy drop; ct state established,related accept; " + invalid + "meta l4proto { icmp, ipv6-icmp } accept; "
		input   = "type filter hook input priority 0; "
		output  = "type filter hook output priority 0; "
	)
	modern := !slices.ContainsFunc([]string{"4.", "5.", "6.0."}, func(old string) bool { return strings.HasPrefix(release(t), old) })
	for _, tt := range []struct {
		name        string
		loose       string
		here        string // rules of this machine
		atServer    string // of the server, whose side is then looked at
		clientReset bool
		serverReset bool
	}{
		{"loose=0", "0", "", "", true, true},
		{"invalid", "1", "chain i { " + input + invalid + "}; chain o { " + output + invalid + "};", "", true, true},
		{"strict", "1", "chain i { " + input + strict + "}; chain o { " + output + invalid + "};", "", true, true},
		{"loose=0 invalid", "0", "chain i { " + input + invalid + "};", "", false, false},
		{"loose=0 strict", "0", "chain i { " + input + strict + "};", "", false, false},
		{"server invalid", "1", "", "chain i { " + input + invalid + "};", true, modern},
		{"server strict", "1", "", "chain i { " + input + strict + " tcp dport 9009 ct state new accept; };", true, modern},
		{"both strict", "1", "chain i { " + input + strict + "}; chain o { " + output + invalid + "};", "chain i { " + input + strict + " tcp dport 9009 ct state new accept; };", true, modern},
	} {
		for version, address := range listeners {
			id := strings.ReplaceAll(tt.name, " ", "-") + version
			sysctl(t, "net/netfilter/nf_conntrack_tcp_loose", tt.loose)
			nft(t, "table inet here {}\ndelete table inet here\ntable inet here { "+tt.here+" }")
			if tt.atServer != "" {
				server.forget()
				server.order(t, "nft table inet here {}; delete table inet here; table inet here { %s }", tt.atServer)
				server.expect(t, "has rules")
			}
			client.order(t, "dial %s %s idle", id, address)
			f := flowOf(t, c, client, id)
			time.Sleep(20 * time.Millisecond)
			if err := c.Reset(&f); err != nil {
				t.Errorf("%s: %v", id, err)
			}
			if tt.clientReset {
				client.expect(t, "down "+id)
			}
			if tt.serverReset {
				server.expect(t, "down "+id)
			}
			if !tt.clientReset || !tt.serverReset {
				time.Sleep(300 * time.Millisecond)
			}
			if c, s := client.said("down "+id), server.said("down "+id); c != tt.clientReset || s != tt.serverReset {
				t.Errorf("%s: client %v server %v, want %v %v", id, c, s, tt.clientReset, tt.serverReset)
			}
		}
	}
}
