package relay

import "time"

// timer asks for a look at pair (nil: at the paused listeners) at a time. A
// timer is never taken back: when it fires, the pair works out what is due. It
// is void when the pair has moved on to another generation.
type timer struct {
	at   time.Duration
	pair *pair
	gen  uint32
}

// timers is a binary heap, the earliest first.
type timers []timer

func (h timers) due(now time.Duration) bool { return len(h) > 0 && h[0].at <= now }

// until is epoll's timeout: milliseconds, rounded up, -1 for none.
func (h timers) until(now time.Duration) int {
	if len(h) == 0 {
		return -1
	}
	return int(max(0, h[0].at-now+time.Millisecond-1) / time.Millisecond)
}

func (h *timers) push(t timer) {
	*h = append(*h, t)
	s := *h
	for i := len(s) - 1; i > 0; {
		parent := (i - 1) / 2
		if s[parent].at <= s[i].at {
			return
		}
		s[parent], s[i] = s[i], s[parent]
		i = parent
	}
}

func (h *timers) pop() timer {
	s := *h
	top, last := s[0], len(s)-1
	s[0] = s[last]
	s[last] = timer{} // lets go of the pair
	s = s[:last]
	*h = s
	for i := 0; ; {
		least, left, right := i, 2*i+1, 2*i+2
		if left < last && s[left].at < s[least].at {
			least = left
		}
		if right < last && s[right].at < s[least].at {
			least = right
		}
		if least == i {
			return top
		}
		s[i], s[least] = s[least], s[i]
		i = least
	}
}
