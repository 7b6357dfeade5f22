package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"midspan/bench/lab"
	"midspan/bench/load"
	"midspan/bench/peer"
)

// The forwarder's port and the target's.
const (
	forwarderPort = 8000
	targetAddr    = lab.TargetIP + ":9000"
)

// patience is how long anything may take that is no measurement.
const patience = time.Minute

// reading is what one run gave.
type reading struct {
	load.Report
	machine   time.Duration // processor time of the whole machine within the window
	forwarder time.Duration // of the forwarder's processes
	hasOwn    bool          // there are such processes
}

// costs adds the processor time for one unit of work.
func (r reading) costs(values map[string]float64, forwarder, machine string, units float64) map[string]float64 {
	if units == 0 {
		return values
	}
	values[machine] = r.machine.Seconds() / units
	if r.hasOwn {
		values[forwarder] = r.forwarder.Seconds() / units
	}
	return values
}

// stage is a lab with a target and a forwarder that answers.
type stage struct {
	*lab.Lab
	fwd    *peer.Running
	routes []peer.Route
	mode   peer.Mode
	addr   string // the last route's, for the client
}

// set makes a stage. The forwarder is started, but perhaps not ready yet.
func (r *runner) set(p *peer.Peer, routes []peer.Route, mtu bool) (*stage, error) {
	l, err := lab.New(mtu)
	if err != nil {
		return nil, err
	}
	last := routes[len(routes)-1]
	s := &stage{Lab: l, routes: routes, mode: last.Mode, addr: p.Addr(last)}
	role, mode := targetRole(s.mode)
	target, err := l.Start(lab.Cmd{Program: lab.Self, Args: []string{role, targetAddr}, In: l.Target})
	if err == nil {
		err = await(func() error { return s.ping(targetAddr, mode) }, target.Err)
	}
	if err == nil {
		s.fwd, err = p.Start(l, routes, r.limits)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return s, nil
}

// targetRole is what the target is behind a forwarder of a mode, and how to
// speak with it.
func targetRole(m peer.Mode) (role string, speaks peer.Mode) {
	switch m {
	case peer.ModeSNI:
		return "serve-tls", m
	case peer.ModeHTTP:
		return "serve-http", m
	case peer.ModeProxy:
		return "serve-proxy", m
	case peer.ModeKafka:
		return "serve-kafka", m
	default:
		return "serve", peer.ModeTCP
	}
}

// one is the single route that most workloads use.
func one() []peer.Route { return []peer.Route{{Port: forwarderPort, To: targetAddr}} }

// oneOf is that in another mode.
func oneOf(m peer.Mode) []peer.Route {
	routes := one()
	routes[0].Mode = m
	return routes
}

// ready waits until the forwarder's last route works.
func (s *stage) ready() error { return s.await(s.addr, s.fwd.Ended) }

// await waits until the target answers at addr, while alive says nothing.
func (s *stage) await(addr string, alive func() error) error {
	return await(func() error { return s.ping(addr, s.mode) }, alive)
}

func await(ping, alive func() error) error {
	end := time.Now().Add(patience)
	for {
		err := ping()
		if err == nil {
			return nil
		}
		if dead := alive(); dead != nil {
			return dead
		}
		if time.Now().After(end) {
			return fmt.Errorf("not ready within %s: %w", patience, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// ping makes one exchange with the target.
func (s *stage) ping(addr string, m peer.Mode) error {
	if m == peer.ModeHTTP {
		return s.get(addr)
	}
	step := load.Step{Send: 64, Receive: 64}
	if m == peer.ModeKafka {
		step = load.ProduceKafka(64)
	}
	return s.try(speaking(m, load.Spec{Addr: addr, Conns: 1, Steps: []load.Step{step}, Sessions: 1}))
}

// speaking is spec as clients of a mode speak.
func speaking(m peer.Mode, spec load.Spec) load.Spec {
	switch m {
	case peer.ModeSNI, peer.ModeTLS:
		spec.TLS = peer.ServerName
	case peer.ModeKafka:
		spec.Kafka = true
	case peer.ModeProxy:
		spec.Proxy, spec.Reconnect = true, true
	}
	return spec
}

// try runs a load that is no measurement.
func (s *stage) try(spec load.Spec) error {
	return s.Client.Do(func() error {
		report, err := load.Run(spec, io.Discard)
		if err == nil && report.Errors > 0 {
			err = errors.New(report.Error)
		}
		return err
	})
}

// close ends it all. What the forwarder has to complain about is an error too.
func (s *stage) close(err error) error { return errors.Join(err, s.fwd.Err(), s.Close()) }

// stageFor makes what traffic needs, and waits until it is ready.
func (r *runner) stageFor(w *workload, p *peer.Peer) (*stage, error) {
	routes := oneOf(w.mode)
	if w.routes != nil {
		routes = w.routes()
	}
	s, err := r.set(p, routes, w.mtu)
	if err != nil {
		return nil, err
	}
	err = s.ready()
	if err == nil && w.routes != nil {
		err = lab.Quiet(time.Second) // the last of many works while others are still in the making
	}
	if err != nil {
		return nil, s.close(err)
	}
	return s, nil
}

// traffic is the cell of most workloads.
func (r *runner) traffic(w *workload, p *peer.Peer) (map[string]float64, error) {
	s, err := r.stageFor(w, p)
	if err != nil {
		return nil, err
	}
	got, err := r.load(s, w)
	if err := s.close(err); err != nil {
		return nil, err
	}
	return w.values(got), nil
}

// load loads a stage as a workload says.
func (r *runner) load(s *stage, w *workload) (reading, error) {
	if w.wrk != nil {
		return r.wrk(s, *w.wrk)
	}
	return r.run(s, speaking(w.mode, w.spec))
}

// run loads a stage.
func (r *runner) run(s *stage, spec load.Spec) (reading, error) {
	spec.Addr = s.addr
	spec.Warmup, spec.Window = r.warmup, r.window
	before := s.resets()
	c, err := s.client(spec)
	if err != nil {
		return reading{}, err
	}
	defer c.close()
	// What forwards in the kernel has nothing booked on its process; 0 would look
	// as if it cost nothing.
	got := reading{hasOwn: s.fwd.Proc != nil && s.fwd.Peer.Kind != peer.Kernel}
	for _, mark := range []string{"begin", "end"} {
		if err := c.expect(mark); err != nil {
			return got, err
		}
		machine, forwarder, err := s.usage()
		if err != nil {
			return got, err
		}
		got.machine, got.forwarder = machine-got.machine, forwarder-got.forwarder
	}
	if got.Report, err = c.report(); err != nil {
		err = fmt.Errorf("%w; %s", err, s.resetsSince(before))
	}
	return got, err
}

// usage is the processor time until now.
func (s *stage) usage() (machine, forwarder time.Duration, err error) {
	machine, err = lab.Busy()
	if err == nil && s.fwd.Proc != nil {
		forwarder, err = s.fwd.Proc.CPU()
	}
	return machine, forwarder, err
}

// client is a running load client.
type client struct {
	proc  *lab.Proc
	lines *bufio.Scanner
	ask   io.WriteCloser
	out   *os.File
}

func (s *stage) client(spec load.Spec) (*client, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	asked, ask, err := os.Pipe()
	if err != nil {
		out.Close()
		return nil, err
	}
	defer asked.Close()
	c := &client{lines: bufio.NewScanner(out), out: out, ask: ask}
	c.proc, err = s.Start(lab.Cmd{Program: lab.Self, Args: []string{"load", string(text)}, Stdin: asked, Stdout: in, In: s.Client})
	if err != nil {
		c.close()
	}
	return c, err
}

func (c *client) close() {
	c.out.Close()
	c.ask.Close()
}

// line is the next line of the client's output.
func (c *client) line() ([]byte, error) {
	if c.lines.Scan() {
		return c.lines.Bytes(), nil
	}
	if err := c.lines.Err(); err != nil {
		return nil, err
	}
	<-c.proc.Done()
	return nil, c.proc.Err()
}

func (c *client) expect(mark string) error {
	line, err := c.line()
	if err == nil && !bytes.Equal(line, []byte(mark)) {
		err = fmt.Errorf("the client says %q instead of %q", line, mark)
	}
	return err
}

// report is the client's last line. A run with errors has no result.
func (c *client) report() (load.Report, error) {
	var report load.Report
	line, err := c.line()
	if err != nil {
		return report, err
	}
	if err := json.Unmarshal(line, &report); err != nil {
		return report, fmt.Errorf("the client's report: %w", err)
	}
	if report.Errors > 0 {
		return report, fmt.Errorf("%d errors, the first: %s", report.Errors, report.Error)
	}
	return report, nil
}
