package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Self is the path of this program.
const Self = "/proc/self/exe"

// Cmd says what to start. Only Program is required.
type Cmd struct {
	Program string
	Args    []string
	Env     []string // beside this process's own
	Stdin   io.Reader
	Stdout  io.Writer // nil: kept with stderr, see Said
	In      *Net
}

// Proc is a process in the lab, and all that it started.
type Proc struct {
	Started time.Time

	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// Start starts a process in its lab's directory.
func (l *Lab) Start(c Cmd) (*Proc, error) {
	p := &Proc{name: filepath.Base(c.Program), cmd: exec.Command(c.Program, c.Args...), done: make(chan struct{})}
	if c.Program == Self {
		p.name = "bench " + c.Args[0]
	}
	p.log = filepath.Join(l.Dir, fmt.Sprintf("log%d", len(l.procs)))
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd.Dir = l.Dir
	p.cmd.Env = append(os.Environ(), c.Env...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = c.Stdin, c.Stdout, log
	if c.Stdout == nil {
		p.cmd.Stdout = log
	}
	// A group of its own: Ctrl-C is for this program alone, which then ends the
	// others in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	err = c.In.Do(func() error {
		p.Started = time.Now()
		return p.cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() {
		_ = p.cmd.Wait() // the exit code is in ProcessState
		close(p.done)
	}()
	l.procs = append(l.procs, p)
	return p, nil
}

// Run runs a program to its end; its last words are in the error when it fails.
func (l *Lab) Run(c Cmd) error {
	p, err := l.Start(c)
	if err != nil {
		return err
	}
	<-p.done
	l.procs = l.procs[:len(l.procs)-1]
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%s: exit code %d: %s", p.name, code, p.Said())
	}
	return nil
}

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Err is nil while the process runs, and tells its end otherwise.
func (p *Proc) Err() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended (%v): %s", p.name, p.cmd.ProcessState, p.Said())
	default:
		return nil
	}
}

// Said is what the process wrote; of much, the beginning and the end.
func (p *Proc) Said() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return fmt.Sprint("[", err, "]")
	}
	const part = 1000
	if len(text) > 2*part {
		text = slices.Concat(text[:part], []byte(" [...] "), text[len(text)-part:])
	}
	return strings.TrimSpace(string(text))
}

// Signal sends a signal to the first process.
func (p *Proc) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Stop kills the process and all that it started, and waits for their end, so
// that nothing of it runs beside what is measured next.
func (p *Proc) Stop() error {
	var family []int
	if p.Err() == nil {
		family = p.family()
	}
	for _, pid := range family {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill %s: %w", p.name, err)
		}
	}
	<-p.done
	for _, pid := range family {
		// Orphans are this program's children, as it is the first of its PID
		// namespace.
		if pid != p.cmd.Process.Pid {
			_, _ = unix.Wait4(pid, nil, 0, nil)
		}
	}
	return nil
}
