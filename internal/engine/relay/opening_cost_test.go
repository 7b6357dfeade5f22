package relay

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestOpeningCost: what the opening of a connection leaves to the garbage
// collector. Sixteen connections are under way at a time.
func TestOpeningCost(t *testing.T) {
	const n, atATime = 2000, 16
	to := echoServer(t)
	data := strings.Repeat("x", 64)
	header, hello := string(linkHeader(1)), clientHello("a.example.com")
	for _, c := range []struct {
		name, settings, to, opening string
		objects, bytes              float64 // each
	}{
		{"none", "", "%s", "", 0.5, 200},
		{"PROXY", ", proxy_protocol: required", "%s", header, 2.5, 400},
		{"PROXY, in and out", ", proxy_protocol: required, send_proxy: v2", "%s", header, 3.5, 400},
		{"SNI", ", mode: sni", "{a.example.com: %s}", hello, 2.5, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(childSettings, c.settings)
			_, addr, tidy := startTidyChild(t, fmt.Sprintf(c.to, to))
			run := func(n int) {
				done := make(chan error)
				for range atATime {
					go func() {
						var err error
						for i := 0; i < n/atATime && err == nil; i++ {
							err = openAndClose(addr, c.opening+data)
						}
						done <- err
					}()
				}
				for range atATime {
					if err := <-done; err != nil {
						t.Fatal(err)
					}
				}
			}
			run(20 * atATime) // what is made once is not a connection's cost
			objects, bytes := tidy()
			run(n)
			moreObjects, moreBytes := tidy()
			objects, bytes = (moreObjects-objects)/n, (moreBytes-bytes)/n
			if objects > c.objects || bytes > c.bytes {
				t.Errorf("%.1f objects, %.0f bytes for each connection; want at most %.1f and %.0f", objects, bytes, c.objects, c.bytes)
			}
			t.Logf("%.1f objects, %.0f bytes for each connection", objects, bytes)
		})
	}
}

// openAndClose sends something, and reads as much of what comes back.
func openAndClose(addr, text string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && !strings.HasSuffix(string(got), text[len(text)-64:]) {
		err = fmt.Errorf("%q came back", got)
	}
	return err
}
