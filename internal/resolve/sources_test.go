package resolve

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseHosts(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       map[string]string
	}{
		{"empty", "", nil},
		{"names and aliases", "10.0.0.1 db.example.com db\n", map[string]string{"db.example.com": "10.0.0.1", "db": "10.0.0.1"}},
		{"several lines add up", "10.0.0.1 db\n10.0.0.2\tdb\nfd00::1 db", map[string]string{"db": "10.0.0.1 10.0.0.2 fd00::1"}},
		{"comments", "# 10.0.0.1 a\n10.0.0.2 b # c\n10.0.0.3 #d", map[string]string{"b": "10.0.0.2"}},
		{"case and trailing dot", "10.0.0.1 DB.Example.COM.", map[string]string{"db.example.com": "10.0.0.1"}},
		{"bad lines are skipped", "10.0.0 a\nx\n\x00 b\n10.0.0.1\n10.0.0.2 c\r\n", map[string]string{"c": "10.0.0.2"}},
		{"zone", "fe80::1%lo0 localhost", map[string]string{"localhost": "fe80::1%lo0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := map[string][]netip.Addr{}
			for name, list := range tt.want {
				want[name] = addrs(list)
			}
			if got := parseHosts([]byte(tt.text)); !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func FuzzParseHosts(f *testing.F) {
	for _, s := range []string{
		"127.0.0.1 localhost\n::1 localhost ip6-localhost\n",
		"10.0.0.1\tDB.example.com. db # primary\r\n10.0.0.2 db",
		"0.0.0.0 ads.example\n#\n# x\n \n10.0.0.300 no\nfe80::1%eth0 link\x00\n10.0.0.1 \xff\xfe",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for name, list := range parseHosts(text) {
			if name != hostsKey(name) && !strings.HasSuffix(name, ".") || strings.ContainsAny(name, " \t\n#") {
				t.Errorf("name %q", name)
			}
			if len(list) == 0 || slices.ContainsFunc(list, func(a netip.Addr) bool { return !a.IsValid() }) {
				t.Errorf("%q has %v", name, list)
			}
		}
	})
}

func TestResolvConf(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		servers    string
		ask        map[string]string // name: full names, in order
	}{
		{
			"no file", "", "127.0.0.1:53",
			map[string]string{"db": "db.", "db.example.com": "db.example.com.", "db.": "db."},
		},
		{
			"search list", "nameserver 10.0.0.2\nsearch corp.example.com example.com\n", "10.0.0.2:53",
			map[string]string{
				"db":   "db.corp.example.com. db.example.com. db.",
				"db.x": "db.x. db.x.corp.example.com. db.x.example.com.",
				"db.":  "db.",
			},
		},
		{
			"ndots", "nameserver 10.0.0.2\nsearch example.com\noptions ndots:3 timeout:1\n", "10.0.0.2:53",
			map[string]string{"a.b.c": "a.b.c.example.com. a.b.c.", "a.b.c.d": "a.b.c.d. a.b.c.d.example.com."},
		},
		{
			"an empty search list as systemd-resolved writes it", "nameserver 127.0.0.53\nsearch .\n", "127.0.0.53:53",
			map[string]string{"db": "db."},
		},
		{
			"three servers at most, bad ones skipped",
			"nameserver x\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver\nnameserver ::1\nnameserver 10.0.0.4", "10.0.0.1:53 [fe80::1%eth0]:53 [::1]:53",
			map[string]string{},
		},
		{
			"names that cannot be", "nameserver 10.0.0.2\nsearch example.com", "10.0.0.2:53",
			map[string]string{"": "", ".": "", "a..b": "", strings.Repeat("a", 64): ""},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := parseResolvConf([]byte(tt.text))
			var servers []string
			for _, s := range c.servers {
				servers = append(servers, s.String())
			}
			if got := strings.Join(servers, " "); got != tt.servers {
				t.Errorf("servers %s, want %s", got, tt.servers)
			}
			for name, want := range tt.ask {
				if got := strings.Join(c.candidates(name), " "); got != want {
					t.Errorf("%q: asks for %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestConfiguredServersHaveNoSearchList(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, conf, "nameserver 10.0.0.9\nsearch example.com\n")
	s := newSources(conf, conf, []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:5353")})
	_, c, _ := s.current()
	if got := c.candidates("db"); len(c.servers) != 1 || c.servers[0].Port() != 5353 || !slices.Equal(got, []string{"db."}) {
		t.Errorf("servers %v, asks for %v", c.servers, got)
	}
}

func TestSourcesAreReadAgainWhenChanged(t *testing.T) {
	dir := t.TempDir()
	hosts, conf := filepath.Join(dir, "hosts"), filepath.Join(dir, "resolv.conf")
	s := newSources(hosts, conf, nil)
	check := func(what, db, server string, changes int) {
		t.Helper()
		m, c, gen := s.current()
		if !slices.Equal(m["db"], addrs(db)) || c.servers[0].Addr().String() != server || gen != changes {
			t.Errorf("%s: db is %v, server is %v, %d changes; want %s, %s, %d", what, m["db"], c.servers[0], gen, db, server, changes)
		}
	}
	check("no files", "", "127.0.0.1", 0)
	write(t, hosts, "10.0.0.1 db\n")
	check("hosts came", "10.0.0.1", "127.0.0.1", 1)
	write(t, conf, "nameserver 10.0.0.53\n")
	check("resolv.conf came", "10.0.0.1", "10.0.0.53", 2)
	check("nothing changed", "10.0.0.1", "10.0.0.53", 2)

	// An edit in place that leaves the size.
	write(t, hosts, "10.0.0.3 db\n")
	if err := os.Chtimes(hosts, time.Time{}, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	check("hosts edited", "10.0.0.3", "10.0.0.53", 3)

	// As editors and DHCP clients do it: a new file takes the name.
	write(t, hosts+".new", "10.0.0.2 db\n")
	if err := os.Rename(hosts+".new", hosts); err != nil {
		t.Fatal(err)
	}
	check("hosts replaced", "10.0.0.2", "10.0.0.53", 4)
	if err := os.Remove(conf); err != nil {
		t.Fatal(err)
	}
	check("resolv.conf gone", "10.0.0.2", "10.0.0.53", 4)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
