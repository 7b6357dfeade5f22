package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"midspan/bench/lab"
	"midspan/bench/peer"
	"midspan/bench/result"
	"midspan/internal/config"
	"midspan/internal/engine/nft"
	"midspan/internal/plan"
)

// What applyMany measures. The first three are of the engine alone, the others of
// the daemon.
var (
	applyMS   = result.Metric{Name: "apply_ms", Title: "all rules written", Unit: "ms"}
	flipMS    = result.Metric{Name: "flip_ms", Title: "an endpoint down or up", Unit: "ms"}
	flipAllMS = result.Metric{Name: "flip_all_ms", Title: "1,000 endpoints down or up", Unit: "ms"}
	changeMS  = result.Metric{Name: "change_ms", Title: "reload that changes all", Unit: "ms"}
	rssBytes  = result.Metric{Name: "rss_bytes", Title: "memory of the process", Unit: result.Bytes}
	laterRSS  = result.Metric{Name: "rss_later_bytes", Title: "memory after reloads", Unit: result.Bytes}
)

// endpointsEach is how many servers a route has here.
const endpointsEach = 3

func applyMany() workload {
	return workload{
		Workload: result.Workload{
			Name: "apply1000", Title: "Changes of 1,000 routes", Primary: applyMS.Name,
			Text: fmt.Sprintf("%d routes with %d servers each. The engine alone, called by the bench as the daemon calls it: from nothing to "+
				"all rules in force, which includes its look at the rules of others; then one endpoint goes down and up, and one of every route. "+
				"Then the daemon: its memory (RSS) two seconds after the start; how long `midspan reload` takes when every route has "+
				"changed; and its memory after %d of those.", routeCount, endpointsEach, reloads),
			Metrics: []result.Metric{applyMS, flipMS, flipAllMS, rssBytes, laterRSS, changeMS},
		},
		quick: true, once: true, // it takes seconds
		cell: (*runner).applyCell,
		skip: func(p *peer.Peer) bool { return p.Engine != peer.NFT },
	}
}

const (
	reloads = 3
	settled = 2 * time.Second // after a start
	flips   = 20
)

func (r *runner) applyCell(_ *workload, p *peer.Peer) (map[string]float64, error) {
	l, err := lab.New(false)
	if err != nil {
		return nil, err
	}
	values, err := engineTimes(l)
	if err == nil {
		err = daemonFigures(l, p, values)
	}
	if err := errors.Join(err, l.Close()); err != nil {
		return nil, err
	}
	return values, nil
}

// manyServers is a file with all routes, to servers at these ports.
func manyServers(port int) string {
	var b strings.Builder
	b.WriteString("log: off\ndefaults: { engine: nft }\nroutes:\n")
	for i := range routeCount {
		listen := peer.Route{Port: firstRoute + i}.Listen()
		fmt.Fprintf(&b, "  r%d: { listen: %q, to: [", firstRoute+i, listen)
		for n := range endpointsEach {
			fmt.Fprintf(&b, " \"10.9.2.%d:%d\",", n+1, port)
		}
		b.WriteString(" ] }\n")
	}
	return b.String()
}

// daemonFigures adds what the real daemon takes.
func daemonFigures(l *lab.Lab, p *peer.Peer, values map[string]float64) error {
	d, err := p.StartWith(l, manyServers(9000))
	if err != nil {
		return err
	}
	for end := time.Now().Add(patience); !strings.Contains(d.Proc.Said(), "msg=forwarding "); time.Sleep(10 * time.Millisecond) {
		if err := d.Ended(); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("the daemon does not forward within %s; it says: %s", patience, d.Proc.Said())
		}
	}
	time.Sleep(settled)
	rss, err := d.Proc.Resident()
	if err != nil {
		return err
	}
	var took []float64
	for i := range reloads {
		t, err := d.ReloadWith(manyServers(9001 + i))
		if err != nil {
			return err
		}
		took = append(took, ms(t))
	}
	time.Sleep(settled)
	later, err := d.Proc.Resident()
	values[rssBytes.Name], values[laterRSS.Name], values[changeMS.Name] = float64(rss), float64(later), result.Summarize(took).Median
	return err
}

// engineTimes has a process of the lab measure the engine.
func engineTimes(l *lab.Lab) (map[string]float64, error) {
	file := filepath.Join(l.Dir, "engine.yaml")
	if err := os.WriteFile(file, []byte(manyServers(9000)), 0o644); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := l.Run(lab.Cmd{Program: lab.Self, Args: []string{"apply", file}, Stdout: &out, In: l.Forwarder}); err != nil {
		return nil, err
	}
	values := map[string]float64{}
	return values, json.Unmarshal(out.Bytes(), &values)
}

// apply is that process.
func apply(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	f, err := config.Parse(file, text)
	if err != nil {
		return err
	}
	p, _, err := plan.New(f)
	if err != nil {
		return err
	}
	values, err := timeEngine(p)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(values)
}

func timeEngine(p *plan.Plan) (values map[string]float64, err error) {
	e, err := nft.New(nft.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	// As the daemon does it: a plan with the state of now, then the engine.
	timed := func(down func(*plan.Route, *plan.Server) bool) (float64, error) {
		began := time.Now()
		next := p.With(func(string) []netip.Addr { return nil }, func(r *plan.Route, s *plan.Server, _ netip.Addr) (bool, bool) {
			return !down(r, s), false
		})
		change, err := e.Apply(context.Background(), next)
		if err == nil && len(change.Pending) > 0 {
			err = fmt.Errorf("%d listeners wait, the first: %+v", len(change.Pending), change.Pending[0])
		}
		return ms(time.Since(began)), err
	}
	none := func(*plan.Route, *plan.Server) bool { return false }
	all, err := timed(none)
	if err != nil {
		return nil, err
	}
	flip := func(n int, down func(i int) func(*plan.Route, *plan.Server) bool) (float64, error) {
		var took []float64
		for i := range n {
			for _, f := range []func(*plan.Route, *plan.Server) bool{down(i), none} {
				t, err := timed(f)
				if err != nil {
					return 0, err
				}
				took = append(took, t)
			}
		}
		return result.Summarize(took).Median, nil
	}
	one, err := flip(flips, func(i int) func(*plan.Route, *plan.Server) bool {
		at := p.Routes[i*len(p.Routes)/flips] // from the whole range
		return func(r *plan.Route, s *plan.Server) bool { return r.Name == at.Name && s.Name == at.Servers[1].Name }
	})
	if err != nil {
		return nil, err
	}
	every, err := flip(3, func(int) func(*plan.Route, *plan.Server) bool {
		return func(r *plan.Route, s *plan.Server) bool { return s.Name == r.Servers[1].Name }
	})
	return map[string]float64{applyMS.Name: all, flipMS.Name: one, flipAllMS.Name: every}, err
}
