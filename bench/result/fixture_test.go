package result

import (
	"maps"
	"time"
)

// fixture is a run as it might be: nine peers, twelve workloads, five rounds.
func fixture() *Results {
	r := &Results{
		Schema:  Schema,
		Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Took:    1234.5,
		Midspan: "1.2.3",
		Machine: Machine{
			CPU: "Example CPU @ 2.50GHz", Cores: 2, MemoryBytes: 8 << 30, Kernel: "6.12.0", OS: "Debian 13",
			Virtual: "kvm", CongestionControl: "reno", Note: "client, forwarder and target share the cores",
		},
		Setup: Setup{Rounds: 5, Seconds: 1.5, Layout: "client 10.9.1.1 --- 10.9.1.2 forwarder 10.9.2.2 --- 10.9.2.1 target"},
		Peers: []Peer{
			{Name: "direct", Title: "direct", Kind: KindNone, Family: "direct"},
			{Name: "iptables", Title: "iptables", Version: "iptables 1.8.11", Kind: KindKernel, Family: "iptables", Config: "-A PREROUTING -j DNAT\n"},
			{Name: "haproxy", Title: "HAProxy", Version: "HAProxy 3.0.11", Kind: KindProxy, Family: "haproxy", Config: "listen a\n  bind :8000\n  # 1 < 2 & 3\n"},
			{Name: "haproxy-splice", Title: "HAProxy, splice", Version: "HAProxy 3.0.11", Kind: KindProxy, Family: "haproxy", Best: true},
			{Name: "nginx", Title: "nginx", Version: "nginx 1.26.3", Kind: KindProxy, Family: "nginx"},
			{Name: "nginx-64k", Title: "nginx, 64k", Version: "nginx 1.26.3", Kind: KindProxy, Family: "nginx", Best: true},
			{Name: "iocopy", Title: "Go io.Copy", Version: "go1.26.8", Kind: KindProxy, Family: "iocopy"},
			{Name: "midspan", Title: "midspan", Version: "1.2.3", Kind: KindMidspan, Family: "midspan", Config: "routes: []\n"},
			{Name: "midspan-nft", Title: "midspan, nft", Version: "1.2.3", Kind: KindKernel, Family: "midspan-nft", Config: "defaults: { engine: nft }\n"},
		},
	}
	names := []string{"direct", "iptables", "haproxy", "haproxy-splice", "nginx", "nginx-64k", "iocopy", "midspan", "midspan-nft"}
	rate := func(title, name, unit string) Metric {
		return Metric{Name: name, Title: title, Unit: unit, HigherIsBetter: true}
	}
	p99 := Metric{Name: "p99_us", Title: "99 %", Unit: Microseconds}
	add := func(name, title string, m Metric, figures ...float64) {
		r.add(Workload{Name: name, Title: title, Text: "What `" + name + "` does.", Primary: m.Name, Metrics: []Metric{m}}, names, figures)
	}
	gbps := rate("throughput", "gbps", "Gbit/s")
	add("bulk1", "Bulk, 1 connection", gbps, 33.4, 30.3, 11.5, 24.9, 11.3, 16.8, 32.4, 33.1, 30.5)
	add("bulk8", "Bulk, 8 connections", gbps, 35.0, 31.6, 16.3, 29.4, 16.5, 16.7, 35.0, 38.5, 31.5)
	add("mtu1", "Bulk in MTU packets, 1 connection", gbps, 9.4, 8.1, 4.1, 6.2, 4.0, 5.3, 6.9, 7.3, 8.1)
	add("mtu8", "Bulk in MTU packets, 8 connections", gbps, 9.9, 8.7, 4.6, 6.6, 4.4, 5.4, 7.1, 7.0, 8.8)
	add("conn", "New connections", rate("connections", "conns_per_s", PerSecond), 21311, 16358, 13331, 11698, 12335, 12400, 9176, 13719, 16200)
	add("pp1", "Ping-pong of 64 B, 1 connection", rate("round trips", "rtts_per_s", PerSecond), 15745, 14782, 11445, 9514, 11676, 11600, 12017, 11240, 14700)
	add("pp64", "Ping-pong of 64 B, 64 connections", rate("round trips", "rtts_per_s", PerSecond), 137024, 126832, 78134, 57520, 77698, 77900, 57933, 84893, 126000)
	add("tls", "Sessions in the shape of TLS", rate("sessions", "conns_per_s", PerSecond), 4100, 3800, 2500, 2100, 2400, 2450, 1900, 2700, 3850)
	add("idle", "Memory of an idle connection", Metric{Name: "rss_bytes_per_conn", Title: "memory of the process", Unit: Bytes}, -1, -1, 9200, 9300, 17800, 90000, 11200, 780, 3)
	add("routes", "Start with 1,000 routes", Metric{Name: "ready_ms", Title: "ready", Unit: "ms"}, -1, 2100, 96, 98, 61, 64, 12, 48, 180)
	add("conn1000", "New connections, 1,000 routes", rate("connections", "conns_per_s", PerSecond), -1, 8485, -1, -1, -1, -1, -1, 13700, 15568)
	add("apply1000", "Changes of 1,000 routes", Metric{Name: "apply_ms", Title: "all rules", Unit: "ms"}, -1, -1, -1, -1, -1, -1, -1, -1, 131)
	rss := Metric{Name: "rss_bytes", Title: "memory", Unit: Bytes}
	for i := range r.Workloads {
		if r.Workloads[i].Name == "pp64" {
			r.Workloads[i].Metrics = append(r.Workloads[i].Metrics, p99)
		}
		if r.Workloads[i].Name == "apply1000" {
			r.Workloads[i].Metrics = append(r.Workloads[i].Metrics, rss)
		}
	}
	for _, s := range r.Samples {
		if s.Workload == "pp64" {
			s.Values["p99_us"] = 3e8 / s.Values["rtts_per_s"]
		}
		if s.Workload == "apply1000" {
			s.Values["rss_bytes"] = 2e5 * s.Values["apply_ms"]
		}
	}
	return r
}

// add records a workload and, for every peer with a figure that is not negative, five rounds around it on a machine
// whose speed drifts.
func (r *Results) add(w Workload, peers []string, figures []float64) {
	r.Workloads = append(r.Workloads, w)
	drift := []float64{0.94, 1, 1.02, 0.99, 1.05}
	for i, p := range peers {
		if figures[i] < 0 {
			continue
		}
		for round, d := range drift {
			wobble := 1 + 0.01*float64((i*i+round*(i+2))%5-2)
			r.Samples = append(r.Samples, Sample{w.Name, p, round + 1, map[string]float64{w.Primary: figures[i] * d * wobble}})
		}
	}
}

// without returns a copy that lacks the samples of one peer in one workload.
func (r *Results) without(workload, peer string) *Results {
	c := *r
	c.Samples = nil
	for _, s := range r.Samples {
		if s.Workload != workload || s.Peer != peer {
			s.Values = maps.Clone(s.Values)
			c.Samples = append(c.Samples, s)
		}
	}
	return &c
}
