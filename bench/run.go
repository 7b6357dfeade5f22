package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"midspan/bench/lab"
	"midspan/bench/peer"
	"midspan/bench/result"
)

// runner makes the rounds.
type runner struct {
	*options
	limits  peer.Limits
	results *result.Results
	growth  map[at]float64 // see idleCell
	round   int
}

// measure makes all the cells and writes what they gave.
func measure(o *options) (code int, err error) {
	ctx, cancel := interruptible()
	defer cancel()
	r := &runner{options: o, limits: limits(), growth: map[at]float64{}}
	if o.check {
		return r.checkAll(ctx)
	}
	if o.pair != nil {
		return r.pairAll(ctx)
	}
	if r.results, err = r.describe(); err != nil {
		return 1, err
	}
	r.allRounds(ctx)
	r.kernelShares()
	addedLatency(r.results)
	r.results.Samples = slices.DeleteFunc(r.results.Samples, func(s result.Sample) bool { return len(s.Values) == 0 })
	r.results.Took = result.Since(r.results.Started)
	if ctx.Err() != nil {
		return 130, errors.New("interrupted: no results are written")
	}
	place, err := r.place()
	if err == nil {
		err = r.write(place)
	}
	if err != nil {
		return 1, err
	}
	summary(os.Stdout, r.results)
	if n := len(r.results.Failures); n > 0 {
		err = fmt.Errorf("%d of the runs failed", n)
	}
	fmt.Printf("Written: %s\n", filepath.Join(place, "results.{json,md,svg}"))
	return btoi(err != nil), err
}

// limits are what the forwarders are to carry: what idle needs, or less where
// fewer files may be open.
func limits() peer.Limits { return peer.Limits{Conns: min(8500, (lab.MaxFiles()-2500)/2)} }

// cell is one measurement of one peer.
type cell struct {
	round    int
	workload *workload
	peer     *peer.Peer
}

// cells are all of them, in their order.
func (r *runner) cells() []cell {
	var all []cell
	for round := 1; round <= r.rounds; round++ {
		for i := range r.workloads {
			w := &r.workloads[i]
			if w.most > 0 && round > w.most || w.once && r.quick && round > 1 {
				continue
			}
			for _, p := range inTurn(r.peers, round) {
				if !w.skips(p, r.allPeers) {
					all = append(all, cell{round, w, p})
				}
			}
		}
	}
	return all
}

// inTurn is another order in every round, every second time backwards: nobody is
// always the first, and nobody always comes after the same one.
func inTurn(peers []*peer.Peer, round int) []*peer.Peer {
	first := (round - 1) / 2 % len(peers)
	order := slices.Concat(peers[first:], peers[:first])
	if round%2 == 0 {
		slices.Reverse(order)
	}
	return order
}

func (r *runner) allRounds(ctx context.Context) {
	cells := r.cells()
	show := newProgress(os.Stderr, len(cells))
	defer show.end()
	for _, c := range cells {
		if ctx.Err() != nil {
			return
		}
		show.cell(c.round, c.workload.Name, c.peer.Name)
		r.round = c.round
		if err := r.cell(c.workload, c.peer); err != nil {
			show.say(err)
		}
	}
}

// cell measures, and books what came of it.
func (r *runner) cell(w *workload, p *peer.Peer) error {
	f := (*runner).traffic
	if w.cell != nil {
		f = w.cell
	}
	values, err := f(r, w, p)
	// What the kernel still does for this cell is not to be part of the next.
	err = errors.Join(err, lab.Quiet(500*time.Millisecond))
	if err != nil {
		r.results.Failures = append(r.results.Failures, result.Failure{Workload: w.Name, Peer: p.Name, Round: r.round, Error: short(err)})
		return fmt.Errorf("%s, %s, round %d failed: %w", w.Name, p.Name, r.round, err)
	}
	r.results.Samples = append(r.results.Samples, result.Sample{Workload: w.Name, Peer: p.Name, Round: r.round, Values: values})
	return nil
}

// short is an error in one line, which may be all that a table has room for.
func short(err error) string {
	line := strings.Join(strings.Fields(err.Error()), " ")
	if r := []rune(line); len(r) > 300 {
		return string(r[:300]) + "..."
	}
	return line
}

// place is where the results go. Those of a part, or of a run with failures, are
// not to replace the committed ones.
func (r *runner) place() (string, error) {
	place := r.out
	switch {
	case place != "":
	case r.complete && len(r.results.Failures) == 0:
		place = "."
	default:
		place = "results-local"
	}
	if err := os.MkdirAll(place, 0o755); err != nil {
		return "", err
	}
	return filepath.Abs(place)
}

// write leaves the files.
func (r *runner) write(place string) error {
	for name, write := range map[string]func(io.Writer) error{
		result.FileJSON:     r.results.Encode,
		result.FileMarkdown: r.results.Markdown,
		result.FileSVG:      r.results.SVG,
	} {
		f, err := os.Create(filepath.Join(place, name))
		if err != nil {
			return err
		}
		if err := errors.Join(write(f), f.Close()); err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
	}
	return nil
}
