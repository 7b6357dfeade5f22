package relay

import (
	"bytes"
	"testing"
)

// TestBufferSizes: what waits for a server or a reader takes the room that it
// needs, and not a whole read's; buffers of both kinds are used again.
func TestBufferSizes(t *testing.T) {
	l := &loop{}
	data := bytes.Repeat([]byte("0123456789abcdef"), bufferSize/16)
	for _, n := range []int{0, 1, 64, 700, smallBuffer - 1, smallBuffer, smallBuffer + 1, bufferSize} {
		b := l.buffer(data[:n])
		if !bytes.Equal(b.rest, data[:n]) {
			t.Errorf("of %d bytes %d are there", n, len(b.rest))
		}
		if n <= smallBuffer && cap(b.full) > smallBuffer {
			t.Errorf("%d bytes are held in %d", n, cap(b.full))
		}
		l.giveBuffer(b)
	}
	if n := testing.AllocsPerRun(100, func() {
		small, large := l.buffer(data[:64]), l.buffer(data)
		l.giveBuffer(large)
		l.giveBuffer(small)
	}); n > 0 {
		t.Errorf("%.0f objects are made for two buffers that were there", n)
	}
	for range 2 * keepSmall {
		l.giveBuffer(&buffer{})
		l.giveBuffer(&buffer{full: make([]byte, bufferSize)})
	}
	if len(l.small) != keepSmall || len(l.buffers) != keepBuffers {
		t.Errorf("%d and %d buffers are kept, want %d and %d", len(l.small), len(l.buffers), keepSmall, keepBuffers)
	}
}
