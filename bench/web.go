package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	nethttp "net/http"
	"os"
	"path/filepath"
	"time"

	"midspan/bench/lab"
	"midspan/bench/load"
	"midspan/bench/peer"
	"midspan/bench/result"
)

// wrkLoad is a load that wrk makes, of one thread.
type wrkLoad struct {
	conns int
	size  int  // of an answer's body
	close bool // after each answer
}

// webRounds bound what the modes beside tcp add to a complete run.
const webRounds = 5

var (
	requests = result.Metric{Name: "reqs_per_s", Title: "requests", Unit: result.PerSecond, HigherIsBetter: true}
	fwdReq   = result.Metric{Name: "fwd_us_per_req", Title: "forwarder's CPU", Unit: "µs each"}
	cpuReq   = result.Metric{Name: "cpu_us_per_req", Title: "machine's CPU", Unit: "µs each"}
)

func http() workload {
	return web(workload{
		Workload: result.Workload{
			Name: "http", Title: "HTTP, kept connections",
			Text: "wrk with 64 connections: requests without a body, answers of 128 bytes.",
		},
		quick: true, peers: []string{"direct", "haproxy", "nginx", "nginx-64k", "envoy"},
		wrk: &wrkLoad{conns: 64, size: 128},
	})
}

func httpConnections() workload {
	return web(workload{
		Workload: result.Workload{
			Name: "http-conn", Title: "HTTP, a connection a request",
			Text: "As `http`, but the client ends each connection after one answer. Those to the target may be kept.",
		},
		peers: []string{"haproxy", "nginx-64k"},
		wrk:   &wrkLoad{conns: 64, size: 128, close: true},
	})
}

func web(w workload) workload {
	w.mode, w.most, w.Primary = peer.ModeHTTP, webRounds, requests.Name
	w.Metrics = []result.Metric{requests, p50, p99, fwdReq, cpuReq}
	w.values = func(r reading) map[string]float64 {
		values := map[string]float64{requests.Name: float64(r.Exchanges) / r.Seconds, p50.Name: r.P50, p99.Name: r.P99}
		return r.costs(values, fwdReq.Name, cpuReq.Name, float64(r.Exchanges)/1e6)
	}
	return w
}

func httpBig() workload {
	return workload{
		Workload: result.Workload{
			Name: "http-big", Title: "HTTP, answers of 1 MiB", Primary: gbps.Name,
			Text:    "wrk with 8 connections, which are kept.",
			Metrics: []result.Metric{gbps, p50, p99, fwdGB, cpuGB},
		},
		mode: peer.ModeHTTP, most: webRounds, peers: []string{"haproxy-splice", "nginx-64k"},
		wrk: &wrkLoad{conns: 8, size: mib},
		values: func(r reading) map[string]float64 {
			values := bulkValues(r)
			values[p50.Name], values[p99.Name] = r.P50, r.P99
			return values
		},
	}
}

// wrkScript has wrk tell what it counted, as a load.Report.
const wrkScript = `done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\n{"Seconds":%f,"Exchanges":%d,"BytesDown":%d,"P50":%f,"P99":%f,"P999":%f,"Errors":%d,"Error":"connect %d, read %d, write %d, status %d, timeout %d"}\n',
    summary.duration / 1e6, summary.requests, summary.bytes, latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    e.connect + e.read + e.write + e.status + e.timeout, e.connect, e.read, e.write, e.status, e.timeout))
end
`

// wrk loads a stage. Processor time is that from its start to its end, as it has
// no warm-up; and it takes whole seconds alone.
func (r *runner) wrk(s *stage, w wrkLoad) (reading, error) {
	program, err := peer.Find("wrk")
	if err != nil {
		return reading{}, err
	}
	script := filepath.Join(s.Dir, "wrk.lua")
	if err := os.WriteFile(script, []byte(wrkScript), 0o644); err != nil {
		return reading{}, err
	}
	args := []string{"-t1", fmt.Sprintf("-c%d", w.conns), fmt.Sprintf("-d%.0fs", math.Max(1, math.Round(r.window.Seconds()))), "--timeout", "30s", "-s", script}
	if w.close {
		args = append(args, "-H", "Connection: close")
	}
	args = append(args, fmt.Sprintf("http://%s/%d", s.addr, w.size))
	got := reading{hasOwn: s.fwd.Proc != nil}
	machine, forwarder, err := s.usage()
	if err != nil {
		return got, err
	}
	var out bytes.Buffer
	if err := s.Run(lab.Cmd{Program: program, Args: args, Stdout: &out, In: s.Client}); err != nil {
		return got, err
	}
	if got.machine, got.forwarder, err = s.usage(); err != nil {
		return got, err
	}
	got.machine, got.forwarder = got.machine-machine, got.forwarder-forwarder
	got.Report, err = wrkReport(out.Bytes())
	return got, err
}

// wrkReport reads what wrkScript writes behind wrk's own words.
func wrkReport(out []byte) (load.Report, error) {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	var report load.Report
	if err := json.Unmarshal(lines[len(lines)-1], &report); err != nil {
		return report, fmt.Errorf("wrk says %q: %w", out, err)
	}
	if report.Errors > 0 {
		return report, fmt.Errorf("%d errors: %s", report.Errors, report.Error)
	}
	if report.Exchanges == 0 {
		return report, errors.New("wrk has had no answer")
	}
	return report, nil
}

// get makes one request.
func (s *stage) get(addr string) error {
	return s.Client.Do(func() error {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(c, "GET /1 HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", addr); err != nil {
			return err
		}
		return wantOK(c)
	})
}

// wantOK reads an answer with a body of one byte.
func wantOK(c net.Conn) error {
	resp, err := nethttp.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != nethttp.StatusOK || len(body) != 1) {
		err = fmt.Errorf("%s, %d bytes", resp.Status, len(body))
	}
	return err
}
