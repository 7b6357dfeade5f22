package relay

import (
	"bytes"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"
)

// startKafkaChild starts an engine in a process of its own, with a route of mode
// kafka to a broker.
func startKafkaChild(t *testing.T) (pid int, addr string, tidy func() (objects, bytes float64)) {
	t.Helper()
	from, err := freePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(childSettings, fmt.Sprintf(", mode: kafka, check: off, advertise: {host: k, ports: %d-%d}", from, from+1))
	return startTidyChild(t, newKafkaBroker(t, "").Addr().String())
}

func askAt(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	askAgain(t, c, 1)
	return c
}

func askAgain(t *testing.T, c net.Conn, id int32) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(c, id, "?"); err != nil {
		t.Fatal(err)
	}
}

// TestKafkaIdleCost: what a connection of mode kafka holds that has exchanged
// something and rests.
func TestKafkaIdleCost(t *testing.T) {
	const n = 5000
	pid, addr, tidy := startKafkaChild(t)
	askAt(t, addr) // and keep it: its socket would be used again
	rss, fds := residentKiB(t, pid), openFDs(t, pid)
	objects, bytes := tidy()
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = askAt(t, addr)
	}
	moreObjects, moreBytes := tidy()
	each, size := (moreObjects-objects)/n, (moreBytes-bytes)/n
	perConn := float64(residentKiB(t, pid)-rss) / n
	if each > 5 || size > 1200 {
		t.Errorf("%.1f objects, %.0f bytes for each connection; want at most 5 and 1200", each, size)
	}
	if perConn >= 2 && !raceDetector { // which takes memory of its own
		t.Errorf("%.2f KiB of resident memory for each idle connection, want less than 2", perConn)
	}
	if got := openFDs(t, pid) - fds; got != 2*n {
		t.Errorf("%d descriptors for %d idle connections, want two each", got, n)
	}
	t.Logf("%.2f KiB, %.1f objects and %.0f bytes for each of %d idle connections", perConn, each, size, n)
	for _, c := range conns {
		askAgain(t, c, 2) // after the rest
	}
}

// TestKafkaFrameCost: frames leave nothing to the garbage collector.
func TestKafkaFrameCost(t *testing.T) {
	_, addr, tidy := startKafkaChild(t)
	c := askAt(t, addr)
	frames := func() {
		for range 1000 {
			askAgain(t, c, 2)
		}
	}
	frames()
	tidy()
	objects, _ := tidy()
	frames()
	more, _ := tidy()
	if more -= objects; more > 100 { // of the runtime's own
		t.Errorf("%.0f objects for 1,000 requests and answers, want none", more)
	}
}

// TestKafkaStalledReader: a client that does not read a large answer costs no more
// memory than a buffer, and its broker is not read.
func TestKafkaStalledReader(t *testing.T) {
	const n, size = 16, 32 << 20
	b := newKafkaBroker(t, "b")
	big := kafkaAnswer(1, bytes.Repeat([]byte("r"), size))
	b.reply(func(int16, int16, int32, []byte) []byte { return big })
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", b.Addr()), "")
	before := heapInUse()
	for range n {
		if _, err := s.connect(-1).Write(kafkaRequest(plainAPI, 0, 1, nil)); err != nil {
			t.Fatal(err)
		}
	}
	var moved uint64
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(300 * time.Millisecond) {
		last := moved
		if moved = s.Status().Routes[0].Counters.BytesDown; moved > 0 && moved == last {
			break
		}
	}
	if moved > n*size/2 {
		t.Errorf("%d bytes of %d went to clients that do not read", moved, n*size)
	}
	kib := float64(heapInUse()-before) / n / 1024
	if kib > 80 {
		t.Errorf("%.1f KiB of heap for each stalled connection, want at most 80", kib)
	}
	t.Logf("%.1f KiB of heap for each stalled connection", kib)
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
