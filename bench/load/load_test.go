package load

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// patience is how long a test waits for what comes at once on a machine that is idle.
const patience = 30 * time.Second

// enough makes a run that ends by time anew, for longer each time, until it is ok: a
// busy machine does little in a fraction of a second.
func enough(spec Spec, marks *bytes.Buffer, ok func(Report) bool) (r Report, err error) {
	for range 4 {
		marks.Reset()
		if r, err = Run(spec, marks); err != nil || r.Errors > 0 || spec.Window == 0 || ok(r) {
			break
		}
		spec.Window *= 5
	}
	return r, err
}

// start runs a target on a free port.
func start(t *testing.T) (addr string) { return startWith(t, Serve) }

func startWith(t *testing.T, serve func(context.Context, string) error) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- serve(ctx, addr) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return addr
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the target does not listen")
	return ""
}

func TestRun(t *testing.T) {
	addr := start(t)
	small, window := []Step{{64, 64}}, 200*time.Millisecond
	for name, test := range map[string]struct {
		spec Spec
		ok   func(r Report) bool
	}{
		"sessions": {
			Spec{Conns: 8, Steps: small, Reconnect: true, Window: window},
			func(r Report) bool { return r.Sessions > 100 && r.BytesDown >= 64*r.Sessions && r.P50 > 0 },
		},
		"exchanges": {
			Spec{Conns: 8, Steps: small, Window: window},
			func(r Report) bool { return r.Exchanges > 1000 && r.P50 <= r.P99 && r.P99 <= r.P999 },
		},
		"steps": {
			Spec{Conns: 2, Steps: []Step{{517, 3500}, {80, 255}}, Reconnect: true, Sessions: 3},
			func(r Report) bool {
				return r.Sessions == 6 && r.Exchanges == 12 && r.BytesDown == 6*3755 && r.BytesUp == 6*597
			},
		},
		"endless": {
			Spec{Conns: 2, Steps: []Step{{64, Endless}}, Warmup: 50 * time.Millisecond, Window: window},
			func(r Report) bool { return r.BytesDown > 10<<20 && r.Exchanges == 0 },
		},
		"checked": {
			Spec{Conns: 3, Steps: []Step{{5 << 20, 3 << 20}}, Check: true, Sessions: 2},
			func(r Report) bool { return r.BytesDown == 6*3<<20 && r.BytesUp == 6*5<<20 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			test.spec.Addr = addr
			var marks bytes.Buffer
			r, err := enough(test.spec, &marks, test.ok)
			if err != nil || r.Errors > 0 || !test.ok(r) {
				t.Errorf("%+v, %v", r, err)
			}
			if marks.String() != "begin\nend\n" {
				t.Errorf("marks %q", marks.String())
			}
		})
	}
}

func TestHold(t *testing.T) {
	addr := start(t)
	ask, asker := io.Pipe()
	ready, marks := io.Pipe()
	go func() {
		defer asker.Close()
		line := make([]byte, 6)
		for range 2 {
			if _, err := io.ReadFull(ready, line); err != nil || string(line) != "ready\n" {
				t.Errorf("%q, %v", line, err)
				return
			}
			fmt.Fprintln(asker, "again")
		}
		_, _ = io.ReadFull(ready, line) // the third, to which nothing is asked
	}()
	r, err := Hold(Spec{Addr: addr, Conns: 200, Steps: []Step{{64, 64}}, Hold: true}, marks, ask)
	if err != nil || r.Errors > 0 || r.Exchanges != 600 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestErrors: what goes wrong must be in the report, or a broken forwarder would
// make a good figure.
func TestErrors(t *testing.T) {
	for name, test := range map[string]struct {
		serve func(c net.Conn)
		check bool
		want  string
	}{
		"reset":     {func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }, false, "reset"},
		"early end": {func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 64)); _, _ = c.Write(make([]byte, 60)) }, false, "no data"},
		"too much":  {func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 64)); _, _ = c.Write(make([]byte, 65)) }, false, "too long"},
		"altered":   {func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 64)); _, _ = c.Write(make([]byte, 64)) }, true, "digest"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					test.serve(c)
					c.Close()
				}
			}()
			r, err := Run(Spec{Addr: l.Addr().String(), Conns: 1, Steps: []Step{{64, 64}}, Window: patience, Check: test.check}, io.Discard)
			if err != nil || r.Errors == 0 || !strings.Contains(r.Error, test.want) {
				t.Errorf("%+v, %v; want an error with %q", r, err, test.want)
			}
		})
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	for i := 1; i <= 100_000; i++ {
		h.add(time.Duration(i) * time.Microsecond)
	}
	for q, want := range map[float64]float64{0.5: 50_000, 0.99: 99_000, 0.999: 99_900, 0: 1} {
		got := float64(h.quantile(q)) / 1e3
		if got < want*0.98 || got > want*1.02 {
			t.Errorf("quantile %g is %g µs, want about %g", q, got, want)
		}
	}
	var none histogram
	if none.quantile(0.5) != 0 {
		t.Error("a quantile of nothing")
	}
}
