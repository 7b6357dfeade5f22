package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"midspan/e2e/rig"
)

// readIfThere is a file's content.
func readIfThere(path string) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return text
}

// chunkedUntilKilled is a server whose answer in chunks goes on until it is
// killed: then the connection ends, with no last chunk.
func chunkedUntilKilled(t *testing.T) (addr string, kill func()) {
	t.Helper()
	s := rig.Serve(t, nil, "127.0.0.1:0", func(c *net.TCPConn) {
		if _, err := c.Read(make([]byte, 4096)); err != nil {
			return
		}
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for chunk := make([]byte, 1<<14); err == nil; {
			_, err = fmt.Fprintf(c, "%x\r\n%s\r\n", len(chunk), chunk)
		}
	})
	return s.Addr, s.Close
}

// endless are zeros.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// counting answers GET /N with N bytes, and any other request with how many came.
// ?chunked: without a length.
func counting(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			n, err := io.CopyBuffer(onlyWriter{io.Discard}, r.Body, make([]byte, 1<<20))
			fmt.Fprintf(w, "%d %v", n, err)
			return
		}
		n, err := strconv.ParseInt(r.URL.Path[1:], 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if r.URL.RawQuery == "" {
			w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		}
		_, _ = io.CopyBuffer(onlyWriter{w}, io.LimitReader(endless{}, n), make([]byte, 1<<20)) // the client counts
	})}
	go func() { _ = server.Serve(l) }() // it ends by Close
	t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

// onlyWriter hides what would let io.Copy find another way.
type onlyWriter struct{ io.Writer }

// TestHTTPStream sends ten gibibytes each way in one body. Midspan's memory must
// not grow with them.
func TestHTTPStream(t *testing.T) {
	const most = 32 << 20
	f, addr := httpFile(t, "    to: %q\n", counting(t))
	m := rig.Run(t, f)
	client := &http.Client{Timeout: 10 * time.Minute, Transport: &http.Transport{ReadBufferSize: 256 << 10, WriteBufferSize: 256 << 10}}
	defer client.CloseIdleConnections()
	if err := download(client, addr, 1<<20, ""); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		size int64
		do   func(*http.Client, string, int64, string) error
		how  string
	}{
		{"down", 10 << 30, download, ""},
		{"up", 10 << 30, upload, ""},
		{"down in chunks", 1 << 30, download, "?chunked"},
		{"up in chunks", 1 << 30, upload, "?chunked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, err := rig.RSS(m.PID())
			if err != nil {
				t.Fatal(err)
			}
			highest := before
			done := make(chan error, 1)
			begin := time.Now()
			go func() { done <- c.do(client, addr, c.size, c.how) }()
			for end := false; !end; {
				select {
				case err = <-done:
					end = true
				case <-time.After(50 * time.Millisecond):
				}
				if now, err := rig.RSS(m.PID()); err == nil {
					highest = max(highest, now)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			took := time.Since(begin)
			t.Logf("%d MiB in %s, %.1f Gbit/s; memory %.1f MiB, at the most %.1f MiB", c.size>>20, took.Round(time.Millisecond),
				8*float64(c.size)/1e9/took.Seconds(), float64(before)/(1<<20), float64(highest)/(1<<20))
			if highest-before > most {
				t.Errorf("memory grew by %d MiB", (highest-before)>>20)
			}
		})
	}
}

func download(client *http.Client, addr string, size int64, how string) error {
	resp, err := client.Get(fmt.Sprintf("http://%s/%d%s", addr, size, how))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.CopyBuffer(onlyWriter{io.Discard}, resp.Body, make([]byte, 1<<20))
	if err == nil && (n != size || resp.StatusCode != http.StatusOK || (resp.ContentLength < 0) != (how != "")) {
		err = fmt.Errorf("%s: %d of %d bytes, length %d", resp.Status, n, size, resp.ContentLength)
	}
	return err
}

func upload(client *http.Client, addr string, size int64, how string) error {
	req, err := http.NewRequest(http.MethodPut, "http://"+addr+"/"+how, io.LimitReader(endless{}, size))
	if err != nil {
		return err
	}
	if req.ContentLength = size; how != "" {
		req.ContentLength = -1
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if want := fmt.Sprintf("%d <nil>", size); err == nil && string(said) != want {
		err = fmt.Errorf("the server says %q, want %q", said, want)
	}
	return err
}
