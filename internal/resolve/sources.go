package resolve

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

const (
	defaultHosts      = "/etc/hosts"
	defaultResolvConf = "/etc/resolv.conf"

	maxFile    = 8 << 20 // bytes read of a file; a hosts file of a blocker may be large
	maxServers = 3       // used of a resolv.conf, the C library's MAXNS
)

// sources holds what the hosts file and resolv.conf say, and reads them again
// when they have changed. While a file cannot be read, what it said last holds.
type sources struct {
	mu         sync.Mutex
	hostsFile  watchedFile
	resolvFile watchedFile // path is empty when servers were configured
	hosts      map[string][]netip.Addr
	servers    serverConfig
	gen        int // grows with every change
}

func newSources(hosts, resolvConf string, servers []netip.AddrPort) *sources {
	s := &sources{hostsFile: watchedFile{path: hosts}, resolvFile: watchedFile{path: resolvConf}}
	if hosts == "" {
		s.hostsFile.path = defaultHosts
	}
	if resolvConf == "" {
		s.resolvFile.path = defaultResolvConf
	}
	s.servers = parseResolvConf(nil) // until a file says better
	if len(servers) > 0 {
		s.resolvFile.path = ""
		s.servers = serverConfig{servers: slices.Clone(servers)}
	}
	return s
}

// current returns what the files say now. The values are not changed later.
func (s *sources) current() (hosts map[string][]netip.Addr, servers serverConfig, gen int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text, ok := s.hostsFile.changed(); ok {
		s.hosts = parseHosts(text)
		s.gen++
	}
	if s.resolvFile.path != "" {
		if text, ok := s.resolvFile.changed(); ok {
			s.servers = parseResolvConf(text)
			s.gen++
		}
	}
	return s.hosts, s.servers, s.gen
}

// watchedFile is a file that others replace or edit.
type watchedFile struct {
	path string
	seen os.FileInfo // when its text was last returned; nil: never
}

// changed returns the file's text if it is not the one returned last.
func (f *watchedFile) changed() ([]byte, bool) {
	// The state from before the read: an edit during it shows the next time.
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, false
	}
	if f.seen != nil && os.SameFile(f.seen, info) &&
		f.seen.ModTime().Equal(info.ModTime()) && f.seen.Size() == info.Size() {
		return nil, false
	}
	file, err := os.Open(f.path)
	if err != nil {
		return nil, false
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile))
	if err != nil {
		return nil, false
	}
	f.seen = info
	return text, true
}

// serverConfig is whom to ask, and for what.
type serverConfig struct {
	servers []netip.AddrPort
	search  *dns.ClientConfig // search list and ndots; nil: names are asked as they are
}

// parseResolvConf reads the text of a resolv.conf(5) file. Lines it does not
// understand are skipped, as the C library does.
func parseResolvConf(text []byte) serverConfig {
	conf, err := dns.ClientConfigFromReader(bytes.NewReader(text))
	if err != nil {
		conf = &dns.ClientConfig{Ndots: 1}
	}
	// systemd-resolved writes "search ." for an empty list.
	conf.Search = slices.DeleteFunc(conf.Search, func(s string) bool { return strings.Trim(s, ".") == "" })
	c := serverConfig{search: conf}
	for _, s := range conf.Servers {
		if addr, err := netip.ParseAddr(s); err == nil && len(c.servers) < maxServers {
			c.servers = append(c.servers, netip.AddrPortFrom(addr, 53))
		}
	}
	if len(c.servers) == 0 {
		c.servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}
	}
	return c
}

// candidates returns the full names to ask for, in this order; none if name
// cannot be one.
func (c serverConfig) candidates(name string) []string {
	list := []string{dns.Fqdn(name)}
	if c.search != nil {
		list = c.search.NameList(name)
	}
	seen := make(map[string]bool, len(list))
	return slices.DeleteFunc(list, func(full string) bool {
		_, ok := dns.IsDomainName(full)
		again := seen[full]
		seen[full] = true
		return !ok || again || full == "."
	})
}

// parseHosts reads the text of a hosts(5) file. Keys are as hostsKey makes them.
// Lines without a valid address are skipped.
func parseHosts(text []byte) map[string][]netip.Addr {
	hosts := make(map[string][]netip.Addr)
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, name := range fields[1:] {
			key := hostsKey(name)
			hosts[key] = append(hosts[key], addr)
		}
	}
	return hosts
}

// hostsKey returns the form of a name under which it is found in a hosts file:
// upper and lower case are one, and a trailing dot does not matter.
func hostsKey(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}
