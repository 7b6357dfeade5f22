package accesslog

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// diary is a slog output that tests may read while it is written.
type diary struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.Write(p)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.String()
}

// newWriter returns a Writer that is closed, without a goroutine left, when the
// test ends.
func newWriter(t *testing.T) (*Writer, *diary) {
	t.Helper()
	d := &diary{}
	w := New(slog.New(slog.NewTextHandler(d, nil)))
	w.patience = 300 * time.Millisecond
	t.Cleanup(func() {
		_ = w.Close() // tests that care call it themselves
		eventually(t, "no goroutine is left", func() bool {
			stacks := make([]byte, 1<<20)
			return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "accesslog.(*Writer).run")
		})
	})
	return w, d
}

func use(t *testing.T, w *Writer, p plan.Log) {
	t.Helper()
	if err := w.Use(p); err != nil {
		t.Fatal(err)
	}
}

func jsonTo(to string) plan.Log { return plan.Log{Format: plan.LogJSON, To: to, Start: true} }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

func record(id string) *engine.Record {
	return with(func(r *engine.Record) { r.ID = id })
}

func TestWritesWhatUseSays(t *testing.T) {
	for name, tt := range map[string]struct {
		log  plan.Log
		want int
	}{
		"json":                {plan.Log{Format: plan.LogJSON, Start: true}, 2},
		"json, no starts":     {plan.Log{Format: plan.LogJSON}, 1},
		"tcplog has no start": {plan.Log{Format: plan.LogTCP, Start: true}, 1},
		"off":                 {plan.Log{Format: plan.LogSilent, Start: true}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := newWriter(t)
			tt.log.To = filepath.Join(t.TempDir(), "log")
			w.Record(ended()) // before Use: nothing
			use(t, w, tt.log)
			w.Record(with(started))
			w.Record(ended())
			w.Record(with(func(r *engine.Record) { r.Reason = engine.Probe }))
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			b, _ := os.ReadFile(tt.log.To) // absent when off
			if got := bytes.Count(b, []byte("\n")); got != tt.want {
				t.Errorf("%d lines, want %d:\n%s", got, tt.want, b)
			}
			if w.Dropped() != 0 {
				t.Errorf("%d dropped", w.Dropped())
			}
		})
	}
}

func TestWrittenSoonAndAppended(t *testing.T) {
	w, _ := newWriter(t)
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	use(t, w, jsonTo(path))
	w.Record(ended())
	eventually(t, "a line without Close", func() bool { return len(lines(t, path)) == 2 })
}

func TestRotation(t *testing.T) {
	w, _ := newWriter(t)
	path := filepath.Join(t.TempDir(), "log")
	use(t, w, jsonTo(path))
	w.Record(record("before"))
	eventually(t, "first line", func() bool { return strings.Contains(strings.Join(lines(t, path), ""), "before") })
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	use(t, w, jsonTo(path))
	eventually(t, "the renamed file is let go", func() bool { return !isOpen(path + ".1") })
	w.Record(record("after"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, path); len(got) != 1 || !strings.Contains(got[0], `"after"`) {
		t.Errorf("new file: %q", got)
	}
	if got := lines(t, path+".1"); len(got) != 1 || !strings.Contains(got[0], `"before"`) {
		t.Errorf("old file: %q", got)
	}
	if isOpen(path) {
		t.Error("the file is still open after Close")
	}
}

func isOpen(path string) bool {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); to == path {
			return true
		}
	}
	return false
}

// Uses that follow each other at once must not leave the files in between open.
func TestManyUses(t *testing.T) {
	w, _ := newWriter(t)
	dir := t.TempDir()
	for i := range 200 {
		use(t, w, jsonTo(fmt.Sprintf("%s/%d", dir, i)))
	}
	w.Record(ended())
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, dir+"/199"); len(got) != 1 || got[0] == "" {
		t.Errorf("last file: %q", got)
	}
	for i := range 200 {
		if isOpen(fmt.Sprintf("%s/%d", dir, i)) {
			t.Errorf("file %d is open", i)
		}
	}
}

