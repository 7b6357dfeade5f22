// Command suite runs the stream_*.t files of nginx's public test suite against
// the front in the directory above, one process for each, and tells how each
// ended beside how the list (list.go) says that it ends. It exits 1 when a file
// that is listed as passing does not, or when one is not in the list.
//
// The suite is not here: -tests names the folder of a copy
// (github.com/nginx/nginx-tests). Perl is needed, with IO::Socket::SSL, and
// openssl. Run by root, the files are run as nobody: what the suite does as root
// differs.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// timeLimit is for one file: the suite itself waits 90 s for a stop.
const timeLimit = 3 * time.Minute

// nobody is the user and group that files are run as by root.
const nobody = 65534

func main() {
	tests := flag.String("tests", "", "folder of the test suite")
	jobs := flag.Int("jobs", runtime.NumCPU(), "files at one time")
	all := flag.Bool("all", false, "also run the files that cannot pass")
	flag.Parse()
	if *tests == "" {
		fmt.Fprintln(os.Stderr, "usage: suite -tests FOLDER [-jobs N] [-all] [FILE…]")
		os.Exit(2)
	}
	ok, err := (&suite{folder: *tests, jobs: *jobs, all: *all}).run(flag.Args())
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case !ok:
		os.Exit(1)
	}
}

// suite is one run.
type suite struct {
	folder string
	jobs   int
	all    bool
	binary string
	temp   string
}

// run runs the named files, or all of them, and prints the table.
func (s *suite) run(names []string) (ok bool, err error) {
	if len(names) == 0 {
		if names, err = s.files(); err != nil {
			return false, err
		}
	}
	if s.temp, err = os.MkdirTemp("", "conformance-"); err != nil {
		return false, err
	}
	defer func() { _ = os.RemoveAll(s.temp) }()
	if err := s.build(); err != nil {
		return false, err
	}
	results := make([]*outcome, len(names))
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(1, s.jobs))
	for i, name := range names {
		if entry := find(name); entry != nil && entry.never && !s.all {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			results[i] = s.file(name)
		})
	}
	wg.Wait()
	// A file that failed beside others is run alone: its time-outs are for an
	// idle machine.
	for i, name := range names {
		if entry := find(name); results[i] != nil && results[i].verdict() == fails && entry != nil && entry.verdict == passes {
			results[i] = s.file(name)
		}
	}
	return table(os.Stdout, names, results), nil
}

// files are the stream files of the folder.
func (s *suite) files() ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(s.folder, "stream_*.t"))
	if err == nil && len(paths) == 0 {
		err = fmt.Errorf("%s has no stream_*.t; give the folder of a copy of nginx-tests", s.folder)
	}
	for i := range paths {
		paths[i] = filepath.Base(paths[i])
	}
	slices.Sort(paths)
	return paths, err
}

// build makes the front where everybody may run it.
func (s *suite) build() error {
	if err := os.Chmod(s.temp, 0o755); err != nil {
		return err
	}
	s.binary = filepath.Join(s.temp, "nginx")
	cmd := exec.Command("go", "build", "-o", s.binary, "midspan/conformance/nginx")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	work := filepath.Join(s.temp, "work")
	return errors.Join(os.Chmod(s.binary, 0o755), os.Mkdir(work, 0o777), os.Chmod(work, 0o777))
}

// file runs one file.
func (s *suite) file(name string) *outcome {
	ctx, cancel := context.WithTimeout(context.Background(), timeLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "perl", name)
	cmd.Dir = s.folder
	cmd.Env = append(os.Environ(), "TEST_NGINX_BINARY="+s.binary, "TMPDIR="+filepath.Join(s.temp, "work"), "HOME="+s.temp)
	if entry := find(name); entry != nil {
		cmd.Env = append(cmd.Env, entry.env...)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	// A file that hangs has servers of its own: they are ended with it.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	o, readErr := readTAP(bytes.NewReader(out))
	o.err = errors.Join(err, readErr, ctx.Err())
	return o
}
