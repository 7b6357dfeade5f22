package web

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
)

// TestStress: many clients with requests of all kinds, over connections to
// servers that are shared and closed at random. Each gets the answer to its own
// request.
func TestStress(t *testing.T) {
	addr := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if rand.IntN(10) == 0 {
			w.Header().Set("Connection", "close")
		}
		w.Header().Set("X-Sum", fmt.Sprint(crc32.ChecksumIEEE(body)))
		w.Header().Set("X-Path", r.URL.Path)
		if rand.IntN(2) == 0 {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		}
		for len(body) > 0 {
			n := 1 + rand.IntN(len(body))
			w.Write(body[:n])
			if body = body[n:]; rand.IntN(4) == 0 {
				w.(http.Flusher).Flush()
			}
		}
	})
	f := newFront(t, route(addr, addr), addr, addr)
	const clients, requests = 16, 60
	var all sync.WaitGroup
	for id := range clients {
		all.Go(func() {
			tr := &http.Transport{DisableKeepAlives: id%4 == 0, MaxIdleConnsPerHost: 4}
			defer tr.CloseIdleConnections()
			c := &http.Client{Transport: tr}
			for i := range requests {
				if err := oneOf(c, f.addr, id, i); err != nil {
					t.Error(id, i, err)
					return
				}
			}
		})
	}
	all.Wait()
	for _, x := range f.recorded(clients * requests) {
		if x.Status != 200 || x.Reason != Done {
			t.Errorf("%+v", x)
		}
	}
}

func oneOf(c *http.Client, addr string, id, i int) error {
	body := make([]byte, []int{0, 1, 100, 5000, 70000, 300000}[rand.IntN(6)])
	for i := range body {
		body[i] = byte(rand.Uint32())
	}
	path := fmt.Sprintf("/%d/%d", id, i)
	req, err := http.NewRequest("PUT", "http://"+addr+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if rand.IntN(2) == 0 {
		req.ContentLength = -1
	}
	if rand.IntN(4) == 0 {
		req.Header.Set("Expect", "100-continue")
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, body) || resp.Header.Get("X-Path") != path || resp.Header.Get("X-Sum") != fmt.Sprint(crc32.ChecksumIEEE(body)) {
		return fmt.Errorf("%d of %d bytes, %v, %v", len(got), len(body), resp.Header, err)
	}
	return nil
}