func TestUseThatFailsChangesNothing(t *testing.T) {
	w, _ := newWriter(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	use(t, w, jsonTo(path))
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]string{
		dir:                    "log: cannot write to " + dir + ": is a directory; set `log: { to: PATH }`",
		dir + "/absent/log":    "no such file or directory",
		fifo:                   "a pipe that nobody reads",
		dir + "/log/not/a/dir": "not a directory",
	} {
		if err := w.Use(jsonTo(to)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", to, err, want)
		}
	}
	w.Record(ended())
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if len(lines(t, path)) != 1 {
		t.Error("the first file is no longer written")
	}
	if err := w.Use(jsonTo(path)); err == nil {
		t.Error("Use after Close")
	}
}

// stuckPipe is a FIFO with a reader that does not read yet.
func stuckPipe(t *testing.T) (path string, reader *os.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	return path, reader
}

func TestBlockedPipeNeverBlocksRecord(t *testing.T) {
	w, d := newWriter(t)
	path, reader := stuckPipe(t)
	use(t, w, jsonTo(path))
	r := ended()
	var took []time.Duration
	for range 8 { // more than pipe and buffer hold
		start := time.Now()
		for range 10_000 {
			w.Record(r)
		}
		took = append(took, time.Since(start))
	}
	// The quickest of those that find it full, as the machine may have other things to
	// do; one that waits for the reader waits for ever.
	if slices.Min(took[4:]) > 50*time.Millisecond || slices.Max(took) > 20*time.Second {
		t.Errorf("10,000 records took %s", took)
	}
	if w.Dropped() == 0 {
		t.Error("nothing was dropped")
	}
	eventually(t, "the log says that it is blocked", func() bool { return strings.Contains(d.String(), "nobody reads it") })

	// Once it is read, every record is either there or counted.
	got := make(chan int)
	go func() {
		b, _ := io.ReadAll(reader)
		got <- bytes.Count(b, []byte("\n"))
	}()
	eventually(t, "recovered", func() bool { return strings.Contains(d.String(), "written again") })
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if n := <-got; n+int(w.Dropped()) != 80_000 {
		t.Errorf("%d read + %d dropped", n, w.Dropped())
	}
	if want := fmt.Sprintf("%d records lost", w.Dropped()); !strings.Contains(d.String(), want) {
		t.Errorf("want %q in:\n%s", want, d)
	}
}

func TestCloseIsBounded(t *testing.T) {
	w, _ := newWriter(t)
	path, _ := stuckPipe(t)
	use(t, w, jsonTo(path))
	for range 10_000 {
		w.Record(ended())
	}
	start := time.Now()
	err := w.Close()
	if took := time.Since(start); took > w.patience+20*time.Second {
		t.Errorf("took %s", took)
	}
	if err == nil || !strings.Contains(err.Error(), "could not be written") {
		t.Errorf("error: %v", err)
	}
	if n := w.Dropped(); n == 0 || n >= 10_000 {
		t.Errorf("%d dropped; some fit into the pipe, and some do not", n)
	}
}

// A reload gets away from a blocked pipe.
func TestUseLeavesABlockedPipe(t *testing.T) {
	w, _ := newWriter(t)
	pipe, _ := stuckPipe(t)
	use(t, w, jsonTo(pipe))
	for range 5000 {
		w.Record(ended())
	}
	time.Sleep(2 * flushEvery)
	path := filepath.Join(t.TempDir(), "log")
	use(t, w, jsonTo(path))
	w.Record(record("free"))
	eventually(t, "a line in the new file", func() bool { return strings.Contains(strings.Join(lines(t, path), ""), `"free"`) })
}

