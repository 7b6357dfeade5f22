// Command demo shows midspan at its main job, with real processes on loopback:
// two web servers, midspan on a file imported from an HAProxy snippet, clients
// that never stop, a server that dies, a name that changes, reloads under load,
// and a drain. It ends by itself in less than a minute and needs no rights.
//
// Usage: demo path/to/midspan
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == serveFlag {
		fail(serve(os.Args[2]))
	}
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo path/to/midspan (make demo does it)")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := show(ctx, os.Args[1]); err != nil {
		cancel()
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "demo:", err)
	os.Exit(1)
}

// show runs the demonstration and fails when a request did.
func show(ctx context.Context, binary string) error {
	s, err := newStage(ctx, binary)
	if err != nil {
		return err
	}
	defer s.clear()
	acts := []struct {
		title string
		play  func(*stage) error
	}{
		{"two web servers start, and a DNS server that knows them", (*stage).startServers},
		{"an HAProxy snippet becomes midspan.yaml", (*stage).importSnippet},
		{"midspan runs it", (*stage).startMidspan},
		{"32 clients ask without pause, a new connection for each request", (*stage).startLoad},
		{"webserver1 is killed", (*stage).killServer},
		{"webserver1 moves to another address; only DNS is told", (*stage).moveServer},
		{"20 reloads under load, a route more, a route less", (*stage).reload},
		{"midspan status", (*stage).showStatus},
		{"midspan drains: the probe fails first, then it stops listening", (*stage).drain},
	}
	for i, act := range acts {
		fmt.Printf("\n%d. %s\n", i+1, act.title)
		if err := act.play(s); err != nil {
			return errors.Join(fmt.Errorf("act %d: %w", i+1, err), s.lastWords())
		}
		s.endAct(act.title)
	}
	return s.summary()
}
