package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// request is one request of a load, as its client saw it.
type request struct {
	begin, end time.Time
	server     string
	err        error
}

// httpLoad are clients that ask without pause until they are stopped.
type httpLoad struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex
	made []request
}

// startHTTPLoad starts workers that GET url and want size bytes each time.
func startHTTPLoad(t *testing.T, url string, workers int, size int64, keepAlive bool) *httpLoad {
	ctx, cancel := context.WithCancel(context.Background()) // they are stopped with the test at the latest
	l := &httpLoad{cancel: cancel}
	transport := &http.Transport{DisableKeepAlives: !keepAlive, MaxIdleConnsPerHost: workers, DisableCompression: true}
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	for range workers {
		l.wg.Go(func() {
			for ctx.Err() == nil {
				r := ask(client, url, size)
				l.mu.Lock()
				l.made = append(l.made, r)
				l.mu.Unlock()
			}
		})
	}
	t.Cleanup(func() {
		l.stop()
		transport.CloseIdleConnections()
	})
	return l
}

// ask counts as served only when all of it arrived.
func ask(client *http.Client, url string, size int64) request {
	r := request{begin: time.Now()}
	resp, err := client.Get(url)
	if err == nil {
		var n int64
		n, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err == nil && (resp.StatusCode != http.StatusOK || n != size) {
			err = fmt.Errorf("status %d, %d of %d bytes", resp.StatusCode, n, size)
		}
		r.server = resp.Header.Get("Served-By")
	}
	r.err, r.end = err, time.Now()
	return r
}

// stop lets the requests under way end.
func (l *httpLoad) stop() {
	l.cancel()
	l.wg.Wait()
}

// phase is what happened to the requests that began in a span of time.
type phase struct {
	name   string
	length time.Duration
	made   int
	failed []request
	by     map[string]int
	p99    time.Duration
}

func (l *httpLoad) phase(name string, from, to time.Time) phase {
	p := phase{name: name, length: to.Sub(from), by: map[string]int{}}
	var took []time.Duration
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.made {
		if r.begin.Before(from) || !r.begin.Before(to) {
			continue
		}
		p.made++
		took = append(took, r.end.Sub(r.begin))
		if r.err != nil {
			p.failed = append(p.failed, r)
		} else {
			p.by[r.server]++
		}
	}
	if len(took) > 0 {
		slices.Sort(took)
		p.p99 = took[len(took)*99/100]
	}
	return p
}

// seen tells whether server answered a request that began after since.
func (l *httpLoad) seen(server string, since time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range slices.Backward(l.made) {
		if r.err == nil && r.server == server && r.begin.After(since) {
			return true
		}
		if r.end.Before(since) {
			return false
		}
	}
	return false
}

func (p phase) String() string {
	return fmt.Sprintf("%-28s %6s  %6d requests (%.0f/s), %d failed, 99%% within %s, by %v", p.name, p.length.Round(10*time.Millisecond),
		p.made, float64(p.made)/p.length.Seconds(), len(p.failed), p.p99.Round(10*time.Microsecond), p.by)
}

// wantFailures allows up to most.
func (p phase) wantFailures(t *testing.T, most int) {
	t.Helper()
	if len(p.failed) > most {
		t.Errorf("%s: %d of %d requests failed, want at most %d; the first: %v", p.name, len(p.failed), p.made, most, p.failed[0].err)
	}
	if p.made == 0 {
		t.Errorf("%s: no request was made", p.name)
	}
}
