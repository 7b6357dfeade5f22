package main

import (
	"errors"
	"fmt"
	"time"

	"midspan/bench/lab"
	"midspan/bench/load"
	"midspan/bench/peer"
	"midspan/bench/result"
)

// idleConns is how many connections are held, if the limit of open files allows.
const idleConns = 8000

var (
	rssConn    = result.Metric{Name: "rss_bytes_per_conn", Title: "memory of the processes, each", Unit: result.Bytes}
	kernelConn = result.Metric{Name: "kernel_bytes_per_conn", Title: "memory of the kernel, each", Unit: result.Bytes}
	rssBase    = result.Metric{Name: "base_rss_bytes", Title: "processes without connections", Unit: result.Bytes}
)

func idle() workload {
	return workload{
		Workload: result.Workload{
			Name: "idle", Title: "Idle connections", Primary: rssConn.Name,
			Text: fmt.Sprintf("%d connections (fewer where a peer's files do not suffice), 64 bytes up and down on each, then silence. "+
				"The kernel's part is the growth of its objects less that of the direct connections; "+
				"every connection is used again at the end.", idleConns),
			Metrics: []result.Metric{rssConn, kernelConn, rssBase},
		},
		most: 3, // memory hardly varies
		spec: load.Spec{Steps: []load.Step{{Send: 64, Receive: 64}}, Hold: true},
		cell: (*runner).idleCell,
	}
}

// usedMemory is the memory of a forwarder's processes and of the kernel's objects.
type usedMemory struct{ processes, kernel int64 }

func (s *stage) memory() (m usedMemory, err error) {
	if err := errors.Join(lab.Quiet(time.Second), lab.Steady(3*time.Second)); err != nil {
		return m, err
	}
	if s.fwd.Proc != nil {
		if m.processes, err = s.fwd.Proc.Resident(); err != nil {
			return m, err
		}
	}
	m.kernel, err = lab.Slab()
	return m, err
}

// idleCell leaves the kernel's growth in r.growth: what is the forwarder's in it
// is known when the direct connections have been measured too.
func (r *runner) idleCell(w *workload, p *peer.Peer) (map[string]float64, error) {
	s, err := r.set(p, one(), false)
	if err != nil {
		return nil, err
	}
	var empty, full usedMemory
	spec := w.spec
	spec.Conns = idleConns
	if most := lab.MaxFiles() - 500; p.FDs > 0 && spec.Conns*p.FDs > most {
		spec.Conns = most / p.FDs
	}
	// What is made once, with the first connections, is not a connection's cost.
	if err = errors.Join(s.ready(), s.visit()); err == nil {
		if empty, err = s.memory(); err == nil {
			full, err = s.hold(spec)
		}
	}
	// All ends of all connections are to be gone before their machines are: the
	// kernel keeps for long what cannot say goodbye, and it would count next time.
	err = errors.Join(err, lab.Quiet(3*time.Second))
	if err := s.close(err); err != nil {
		return nil, err
	}
	n := float64(spec.Conns)
	r.growth[at{p.Name, r.round}] = float64(full.kernel-empty.kernel) / n
	values := map[string]float64{}
	if s.fwd.Proc != nil {
		values[rssConn.Name] = float64(full.processes-empty.processes) / n
		values[rssBase.Name] = float64(empty.processes)
	}
	return values, nil
}

// visit makes some hundreds of short connections.
func (s *stage) visit() error {
	return s.try(load.Spec{Addr: s.addr, Conns: 64, Steps: []load.Step{{Send: 64, Receive: 64}}, Reconnect: true, Sessions: 10})
}

// hold makes the connections, measures, and uses them all once more.
func (s *stage) hold(spec load.Spec) (usedMemory, error) {
	spec.Addr = s.addr
	c, err := s.client(spec)
	if err != nil {
		return usedMemory{}, err
	}
	defer c.close()
	if err := c.expect("ready"); err != nil {
		return usedMemory{}, err
	}
	used, err := s.memory()
	if err != nil {
		return used, err
	}
	if _, err := fmt.Fprintln(c.ask, "again"); err != nil {
		return used, err
	}
	if err := c.expect("ready"); err != nil {
		return used, err
	}
	c.ask.Close()
	report, err := c.report()
	if err == nil && report.Exchanges != 2*int64(spec.Conns) {
		err = fmt.Errorf("%d exchanges on %d connections, instead of two on each", report.Exchanges, spec.Conns)
	}
	return used, err
}

// at is a peer's cell of a workload.
type at struct {
	peer  string
	round int
}

// kernelShares adds to the samples of idle connections what the kernel uses for
// the forwarder.
func (r *runner) kernelShares() {
	for _, s := range r.results.Samples {
		direct, ok := r.growth[at{result.Direct, s.Round}]
		if s.Workload == "idle" && s.Peer != result.Direct && ok {
			s.Values[kernelConn.Name] = r.growth[at{s.Peer, s.Round}] - direct
		}
	}
}
