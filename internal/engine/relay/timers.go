package relay

import (
	"container/heap"
	"time"
)

// timers are the pairs that want to be looked at, the earliest first. A pair is
// in it at most once, and is taken out when it ends: with long timeouts and
// short connections the heap would else hold the dead.
type timers []*pair

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].timer < h[j].timer }

func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].inTimers, h[j].inTimers = int32(i+1), int32(j+1)
}

// Push implements heap.Interface; use set.
func (h *timers) Push(x any) {
	p := x.(*pair)
	*h = append(*h, p)
	p.inTimers = int32(len(*h))
}

// Pop implements heap.Interface; use next.
func (h *timers) Pop() any {
	s := *h
	p := s[len(s)-1]
	s[len(s)-1] = nil
	*h = s[:len(s)-1]
	p.inTimers = 0
	return p
}

// set makes at the time of p's timer; 0: it has none.
func (h *timers) set(p *pair, at time.Duration) {
	switch {
	case at == 0 && p.inTimers > 0:
		heap.Remove(h, int(p.inTimers-1))
	case at == 0 || (p.inTimers > 0 && p.timer == at):
	case p.inTimers > 0:
		p.timer = at
		heap.Fix(h, int(p.inTimers-1))
	default:
		p.timer = at
		heap.Push(h, p)
	}
}

// next takes out the first pair whose time has come; nil: there is none.
func (h *timers) next(now time.Duration) *pair {
	if len(*h) == 0 || (*h)[0].timer > now {
		return nil
	}
	return heap.Pop(h).(*pair)
}

// first is when the first timer is due; 0: there is none.
func (h timers) first() time.Duration {
	if len(h) == 0 {
		return 0
	}
	return h[0].timer
}
