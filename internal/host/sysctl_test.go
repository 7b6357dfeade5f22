package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestSysctls: a directory in the place of /proc/sys.
func TestSysctls(t *testing.T) {
	for _, c := range []struct {
		name      string
		have      string // "": no such setting
		want      Sysctl
		after     string
		warn, err string // parts of
		restored  string
	}{
		{name: "set and restored", have: "0", want: Sysctl{Value: 1}, after: "1", restored: "0"},
		{name: "there already", have: "1", want: Sysctl{Value: 1}, after: "1", restored: "1"},
		{name: "another value", have: "2", want: Sysctl{Value: 1}, after: "1", restored: "2"},
		{name: "better already", have: "900", want: Sysctl{Value: 600, AtLeast: true}, after: "900", restored: "900"},
		{name: "raised", have: "60", want: Sysctl{Value: 600, AtLeast: true}, after: "600", restored: "60"},
		{name: "missing", want: Sysctl{Value: 1, Why: "bytes are not counted"}, warn: `a.b.c is not there and could not be set to 1: this kernel has no such setting, or its module is not loaded (nf_conntrack, ipv6): bytes are not counted; put "a.b.c = 1" into /etc/sysctl.d/`},
		{name: "missing and needed", want: Sysctl{Value: 1, Needed: true}, err: "a.b.c is not there"},
		{name: "no number", have: "x", want: Sysctl{Value: 1, Needed: true}, after: "x", err: "parsing", restored: "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			if c.have != "" {
				write(t, root, "a/b/c", c.have+"\n")
			}
			c.want.Name = "a.b.c"
			s := Sysctls{Root: root}
			for range 2 { // the second time changes nothing
				_, warnings, err := s.Set([]Sysctl{c.want})
				expect(t, errors.Join(warnings...), c.warn)
				expect(t, err, c.err)
				if c.have != "" && read(t, root, "a/b/c") != c.after {
					t.Errorf("set to %s, want %s", read(t, root, "a/b/c"), c.after)
				}
			}
			warnings, err := s.Close()
			expect(t, errors.Join(warnings, err), "")
			if c.have != "" && read(t, root, "a/b/c") != c.restored {
				t.Errorf("restored to %s, want %s", read(t, root, "a/b/c"), c.restored)
			}
			if _, err := os.Stat(filepath.Join(root, "a/b/c")); c.have == "" && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a setting was made: %v", err)
			}
		})
	}
}

// TestNothingIsSetAfterAFailure: forwarding without accept_ra=2 would cost the
// default route.
func TestNothingIsSetAfterAFailure(t *testing.T) {
	root := t.TempDir()
	write(t, root, "a/x", "0")
	write(t, root, "a/y", "0")
	write(t, root, "a/z", "1")
	s := Sysctls{Root: root}
	changed, warnings, err := s.Set([]Sysctl{{Name: "a.none", Value: 1, Needed: true}, {Name: "a.x", Value: 1, Needed: true}, {Name: "a.y", Value: 1}, {Name: "a.z", Value: 1}})
	expect(t, err, "a.x = 1")
	expect(t, errors.Join(warnings...), "a.y = 1")
	if len(changed) > 0 || read(t, root, "a/x") != "0" || len(warnings) != 1 {
		t.Errorf("changed %q, x is %s, warnings %v", changed, read(t, root, "a/x"), warnings)
	}
}

func TestInterfaceToCome(t *testing.T) {
	root := t.TempDir()
	write(t, root, "net/ipv4/conf/eth0/forwarding", "0")
	n := 0
	for _, s := range (NAT{Root: root, Interfaces: []string{"eth0", "eth1"}}).Sysctls() {
		if strings.Contains(s.key(), "/conf/") {
			n++
			if s.key() != "net/ipv4/conf/eth0/forwarding" {
				t.Errorf("asks for %s", s.key())
			}
		}
	}
	if n != 1 {
		t.Errorf("%d settings of interfaces, want that of eth0", n)
	}
}

