package rig

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Metrics are samples by series, as Prometheus writes them: name{labels}.
type Metrics map[string]float64

// Metrics reads the daemon's.
func (m *Midspan) Metrics() (Metrics, error) {
	client := http.Client{Timeout: Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + m.file.Admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET /metrics: %s", resp.Status)
	}
	return parseMetrics(string(text))
}

func parseMetrics(text string) (Metrics, error) {
	all := Metrics{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		if i < 0 {
			return nil, errors.New("no sample: " + line)
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", line, err)
		}
		all[line[:i]] = v
	}
	return all, nil
}

// Counters are those samples that may only grow.
func (m Metrics) Counters() Metrics {
	all := Metrics{}
	for series, v := range m {
		name, _, _ := strings.Cut(series, "{")
		if strings.HasSuffix(name, "_total") || strings.HasSuffix(name, "_count") || strings.HasSuffix(name, "_bucket") {
			all[series] = v
		}
	}
	return all
}

// Shrunk are the counters of m that are less, or gone, in next.
func (m Metrics) Shrunk(next Metrics) []string {
	var worse []string
	for series, v := range m.Counters() {
		if now, ok := next[series]; !ok || now < v {
			worse = append(worse, fmt.Sprintf("%s: %g then %g", series, v, now))
		}
	}
	return worse
}
