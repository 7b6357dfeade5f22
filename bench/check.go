package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"midspan/bench/load"
	"midspan/bench/peer"
)

// shape is a run in which every byte is checked at both ends.
type shape struct {
	text string
	spec load.Spec
}

// shapes are what forwarders do differently: long and short, one way and the
// other, many and few.
func shapes(quick bool) []shape {
	long := int64(512 * mib)
	if quick {
		long = 64 * mib
	}
	const request = 24 // the least, which has nothing to check
	return []shape{
		{"long answer", load.Spec{Conns: 1, Sessions: 1, Steps: []load.Step{{Send: request, Receive: long}}}},
		{"long request", load.Spec{Conns: 1, Sessions: 1, Steps: []load.Step{{Send: long, Receive: 64}}}},
		{"8 long requests and answers", load.Spec{Conns: 8, Sessions: 1, Steps: []load.Step{{Send: long / 8, Receive: long / 8}, {Send: 100, Receive: long / 8}}}},
		{"requests and answers", load.Spec{Conns: 64, Sessions: 20, Steps: []load.Step{{Send: 100, Receive: 100}, {Send: 9999, Receive: 70000}, {Send: 300000, Receive: 40}}}},
		{"short connections", load.Spec{Conns: 64, Sessions: 40, Reconnect: true, Steps: []load.Step{{Send: 517, Receive: 3500}, {Send: 80, Receive: 20000}}}},
	}
}

// checkAll sends checked bytes through all peers.
func (r *runner) checkAll(ctx context.Context) (code int, err error) {
	for _, p := range r.peers {
		if !p.Can(peer.ModeTCP) {
			continue
		}
		for _, shape := range shapes(r.quick) {
			if ctx.Err() != nil {
				return 130, errors.Join(err, errors.New("interrupted"))
			}
			bytes, took, failed := r.checked(p, shape.spec)
			if failed != nil {
				err = errors.Join(err, fmt.Errorf("%s, %s: %w", p.Name, shape.text, failed))
				continue
			}
			fmt.Printf("%s: %s: %d MiB are as they were sent (%.1f s)\n", p.Name, shape.text, bytes/mib, took.Seconds())
		}
	}
	return btoi(err != nil), err
}

func (r *runner) checked(p *peer.Peer, spec load.Spec) (bytes int64, took time.Duration, err error) {
	began := time.Now()
	s, err := r.set(p, one(), false)
	if err != nil {
		return 0, 0, err
	}
	spec.Check = true
	var got reading
	if err = s.ready(); err == nil {
		got, err = r.run(s, spec)
	}
	return got.BytesUp + got.BytesDown, time.Since(began), s.close(err)
}
