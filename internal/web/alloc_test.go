//go:build !race

package web

import "testing"

// TestNoAllocations: a request on connections that are there allocates nothing
// here. What is measured has a client and a server in it that do not either.
func TestNoAllocations(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\nok"
	addr := rawServer(t, func(w *wire) {
		buf := make([]byte, 4096)
		for {
			if _, err := w.Read(buf); err != nil {
				return
			}
			w.Write([]byte(answer))
		}
	})
	f := newFront(t, route(addr), addr)
	f.Proxy.record = func(x *Exchange) {}
	w := f.dial()
	request, buf := []byte(get), make([]byte, 4096)
	round := func() {
		w.TCPConn.Write(request)
		if n, err := w.TCPConn.Read(buf); n != len(answer) || err != nil {
			t.Fatal(string(buf[:n]), err)
		}
	}
	round()
	if n := testing.AllocsPerRun(1000, round); n >= 1 { // a GC may empty the pool of buffers
		t.Error(n, "allocations for a request")
	}
}
