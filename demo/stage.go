package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"midspan/internal/freeport"
)

// The reference snippet of the HAProxy way, with a second server and with ports
// that an ordinary user may bind: 80 is PORT and 80 of the servers is WEB.
const snippet = `frontend http_frontend
  bind *:PORT
  default_backend webservers
backend webservers
  balance roundrobin
  timeout check 10s
  server webserver1 webserver1.org.example.com:WEB check inter 500 fall 2
  server webserver2 webserver2.org.example.com:WEB check inter 500 fall 2
`

// stage holds what the acts share.
type stage struct {
	ctx    context.Context
	binary string
	dir    string

	port, web, health int
	file, control     string
	dns               *zone
	servers           map[string]*exec.Cmd // by address
	midspan           *exec.Cmd
	log               *os.File
	load              *load
	rows              []row
}

func newStage(ctx context.Context, binary string) (*stage, error) {
	dir, err := os.MkdirTemp("", "midspan-demo-")
	if err != nil {
		return nil, err
	}
	s := &stage{ctx: ctx, binary: binary, dir: dir, servers: map[string]*exec.Cmd{}}
	s.file, s.control = filepath.Join(dir, "midspan.yaml"), filepath.Join(dir, "control.sock")
	if s.port, err = freeport.Find(3); err != nil {
		return nil, err
	}
	s.web, s.health = s.port+1, s.port+2
	return s, nil
}

// clear ends every process that was started and removes the files.
func (s *stage) clear() {
	if s.load != nil {
		s.load.stop()
	}
	for _, cmd := range s.servers {
		end(cmd, syscall.SIGKILL)
	}
	if s.midspan != nil {
		end(s.midspan, syscall.SIGKILL)
	}
	if s.dns != nil {
		s.dns.close()
	}
	os.RemoveAll(s.dir)
}

func end(cmd *exec.Cmd, sig syscall.Signal) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Signal(sig) // it may have ended just now
		_ = cmd.Wait()              // its state is of no interest
	}
}

func (s *stage) startServers() error {
	var err error
	if s.dns, err = serveZone(); err != nil {
		return err
	}
	for name, addr := range map[string]string{"webserver1": "127.0.0.2", "webserver2": "127.0.0.3"} {
		if err := s.startServer(addr); err != nil {
			return err
		}
		s.dns.set(name+".org.example.com", addr)
	}
	say("webserver1 is 127.0.0.2:%d, webserver2 is 127.0.0.3:%d; DNS is %s", s.web, s.web, s.dns.addr)
	return nil
}

