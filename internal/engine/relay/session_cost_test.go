package relay

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestIdleCostTLS: what a connection costs that has exchanged something and rests,
// with TLS on one side or on both: two descriptors, no buffer of ours, and
// bounded memory for what crypto/tls keeps.
func TestIdleCostTLS(t *testing.T) {
	a := newAuthority(t)
	pem := a.leaf("s.pem", "127.0.0.1")
	front, back := "tls: "+pem, "upstream_tls: {ca: "+a.file("ca.pem")+"}"
	server := &tls.Config{Certificates: []tls.Certificate{a.pair("s.pem")}}
	client := &tls.Config{RootCAs: a.pool(), ServerName: "127.0.0.1"}
	for _, c := range []struct {
		name, settings string
		to             string
		tls            bool
		bulk           int64 // bytes that are exchanged first
		most           float64
	}{
		{"with clients", front, echoServer(t), true, 64, 32},
		{"with servers", back, serveTLS(t, server, echoTLS), false, 64, 40},
		{"with both", front + ", " + back, serveTLS(t, server, echoTLS), true, 64, 48},
		{"with both, after bulk", front + ", " + back, serveTLS(t, server, echoTLS), true, 1 << 20, 130},
		{"of mode http", "mode: http", echoServer(t), false, 0, 12},
		{"of mode http, with clients", "mode: http, " + front, echoServer(t), true, 0, 32},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := 1000
			if raceDetector || c.bulk > 64 { // it says nothing then, or takes long
				n = 200
			}
			t.Setenv(childSettings, ", "+c.settings)
			pid, addr, tidy := startTidyChild(t, c.to)
			open := func() net.Conn {
				var conn net.Conn
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				if c.tls {
					secure := tls.Client(conn, client)
					if err := secure.Handshake(); err != nil {
						t.Fatal(err)
					}
					conn = secure
				}
				sent := make(chan error, 1)
				go func() {
					_, err := io.CopyN(conn, zeros{}, c.bulk)
					sent <- err
				}()
				if _, err := io.CopyN(io.Discard, conn, c.bulk); err != nil {
					t.Fatal(err)
				}
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
				return conn
			}
			open().Close()
			tidy()
			rss, fds := residentKiB(t, pid), openFDs(t, pid)
			for range n {
				open()
			}
			tidy()
			perConn, perFD := float64(residentKiB(t, pid)-rss)/float64(n), float64(openFDs(t, pid)-fds)/float64(n)
			if (perConn > c.most && !raceDetector) || perFD > 2 {
				t.Errorf("%.1f KiB and %.1f descriptors for each idle connection, want at most %.0f and 2", perConn, perFD, c.most)
			}
			t.Logf("%.1f KiB and %.1f descriptors for each of %d idle connections", perConn, perFD, n)
		})
	}
}

// startTidyChild is startChild, and a way to have the child tidy up and tell what
// it has allocated.
func startTidyChild(t *testing.T, to string) (pid int, addr string, tidy func() (objects, bytes float64)) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childTarget+"="+to)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the engine's process: %v", err)
		}
	})
	lines := bufio.NewReader(out)
	line := func() string {
		s, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(s)
	}
	addr = line()
	return cmd.Process.Pid, addr, func() (objects, bytes float64) {
		if _, err := fmt.Fprintln(in); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(line(), &objects, &bytes); err != nil {
			t.Fatal(err)
		}
		return objects, bytes
	}
}
