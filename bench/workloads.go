package main

import (
	"slices"

	"midspan/bench/load"
	"midspan/bench/peer"
	"midspan/bench/result"
)

// workload is a kind of load, and how it is made.
type workload struct {
	result.Workload
	quick bool // part of a quick run
	mtu   bool // see lab.New
	most  int  // rounds, if > 0
	once  bool // in a quick run
	spec  load.Spec
	// routes of the forwarder, of which the last is used; nil: one.
	routes func() []peer.Route
	// values turns what was counted into metrics.
	values func(reading) map[string]float64
	// cell measures one peer once; nil: traffic.
	cell func(*runner, *workload, *peer.Peer) (map[string]float64, error)
	// skip tells the peers that have no such thing.
	skip func(*peer.Peer) bool
	mode peer.Mode
	// peers are the others beside midspan in a run of all, where more would tell
	// little and take long; nil: all.
	peers []string
	wrk   *wrkLoad // nil: spec
}

// skips tells whether p has no part in w; all: in a run of all peers.
func (w *workload) skips(p *peer.Peer, all bool) bool {
	return !p.Can(w.mode) || w.skip != nil && w.skip(p) || all && w.peers != nil && p.Engine == "" && !slices.Contains(w.peers, p.Name)
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// Metrics that several workloads have.
var (
	gbps   = result.Metric{Name: "gbps", Title: "throughput", Unit: "Gbit/s", HigherIsBetter: true}
	fwdGB  = result.Metric{Name: "fwd_cpu_s_per_gb", Title: "forwarder's CPU", Unit: "s/GB"}
	cpuGB  = result.Metric{Name: "cpu_s_per_gb", Title: "machine's CPU", Unit: "s/GB"}
	p50    = result.Metric{Name: "p50_us", Title: "median latency", Unit: result.Microseconds}
	p99    = result.Metric{Name: "p99_us", Title: "99th percentile", Unit: result.Microseconds}
	p999   = result.Metric{Name: "p999_us", Title: "99.9th percentile", Unit: result.Microseconds}
	conns  = result.Metric{Name: "conns_per_s", Title: "connections", Unit: "1/s", HigherIsBetter: true}
	rtts   = result.Metric{Name: "rtts_per_s", Title: "round trips", Unit: "1/s", HigherIsBetter: true}
	fwdOne = result.Metric{Name: "fwd_us_per_conn", Title: "forwarder's CPU", Unit: "µs each"}
	cpuOne = result.Metric{Name: "cpu_us_per_conn", Title: "machine's CPU", Unit: "µs each"}
	fwdRTT = result.Metric{Name: "fwd_us_per_rtt", Title: "forwarder's CPU", Unit: "µs each"}
	cpuRTT = result.Metric{Name: "cpu_us_per_rtt", Title: "machine's CPU", Unit: "µs each"}
)

// workloads are all there are, in the order of results.
func workloads() []workload {
	return []workload{
		bulk("bulk1", "Bulk, 1 connection", 1, false), bulk("bulk8", "Bulk, 8 connections", 8, false),
		bulk("mtu1", "Bulk, 1500-byte frames, 1 conn.", 1, true), bulk("mtu8", "Bulk, 1500-byte frames, 8 conns.", 8, true),
		shortConnections(), pingPong("pp1", 1), pingPong("pp64", 64), pingPong("pp512", 512), kafka(), tls(), idle(), manyRoutes(),
		connectionsOfMany(), applyMany(),
		http(), httpConnections(), httpBig(), sniBulk(), sniConnections(), tlsBulk(), tlsConnections(), proxied(), kafkaFetch(), kafkaProduce(),
	}
}

func bulk(name, title string, conns int, mtu bool) workload {
	text := "Bytes from the target to the client, as fast as they go."
	if mtu {
		text += " The target sends frames of the wire's size, which the forwarder's interfaces put together again, as network cards do."
	} else {
		text += " Packets cross the machine with up to 64 KiB, as they do between virtual machines of one host."
	}
	return workload{
		Workload: result.Workload{
			Name: name, Title: title, Text: text, Primary: gbps.Name, Metrics: []result.Metric{gbps, fwdGB, cpuGB},
		},
		quick: name != "mtu1", mtu: mtu,
		spec:   load.Spec{Conns: conns, Steps: []load.Step{{Send: 64, Receive: load.Endless}}},
		values: bulkValues,
	}
}

func bulkValues(r reading) map[string]float64 {
	gb := float64(r.BytesDown) / 1e9
	return r.costs(map[string]float64{gbps.Name: 8 * gb / r.Seconds}, fwdGB.Name, cpuGB.Name, gb)
}

func shortConnections() workload {
	return workload{
		Workload: result.Workload{
			Name: "conn", Title: "Short connections", Primary: conns.Name,
			Text:    "64 workers: connect, 64 bytes up, 64 bytes down, close. Latency is that of a whole connection.",
			Metrics: []result.Metric{conns, p50, p99, fwdOne, cpuOne},
		},
		quick: true,
		spec:  load.Spec{Conns: 64, Steps: []load.Step{{Send: 64, Receive: 64}}, Reconnect: true},
		values: func(r reading) map[string]float64 {
			return sessionValues(r, p50.Name)
		},
	}
}

func sessionValues(r reading, also ...string) map[string]float64 {
	values := map[string]float64{conns.Name: float64(r.Sessions) / r.Seconds, p99.Name: r.P99}
	for _, name := range also {
		values[name] = r.P50
	}
	return r.costs(values, fwdOne.Name, cpuOne.Name, float64(r.Sessions)/1e6)
}

func pingPong(name string, n int) workload {
	title := "Round trips, 1 connection"
	if n > 1 {
		title = "Round trips, " + name[2:] + " connections"
	}
	return workload{
		Workload: result.Workload{
			Name: name, Title: title, Primary: rtts.Name,
			Text:    "64 bytes up, 64 bytes down, and again, on connections that last.",
			Metrics: []result.Metric{rtts, p50, p99, p999, fwdRTT, cpuRTT},
		},
		quick: n == 64,
		spec:  load.Spec{Conns: n, Steps: []load.Step{{Send: 64, Receive: 64}}},
		values: func(r reading) map[string]float64 {
			values := map[string]float64{
				rtts.Name: float64(r.Exchanges) / r.Seconds, p50.Name: r.P50, p99.Name: r.P99, p999.Name: r.P999,
			}
			return r.costs(values, fwdRTT.Name, cpuRTT.Name, float64(r.Exchanges)/1e6)
		},
	}
}

func kafka() workload {
	return workload{
		Workload: result.Workload{
			Name: "kafka", Title: "Fetches of 1 MiB", Primary: gbps.Name,
			Text:    "8 connections: 100 bytes up, 1 MiB down, and again, as a consumer of Kafka does.",
			Metrics: []result.Metric{gbps, p50, p99, fwdGB, cpuGB},
		},
		spec: load.Spec{Conns: 8, Steps: []load.Step{{Send: 100, Receive: mib}}},
		values: func(r reading) map[string]float64 {
			values := bulkValues(r)
			values[p50.Name], values[p99.Name] = r.P50, r.P99
			return values
		},
	}
}

func tls() workload {
	steps := []load.Step{{Send: 517, Receive: 3500}, {Send: 80, Receive: 255}}
	for range 4 {
		steps = append(steps, load.Step{Send: 200, Receive: 16400})
	}
	return workload{
		Workload: result.Workload{
			Name: "tls", Title: "Connections of TLS's shape", Primary: conns.Name,
			Text: "64 workers: connect, a handshake (517 bytes up, 3,500 down, 80 up, 255 down), four requests of 200 bytes " +
				"with answers of 16,400, close. The bytes are as many as TLS has; nothing is encrypted.",
			Metrics: []result.Metric{conns, p99, fwdOne, cpuOne},
		},
		spec:   load.Spec{Conns: 64, Steps: steps, Reconnect: true},
		values: func(r reading) map[string]float64 { return sessionValues(r) },
	}
}
