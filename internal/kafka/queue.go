package kafka

// request is one that waits for its answer.
type request struct {
	correlation  int32
	key, version int16
	own          bool // the answer is ours, the broker has not seen the request
}

// queue has the requests under way, oldest first: a ring that grows with the need. The zero
// value is empty.
type queue struct {
	ring  []request // its length is a power of two
	first uint
	n     int
}

// Requests that the ring has room for: at first (Kafka's clients have 5 under way), and at most
// while the connection rests.
const (
	firstRing = 8
	keepRing  = 64
)

func (q *queue) len() int   { return q.n }
func (q *queue) full() bool { return q.n >= maxUnderWay }

// front is the request whose answer is next. There must be one.
func (q *queue) front() *request {
	return &q.ring[q.first&uint(len(q.ring)-1)]
}

func (q *queue) push(r request) {
	if q.n == len(q.ring) {
		ring := make([]request, max(firstRing, 2*len(q.ring)))
		for i := range q.n {
			ring[i] = q.ring[(q.first+uint(i))&uint(len(q.ring)-1)]
		}
		q.ring, q.first = ring, 0
	}
	q.ring[(q.first+uint(q.n))&uint(len(q.ring)-1)] = r
	q.n++
}

func (q *queue) pop() {
	q.first++
	if q.n--; q.n == 0 && len(q.ring) > keepRing {
		q.ring, q.first = nil, 0
	}
}
