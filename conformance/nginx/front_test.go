package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"midspan/internal/freeport"
)

// program is the front, built once.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "front-test-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "nginx")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", out, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// rig is a prefix with a configuration, and the front on it once started.
type rig struct {
	*testing.T
	dir  string
	cmd  *exec.Cmd
	done chan error
}

func newRig(t *testing.T, conf string) *rig {
	r := &rig{T: t, dir: t.TempDir()}
	r.write(conf)
	return r
}

func (r *rig) write(conf string) {
	r.Helper()
	conf = "pid " + r.dir + "/nginx.pid;\nerror_log " + r.dir + "/error.log info;\nevents {}\n" + conf
	if err := os.WriteFile(filepath.Join(r.dir, "nginx.conf"), []byte(conf), 0o644); err != nil {
		r.Fatal(err)
	}
}

// args are those that the suite gives.
func (r *rig) args(more ...string) []string {
	return append([]string{"-p", r.dir + "/", "-c", "nginx.conf", "-e", "error.log"}, more...)
}

func (r *rig) start() {
	r.Helper()
	r.cmd = exec.Command(program, r.args()...)
	r.cmd.Stderr = os.Stderr
	if err := r.cmd.Start(); err != nil {
		r.Fatal(err)
	}
	r.done = make(chan error, 1)
	go func() { r.done <- r.cmd.Wait() }()
	r.Cleanup(func() { _ = r.cmd.Process.Kill() })
	pid := r.waitFor(func() bool { return strings.TrimSpace(r.read("nginx.pid")) == strconv.Itoa(r.cmd.Process.Pid) })
	if !pid {
		r.Fatalf("no pid file; error log:\n%s", r.read("error.log"))
	}
}

func (r *rig) read(name string) string {
	text, _ := os.ReadFile(filepath.Join(r.dir, name))
	return string(text)
}

// limit bounds what a test waits for.
const limit = 30 * time.Second

func (r *rig) waitFor(is func() bool) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if is() {
			return true
		}
	}
	return false
}

func (r *rig) signal(s syscall.Signal) {
	r.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.Fatal(err)
	}
}

// ended waits for the process's end.
func (r *rig) ended() {
	r.Helper()
	select {
	case err := <-r.done:
		if err != nil {
			r.Fatalf("%v; error log:\n%s", err, r.read("error.log"))
		}
	case <-time.After(limit):
		r.Fatalf("it did not end; error log:\n%s", r.read("error.log"))
	}
}

// get is all that addr sends.
func get(addr string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, limit)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(limit))
	text, err := io.ReadAll(c)
	return string(text), err
}

// names is a server that says its name to everybody who comes.
func names(t *testing.T, name string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, name)
			_ = c.Close()
		}
	}()
	return l.Addr().String()
}

func address(t *testing.T) string {
	t.Helper()
	port, err := freeport.Find(1)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

func TestVersion(t *testing.T) {
	out, err := exec.Command(program, "-V").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"nginx version: nginx/" + nginxVersion, "--with-stream ", "--with-stream_ssl_module", "TLS SNI support enabled"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("-V does not tell %q:\n%s", want, out)
		}
	}
}

func TestConfigurationTest(t *testing.T) {
	for _, c := range []struct {
		name, conf, want string
		ok               bool
	}{
		{"right", "stream { server { listen 127.0.0.1:1234; proxy_pass 127.0.0.1:1235; } }", "test is successful", true},
		{"unknown directive", "stream { server { listen 1234; proxy_pass 127.0.0.1:1; ssl_stapling on; } }", `unknown directive "ssl_stapling" in`, false},
		{"unknown parameter", "stream { upstream u { server a:1 service=b; } server { listen 1234; proxy_pass u; } }", `invalid parameter "service=b"`, false},
		{"not closed", "stream { server { listen 1234; proxy_pass 127.0.0.1:1; }", `expecting "}"`, false},
		{"no handler", "stream { server { listen 1234; } }", "no handler for server", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.conf)
			out, err := exec.Command(program, r.args("-t")...).CombinedOutput()
			if (err == nil) != c.ok || !strings.Contains(string(out), c.want) {
				t.Errorf("error %v, want %q:\n%s", err, c.want, out)
			}
		})
	}
}

func TestDump(t *testing.T) {
	r := newRig(t, "stream { server { listen 127.0.0.1:1234; proxy_pass 127.0.0.1:1235; } }")
	var out, errs bytes.Buffer
	cmd := exec.Command(program, r.args("-T")...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatal(err, errs.String())
	}
	if !strings.Contains(out.String(), "proxy_pass 127.0.0.1:1235") {
		t.Errorf("-T prints no configuration:\n%s", out.String())
	}
}