func TestDiskFull(t *testing.T) {
	w, d := newWriter(t)
	use(t, w, jsonTo("/dev/full"))
	w.Record(ended())
	eventually(t, "dropped", func() bool { return w.Dropped() == 1 })
	w.Record(ended())
	w.Record(ended())
	eventually(t, "dropped", func() bool { return w.Dropped() == 3 })
	path := filepath.Join(t.TempDir(), "log")
	use(t, w, jsonTo(path))
	w.Record(ended())
	eventually(t, "told", func() bool { return strings.Contains(d.String(), "written again; 3 records lost") })
	if n := strings.Count(d.String(), "no space left on device"); n != 1 {
		t.Errorf("said %d times:\n%s", n, d)
	}
}

// A line that the disk had no room for is finished before the next one.
func TestTornLine(t *testing.T) {
	w, _ := newWriter(t)
	path := filepath.Join(t.TempDir(), "log")
	use(t, w, jsonTo(path))
	f := &flusher{Writer: w, target: w.target.Load()}
	small := unix.Rlimit{Cur: 100, Max: unix.RLIM_INFINITY}
	withFileLimit(t, small, func() { f.write([]byte(strings.Repeat("x", 79) + "\n" + strings.Repeat("y", 79) + "\n")) })
	if w.Dropped() != 1 || !f.torn {
		t.Errorf("dropped %d, torn %v", w.Dropped(), f.torn)
	}
	f.write([]byte("z\n"))
	if got := lines(t, path); len(got) != 3 || got[2] != "z" || len(got[1]) != 20 {
		t.Errorf("%q", got)
	}
}

// withFileLimit bounds how large a file of this process may get.
func withFileLimit(t *testing.T, limit unix.Rlimit, do func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	limit.Max = old.Max
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
	}()
	do()
}

func TestConcurrentRecords(t *testing.T) {
	w, _ := newWriter(t)
	path := filepath.Join(t.TempDir(), "log")
	use(t, w, jsonTo(path))
	const threads, each = 8, 1000
	var wg sync.WaitGroup
	for i := range threads {
		wg.Go(func() {
			for j := range each {
				w.Record(record(fmt.Sprintf("%d-%d", i, j)))
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			if err := w.Use(jsonTo(path)); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, l := range lines(t, path) {
		seen[l] = true
	}
	if len(seen)+int(w.Dropped()) != threads*each {
		t.Errorf("%d different lines + %d dropped", len(seen), w.Dropped())
	}
}

// A daemon whose standard output is a pipe outlives the reader of that pipe,
// although Go ends a process that gets EPIPE there through package os.
func TestReaderOfStdoutGoes(t *testing.T) {
	if os.Getenv("ACCESSLOG_TEST_CHILD") != "" {
		w := New(slog.New(slog.NewTextHandler(os.Stderr, nil)))
		if err := w.Use(jsonTo("stdout")); err != nil {
			t.Fatal(err)
		}
		w.Record(ended())
		for w.Dropped() == 0 {
			time.Sleep(time.Millisecond)
		}
		fmt.Fprintln(os.Stderr, "alive, error of Close:", w.Close())
		os.Exit(0)
	}
	r, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer stdout.Close()
	var said bytes.Buffer
	c := exec.Command(os.Args[0], "-test.run=^TestReaderOfStdoutGoes$")
	c.Env = append(os.Environ(), "ACCESSLOG_TEST_CHILD=1")
	c.Stdout, c.Stderr = stdout, &said
	if err := c.Run(); err != nil {
		t.Errorf("%v:\n%s", err, &said)
	}
	for _, want := range []string{"broken pipe", "alive, error of Close: <nil>"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("want %q in:\n%s", want, &said)
		}
	}
}

// BenchmarkRecord is the whole way into a file, both goroutines together.
func BenchmarkRecord(b *testing.B) {
	w := New(nil)
	if err := w.Use(jsonTo(filepath.Join(b.TempDir(), "log"))); err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	r := ended()
	for n := 1; b.Loop(); n++ {
		w.Record(r)
		if n%(capacity/2) == 0 {
			for w.waits() > 0 {
				signal(w.urgent)
				runtime.Gosched()
			}
		}
	}
	if w.Dropped() > 0 {
		b.Errorf("%d dropped", w.Dropped())
	}
}

func (w *Writer) waits() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.buffer)
}
