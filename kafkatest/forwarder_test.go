package kafkatest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program is the midspan under test.
var program string

// web is for its probe and its metrics.
var web = &http.Client{Timeout: 20 * time.Second}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "midspan-kafka")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "midspan")
		build := exec.Command("go", "build", "-o", program, "./cmd/midspan")
		build.Dir = ".."
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building midspan: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// forwarder is one midspan, at an address of its own.
type forwarder struct {
	host  string
	to    []string // the cluster, at first
	route []string // more lines of the route, or others
	state string   // what it remembers from one life to the next
	cmd   *exec.Cmd
	said  *said
}

// said is what a process has written: its access log and its messages.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// forwarders are n midspans with the same file in front of a cluster, and the way
// to them. route is what the file says beside the usual.
func forwarders(t *testing.T, n int, to []string, route ...string) (*dialler, []*forwarder) {
	t.Helper()
	var all []*forwarder
	var hosts []string
	for range n {
		f := &forwarder{host: loopback(), to: to, route: route, state: t.TempDir()}
		f.start(t)
		all, hosts = append(all, f), append(hosts, f.host)
	}
	return newDialler(t, hosts...), all
}

// file is a forwarder's configuration.
func (f *forwarder) file() string {
	lines := []string{
		"health: " + f.host + ":8080",
		"admin: " + f.host + ":9600",
		"control: " + filepath.Join(f.state, "control"),
		"routes:",
		"  orders:",
		"    mode: kafka",
		fmt.Sprintf("    listen: %s:%d", f.host, bootstrapPort),
		"    to: [" + strings.Join(f.to, ", ") + "]",
		fmt.Sprintf("    advertise: { host: %s, ports: %d-%d }", advertised, firstPort, lastPort),
	}
	for _, line := range f.route {
		key, _, _ := strings.Cut(line, ":")
		lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "    "+key+":") })
		lines = append(lines, "    "+line)
	}
	return strings.Join(lines, "\n") + "\n"
}

// start runs the forwarder until the test ends, and waits until it is ready.
func (f *forwarder) start(t *testing.T) {
	t.Helper()
	file := filepath.Join(f.state, "midspan.yaml")
	if err := os.WriteFile(file, []byte(f.file()), 0o600); err != nil {
		t.Fatal(err)
	}
	f.said = &said{}
	f.cmd = exec.Command(program, "run", file)
	f.cmd.Env = append(os.Environ(), "STATE_DIRECTORY="+f.state)
	f.cmd.Stdout, f.cmd.Stderr = f.said, f.said
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := f.said
	t.Cleanup(func() {
		f.kill()
		text := said.String()
		for _, bad := range []string{"level=ERROR", "panic", "DATA RACE"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s had reason to say %s", f.host, bad)
			}
		}
		if t.Failed() {
			t.Logf("%s said, at the end:\n%s", f.host, text[max(0, len(text)-4000):])
		}
	})
	within(t, func() string {
		resp, err := web.Get("http://" + f.host + ":8080/")
		if err != nil {
			return fmt.Sprintf("%s does not start: %v\n%s", f.host, err, said)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Sprintf("%s is not ready: %s\n%s", f.host, resp.Status, said)
		}
		return ""
	})
}

// kill ends the forwarder as a crash does.
func (f *forwarder) kill() {
	_ = f.cmd.Process.Kill() // it may have ended
	_ = f.cmd.Wait()         // it was killed: that is no news
}

// metric is the sum of a metric's values over the labels that contain text.
func (f *forwarder) metric(t *testing.T, name, text string) (sum float64) {
	t.Helper()
	resp, err := web.Get("http://" + f.host + ":9600/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		var value float64
		series, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasPrefix(series, name) || !strings.Contains(series, text) {
			continue
		}
		if _, err := fmt.Sscan(number, &value); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		sum += value
	}
	return sum
}

// used fails the test if no client has sent a request of that API.
func (f *forwarder) used(t *testing.T, api string) {
	t.Helper()
	if f.metric(t, "midspan_kafka_requests_total", fmt.Sprintf("api=%q", api)) == 0 {
		t.Errorf("no client has used %s", api)
	}
}
