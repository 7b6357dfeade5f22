package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// family is the process and all its descendants.
func (p *Proc) family() []int {
	children := map[int][]int{}
	for _, file := range glob("/proc/[0-9]*/stat") {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		if pid, parent, ok := parseParent(text); ok {
			children[parent] = append(children[parent], pid)
		}
	}
	family := []int{p.cmd.Process.Pid}
	for i := 0; i < len(family); i++ {
		family = append(family, children[family[i]]...)
	}
	return family
}

func glob(pattern string) []string {
	files, err := filepath.Glob(pattern)
	if err != nil {
		panic(err) // the pattern is wrong
	}
	return files
}

// parseParent reads the process and its parent from /proc/PID/stat.
func parseParent(stat []byte) (pid, parent int, ok bool) {
	before, _, _ := bytes.Cut(stat, []byte(" ("))
	after := stat[bytes.LastIndexByte(stat, ')')+1:] // a name may have blanks and brackets
	fields := bytes.Fields(after)
	if len(fields) < 2 {
		return 0, 0, false
	}
	pid, err1 := strconv.Atoi(string(before))
	parent, err2 := strconv.Atoi(string(fields[1]))
	return pid, parent, err1 == nil && err2 == nil
}

// CPU is the processor time that the process and its descendants have used.
func (p *Proc) CPU() (time.Duration, error) {
	var sum time.Duration
	for _, pid := range p.family() {
		for _, file := range glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid)) {
			text, err := os.ReadFile(file)
			if err != nil {
				continue // the thread has ended meanwhile
			}
			d, err := parseSchedstat(text)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", file, err)
			}
			sum += d
		}
	}
	return sum, p.Err()
}

// parseSchedstat reads the time on a processor, the first of three numbers.
func parseSchedstat(text []byte) (time.Duration, error) {
	first, _, _ := strings.Cut(string(text), " ")
	ns, err := strconv.ParseInt(first, 10, 64)
	return time.Duration(ns), err
}

// Resident is the memory of the process and its descendants, in bytes.
func (p *Proc) Resident() (int64, error) {
	var sum int64
	for _, pid := range p.family() {
		kib, err := kibibytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Rss:")
		if err != nil {
			return 0, err
		}
		sum += kib << 10
	}
	return sum, p.Err()
}

// Slab is the memory of the kernel's objects, in bytes.
func Slab() (int64, error) {
	kib, err := kibibytes("/proc/meminfo", "Slab:")
	return kib << 10, err
}

// Memory is the machine's, in bytes.
func Memory() (int64, error) {
	kib, err := kibibytes("/proc/meminfo", "MemTotal:")
	return kib << 10, err
}

func kibibytes(file, key string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == key {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no line %s", file, key)
}

// Busy is the time that the machine's processors have worked, of all processes
// and of the kernel.
func Busy() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseBusy(string(text))
}

// parseBusy adds up user, nice, system, irq and softirq; idle, iowait and what
// the hypervisor took are no work, and guests are in user already.
func parseBusy(stat string) (time.Duration, error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	const tick = time.Second / 100 // USER_HZ, the same everywhere
	var sum time.Duration
	for _, i := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// Resets is how many segments with RST the namespace's TCP has sent.
func (n *Net) Resets() (sent int64, err error) {
	err = n.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		sent, err = parseSNMP(string(text), "Tcp", "OutRsts")
		return err
	})
	return sent, err
}

// parseSNMP reads a counter of a protocol, which has a line of names and one of
// values.
func parseSNMP(text, protocol, name string) (int64, error) {
	at := -1
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || fields[0] != protocol+":":
		case at < 0:
			at = slices.Index(fields, name)
		case at < len(fields):
			return strconv.ParseInt(fields[at], 10, 64)
		}
	}
	return 0, fmt.Errorf("no %s of %s in %q", name, protocol, text)
}
