package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"midspan/e2e/rig"
)

// script is one edge of TCP. Both ends tell what they saw; "" is nothing worth
// telling. The server's end is closed when it returns.
type script struct {
	name   string
	client func(c *net.TCPConn) string
	server func(c *net.TCPConn) string
}

const (
	large = 4 << 20
	small = 64 << 10
)

var scripts = []script{
	{
		"client half-closes, server answers late",
		func(c *net.TCPConn) string { return sendAll(c, small) + halfClose(c) + readAll(c) },
		func(c *net.TCPConn) string {
			got := readAll(c)
			time.Sleep(300 * time.Millisecond) // the lateness
			return got + sendAll(c, small)
		},
	},
	{
		"server half-closes, client goes on",
		func(c *net.TCPConn) string { return readAll(c) + sendAll(c, small) },
		func(c *net.TCPConn) string { return sendAll(c, small) + halfClose(c) + readAll(c) },
	},
	{
		"server sends 4 MiB and closes",
		readAll,
		func(c *net.TCPConn) string { return sendAll(c, large) },
	},
	{
		"client sends 4 MiB to a server that reads late",
		func(c *net.TCPConn) string { return sendAll(c, large) + halfClose(c) + readAll(c) },
		func(c *net.TCPConn) string {
			time.Sleep(300 * time.Millisecond) // the lateness
			return readAll(c)
		},
	},
	{
		"server resets after 64 KiB",
		func(c *net.TCPConn) string { return readN(c, small) + sendAll(c, 1) + readAll(c) },
		func(c *net.TCPConn) string { return sendAll(c, small) + readN(c, 1) + resetOnClose(c) },
	},
	{
		"client resets after 64 KiB",
		func(c *net.TCPConn) string { return sendAll(c, small) + readN(c, 1) + resetOnClose(c) },
		func(c *net.TCPConn) string { return readN(c, small) + sendAll(c, 1) + readAll(c) },
	},
	{
		"server resets an idle connection",
		func(c *net.TCPConn) string { return readAll(c) },
		func(c *net.TCPConn) string {
			time.Sleep(100 * time.Millisecond) // the idleness
			return resetOnClose(c)
		},
	},
	{
		"client resets in the middle of 4 MiB",
		func(c *net.TCPConn) string { return sendAll(c, large) + readN(c, 1) + resetOnClose(c) },
		func(c *net.TCPConn) string {
			return readN(c, large-small) + sendAll(c, 1) + justTheEnd(c)
		},
	},
	{
		"server closes with 64 KiB unread",
		func(c *net.TCPConn) string { return sendAll(c, small) + readAll(c) },
		func(c *net.TCPConn) string {
			got := readN(c, 1)
			time.Sleep(100 * time.Millisecond) // for the rest to arrive
			return got
		},
	},
	{
		"client closes at once",
		func(c *net.TCPConn) string { return "" },
		readAll,
	},
}

// rounds is how often each script is run: an outcome that depends on luck shows
// as two.
const rounds = 3

// TestPeers runs the same edges directly and through midspan, HAProxy and nginx,
// and shows what each makes of them. Midspan must be like no proxy at all.
func TestPeers(t *testing.T) {
	var current atomic.Pointer[script]
	heard := make(chan string, 1)
	server := rig.Serve(t, nil, "127.0.0.1:0", func(c *net.TCPConn) {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		text := current.Load().server(c)
		c.Close()
		heard <- text
	})
	peers := []struct{ name, addr string }{{"direct", server.Addr}}
	for _, p := range []struct {
		name  string
		start func(addr string)
	}{
		{"midspan", func(addr string) {
			f := rig.NewFile(t)
			f.Write("routes:\n  peer: { listen: %q, to: %q }\n", addr, server.Addr)
			rig.Run(t, f)
		}},
		{"haproxy", func(addr string) { rig.HAProxy(t, addr, server.Addr) }},
		{"nginx", func(addr string) { rig.StreamProxy(t, addr, server.Addr) }},
	} {
		addr := rig.Addr(t, "127.0.0.1")
		p.start(addr)
		peers = append(peers, struct{ name, addr string }{p.name, addr})
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, s := range scripts {
		current.Store(&s)
		fmt.Fprintf(w, "%s\t\t\n", s.name)
		var direct string
		for _, p := range peers {
			outcomes := map[string]bool{}
			for range rounds {
				client := play(p.addr, s)
				select {
				case h := <-heard:
					outcomes["client: "+client+"; server: "+strings.TrimSuffix(h, ", ")] = true
				case <-time.After(25 * time.Second):
					outcomes["client: "+client+"; server: never connected"] = true
				}
			}
			outcome := strings.Join(sortedKeys(outcomes), "  OR  ")
			fmt.Fprintf(w, "  %s\t%s\n", p.name, outcome)
			if p.name == "direct" {
				direct = outcome
			}
			if p.name == "midspan" && outcome != direct {
				t.Errorf("%s: directly %q, through midspan %q", s.name, direct, outcome)
			}
		}
	}
	w.Flush()
	t.Log("\n" + table.String())
}

// play is the client's part of s.
func play(addr string, s script) string {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return ending(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return strings.TrimSuffix(s.client(c.(*net.TCPConn)), ", ")
}

// ending is what a read or write that ended with err has seen.
func ending(err error) string {
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return "end"
	case errors.Is(err, syscall.ECONNRESET):
		return "RESET"
	case errors.Is(err, syscall.EPIPE):
		return "broken pipe"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "TIMEOUT"
	}
	return err.Error()
}

func sendAll(c *net.TCPConn, n int64) string {
	if _, err := rig.Send(c, 1, n); err != nil {
		return "sending failed: " + ending(err) + ", "
	}
	return ""
}

func readAll(c *net.TCPConn) string {
	n, err := io.Copy(io.Discard, c)
	return fmt.Sprintf("%d bytes, %s, ", n, ending(err))
}

func readN(c *net.TCPConn, n int64) string {
	if got, err := io.CopyN(io.Discard, c, n); err != nil {
		return fmt.Sprintf("%d of %d bytes, %s, ", got, n, ending(err))
	}
	return ""
}

// justTheEnd is for where the number of bytes depends on luck.
func justTheEnd(c *net.TCPConn) string {
	_, err := io.Copy(io.Discard, c)
	return ending(err) + ", "
}

func halfClose(c *net.TCPConn) string {
	if err := c.CloseWrite(); err != nil {
		return "half-close failed: " + ending(err) + ", "
	}
	return ""
}

func resetOnClose(c *net.TCPConn) string {
	_ = c.SetLinger(0) // it cannot fail on an open socket
	return ""
}
