package lab

import (
	"os"
	"testing"
	"time"
)

func TestParseBusy(t *testing.T) {
	const stat = "cpu  100 20 300 4000 500 6 70 800 90 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n"
	if got, err := parseBusy(stat); err != nil || got != 4960*time.Millisecond {
		t.Errorf("got %s, %v; want 4.96s: user 100, nice 20, system 300, irq 6 and softirq 70", got, err)
	}
	for _, bad := range []string{"", "cpu0 1 2 3 4 5 6 7 8\n", "cpu 1 2 3\n", "cpu 1 2 3 4 5 x 7 8\n"} {
		if got, err := parseBusy(bad); err == nil {
			t.Errorf("%q gives %s without an error", bad, got)
		}
	}
}

func TestParseParent(t *testing.T) {
	for text, want := range map[string][2]int{
		"12 (nginx) S 3 12 12 0":           {12, 3},
		"7 (odd ) (name) 9) R 5 7 7":       {7, 5},
		"8 (two words) S 1 8 8 0 -1 419 1": {8, 1},
	} {
		pid, parent, ok := parseParent([]byte(text))
		if got := [2]int{pid, parent}; !ok || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, ok, want)
		}
	}
	for _, bad := range []string{"", "12", "12 (x)", "x (y) S 1"} {
		if _, _, ok := parseParent([]byte(bad)); ok {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestParseSchedstat(t *testing.T) {
	if got, err := parseSchedstat([]byte("1500000000 20 3\n")); err != nil || got != 1500*time.Millisecond {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := parseSchedstat([]byte("\n")); err == nil {
		t.Error("an empty file is taken")
	}
}

// TestProc: this machine's /proc is as it is expected.
func TestProc(t *testing.T) {
	for name, f := range map[string]func() (int64, error){"Slab": Slab, "Memory": Memory} {
		if n, err := f(); err != nil || n <= 0 {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
	if _, err := kibibytes("/proc/meminfo", "Nothing:"); err == nil {
		t.Error("a key that is not there is found")
	}
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	if pid, parent, ok := parseParent(stat); !ok || pid != os.Getpid() || parent != os.Getppid() {
		t.Errorf("process %d of %d, %v", pid, parent, ok)
	}
}

func TestParseSNMP(t *testing.T) {
	const text = "Ip: Forwarding DefaultTTL\nIp: 1 64\nTcp: RtoMin InErrs OutRsts InCsumErrors\nTcp: 200 0 7 0\nUdp: OutRsts\nUdp: 9\n"
	if n, err := parseSNMP(text, "Tcp", "OutRsts"); err != nil || n != 7 {
		t.Errorf("%d, %v", n, err)
	}
	for _, bad := range []string{"", "Tcp: RtoMin\nTcp: 200\n", "Tcp: RtoMin OutRsts\nTcp: 200\n", "Tcp: OutRsts\nTcp: x\n"} {
		if n, err := parseSNMP(bad, "Tcp", "OutRsts"); err == nil {
			t.Errorf("%q gives %d without an error", bad, n)
		}
	}
}
