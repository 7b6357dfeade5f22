package main

import (
	"midspan/bench/load"
	"midspan/bench/peer"
	"midspan/bench/result"
)

func sniBulk() workload {
	w := bulk("sni-bulk", "TLS by name, bulk, 8 connections", 8, false)
	w.Text = "As `bulk8`, of TLS, which the target ends: the forwarder chooses it by the name in the client's first message. " +
		"midspan, tcp is the same without a look at the name."
	w.mode, w.most, w.peers = peer.ModeSNI, webRounds, []string{"haproxy-splice", "nginx-64k"}
	return w
}

func sniConnections() workload {
	w := shortConnections()
	w.Name, w.Title = "sni-conn", "TLS by name, short connections"
	w.Text = "64 workers: connect, a whole handshake of TLS 1.3 with the target, 64 bytes up, 64 bytes down, close. " +
		"The forwarder chooses the target by name, as in `sni-bulk`."
	w.mode, w.most, w.peers = peer.ModeSNI, webRounds, []string{"haproxy", "nginx-64k"}
	return w
}

func tlsBulk() workload {
	w := bulk("tls-bulk", "TLS ended here, bulk, 8 connections", 8, false)
	w.Text = "As `bulk8`, of TLS 1.3, which the forwarder ends: it encrypts what the target sends."
	w.mode, w.most, w.peers = peer.ModeTLS, webRounds, []string{"haproxy", "nginx-64k"}
	return w
}

func tlsConnections() workload {
	w := shortConnections()
	w.Name, w.Title = "tls-conn", "TLS ended here, handshakes"
	w.Text = "64 workers: connect, a whole handshake of TLS 1.3 (X25519, ECDSA on P-256) with the forwarder, 64 bytes up, 64 bytes down, close."
	w.mode, w.most, w.peers = peer.ModeTLS, webRounds, []string{"haproxy", "nginx-64k"}
	return w
}

func proxied() workload {
	return workload{
		Workload: result.Workload{
			Name: "proxy", Title: "PROXY headers in and out", Primary: conns.Name,
			Text: "As `conn`, where each connection begins with a PROXY header of version 2 with a link id, and the forwarder begins its " +
				"own with one. nginx can send version 1 alone; midspan alone passes the link id on.",
			Metrics: []result.Metric{conns, p50, p99, fwdOne, cpuOne},
		},
		quick: true, mode: peer.ModeProxy, most: webRounds, peers: []string{"haproxy", "nginx-64k"},
		spec:   load.Spec{Conns: 64, Steps: []load.Step{{Send: 64, Receive: 64}}, Reconnect: true},
		values: func(r reading) map[string]float64 { return sessionValues(r, p50.Name) },
	}
}
