package web

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// wrapped hides the socket, as a TLS connection does.
type wrapped struct{ net.Conn }

// noise is a body without end to speak of, the same for every reader of a seed.
func noise(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{1}), n)
}

func sum(r io.Reader) (string, int64, error) {
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	n, err := io.Copy(h, r)
	return fmt.Sprintf("%x", h.Sum(nil)), n, err
}

// heapWatch tells by how much the heap in use has grown at most.
func heapWatch(t *testing.T) (grown func() uint64) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, most := m.HeapInuse, m.HeapInuse
	stop, done := make(chan bool), make(chan bool)
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapInuse)
			}
		}
	}()
	return func() uint64 { close(stop); <-done; return most - before }
}

// TestStream: large bodies go through whole, both ways, with or without length,
// spliced or not, in little memory.
func TestStream(t *testing.T) {
	var size int64
	addr := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			got, n, err := sum(r.Body)
			fmt.Fprint(w, got, n, err)
			return
		}
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		if r.URL.Path == "/close" {
			w.Header().Set("Connection", "close")
			w.Header().Set("Transfer-Encoding", "identity")
		}
		io.Copy(w, noise(size))
	})
	for _, plain := range []bool{true, false} {
		if size = 32 << 20; plain && !raceEnabled {
			size = 256 << 20
		}
		want, _, _ := sum(noise(size))
		f := newFront(t, route(addr), addr)
		if !plain {
			f.as(func(c net.Conn) (net.Conn, *Client) { return wrapped{c}, &Client{} })
		}
		tr := &http.Transport{}
		client := &http.Client{Transport: tr}
		grown := heapWatch(t)
		for _, path := range []string{"/length", "/chunked", "/close"} {
			resp, err := client.Get("http://" + f.addr + path)
			if err != nil {
				t.Fatal(err)
			}
			got, n, err := sum(resp.Body)
			if got != want || n != size || err != nil {
				t.Errorf("%s down: %d bytes, %v", path, n, err)
			}
		}
		for _, length := range []int64{size, -1} { // unknown: chunked
			req, _ := http.NewRequest("POST", "http://"+f.addr, noise(size))
			req.ContentLength = length
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if string(body) != fmt.Sprint(want, size, nil) || err != nil {
				t.Errorf("up, length %d: %s, %v", length, body, err)
			}
		}
		if g := grown(); g > 16<<20 {
			t.Errorf("the heap grew by %d bytes", g)
		}
		for i, x := range f.recorded(5) {
			if moved := max(x.BytesUp, x.BytesDown); moved < size || moved > size+size/50 || x.Reason != Done {
				t.Errorf("%d: %+v", i, x)
			}
		}
		tr.CloseIdleConnections()
		f.shut()
	}
}

// counted is a Plain whose traffic is counted.
type counted struct {
	*net.TCPConn
	read, written *int64
}

func (c counted) TCP() *net.TCPConn         { return c.TCPConn }
func (c counted) Moved(read, written int64) { *c.read += read; *c.written += written }
func (c counted) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	*c.read += int64(n)
	return n, err
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	*c.written += int64(n)
	return n, err
}

// TestMoved: a Plain is told of all bytes that it has not seen itself.
func TestMoved(t *testing.T) {
	const size = 20 << 20
	addr := says(t, lines(fmt.Sprintf("HTTP/1.1 200 OK|Content-Length: %d", size))+strings.Repeat("x", size))
	f := newFront(t, route(addr), addr)
	var read, written int64
	f.as(func(c net.Conn) (net.Conn, *Client) {
		return counted{c.(*net.TCPConn), &read, &written}, &Client{}
	})
	w := f.dial()
	const request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	w.send(request)
	all, err := w.rest()
	if err != nil {
		t.Fatal(err)
	}
	f.shut()
	if written != int64(len(all)) || read != int64(len(request)) {
		t.Errorf("%d of %d written, %d read", written, len(all), read)
	}
}

// TestHeld: what was read of a connection before comes first.
func TestHeld(t *testing.T) {
	addr := echo(t)
	f := newFront(t, route(addr), addr)
	f.as(func(c net.Conn) (net.Conn, *Client) {
		return c, &Client{Held: []byte("GET /held HTTP/1.1\r\nHos")}
	})
	if _, body := f.dial().roundTrip("t: a\r\n\r\n"); !strings.HasPrefix(body, "GET /held HTTP/1.1\r\nHost: a\r\n") {
		t.Error(body)
	}
}

