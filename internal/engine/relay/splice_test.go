package relay

import "testing"

// TestFastPath: a stream that keeps moving goes through splice and not through
// user space; small messages go the other way.
func TestFastPath(t *testing.T) {
	l, addr := single(t, echoServer(t))
	counts := func() (spliced, copied uint64) {
		l.call(func() { spliced, copied = l.spliced, l.copied })
		return spliced, copied
	}

	const n = 64 << 20
	if err := bulkEcho(addr, n); err != nil {
		t.Fatal(err)
	}
	spliced, copied := counts()
	if spliced+copied != 2*n || spliced < 2*n*9/10 {
		t.Errorf("of %d bytes each way %d were spliced and %d copied", n, spliced, copied)
	}

	c := ping(t, addr)
	defer c.Close()
	for range 100 {
		if err := exchange(c); err != nil {
			t.Fatal(err)
		}
	}
	if s, c := counts(); s != spliced || c-copied != 2*101*64 {
		t.Errorf("of 101 pings of 64 bytes each way %d were spliced and %d copied", s-spliced, c-copied)
	}
	if len(l.pipes) > keepPipes {
		t.Errorf("%d pipes are kept", len(l.pipes))
	}
}

// TestFewDescriptors: when there are none left for pipes the bytes are copied.
func TestFewDescriptors(t *testing.T) {
	t.Setenv(childLimit, "300")
	_, addr := startChild(t, echoServer(t))
	done := make(chan error)
	for range 64 {
		go func() { done <- bulkEcho(addr, 4<<20) }()
	}
	for range 64 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
