package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"midspan/bench/peer"
	"midspan/bench/result"
)

// Two peers that differ by little are told apart by many short slices, in turn and
// with both forwarders up: what the machine does meanwhile meets both alike. After
// some slices all is made anew, or the second half of the connections would find
// the ports of the first in TIME_WAIT.
const (
	sliceWindow = 250 * time.Millisecond
	sliceWarmup = 50 * time.Millisecond
	slicePairs  = 8
)

// pairAll compares the two peers of --pair, and prints what it finds.
func (r *runner) pairAll(ctx context.Context) (code int, err error) {
	first, second := r.pair[0], r.pair[1]
	fmt.Printf("%s ÷ %s, median of %d pairs of slices of %s; ± is two standard errors.\n", second.Name, first.Name, r.rounds*slicePairs, r.window)
	for i := range r.workloads {
		w := &r.workloads[i]
		if w.values == nil || w.skips(first, false) || w.skips(second, false) {
			fmt.Fprintf(os.Stderr, "%s: not for this\n", w.Name)
			continue
		}
		ratios := map[string][]float64{}
		for range r.rounds {
			if ctx.Err() != nil {
				return 130, errors.New("interrupted")
			}
			if err := r.slices(w, ratios); err != nil {
				return 1, fmt.Errorf("%s: %w", w.Name, err)
			}
		}
		fmt.Printf("%s (%s)\n", w.Title, w.Name)
		for _, m := range w.Metrics {
			if s := result.Summarize(ratios[m.Name]); s.N > 0 {
				fmt.Printf("  %-18s %.3f ±%.3f  %s\n", m.Name, s.Median, 2*s.SE, m.Title)
			}
		}
	}
	return 0, nil
}

// slices makes a lab for each of the two and has them take turns.
func (r *runner) slices(w *workload, ratios map[string][]float64) (err error) {
	var stages [2]*stage
	for i, p := range r.pair {
		s, failed := r.stageFor(w, p)
		if failed != nil {
			return failed
		}
		defer func() { err = s.close(err) }()
		stages[i] = s
	}
	for n := range slicePairs {
		var values [2]map[string]float64
		order := []int{0, 1}
		if n%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			got, err := r.load(stages[i], w)
			if err != nil {
				return fmt.Errorf("%s: %w", r.pair[i].Name, err)
			}
			values[i] = w.values(got)
		}
		for name, v := range values[0] {
			if v > 0 && values[1][name] > 0 {
				ratios[name] = append(ratios[name], values[1][name]/v)
			}
		}
	}
	return nil
}

// choosePair takes the two out of the peers that were chosen.
func (o *options) choosePair(list string) error {
	for _, name := range split(list) {
		i := slices.IndexFunc(o.peers, func(p *peer.Peer) bool { return p.Name == name })
		if i >= 0 {
			o.pair = append(o.pair, o.peers[i])
		}
	}
	if len(o.pair) != 2 || o.pair[0] == o.pair[1] {
		return fmt.Errorf("--pair %s: two peers are needed", list)
	}
	o.peers = o.pair
	return nil
}
