package load

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets that are at most 1/64 of their value
// wide.
type histogram struct {
	counts [64 * 40]uint64
	total  uint64
}

const fraction = 6 // bits of a value that tell its bucket, after the first

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(uint64(max(0, d)))]++
	h.total++
}

func bucket(v uint64) int {
	shift := max(0, bits.Len64(v)-fraction-1)
	return min(shift<<fraction+int(v>>shift), 64*40-1)
}

// middle is the middle of bucket i.
func middle(i int) time.Duration {
	if i < 2<<fraction {
		return time.Duration(i)
	}
	shift := i>>fraction - 1
	low := uint64(i-shift<<fraction) << shift
	return time.Duration(low + 1<<shift/2)
}

// quantile is the duration that a share q of all is not above; 0: there is none.
func (h *histogram) quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := uint64(q * float64(h.total-1))
	for i, n := range h.counts {
		if n > rank {
			return middle(i)
		}
		rank -= n
	}
	return 0
}
