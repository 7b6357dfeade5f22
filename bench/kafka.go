package main

import (
	"midspan/bench/load"
	"midspan/bench/peer"
	"midspan/bench/result"
)

var added = result.Metric{Name: "added_us", Title: "median added", Unit: result.Microseconds}

// addedLatency fills in what forwarders add to the latency of workloads that ask.
func addedLatency(r *result.Results) {
	type round struct {
		workload string
		n        int
	}
	direct := map[round]float64{}
	asked := func(s result.Sample) bool {
		w, _ := r.Workload(s.Workload)
		_, ok := w.Metric(added.Name)
		return ok
	}
	for _, s := range r.Samples {
		if s.Peer == result.Direct && asked(s) {
			direct[round{s.Workload, s.Round}] = s.Values[p50.Name]
		}
	}
	for _, s := range r.Samples {
		if d, ok := direct[round{s.Workload, s.Round}]; ok && s.Peer != result.Direct && asked(s) {
			s.Values[added.Name] = s.Values[p50.Name] - d
		}
	}
}

// kafkaPeers are those beside midspan in workloads of mode kafka.
var kafkaPeers = []string{"direct", "kafka-proxy"}

func kafkaFetch() workload {
	w := kafka()
	w.Name, w.Title = "kafka-fetch", "Mode kafka, fetches of 1 MiB"
	w.Text = "8 connections: Fetch requests (version 16), answers with 1 MiB of records, which the forwarder has to read as far as " +
		"they may name brokers. midspan, tcp is the same without a look."
	w.spec.Steps = []load.Step{load.FetchKafka()}
	w.quick, w.mode, w.most, w.peers = true, peer.ModeKafka, webRounds, kafkaPeers
	return w
}

func kafkaProduce() workload {
	w := pingPong("pp1", 1)
	w.Workload = result.Workload{
		Name: "kafka-1k", Title: "Mode kafka, 1 KiB produced", Primary: rtts.Name, Metrics: append([]result.Metric{added}, w.Metrics...),
		Text: "1 connection: Produce requests (version 10) with 1 KiB of records, and their answers. What a forwarder adds is its median " +
			"latency less that of the round without one.",
	}
	w.spec.Steps = []load.Step{load.ProduceKafka(1 << 10)}
	w.mode, w.most, w.peers = peer.ModeKafka, webRounds, kafkaPeers
	return w
}
