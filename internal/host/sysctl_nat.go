package host

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// NAT is what the kernel engine needs the settings for.
type NAT struct {
	// Root is where the settings are; "": /proc/sys.
	Root       string
	IPv6       bool          // there are IPv6 routes
	Interfaces []string      // whose forwarding must be on: where clients come in
	HalfClosed time.Duration // how long a connection that one side has ended may be silent; 0: as it is
	Flows      int           // connections to have room for; 0: as it is
}

// Sysctls are the settings to ask for, in the order to set them.
//
// Not among them:
//   - net.ipv4.ip_local_port_range: masquerading does not use it. It takes
//     1024–65535 for a source port that is above 1023, 600–1023 and 1–511 for
//     lower ones, unless the rule gives a range (nf_nat_l4proto_unique_tuple in
//     net/netfilter/nf_nat_core.c).
//   - rp_filter: whether strict is wrong depends on the routes; see RPFilter.
//   - IPv6 forwarding for each interface: all.forwarding decides alone
//     (ip6_forward in net/ipv6/ip6_output.c).
func (n NAT) Sysctls() []Sysctl {
	list := []Sysctl{{Name: "net.ipv4.ip_forward", Value: 1, Needed: true, Why: "without it no packet is forwarded"}}
	for _, dev := range n.Interfaces {
		if _, err := os.Stat(filepath.Join(cmp.Or(n.Root, procSys), "net/ipv4/conf", dev)); err != nil {
			continue // an interface to come: it will get what ip_forward says
		}
		// Off on an interface while ip_forward is on is somebody's decision,
		// but here it is against the configuration.
		list = append(list, Sysctl{Name: "net/ipv4/conf/" + dev + "/forwarding", Value: 1, Needed: true, Why: "without it no packet that comes in on " + dev + " is forwarded"})
	}
	if n.IPv6 {
		list = append(list, n.routerAdvertisements()...)
		list = append(list, Sysctl{Name: "net.ipv6.conf.all.forwarding", Value: 1, Needed: true, Why: "without it no IPv6 packet is forwarded"})
	}
	list = append(list,
		Sysctl{Name: "net.netfilter.nf_conntrack_acct", Value: 1, Why: "without it bytes are not counted"},
		Sysctl{Name: "net.netfilter.nf_conntrack_timestamp", Value: 1, Why: "without it the age of connections is not known"},
		// By default (2) connections that began while nobody listened never send
		// events, and so would those that began between two daemons.
		Sysctl{Name: "net.netfilter.nf_conntrack_events", Value: 1, Why: "without it the end of some connections is not logged"},
		// A packet outside of the window is INVALID and does not go through
		// NAT. One from a server is then addressed to this host, which answers
		// with a reset, and the connection is gone (kubernetes#74839). Linux
		// 6.1 made this rare (6e250dcbff1d), not impossible. Dropping ct state
		// invalid avoids the reset but can stall the connection, and hits
		// traffic of others; liberal leaves the judgement to the two ends.
		// Resets are still checked against the window.
		Sysctl{Name: "net.netfilter.nf_conntrack_tcp_be_liberal", Value: 1, Why: "without it late packets can reset a connection"},
	)
	if s := int64(n.HalfClosed.Seconds()); s > 0 {
		// Defaults 60 s and 120 s: a query whose client has sent its FIN would
		// lose its answer (nf_conntrack_proto_tcp.c, tcp_timeouts).
		why := "a connection that one side has ended is forgotten while it is silent for longer than that"
		list = append(list,
			Sysctl{Name: "net.netfilter.nf_conntrack_tcp_timeout_close_wait", Value: s, AtLeast: true, Why: why},
			Sysctl{Name: "net.netfilter.nf_conntrack_tcp_timeout_fin_wait", Value: s, AtLeast: true, Why: why})
	}
	if flows := int64(min(n.Flows, roomForFlows())); flows > 0 {
		// In the host's own namespace only; elsewhere both are read-only.
		list = append(list,
			Sysctl{Name: "net.netfilter.nf_conntrack_max", Value: flows, AtLeast: true, Why: "when the table is full new connections are dropped"},
			Sysctl{Name: "net.netfilter.nf_conntrack_buckets", Value: flows / 2, AtLeast: true, Why: "with long chains every packet costs more"})
	}
	return list
}

// routerAdvertisements keeps what interfaces learn from routers: with
// forwarding on, accept_ra=1 means no, and 2 yes. It must come before
// forwarding, which drops all learnt routes of interfaces that have not got 2
// (rt6_purge_dflt_routers in net/ipv6/route.c).
func (n NAT) routerAdvertisements() []Sysctl {
	var list []Sysctl
	root := cmp.Or(n.Root, procSys)
	files, _ := filepath.Glob(filepath.Join(root, "net/ipv6/conf/*/accept_ra"))
	for _, f := range files {
		dev := filepath.Base(filepath.Dir(f))
		// "default" for interfaces to come; "all" has no effect.
		if value, err := readInt(f); err == nil && value == 1 && dev != "all" && dev != "lo" {
			list = append(list, Sysctl{Name: "net/ipv6/conf/" + dev + "/accept_ra", Value: 2, AtLeast: true, Needed: true, Why: "without it " + dev + " loses its IPv6 default route as soon as this host forwards IPv6"})
		}
	}
	return list
}

// roomForFlows is how many connections an eighth of the memory can track. An
// entry takes about 320 bytes with its extensions, and two pointers of the hash
// table.
func roomForFlows() int {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			kib, _ := strconv.Atoi(f[1])
			return kib * 1024 / 8 / 336
		}
	}
	return 0
}

// RPFilter warns of interfaces where a strict reverse path filter will drop
// answers: rp_filter is 1 (of conf.all and the interface's the higher counts,
// ip-sysctl.rst) and there are IPv4 default routes over several interfaces, so
// that an answer may come in where the kernel would not send. It sets nothing,
// since strict is a protection that somebody has chosen.
func RPFilter() ([]string, error) {
	table, err := os.ReadFile(procNet + "/route")
	if err != nil {
		return nil, err
	}
	return strictInterfaces(string(table), procSys), nil
}

func strictInterfaces(routes, root string) []string {
	var devs []string
	for line := range strings.Lines(routes) {
		// Iface Destination Gateway Flags RefCnt Use Metric Mask …
		f := strings.Fields(line)
		if len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			devs = append(devs, f[0])
		}
	}
	slices.Sort(devs)
	devs = slices.Compact(devs)
	if len(devs) < 2 {
		return nil
	}
	all, _ := readInt(filepath.Join(root, "net/ipv4/conf/all/rp_filter"))
	var warnings []string
	for _, dev := range devs {
		own, _ := readInt(filepath.Join(root, "net/ipv4/conf", dev, "rp_filter"))
		if max(all, own) == 1 {
			warnings = append(warnings, fmt.Sprintf("%s has a strict reverse path filter, and there are default routes over %s: answers that come in on another interface than the kernel would send on are dropped; if paths are asymmetric, put \"%s = 2\" into /etc/sysctl.d/60-midspan.conf and run \"sysctl --system\"",
				dev, strings.Join(devs, " and "), dotted("net/ipv4/conf/"+dev+"/rp_filter")))
		}
	}
	return warnings
}
