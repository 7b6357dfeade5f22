package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestServeHTTP asks with Go's client, which checks what it is answered.
func TestServeHTTP(t *testing.T) {
	addr := startWith(t, ServeHTTP)
	client := http.Client{Timeout: patience}
	for _, size := range []int64{0, 1, 4096, 4097, 3 << 20} {
		for range 2 {
			resp, err := client.Get(fmt.Sprintf("http://%s/%d", addr, size))
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			if resp.Body.Close(); err != nil || n != size || resp.StatusCode != http.StatusOK {
				t.Errorf("/%d: %d bytes, %s, %v", size, n, resp.Status, err)
			}
		}
	}
	for request, ends := range map[string]bool{
		"GET /5 HTTP/1.1\r\nHost: x\r\n\r\n":                      false,
		"GET /5 HTTP/1.1\r\nHost: x\r\nconnection: Close\r\n\r\n": true,
		"GET /5 HTTP/1.0\r\n\r\n":                                 true,
		"GET /5 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n":       false,
	} {
		answer, ended := say(t, addr, request, ends)
		if !strings.HasSuffix(answer, "\r\n\r\n\x00\x00\x00\x00\x00") || ended != ends {
			t.Errorf("%q: %q, ended: %v", request, answer, ended)
		}
	}
	for _, request := range []string{
		"POST /5 HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET /5 HTTP/1.1\r\nHost: x\r\n\r\nGET",
		strings.Repeat("x", maxHead+1),
	} {
		if answer, ended := say(t, addr, request, true); answer != "" || !ended {
			t.Errorf("%.30q: %q, ended: %v", request, answer, ended)
		}
	}
}

// say sends text and returns what is answered, to the end where there is to be one,
// and else until a moment of silence after it.
func say(t *testing.T, addr, text string, ends bool) (answer string, ended bool) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	wait := patience
	for b := make([]byte, 4096); ; {
		if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(b)
		answer += string(b[:n])
		if err != nil {
			return answer, !errors.Is(err, os.ErrDeadlineExceeded)
		}
		if !ends {
			wait = 300 * time.Millisecond
		}
	}
}

// TestProxyHeader: connections begin with a header, of the kinds that peers send.
func TestProxyHeader(t *testing.T) {
	addr := startWith(t, ServeProxy)
	r, err := Run(Spec{Addr: addr, Conns: 8, Steps: []Step{{64, 64}, {500000, 10}}, Reconnect: true, Proxy: true, Sessions: 5}, io.Discard)
	if err != nil || r.Errors > 0 || r.Sessions != 40 {
		t.Errorf("%+v, %v", r, err)
	}
	request := make([]byte, 64)
	header{false, 64, 3}.encode(request)
	for introduction, ok := range map[string]bool{
		"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n":                  true,
		signature + "\x20\x00\x00\x00":                          true,
		signature + "\x21\x11\x00\x0c" + "123456789012":         true,
		signature + "\x21\x11\x00\x14" + "12345678901200000000": true,
		"": false,
		"PROXY TCP4 " + strings.Repeat("1", maxLine): false,
	} {
		answer, ended := say(t, addr, introduction+string(request), !ok)
		if good := answer == "\x00\x00\x00"; good != ok || !ok && !ended {
			t.Errorf("%q: %q, ended: %v", introduction, answer, ended)
		}
	}
	if _, err := Run(Spec{Addr: addr, Conns: 1, Steps: []Step{{64, 64}}, Proxy: true, Sessions: 1}, io.Discard); err == nil {
		t.Error("a header for connections that are used again is taken")
	}
}

// TestTLS: windows and single connections, with a target that ends TLS.
func TestTLS(t *testing.T) {
	addr := startWith(t, func(ctx context.Context, addr string) error {
		go func() { _ = ServeTLS(addr) }() // it has no end
		<-ctx.Done()
		return nil
	})
	small := []Step{{64, 64}}
	for name, test := range map[string]struct {
		spec Spec
		ok   func(Report) bool
	}{
		"one":         {Spec{Conns: 1, Steps: []Step{{517, 70000}, {24, 1}}, Sessions: 3}, func(r Report) bool { return r.Sessions == 3 && r.BytesDown == 3*70001 }},
		"connections": {Spec{Conns: 4, Steps: small, Reconnect: true, Window: 300 * time.Millisecond}, func(r Report) bool { return r.Sessions > 10 && r.P99 > 0 }},
		"exchanges":   {Spec{Conns: 4, Steps: small, Window: 300 * time.Millisecond}, func(r Report) bool { return r.Exchanges > 100 }},
		"bulk":        {Spec{Conns: 2, Steps: []Step{{64, Endless}}, Window: 300 * time.Millisecond}, func(r Report) bool { return r.BytesDown > 256<<10 }},
	} {
		test.spec.Addr, test.spec.TLS = addr, "name"
		var marks bytes.Buffer
		r, err := enough(test.spec, &marks, test.ok)
		if err != nil || r.Errors > 0 || !test.ok(r) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if want := test.spec.Window > 0; want != (marks.String() == "begin\nend\n") {
			t.Errorf("%s: marks %q", name, marks.String())
		}
	}
	if r, err := Run(Spec{Addr: start(t), TLS: "name", Conns: 1, Steps: small, Sessions: 1}, io.Discard); err == nil && r.Errors == 0 {
		t.Errorf("a target without TLS: %+v", r)
	}
}
