package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

const (
	clients  = 32
	bodySize = 16 << 10
)

// serveFlag makes the program a web server: demo -serve ADDRESS.
const serveFlag = "-serve"

// serve answers every request with 16 KiB and its own address, until it fails.
func serve(addr string) error {
	body := make([]byte, bodySize)
	host, _, _ := net.SplitHostPort(addr) // the demo wrote it
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Served-By", host)
		_, _ = w.Write(body) // the client may be gone
	}))
}

// load are clients that ask without pause, a new connection for each request.
type load struct {
	url    string
	began  time.Time
	cancel context.CancelFunc
	done   sync.WaitGroup

	ok, retried, failed, bytes atomic.Uint64
	mu                         sync.Mutex
	by                         map[string]uint64 // requests by server
	lastErr                    error
}

func startLoad(url string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{url: url, began: time.Now(), cancel: cancel, by: map[string]uint64{}}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	for range clients {
		l.done.Add(1)
		go func() {
			defer l.done.Done()
			for ctx.Err() == nil {
				l.ask(client)
			}
		}()
	}
	return l
}

// ask makes one request. One that was on its way to a server when that was
// killed is cut, as without anything in between; it is made again, once, as
// HTTP clients do with a GET.
func (l *load) ask(client *http.Client) {
	by, n, err := l.get(client)
	if err != nil {
		l.retried.Add(1)
		by, n, err = l.get(client)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed.Add(1)
		l.lastErr = err
		return
	}
	l.ok.Add(1)
	l.bytes.Add(uint64(n))
	l.by[by]++
}

// get counts as served only what has arrived in full.
func (l *load) get(client *http.Client) (by string, n int64, err error) {
	resp, err := client.Get(l.url)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	n, err = io.Copy(io.Discard, resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || n != bodySize) {
		err = fmt.Errorf("status %d, %d bytes", resp.StatusCode, n)
	}
	return resp.Header.Get("Served-By"), n, err
}

func (l *load) requests() uint64 { return l.ok.Load() }

func (l *load) servedBy(server string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.by[server]
}

// forget starts the count by server anew.
func (l *load) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.by)
}

// stop lets the requests under way end.
func (l *load) stop() {
	l.cancel()
	l.done.Wait()
}

// row is what the clients saw during one act.
type row struct {
	title                     string
	requests, retried, failed uint64
	bytes                     uint64
	took                      time.Duration
}

// endAct notes what the clients saw since the last act that they were part of.
func (s *stage) endAct(title string) {
	if s.load == nil {
		return
	}
	r := row{title, s.load.ok.Load(), s.load.retried.Load(), s.load.failed.Load(), s.load.bytes.Load(), time.Since(s.load.began)}
	s.rows = append(s.rows, r)
}

func printRow(w io.Writer, r row) {
	seconds := r.took.Seconds()
	fmt.Fprintf(w, "%d\t%d\t%d\t%.0f\t%.0f\t  %s\n", r.requests, r.retried, r.failed, float64(r.requests)/seconds, float64(r.bytes)/1e6/seconds, r.title)
}

// summary prints the table of all acts; a failed request fails the demo.
func (s *stage) summary() error {
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "requests\tretried\tfailed\trequests/s\tMB/s\t  while")
	var last row
	for _, r := range s.rows {
		printRow(w, row{r.title, r.requests - last.requests, r.retried - last.retried, r.failed - last.failed, r.bytes - last.bytes, r.took - last.took})
		last = r
	}
	last.title = "in all"
	printRow(w, last)
	if err := w.Flush(); err != nil {
		return err
	}
	if last.failed > 0 {
		return fmt.Errorf("%d requests failed, the last with: %w", last.failed, s.load.lastErr)
	}
	if last.requests == 0 {
		return fmt.Errorf("no request was made")
	}
	return nil
}
