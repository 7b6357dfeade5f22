package peer

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

// IOCopy is the proxy that everybody writes in Go: two goroutines for a
// connection, and io.Copy. It forwards what the file says, a line for a route.
func IOCopy(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	failed := make(chan error)
	for line := range strings.Lines(string(text)) {
		var listen, to string
		if _, err := fmt.Sscan(line, &listen, &to); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		l, err := net.Listen("tcp", listen)
		if err != nil {
			return err
		}
		go func() { failed <- forward(l, to) }()
	}
	return <-failed
}

func forward(l net.Listener, to string) error {
	for {
		client, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer client.Close()
			server, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer server.Close()
			done := make(chan struct{})
			go func() {
				pass(server, client)
				close(done)
			}()
			pass(client, server)
			<-done
		}()
	}
}

// pass copies one direction, and its end.
func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.(*net.TCPConn).CloseWrite()
}