func TestForwardsAndLogs(t *testing.T) {
	listen := address(t)
	r := newRig(t, fmt.Sprintf(`stream {
		log_format f "$server_port $bytes_sent $upstream_addr $status";
		server { listen %s; proxy_pass %s; access_log access.log f; } }`, listen, names(t, "one")))
	r.start()
	if text, err := get(listen); text != "one" || err != nil {
		t.Errorf("got %q, %v", text, err)
	}
	r.signal(syscall.SIGQUIT)
	r.ended()
	if log := r.read("access.log"); !strings.Contains(log, " 3 127.0.0.1:") || !strings.HasSuffix(log, " 200\n") {
		t.Errorf("access log %q", log)
	}
	if _, err := os.Stat(filepath.Join(r.dir, "nginx.pid")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pid file is still there: %v", err)
	}
	if log := r.read("error.log"); strings.Contains(log, "[alert]") || strings.Contains(log, "[crit]") {
		t.Errorf("error log:\n%s", log)
	}
}

func TestReload(t *testing.T) {
	listen := address(t)
	conf := "stream { server { listen %s; proxy_pass %s; } }"
	r := newRig(t, fmt.Sprintf(conf, listen, names(t, "one")))
	r.start()
	if text, err := get(listen); text != "one" || err != nil {
		t.Fatalf("got %q, %v", text, err)
	}
	r.write("stream { nonsense; }")
	r.signal(syscall.SIGHUP)
	if !r.waitFor(func() bool { return strings.Contains(r.read("error.log"), `unknown directive "nonsense"`) }) {
		t.Fatal("a wrong file is not told of")
	}
	if text, err := get(listen); text != "one" || err != nil {
		t.Fatalf("after a wrong file: %q, %v", text, err)
	}
	r.write(fmt.Sprintf(conf, listen, names(t, "two")))
	r.signal(syscall.SIGHUP)
	if !r.waitFor(func() bool { text, _ := get(listen); return text == "two" }) {
		t.Fatal("the new file is not in force")
	}
	r.signal(syscall.SIGTERM)
	r.ended()
}

// TestQuit: QUIT waits for a connection that lives, and takes no new ones; TERM
// does not wait.
func TestQuit(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	listen := address(t)
	r := newRig(t, fmt.Sprintf("stream { server { listen %s; proxy_pass %s; } }", listen, l.Addr()))
	r.start()
	c, err := net.Dial("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	r.signal(syscall.SIGQUIT)
	refused := func() bool {
		c, err := net.Dial("tcp", listen)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	}
	if !r.waitFor(refused) {
		t.Fatal("it still listens")
	}
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatalf("the connection does not live: %v", err)
	}
	select {
	case <-r.done:
		t.Fatal("it did not wait for the connection")
	default:
	}
	_ = c.Close()
	_ = s.Close()
	r.ended()

	r = newRig(t, fmt.Sprintf("stream { server { listen %s; proxy_pass %s; } }", listen, l.Addr()))
	r.start()
	if c, err = net.Dial("tcp", listen); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if s, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	r.signal(syscall.SIGTERM)
	r.ended()
}

// TestAnswers: `return` goes through midspan, whose PROXY header says who the
// client is.
func TestAnswers(t *testing.T) {
	listen := address(t)
	r := newRig(t, fmt.Sprintf(`stream {
		map $server_port $m { default other; ~^(\d+)$ "port $1"; }
		server { listen %s; return "$remote_addr:$remote_port $m $bytes_sent"; } }`, listen))
	r.start()
	c, err := net.Dial("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	text, err := io.ReadAll(c)
	_, port, _ := strings.Cut(listen, ":")
	if want := fmt.Sprintf("%s port %s 0", c.LocalAddr(), port); string(text) != want || err != nil {
		t.Errorf("got %q, %v, want %q", text, err, want)
	}
	r.signal(syscall.SIGQUIT)
	r.ended()
	if log := r.read("error.log"); !strings.Contains(log, "bytes from/to client:0/") {
		t.Errorf("no record of midspan's in the error log:\n%s", log)
	}
}

// TestReopen: USR1 makes a log that was moved away anew.
func TestReopen(t *testing.T) {
	r := newRig(t, "stream { server { listen "+address(t)+"; return x; } }")
	r.start()
	if err := os.Rename(filepath.Join(r.dir, "error.log"), filepath.Join(r.dir, "old.log")); err != nil {
		t.Fatal(err)
	}
	r.signal(syscall.SIGUSR1)
	r.signal(syscall.SIGQUIT)
	r.ended()
	if r.read("error.log") == "" {
		t.Error("there is no new log")
	}
}
