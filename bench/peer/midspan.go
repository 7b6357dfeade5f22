package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"midspan/bench/lab"
)

// StartWith starts a peer that is midspan with a file's text.
func (p *Peer) StartWith(l *lab.Lab, text string) (*Running, error) {
	r := &Running{Peer: p, lab: l}
	return r, r.launch(text, nil)
}

// ReloadWith gives midspan another text and tells how long `midspan reload` takes.
func (r *Running) ReloadWith(text string) (time.Duration, error) {
	path, err := r.Peer.path()
	if err != nil {
		return 0, err
	}
	if err := r.write(text); err != nil {
		return 0, err
	}
	began := time.Now()
	err = r.lab.Run(lab.Cmd{Program: path, Args: []string{"reload"}, Env: r.Peer.env, In: r.lab.Forwarder})
	return time.Since(began), err
}

// midspanTroubles asks the daemon what it has counted.
func midspanTroubles(r *Running) error {
	const patience = 30 * time.Second
	dial := func(_ context.Context, _, addr string) (net.Conn, error) { return r.lab.Forwarder.Dial(addr, patience) }
	client := http.Client{Timeout: patience, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	resp, err := client.Get("http://127.0.0.1:9600/metrics")
	if err != nil {
		return fmt.Errorf("ask midspan for its metrics: %w", err)
	}
	defer resp.Body.Close()
	if err := countedTroubles(resp.Body); err != nil {
		return fmt.Errorf("%w; it says: %s", err, r.Proc.Said())
	}
	return nil
}

// troubles are the beginnings of metrics that stay 0 in a run without errors.
var troubles = []string{
	"midspan_accept_errors_total ",
	"midspan_panics_total ",
	`midspan_endpoint_connects_total{`,
	`midspan_route_ended_total{reason="connect failed"`,
	`midspan_route_ended_total{reason="fault in midspan"`,
	`midspan_route_ended_total{reason="no server up"`,
	`midspan_route_ended_total{reason="out of resources"`,
	`midspan_route_ended_total{reason="server lost"`,
	`midspan_route_ended_total{reason="servers full"`,
}

func countedTroubles(metrics io.Reader) error {
	var errs []error
	lines := bufio.NewScanner(metrics)
	for lines.Scan() {
		line := lines.Text()
		for _, t := range troubles {
			if strings.HasPrefix(line, t) && !strings.HasSuffix(line, " 0") && !strings.Contains(line, `result="success"`) {
				errs = append(errs, fmt.Errorf("midspan counts %s", line))
			}
		}
	}
	return errors.Join(append(errs, lines.Err())...)
}