// TestEvents: what a server sends is there at once, however little it is.
func TestEvents(t *testing.T) {
	next := make(chan string)
	for _, length := range []string{"", "6"} {
		addr := server(t, func(w http.ResponseWriter, _ *http.Request) {
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			w.(http.Flusher).Flush()
			for range 3 {
				io.WriteString(w, <-next)
				w.(http.Flusher).Flush()
			}
		})
		f := newFront(t, route(addr), addr)
		resp, err := http.Get("http://" + f.addr)
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range []string{"a\n", "b\n", "c\n"} {
			next <- event
			b := make([]byte, 2)
			if _, err := io.ReadFull(resp.Body, b); string(b) != event || err != nil {
				t.Fatal(string(b), err)
			}
		}
		resp.Body.Close()
		http.DefaultClient.CloseIdleConnections()
		f.shut()
	}
}

// TestContinue: 100-continue is the server's to say, and its refusal ends the
// request without the body.
func TestContinue(t *testing.T) {
	addr := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		io.Copy(w, r.Body)
	})
	f := newFront(t, route(addr), addr)
	w := f.dial()
	const head = " HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
	for range 2 {
		w.send("POST /" + head)
		w.expect("HTTP/1.1 100 Continue\r\n\r\n")
		w.send("abc")
		if head, body := w.response("POST"); !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") || body != "abc" || strings.Contains(head, "close") {
			t.Fatal(head, body)
		}
	}
	w.send("POST /no" + head)
	if head, _ := w.response("POST"); !strings.HasPrefix(head, "HTTP/1.1 417 ") || !strings.Contains(head, "Connection: close") {
		t.Fatal(head)
	}
	w.CloseWrite()
	if rest, err := w.rest(); rest != "" || err != nil {
		t.Error(rest, err)
	}
}

// TestEarlyAnswer: a server that answers before it has the body, and reads no
// more of it, is heard by a client that is still sending.
func TestEarlyAnswer(t *testing.T) {
	for _, closes := range []bool{false, true} {
		addr := rawServer(t, func(w *wire) {
			w.head()
			w.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
			if !closes {
				w.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
				time.Sleep(100 * time.Millisecond)
			}
		})
		f := newFront(t, route(addr), addr)
		w := f.dial()
		w.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
		sent := make(chan bool)
		go func() {
			defer close(sent)
			io.Copy(w.TCPConn, io.LimitReader(zeros{}, 64<<20))
			w.CloseWrite()
		}()
		head, body := w.response("POST")
		if !strings.HasPrefix(head, "HTTP/1.1 413 ") || body != "no" || !strings.Contains(head, "Connection: close\r\n") {
			t.Error(head, body)
		}
		w.Close()
		<-sent
		if x := f.recorded(1)[0]; x.Status != 413 || x.Reason != Done {
			t.Errorf("%+v", x)
		}
		f.shut()
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestFullDuplex: request and response may go on at the same time.
func TestFullDuplex(t *testing.T) {
	addr := server(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.(http.Flusher).Flush()
		b := make([]byte, 1)
		for {
			if _, err := io.ReadFull(r.Body, b); err != nil {
				return
			}
			w.Write(bytes.ToUpper(b))
			w.(http.Flusher).Flush()
		}
	})
	f := newFront(t, route(addr), addr)
	r, w := io.Pipe()
	req, _ := http.NewRequest("POST", "http://"+f.addr, r)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	for _, c := range "hello" {
		fmt.Fprint(w, string(c))
		if _, err := io.ReadFull(resp.Body, b); string(b) != strings.ToUpper(string(c)) || err != nil {
			t.Fatal(string(b), err)
		}
	}
	w.Close()
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
		t.Error(rest, err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// BenchmarkRequest is a request and its response through the proxy, on one
// connection.
func BenchmarkRequest(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	const answer = "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					c.Write([]byte(answer))
				}
			}()
		}
	}()
	r := route("")
	s := &servers{route: r, all: []*endpoint{{name: "s0", dial: func(ctx context.Context) (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }}}}
	p := New(r, s, Options{})
	defer p.Close()
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer front.Close()
	go func() {
		c, err := front.Accept()
		if err == nil {
			p.Serve(context.Background(), c, &Client{})
		}
	}()
	c, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	request, buf := []byte(get), make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		c.Write(request)
		if n, err := c.Read(buf); n != len(answer) || err != nil {
			b.Fatal(n, err)
		}
	}
}
