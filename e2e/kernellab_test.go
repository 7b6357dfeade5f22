package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"midspan/e2e/rig"
)

// kernelLab is a lab with a midspan.yaml for the kernel's engine: clients come in
// by eth0, and servers see the address of srv0.
type kernelLab struct {
	*lab
	t *testing.T
	f *rig.File
}

func newKernelLab(t *testing.T) *kernelLab {
	t.Helper()
	k := &kernelLab{newLab(t), t, rig.NewFile(t)}
	k.f.Control = "/run/control.sock" // names of tests are long, and a socket's path is not
	return k
}

// routes writes the file with routes of engine nft.
func (k *kernelLab) routes(format string, args ...any) {
	k.t.Helper()
	k.f.Write("drain: { detection: 0s, timeout: 30s }\ndefaults: { engine: nft }\nroutes:\n"+format, args...)
}

// greeter is a server that says its name and then echoes.
func (k *kernelLab) greeter(addr, name string) *rig.Server {
	k.t.Helper()
	return rig.Serve(k.t, k.servers, addr, rig.Greet(name))
}

// connect connects from the clients' side, with a bound on how long it takes.
func (k *kernelLab) connect(addr string) (net.Conn, error) {
	return k.clients.DialTimeout("tcp", addr, 20*time.Second)
}

// flow is a connection that stays, and who greeted it.
type flow struct {
	net.Conn
	server string
}

// open is a flow from the clients' side; it is closed with the test.
func (k *kernelLab) open(addr string) *flow {
	k.t.Helper()
	f, err := k.tryOpen(addr)
	if err != nil {
		k.t.Fatalf("connect to %s: %v", addr, err)
	}
	k.t.Cleanup(func() { f.Close() })
	return f
}

func (k *kernelLab) tryOpen(addr string) (*flow, error) {
	c, err := k.connect(addr)
	if err != nil {
		return nil, err
	}
	if err = c.SetReadDeadline(time.Now().Add(20 * time.Second)); err == nil {
		var name string
		if name, err = greeting(c); err == nil {
			return &flow{c, name}, nil
		}
	}
	c.Close()
	return nil, fmt.Errorf("greeting: %w", err)
}

// greeting is the first line, and nothing beyond it.
func greeting(c net.Conn) (string, error) {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := c.Read(b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
}

// visit connects, reads who is there, and leaves.
func (k *kernelLab) visit(addr string) (string, error) {
	f, err := k.tryOpen(addr)
	if err != nil {
		return "", err
	}
	return f.server, f.Close()
}

// shares is where n connections went that were made one after the other.
func (k *kernelLab) shares(addr string, n int) map[string]int {
	k.t.Helper()
	seen := map[string]int{}
	for range n {
		name, err := k.visit(addr)
		if err != nil {
			k.t.Fatalf("a connection to %s: %v", addr, err)
		}
		seen[name]++
	}
	return seen
}

// wantAlive wants bytes to come back on flows.
func wantAlive(t *testing.T, when string, flows ...*flow) {
	t.Helper()
	for i, f := range flows {
		if err := exchange(f, uint64(i), 10_000); err != nil {
			t.Errorf("%s: flow %d, to %s: %v", when, i, f.server, err)
		}
	}
}

// wantRefused wants a connection refused, and at once: one whose first packet is
// dropped takes a second, each time, and on a busy machine any may take one.
func (k *kernelLab) wantRefused(when, addr string) {
	k.t.Helper()
	const tries = 4
	least := time.Hour
	for i := 0; i < tries && least > 900*time.Millisecond; i++ {
		begin := time.Now()
		name, err := k.visit(addr)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			k.t.Errorf("%s: a connection to %s ended with %v (server %q), want refused", when, addr, err, name)
			return
		}
		least = min(least, time.Since(begin))
	}
	if least > 900*time.Millisecond {
		k.t.Errorf("%s: it took %s and more to be refused, %d times", when, least, tries)
	}
}

// tool runs a program on the forwarder.
func (k *kernelLab) tool(program string, args ...string) string {
	k.t.Helper()
	return tool(k.t, nil, program, args...)
}

// packages are where the programs are that tests of the kernel's rules use.
var packages = map[string]string{"nft": "nftables", "iptables": "iptables", "iptables-save": "iptables"}

