package host

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHolders has a network of its own: elsewhere somebody may hold, on an address
// that is asked for, the port that we get on another.
func TestHolders(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	loopbackUp(t)
	listen := func(network, addr string) netip.AddrPort {
		t.Helper()
		var local net.Addr
		if strings.HasPrefix(network, "udp") {
			c, err := net.ListenPacket(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			local = c.LocalAddr()
		} else {
			l, err := net.Listen(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			local = l.Addr()
		}
		return netip.MustParseAddrPort(local.String())
	}
	tcp := listen("tcp4", "127.0.0.1:0")
	tcp6 := listen("tcp6", "[::1]:0")
	all := listen("tcp4", "0.0.0.0:0")
	dual := listen("tcp", "[::]:0")
	udp := listen("udp4", "127.0.0.1:0")

	free := listen("tcp4", "127.0.0.2:0") // by us, on an address that is not asked for

	find, err := Holders()
	if err != nil {
		t.Fatal(err)
	}
	at := func(addr string, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
	}
	for _, c := range []struct {
		proto string
		at    netip.AddrPort
		held  bool
	}{
		{"tcp", tcp, true},
		{"tcp", netip.AddrPortFrom(netip.Addr{}, tcp.Port()), true},
		{"tcp", at("0.0.0.0", tcp.Port()), true},
		{"tcp", at("::", tcp.Port()), true},
		{"tcp", at("127.0.0.3", tcp.Port()), false},
		{"tcp", at("::1", tcp.Port()), false},
		{"tcp", tcp6, true},
		{"tcp", at("127.0.0.1", tcp6.Port()), false},
		{"tcp", at("10.1.2.3", all.Port()), true},
		{"tcp", at("::ffff:10.1.2.3", all.Port()), true},
		{"tcp", at("10.1.2.3", dual.Port()), true},
		{"tcp", at("::1", dual.Port()), true},
		{"udp", udp, true},
		{"tcp", at("127.0.0.1", free.Port()), false},
	} {
		got := find(c.proto, c.at)
		want := "nobody"
		if c.held {
			want = fmt.Sprintf("%s (pid %d)", strings.TrimSpace(read(t, "/proc/self", "comm")), os.Getpid())
		}
		if got.String() != want || c.held != (got.PID == os.Getpid()) {
			t.Errorf("%s %s is held by %s, want %s", c.proto, c.at, got, want)
		}
	}
}

func loopbackUp(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
}

func TestParseSockets(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4713 1
`
	for _, c := range []struct{ proto, want string }{
		{"tcp", "127.0.0.1:8080 4711 [::1]:22 4713 "},
		{"udp", ""},
	} {
		got := ""
		for _, s := range parseSockets(table, c.proto) {
			got += s.addr.String() + " " + s.inode + " "
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.proto, got, c.want)
		}
	}
}

func TestHolderInWords(t *testing.T) {
	at := netip.MustParseAddrPort("0.0.0.0:22")
	for want, h := range map[string]Holder{
		"nobody":                              {},
		"sshd (pid 812)":                      {Addr: at, PID: 812, Name: "sshd"},
		"a process that this user cannot see": {Addr: at},
	} {
		if got := h.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestConntrack tracks one connection, to itself, and counts it.
func TestConntrack(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	count, limit, err := Conntrack()
	if err != nil || count != 0 || limit <= 0 {
		t.Errorf("an empty namespace: %d of %d, error %v", count, limit, err)
	}
	run(t, "nft add table inet t")
	run(t, "nft add chain inet t c '{ type filter hook output priority 0; }'")
	run(t, "nft add rule inet t c ct state new counter")
	run(t, "ip link set lo up")
	c, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if count, _, err := Conntrack(); err != nil || count != 1 {
		t.Errorf("after one connection: %d, error %v", count, err)
	}
	if d, err := ConntrackDrops(); err != nil || d != (Drops{}) {
		t.Errorf("drops %+v, error %v", d, err)
	}
}

func TestParseDrops(t *testing.T) {
	const head = "entries  clashres found insert insert_failed drop early_drop icmp_error\n"
	for _, c := range []struct {
		text string
		want Drops
		ok   bool
	}{
		{head, Drops{}, true},
		{head + "00000005 0 0 0 00000001 00000010 0000000f 0\n00000005 0 0 0 00000002 00000001 00000000 0\n", Drops{Drop: 0x11, InsertFailed: 3, EarlyDrop: 15}, true},
		{head + "x\n", Drops{}, false},
		{head + "0 0 0 0 0 0 0 0 0 0\n", Drops{}, false},
	} {
		if got, err := parseDrops(c.text); got != c.want || (err == nil) != c.ok {
			t.Errorf("%q: %+v, error %v", c.text, got, err)
		}
	}
}
