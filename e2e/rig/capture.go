package rig

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Capture is what tshark sees on an interface.
type Capture struct {
	t             testing.TB
	proc          *Proc
	program, file string
}

// StartCapture captures what goes through an interface of the test's own
// namespace, under a filter of libpcap's. It needs Isolate, as a capture is for
// who may do anything with the network.
func StartCapture(t testing.TB, link, filter string) *Capture {
	t.Helper()
	c := &Capture{t: t, program: Need(t, "tshark", "tshark"), file: filepath.Join(t.TempDir(), "capture.pcapng")}
	c.proc = Start(t, Spec{Program: c.program, Args: []string{"-i", link, "-w", c.file, "-f", filter}})
	Until(t, Patience, "tshark captures", func() bool {
		if !c.proc.Alive() {
			t.Fatalf("tshark has ended: %s", c.proc.Stderr())
		}
		// The file has a header from the moment on from which packets are taken.
		info, err := os.Stat(c.file)
		return err == nil && info.Size() > 0 && strings.Contains(c.proc.Stderr(), "Capturing on")
	})
	return c
}

// Await waits until so many packets pass a filter of tshark's, and returns a line
// for each, with the fields separated by tabs; of a field that comes more than
// once, the values are separated by commas.
func (c *Capture) Await(n int, filter string, fields ...string) []string {
	c.t.Helper()
	var lines []string
	Until(c.t, Patience, "the capture has packets: "+filter, func() bool {
		lines = c.read(filter, fields)
		return len(lines) >= n
	})
	return lines
}

func (c *Capture) read(filter string, fields []string) []string {
	args := []string{"-r", c.file, "-Y", filter, "-T", "fields"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	// A packet that is half written makes it fail, after those that are whole.
	out, err := exec.Command(c.program, args...).Output()
	if len(out) == 0 || err != nil && !strings.Contains(err.Error(), "exit status") {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}