// startServer runs a web server of its own process at addr.
func (s *stage) startServer(addr string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	at := net.JoinHostPort(addr, fmt.Sprint(s.web))
	cmd := exec.Command(self, serveFlag, at)
	cmd.Stderr = os.Stderr
	if err := start(cmd); err != nil {
		return err
	}
	s.servers[addr] = cmd
	return s.until("the web server answers", func() bool {
		c, err := net.Dial("tcp", at)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// start makes the process end with this one, whatever ends it.
func start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd.Start()
}

func (s *stage) importSnippet() error {
	text := strings.NewReplacer("PORT", fmt.Sprint(s.port), "WEB", fmt.Sprint(s.web)).Replace(snippet)
	say("%s", strings.TrimSpace(text))
	cmd := exec.CommandContext(s.ctx, s.binary, "import", "haproxy")
	cmd.Stdin = strings.NewReader(text)
	var notes bytes.Buffer
	cmd.Stderr = &notes
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("import: %w: %s", err, notes.Bytes())
	}
	say("$ midspan import haproxy\n%s", out)
	// What the demo adds is where its own DNS and endpoints are.
	out = append(out, fmt.Sprintf("dns: { servers: [%q], max_ttl: 1s }\nhealth: %d\nadmin: off\ncontrol: %s\nlog: off\ndrain: { detection: 4s, timeout: 20s }\n",
		s.dns.addr, s.health, s.control)...)
	return os.WriteFile(s.file, out, 0o644)
}

func (s *stage) startMidspan() error {
	var err error
	if s.log, err = os.Create(filepath.Join(s.dir, "log")); err != nil {
		return err
	}
	s.midspan = exec.Command(s.binary, "run", s.file)
	s.midspan.Stderr = s.log
	if err := start(s.midspan); err != nil {
		return err
	}
	if err := s.until("the probe is answered with 200", func() bool { return s.probe() == "200" }); err != nil {
		return err
	}
	say("the probe at :%d answers 200", s.health)
	return nil
}

// probe asks the health endpoint as a load balancer does.
func (s *stage) probe() string {
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", s.health))
	if err != nil {
		return "nothing"
	}
	resp.Body.Close()
	return fmt.Sprint(resp.StatusCode)
}

func (s *stage) startLoad() error {
	s.load = startLoad(fmt.Sprintf("http://127.0.0.1:%d/", s.port))
	return s.pause(3 * time.Second)
}

func (s *stage) killServer() error {
	end(s.servers["127.0.0.2"], syscall.SIGKILL)
	say("SIGKILL; new connections go to webserver2 at once, the check follows after 2 × 500ms;\nrequests that were on their way to webserver1 are asked again by the client")
	return s.pause(4 * time.Second)
}

func (s *stage) moveServer() error {
	if err := s.startServer("127.0.0.4"); err != nil {
		return err
	}
	s.load.forget()
	s.dns.set("webserver1.org.example.com", "127.0.0.4")
	begin := time.Now()
	if err := s.until("the new address gets requests", func() bool { return s.load.servedBy("127.0.0.4") > 0 }); err != nil {
		return err
	}
	say("127.0.0.4 gets requests %s after the change of the record (TTL 1s)", time.Since(begin).Round(100*time.Millisecond))
	return s.pause(2 * time.Second)
}

func (s *stage) reload() error {
	before, err := os.ReadFile(s.file)
	if err != nil {
		return err
	}
	extra, err := freeport.Find(1)
	if err != nil {
		return err
	}
	more := bytes.Replace(before, []byte("routes:\n"), fmt.Appendf(nil, "routes:\n  extra: { listen: %d, to: \"webserver2.org.example.com:%d\" }\n", extra, s.web), 1)
	for i := range 20 {
		text := more
		if i%2 == 1 {
			text = before
		}
		if err := os.WriteFile(s.file, text, 0o644); err != nil {
			return err
		}
		if out, err := s.command("reload"); err != nil {
			return fmt.Errorf("reload %d: %w: %s", i+1, err, out)
		}
		if err := s.pause(100 * time.Millisecond); err != nil {
			return err
		}
	}
	say("20 reloads done")
	return nil
}

func (s *stage) command(args ...string) (string, error) {
	out, err := exec.CommandContext(s.ctx, s.binary, append(args, "--control", s.control)...).CombinedOutput()
	return string(out), err
}

func (s *stage) showStatus() error {
	out, err := s.command("status")
	say("%s", out)
	return err
}

func (s *stage) drain() error {
	if out, err := s.command("drain"); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	begin := time.Now()
	if err := s.until("the probe is answered with 503", func() bool { return s.probe() == "503" }); err != nil {
		return err
	}
	before := s.load.requests()
	if err := s.pause(300 * time.Millisecond); err != nil {
		return err
	}
	say("the probe answers 503, and %d more requests were served meanwhile", s.load.requests()-before)
	// The load balancer has seen it by now: clients are sent elsewhere.
	s.load.stop()
	if err := s.midspan.Wait(); err != nil {
		return fmt.Errorf("midspan ended with %w", err)
	}
	say("midspan has ended by itself after %s", time.Since(begin).Round(100*time.Millisecond))
	return nil
}

// until polls for a condition, at most half a minute.
func (s *stage) until(what string, ok func() bool) error {
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			return errors.New("waited in vain until " + what)
		}
		if err := s.pause(20 * time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) pause(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// lastWords are what midspan logged, for when an act fails.
func (s *stage) lastWords() error {
	if s.log == nil {
		return nil
	}
	if _, err := s.log.Seek(0, io.SeekStart); err != nil {
		return err
	}
	text, err := io.ReadAll(s.log)
	if err != nil {
		return err
	}
	return fmt.Errorf("midspan's log:\n%s", text)
}

func say(format string, args ...any) { fmt.Println(indent(fmt.Sprintf(format, args...))) }

func indent(s string) string {
	return "   " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n   ")
}