// expect wants an error that contains part, or none if that is empty.
func expect(t *testing.T, err error, part string) {
	t.Helper()
	if (err == nil) != (part == "") || err != nil && !strings.Contains(err.Error(), part) {
		t.Errorf("error %v, want %q", err, part)
	}
}

func TestUnlimitedConntrackIsEnough(t *testing.T) {
	for name, want := range map[string]bool{"net.netfilter.nf_conntrack_max": true, "net.netfilter.nf_conntrack_buckets": false} {
		if got := (Sysctl{Name: name, Value: 1000, AtLeast: true}).goodEnough(0); got != want {
			t.Errorf("%s = 0 is good enough: %v", name, got)
		}
	}
}

// TestSysctlsOutliveACrash: the first owner goes without Close. What counts in
// the end is the value that was there before it.
func TestSysctlsOutliveACrash(t *testing.T) {
	root, dir := t.TempDir(), filepath.Join(t.TempDir(), "run")
	write(t, root, "a/x", "0")
	write(t, root, "a/y", "0")
	write(t, root, "a/z", "0")
	set := func(s *Sysctls, value int64, names ...string) {
		t.Helper()
		for _, name := range names {
			if _, warnings, err := s.Set([]Sysctl{{Name: name, Value: value}}); err != nil || warnings != nil {
				t.Fatal(warnings, err)
			}
		}
	}
	set(&Sysctls{Root: root, Dir: dir}, 1, "a.x", "a.y", "a.z")
	write(t, root, "a/z", "7") // by somebody, after the crash

	set(&Sysctls{Root: root, Dir: dir}, 2, "a.x") // another crash; y is not wanted any more
	last := Sysctls{Root: root, Dir: dir}
	set(&last, 3, "a.z")
	if warnings, err := last.Close(); err != nil || warnings != nil {
		t.Fatal(warnings, err)
	}
	for name, want := range map[string]string{"a/x": "0", "a/y": "0", "a/z": "7"} {
		if got := read(t, root, name); got != want {
			t.Errorf("%s is %s in the end, want %s", name, got, want)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSysctlsOfAnotherBootOrNamespace(t *testing.T) {
	boot, namespace := here()
	if boot == "" || namespace == "" {
		t.Fatalf("boot %q, namespace %q", boot, namespace)
	}
	changes := `"changes": [{"key": "a/x", "was": 5, "set": 1}]}`
	for text, want := range map[string]string{
		`{"boot": "` + boot + `", "network": "` + namespace + `", ` + changes: "5",
		`{"boot": "other", "network": "` + namespace + `", ` + changes:        "1",
		`{"boot": "` + boot + `", "network": "other", ` + changes:             "1",
	} {
		root, dir := t.TempDir(), t.TempDir()
		write(t, root, "a/x", "1")
		write(t, dir, "sysctls.json", text)
		s := Sysctls{Root: root, Dir: dir}
		if warnings, err := s.Close(); err != nil || warnings != nil {
			t.Error(warnings, err)
		}
		if got := read(t, root, "a/x"); got != want {
			t.Errorf("with %s: %s in the end, want %s", text, got, want)
		}
	}
}

func TestBrokenStateIsAWarning(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	write(t, root, "a/x", "0")
	write(t, dir, "sysctls.json", "{")
	s := Sysctls{Root: root, Dir: dir}
	changed, warnings, err := s.Set([]Sysctl{{Name: "a.x", Value: 1}})
	if err != nil || len(warnings) != 1 || !slices.Equal(changed, []string{"a.x: 0 → 1"}) {
		t.Errorf("changed %q, warnings %v, error %v", changed, warnings, err)
	}
	if _, err := s.Close(); err != nil || read(t, root, "a/x") != "0" {
		t.Errorf("in the end %s, error %v", read(t, root, "a/x"), err)
	}
}

// TestSysctlsChangedByOthers: what somebody else has set meanwhile is theirs.
func TestSysctlsChangedByOthers(t *testing.T) {
	root := t.TempDir()
	write(t, root, "a/x", "0")
	write(t, root, "a/y", "0")
	s := Sysctls{Root: root}
	if _, _, err := s.Set([]Sysctl{{Name: "a.x", Value: 1}, {Name: "a/y", Value: 1}}); err != nil {
		t.Fatal(err)
	}
	write(t, root, "a/x", "9")
	warnings, err := s.Close()
	expect(t, err, "")
	expect(t, warnings, "a.x was 0, was set to 1, and is 9 now: somebody else has changed it")
	if read(t, root, "a/x") != "9" || read(t, root, "a/y") != "0" {
		t.Errorf("x is %s, y is %s in the end", read(t, root, "a/x"), read(t, root, "a/y"))
	}
}

// snapshot is the text of all settings that can be read below dirs.
func snapshot(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(procSys, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() != "nf_conntrack_count" {
				data, _ := os.ReadFile(path)
				all[path] = string(data)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestSysctlsForReal sets all that NAT wants in a namespace, crashes once, and
// compares all settings of the kernel before and after.
func TestSysctlsForReal(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0.7"}); err != nil {
		t.Fatal(err)
	}
	// One interface forwards before ip_forward turns all over.
	write(t, procSys, "net/ipv4/ip_forward", "0")
	write(t, procSys, "net/ipv4/conf/eth0/forwarding", "1")
	write(t, procSys, "net/ipv6/conf/all/forwarding", "0")
	write(t, procSys, "net/ipv6/conf/eth0/accept_ra", "1")
	write(t, procSys, "net/ipv6/conf/eth0.7/accept_ra", "0")
	dirs := []string{"net/ipv4", "net/ipv6", "net/netfilter"}
	before := snapshot(t, dirs...)

	want := NAT{IPv6: true, Interfaces: []string{"eth0.7"}, HalfClosed: 3 * time.Hour, Flows: 1 << 30}.Sysctls()
	dir := t.TempDir()
	_, warnings, err := (&Sysctls{Dir: dir}).Set(want)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range warnings {
		if e := (&SysctlError{}); !errors.As(w, &e) || !strings.Contains(e.Name, "nf_conntrack_max") && !strings.Contains(e.Name, "nf_conntrack_buckets") || !strings.Contains(w.Error(), "own network namespace only") {
			t.Errorf("warning: %v", w)
		}
	}
	if len(warnings) != 2 {
		t.Errorf("%d warnings, want one for the size of the table and one for its buckets, which are the host's", len(warnings))
	}
	for name, want := range map[string]string{
		"net/ipv4/ip_forward":                                   "1",
		"net/ipv4/conf/eth0.7/forwarding":                       "1",
		"net/ipv6/conf/all/forwarding":                          "1",
		"net/ipv6/conf/eth0/accept_ra":                          "2",
		"net/ipv6/conf/eth0.7/accept_ra":                        "0",
		"net/netfilter/nf_conntrack_acct":                       "1",
		"net/netfilter/nf_conntrack_tcp_timeout_close_wait":     "10800",
		"net/netfilter/nf_conntrack_tcp_timeout_fin_wait":       "10800",
		"net/netfilter/nf_conntrack_tcp_be_liberal":             "1",
		"net/netfilter/nf_conntrack_tcp_timeout_time_wait":      "120",
		"net/netfilter/nf_conntrack_timestamp":                  "1",
		"net/netfilter/nf_conntrack_tcp_timeout_established":    "432000",
		"net/ipv4/conf/all/accept_redirects":                    "0",
		"net/ipv6/conf/eth0.7/forwarding":                       "1",
		"net/netfilter/nf_conntrack_tcp_timeout_unacknowledged": "300",
	} {
		if got := read(t, procSys, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}

	again := Sysctls{Dir: dir}
	if changed, _, err := again.Set(want); err != nil || len(changed) > 0 {
		t.Errorf("set again: changed %q, error %v", changed, err)
	}
	if warnings, err := again.Close(); err != nil || warnings != nil {
		t.Errorf("close: %v, %v", warnings, err)
	}
	for name, text := range snapshot(t, dirs...) {
		if text != before[name] {
			t.Errorf("%s was %q and is %q", name, before[name], text)
		}
	}
}

// TestRouterAdvertisementsComeFirst: forwarding would drop the routes that an
// interface has learnt before it is told to keep them.
func TestRouterAdvertisementsComeFirst(t *testing.T) {
	root := t.TempDir()
	write(t, root, "net/ipv6/conf/eth0/accept_ra", "1")
	write(t, root, "net/ipv6/conf/eth1/accept_ra", "0")
	write(t, root, "net/ipv6/conf/eth2/accept_ra", "2")
	var names []string
	for _, s := range (NAT{Root: root, IPv6: true}).Sysctls() {
		if strings.HasPrefix(s.key(), "net/ipv6") {
			names = append(names, s.key())
		}
	}
	if want := []string{"net/ipv6/conf/eth0/accept_ra", "net/ipv6/conf/all/forwarding"}; !slices.Equal(names, want) {
		t.Errorf("IPv6 settings %q, want %q", names, want)
	}
}

func TestStrictInterfaces(t *testing.T) {
	const head = "Iface	Destination	Gateway	Flags	RefCnt	Use	Metric	Mask	MTU	Window	IRTT\n"
	const eth0 = "eth0	00000000	0100000A	0003	0	0	0	00000000	0	0	0\n"
	const eth1 = "eth1	00000000	0100010A	0003	0	0	9	00000000	0	0	0\n"
	const net1 = "eth1	0000010A	00000000	0001	0	0	0	00FFFFFF	0	0	0\n"
	for _, c := range []struct {
		routes, all, eth0, eth1 string
		want                    []string
	}{
		{head + eth0 + net1, "1", "1", "1", nil},
		{head + eth0 + eth0, "1", "1", "1", nil},
		{head + eth0 + eth1, "0", "0", "0", nil},
		{head + eth0 + eth1, "0", "1", "2", []string{"eth0"}},
		{head + eth0 + eth1, "1", "0", "2", []string{"eth0"}},
		{head + eth0 + eth1, "2", "1", "1", nil},
		{head + eth0 + eth1, "1", "1", "1", []string{"eth0", "eth1"}},
	} {
		root := t.TempDir()
		write(t, root, "net/ipv4/conf/all/rp_filter", c.all)
		write(t, root, "net/ipv4/conf/eth0/rp_filter", c.eth0)
		write(t, root, "net/ipv4/conf/eth1/rp_filter", c.eth1)
		var got []string
		for _, w := range strictInterfaces(c.routes, root) {
			name, _, _ := strings.Cut(w, " ")
			got = append(got, name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("all %s, eth0 %s, eth1 %s: warned of %q, want %q", c.all, c.eth0, c.eth1, got, c.want)
		}
	}
	if _, err := RPFilter(); err != nil {
		t.Error(err)
	}
}

func TestDotted(t *testing.T) {
	for key, want := range map[string]string{
		"net/ipv4/ip_forward":                "net.ipv4.ip_forward",
		"net/ipv4/conf/eth0.7/forwarding":    "net.ipv4.conf.eth0/7.forwarding",
		(Sysctl{Name: "net.ipv4.x"}).key():   "net.ipv4.x",
		(Sysctl{Name: "net/ipv4/y.z"}).key(): "net.ipv4.y/z",
	} {
		if got := dotted(key); got != want {
			t.Errorf("%s is %s in sysctl.d, want %s", key, got, want)
		}
	}
}
