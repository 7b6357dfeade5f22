package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"midspan/bench/lab"
	"midspan/bench/peer"
	"midspan/bench/result"
)

// describe is what the results say of the run itself.
func (r *runner) describe() (*result.Results, error) {
	res := &result.Results{
		Schema: result.Schema, Started: time.Now().UTC().Truncate(time.Second),
		Setup: result.Setup{Rounds: r.rounds, Seconds: r.window.Seconds(), Layout: layout(), Quick: r.quick},
	}
	var err error
	if res.Machine, err = machine(); err != nil {
		return nil, err
	}
	if len(r.left) > 0 {
		res.Machine.Note = "not installed, so left out: " + strings.Join(r.left, ", ")
	}
	for _, p := range r.peers {
		version, err := p.Version()
		if err != nil {
			return nil, err
		}
		ours := p.Kind == peer.Midspan || p.Name == result.MidspanNFT
		if ours && (res.Midspan == "" || p.Name == result.Midspan) {
			res.Midspan = strings.TrimPrefix(version, "midspan ")
		}
		res.Peers = append(res.Peers, result.Peer{
			Name: p.Name, Title: p.Title, Version: version, Config: r.config(p), Kind: kinds[p.Kind], Family: p.Family, Best: p.Best,
		})
	}
	for _, w := range r.workloads {
		res.Workloads = append(res.Workloads, w.Workload)
	}
	return res, nil
}

// config is what p ran with, in each mode.
func (r *runner) config(p *peer.Peer) string {
	var text strings.Builder
	done := map[peer.Mode]bool{}
	for _, w := range r.workloads {
		if done[w.mode] || w.skips(p, r.allPeers) {
			continue
		}
		if done[w.mode] = true; w.mode != peer.ModeTCP && p.Kind != peer.None {
			fmt.Fprintf(&text, "\n# %s:\n", w.mode)
		}
		text.WriteString(p.Config(oneOf(w.mode), r.limits))
	}
	return strings.TrimPrefix(text.String(), "\n")
}

var kinds = map[peer.Kind]result.Kind{
	peer.None: result.KindNone, peer.Kernel: result.KindKernel, peer.Proxy: result.KindProxy, peer.Midspan: result.KindMidspan,
}

func layout() string {
	text := lab.Layout
	for _, s := range lab.Sysctls {
		text += fmt.Sprintf("; %s=%s", s.Name, s.Value)
	}
	return text
}

// machine asks the kernel, within a lab.
func machine() (result.Machine, error) {
	m := result.Machine{CPU: cpu(), Cores: runtime.NumCPU(), OS: osName(), Virtual: virtual()}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return m, err
	}
	m.Kernel = unix.ByteSliceToString(uts.Release[:])
	var err error
	if m.MemoryBytes, err = lab.Memory(); err != nil {
		return m, err
	}
	l, err := lab.New(false)
	if err != nil {
		return m, err
	}
	if m.CongestionControl, err = l.CongestionControl(); err != nil {
		return m, err
	}
	return m, l.Close()
}

func cpu() string {
	if name := value("/proc/cpuinfo", "model name", ":"); name != "" {
		return name
	}
	return runtime.GOARCH
}

func osName() string { return strings.Trim(value("/etc/os-release", "PRETTY_NAME", "="), `"`) }

// virtual is the hypervisor's name, if systemd knows it.
func virtual() string {
	out, err := exec.Command("systemd-detect-virt", "--vm").Output() // exits with 1 for "none"
	if name := strings.TrimSpace(string(out)); err == nil && name != "none" {
		return name
	}
	return ""
}

// value is what a file has for a key; "" when it has not.
func value(file, key, separator string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if name, v, ok := strings.Cut(lines.Text(), separator); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
