package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"midspan/e2e/rig"
)

const (
	idleConns  = 5000
	idleMemory = 2 << 10 // bytes a connection, at most
)

// TestIdle5000 holds 5,000 connections on which nothing moves: two descriptors
// each and next to no memory, and all of them alive. Clients and servers are
// processes of their own, for the sake of their limits of open files.
func TestIdle5000(t *testing.T) {
	server := rig.Addr(t, "127.0.0.2")
	rig.Start(t, rig.Helper("idle server", server))
	rig.Until(t, rig.Patience, "the server listens", func() bool { return rig.Listens(nil, server) })
	f := rig.NewFile(t)
	addr := rig.Addr(t, "127.0.0.1")
	f.Write("routes:\n  idle: { listen: %q, to: %q }\n", addr, server)
	m := rig.Run(t, f)
	if limit := metrics(t, m)["midspan_connections_limit"]; limit < idleConns {
		rig.Missing(t, "midspan may have %g connections; this test needs a limit of open files (ulimit -Hn) of %d", limit, 2*idleConns+500)
	}
	for range 50 { // what is made once and kept
		if err := once(addr, 1); err != nil {
			t.Fatal(err)
		}
	}
	rig.Until(t, rig.Patience, "these have ended", func() bool { return metrics(t, m)["midspan_connections"] == 0 })
	memory, fds := settled(t, m)

	stdin, ask, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ask.Close()
	spec := rig.Helper("idle clients", addr, strconv.Itoa(idleConns))
	spec.Stdin = stdin
	clients := rig.Start(t, spec)
	stdin.Close()
	begin := time.Now()
	awaitLine(t, clients, "open")
	t.Logf("%d connections made and used in %s", idleConns, time.Since(begin).Round(time.Millisecond))

	want := maps.Clone(fds)
	want["socket"] += 2 * idleConns
	var fullMemory int64
	var fullFDs map[string]int
	for end := time.Now().Add(rig.Patience); !maps.Equal(fullFDs, want) && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		fullMemory, fullFDs = footprint(t, m)
	}
	each := float64(fullMemory-memory) / idleConns
	t.Logf("resident: %d KiB before, %d KiB with %d idle connections: %.0f bytes each", memory>>10, fullMemory>>10, idleConns, each)
	if each >= idleMemory {
		t.Errorf("an idle connection takes %.0f bytes, want less than %d", each, idleMemory)
	}
	if !maps.Equal(fullFDs, want) {
		t.Errorf("descriptors: %v before, %v now; want two sockets more for each connection", fds, fullFDs)
	}

	if _, err := io.WriteString(ask, "ask\n"); err != nil {
		t.Fatal(err)
	}
	awaitLine(t, clients, "answered")
	ask.Close()
	if code := clients.Exit(rig.Patience); code != 0 {
		t.Errorf("the clients' exit code is %d: %s", code, clients.Stderr())
	}
	rig.Until(t, rig.Patience, "all descriptors are given back", func() bool {
		_, now := footprint(t, m)
		return now["socket"] == fds["socket"]
	})
}

// settled is the footprint once it no longer changes: the last request for
// metrics was a connection, too, and sockets are kept for a second to be used
// again.
func settled(t *testing.T, m *rig.Midspan) (memory int64, fds map[string]int) {
	t.Helper()
	var since time.Time
	rig.Until(t, rig.Patience, "descriptors are as they were", func() bool {
		_, now := footprint(t, m)
		if !maps.Equal(now, fds) {
			since = time.Now()
		}
		fds = now
		return time.Since(since) > 1500*time.Millisecond
	})
	return footprint(t, m)
}

func footprint(t *testing.T, m *rig.Midspan) (memory int64, fds map[string]int) {
	t.Helper()
	memory, err := rig.RSS(m.PID())
	fds, errFDs := rig.FDs(m.PID())
	if err := errors.Join(err, errFDs); err != nil {
		t.Fatal(err)
	}
	return memory, fds
}

func awaitLine(t *testing.T, p *rig.Proc, line string) {
	t.Helper()
	rig.Until(t, 3*rig.Patience, "the clients say "+line, func() bool {
		if !p.Alive() {
			t.Fatalf("the clients have ended: %s", p.Stderr())
		}
		return strings.Contains(p.Stdout(), line+"\n")
	})
}

// idleServer echoes on args[0].
func idleServer(args []string) error {
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			rig.Echo(c.(*net.TCPConn))
		}()
	}
}

// idleClients holds args[1] connections to args[0], uses each once, and again
// for each line on standard input.
func idleClients(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	conns := make([]net.Conn, n)
	err = each(n, func(i int) error {
		var err error
		if conns[i], err = net.DialTimeout("tcp", args[0], 20*time.Second); err != nil {
			return err
		}
		return exchange(conns[i], uint64(i), 100)
	})
	if err != nil {
		return err
	}
	fmt.Println("open")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := each(n, func(i int) error { return exchange(conns[i], uint64(i), 3000) }); err != nil {
			return err
		}
		fmt.Println("answered")
	}
	return nil
}

// each runs f for 0 to n-1, some at a time, and returns all errors.
func each(n int, f func(i int) error) error {
	const workers = 50
	var all sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		all.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				if err := f(i); err != nil {
					errs[w] = fmt.Errorf("connection %d: %w", i, err)
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