func tool(t *testing.T, in *rig.Net, program string, args ...string) string {
	t.Helper()
	out, err := in.Run(rig.Need(t, program, packages[program]), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// script runs lines of commands on the forwarder.
func (k *kernelLab) script(lines string) {
	k.t.Helper()
	for line := range strings.Lines(lines) {
		if words := strings.Fields(line); len(words) > 0 {
			k.tool(words[0], words[1:]...)
		}
	}
}

// ipFwd does what ip_fwd.sh -i eth0 -f PORT -a HOST -b PORT does, once it has
// looked the host up: to is "ADDR:PORT", or ":PORT" when that has failed.
func (k *kernelLab) ipFwd(port int, to string) {
	k.t.Helper()
	k.script(fmt.Sprintf(`iptables -t nat -A PREROUTING -p tcp -i eth0 --dport %d -j DNAT --to %s
		iptables -t nat -A POSTROUTING -o srv0 -j MASQUERADE`, port, to))
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1\n"), 0o644); err != nil {
		k.t.Fatal(err)
	}
}

// noIPFwd takes away all that ipFwd left.
func (k *kernelLab) noIPFwd() {
	k.t.Helper()
	k.script("iptables -t nat -F\nnft delete table ip nat")
}

// rules are midspan's, in an order that does not depend on their history.
func (k *kernelLab) rules() string {
	k.t.Helper()
	lines := strings.Split(k.tool("nft", "-s", "list", "table", "inet", "midspan"), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// hasTable tells whether midspan has rules in the kernel.
func (k *kernelLab) hasTable() bool {
	k.t.Helper()
	return strings.Contains(k.tool("nft", "list", "tables"), "midspan")
}

// settings are all kernel settings that midspan may change, but those that are
// the machine's as a whole.
func settings(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"net/ipv4/ip_forward", "net/ipv4/conf/*/forwarding", "net/ipv4/conf/all/accept_redirects", "net/ipv6/conf/*/forwarding", "net/ipv6/conf/*/accept_ra", "net/netfilter/nf_conntrack_*"} {
		files, err := filepath.Glob("/proc/sys/" + pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d settings, %v", pattern, len(files), err)
		}
		for _, f := range files {
			if text, err := os.ReadFile(f); err == nil && !strings.HasSuffix(f, "_count") {
				all[f] = strings.TrimSpace(string(text))
			}
		}
	}
	return all
}

func wantSettings(t *testing.T, when string, before map[string]string) {
	t.Helper()
	now := settings(t)
	for _, name := range sortedKeys(before) {
		if now[name] != before[name] {
			t.Errorf("%s %s is %s; it was %s before midspan", when, name, now[name], before[name])
		}
	}
}

// savedRules is what iptables-save says, without times and counts.
func (k *kernelLab) savedRules() string {
	k.t.Helper()
	return notRules.ReplaceAllString(k.tool("iptables-save"), "")
}

var notRules = regexp.MustCompile(`(?m)^#.*\n| \[\d+:\d+\]$`)

// kernelStatus is a part of `midspan status --json`.
type kernelStatus struct {
	Engine struct {
		Connections int
		Routes      []kernelRoute
	}
}

type kernelRoute struct {
	Name     string
	Counters struct {
		Active   int
		Accepted uint64
		Ended    map[string]uint64
	}
	Endpoints []struct {
		Addr      string
		Up        bool
		Active    int
		Connects  uint64
		Failures  uint64
		LastError string `json:"last_error"`
		Ports     int
		MaxPorts  int `json:"max_ports"`
	}
}

// status is that of a route; the exit code 1 of a machine that should get no
// connections is no failure here.
func (k *kernelLab) status(route string) kernelRoute {
	k.t.Helper()
	out, problems, code := rig.Command(k.t, "", "status", "--json", "--control", k.f.Control)
	var s kernelStatus
	if err := json.Unmarshal([]byte(out), &s); err != nil || code > 1 {
		k.t.Fatalf("midspan status: exit code %d, %v: %s", code, err, problems)
	}
	i := slices.IndexFunc(s.Engine.Routes, func(r kernelRoute) bool { return r.Name == route })
	if i < 0 {
		k.t.Fatalf("midspan status knows no route %s:\n%s", route, out)
	}
	return s.Engine.Routes[i]
}

// load are busy connections from the clients' side.
func (k *kernelLab) load(addr string, n, churners int) *pumps {
	return (&pumps{t: k.t, from: k.clients}).start(addr, n, churners)
}

// listed are the live connections that midspan knows, by client.
func listed(t *testing.T, m *rig.Midspan) map[string]string {
	t.Helper()
	var conns []struct{ ID, Client string }
	if err := json.Unmarshal([]byte(m.Control("conns", "--json")), &conns); err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for _, c := range conns {
		ids[c.Client] = c.ID
	}
	return ids
}

// addAddress gives an interface of the forwarder one more address.
func addAddress(t *testing.T, dev, addr string) {
	t.Helper()
	link, err := netlink.LinkByName(dev)
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(link, a); err != nil {
		t.Fatalf("%s on %s: %v", addr, dev, err)
	}
}
