package nft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"midspan/internal/engine"
	"midspan/internal/netns"
)

// world is a client and a server with this process between them. The server has
// the addresses 10.1.0.1 to 10.1.0.3 and fd01::1, and no way to the client but
// through what comes from this host itself.
type world struct {
	*testing.T
	client, server *netns.Net
	log            *logBuffer
	records        *recordList
	engine         *Engine
}

const (
	here  = "10.0.0.1"
	here6 = "fd00::1"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, log: &logBuffer{}, records: &recordList{}}
	w.client = w.join("client", []string{here + "/24", here6 + "/64"}, []string{"10.0.0.2/24", "10.0.0.3/24", "fd00::2/64"})
	w.server = w.join("server", []string{"10.1.0.254/24", "10.1.0.253/24", "fd01::fe/64"}, []string{"10.1.0.1/24", "10.1.0.2/24", "10.1.0.3/24", "fd01::1/64"})
	t.Cleanup(func() {
		if w.engine != nil {
			w.close()
		}
	})
	return w
}

func (w *world) join(name string, ours, its []string) *netns.Net {
	w.Helper()
	n, err := netns.New()
	if err != nil {
		w.Fatal(err)
	}
	end := func(n *netns.Net, name string, networks []string) netns.End {
		e := netns.End{Net: n, Name: name}
		for _, s := range networks {
			e.Addrs = append(e.Addrs, netip.MustParsePrefix(s))
		}
		return e
	}
	cable := end(nil, name, ours)
	if err := netns.Cable(cable, end(n, "up", its)); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := errors.Join(cable.Unplug(), n.Close()); err != nil {
			w.Error(err)
		}
	})
	return n
}

// start makes an engine and applies the routes of text.
func (w *world) start(text string, down ...string) {
	w.Helper()
	var err error
	w.engine, err = New(Options{
		Log: slog.New(slog.NewTextHandler(w.log, nil)), Hooks: engine.Hooks{Record: w.records.add}, State: filepath.Join(w.TempDir(), "state"),
	})
	if err != nil {
		w.Fatal(err)
	}
	w.apply(text, down...)
}

func (w *world) apply(text string, down ...string) {
	w.Helper()
	if _, err := w.engine.Apply(context.Background(), makePlan(w, text, nil, down...)); err != nil {
		w.Fatal(err)
	}
}

// routes is a file with these routes, all of the kernel.
func routes(lines ...string) string {
	return "defaults: {engine: nft}\nroutes:\n  " + strings.Join(lines, "\n  ") + "\n"
}

// crash ends the engine as the end of its process would.
func (w *world) crash() {
	close(w.engine.done)
	if err := w.engine.release(); err != nil {
		w.Error(err)
	}
	w.engine = nil
}

func (w *world) close() {
	if err := w.engine.Close(); err != nil {
		w.Error(err)
	}
	w.engine = nil
}

// serve has an echo listen in the server's place that says its address first.
func (w *world) serve(at string) {
	w.Helper()
	w.listen(at, func(c net.Conn) {
		fmt.Fprintf(c, "%s from %s\n", c.LocalAddr().(*net.TCPAddr).IP, c.RemoteAddr().(*net.TCPAddr).IP)
		io.Copy(c, c)
	})
}

// listen is a server that serves each connection with f, and closes it then.
func (w *world) listen(at string, f func(net.Conn)) {
	w.Helper()
	var l net.Listener
	err := w.server.Do(func() (err error) {
		lc := net.ListenConfig{KeepAlive: -1}
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(context.Background(), "tcp", at)
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
}

// nft changes the client's own rules.
func (w *world) nft(rules string) {
	w.Helper()
	err := w.client.Do(func() error {
		out, err := exec.Command("nft", rules).CombinedOutput()
		if err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
}

const patience = 30 * time.Second // a machine may be slow

// dial connects from a place, and reads the line with which the server begins.
func (w *world) dial(from *netns.Net, source, to string) (net.Conn, string, error) {
	var c net.Conn
	err := from.Do(func() (err error) {
		d := net.Dialer{Deadline: time.Now().Add(patience), KeepAlive: -1}
		if source != "" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
		}
		c, err = d.Dial("tcp", to)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	w.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	line := make([]byte, 64)
	n, err := c.Read(line)
	return c, strings.TrimSpace(string(line[:n])), err
}

// connect is dial that must work.
func (w *world) connect(to string) (net.Conn, string) {
	w.Helper()
	c, line, err := w.dial(w.client, "", to)
	if err != nil {
		w.Fatal(err)
	}
	return c, line
}

// alive tells whether an echo still answers.
func alive(c net.Conn) error {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("still there?")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 12))
	return err
}

func (w *world) until(what string, so func() bool) {
	w.Helper()
	for give := time.Now().Add(patience); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(give) {
			w.Fatalf("after %s still not so: %s\nlog:\n%s", patience, what, w.log)
		}
	}
}

// logBuffer and recordList may be written from any goroutine.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

type recordList struct {
	mu  sync.Mutex
	all []*engine.Record
}

func (l *recordList) add(r *engine.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, r)
}

func (l *recordList) list() []*engine.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

func (l *recordList) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = nil
}

func (l *recordList) ends() map[engine.Reason]int {
	n := map[engine.Reason]int{}
	for _, r := range l.list() {
		if !r.End.IsZero() {
			n[r.Reason]++
		}
	}
	return n
}
