package relay

import (
	"strconv"
	"sync/atomic"
	"time"

	"midspan/internal/engine"
)

// maxStatus is the last status there may be (RFC 9110, section 15).
const maxStatus = 599

// httpCounters count the requests of a route of mode http that came in by one
// loop; the sessions of that loop write them. The padding keeps two loops off the
// same cache line.
type httpCounters struct {
	byStatus [maxStatus + 1]atomic.Uint64 // at 0: not answered; at 1: what is no status
	waits    [len(engine.HTTPWaits) + 1]atomic.Uint64
	waited   atomic.Int64 // nanoseconds, in all
	_        [64]byte
}

// count counts a request that has ended. Wait is 0 if no server answered.
func (c *httpCounters) count(status int, wait time.Duration) {
	if status != 0 && (status < 100 || status > maxStatus) {
		status = 1
	}
	c.byStatus[status].Add(1)
	if wait <= 0 {
		return
	}
	i := 0
	for i < len(engine.HTTPWaits) && wait > engine.HTTPWaits[i] {
		i++
	}
	c.waits[i].Add(1)
	c.waited.Add(int64(wait))
}

// httpStatus adds up what the loops have counted; nil: the route has never been of
// mode http.
func httpStatus(all []httpCounters) *engine.HTTPStatus {
	if all == nil {
		return nil
	}
	s := &engine.HTTPStatus{Requests: map[string]uint64{}}
	for i := range all {
		c := &all[i]
		for status := range c.byStatus {
			if n := c.byStatus[status].Load(); n > 0 {
				s.Requests[statusName(status)] += n
			}
		}
		for j := range c.waits {
			s.Waits[j] += c.waits[j].Load()
		}
		s.Waited += time.Duration(c.waited.Load())
	}
	return s
}

func statusName(status int) string {
	switch status {
	case 0:
		return engine.NoStatus
	case 1:
		return engine.OtherStatus
	}
	return strconv.Itoa(status)
}
