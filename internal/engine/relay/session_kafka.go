package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"math"
	"sync"
	"time"

	"midspan/internal/kafka"
)

// kafkaBuffer is what a flow of mode kafka reads and writes at once, in bytes: four
// records of TLS.
const kafkaBuffer = 64 << 10

// fullRecord is what a read gives at least that has met a record of TLS of a peer
// that fills them (2^14 bytes, RFC 8446, section 5.1). Another one is likely to be
// there; what is shorter goes on at once.
const fullRecord = 8 << 10

// kafkaBuffers are for flows that move; one that waits has none.
var kafkaBuffers = sync.Pool{New: func() any { return new([kafkaBuffer]byte) }}

// kafkaFlows are the flows of a session of mode kafka. Requests go up, answers down,
// and what package kafka says of them decides what is sent.
type kafkaFlows struct {
	s        *session
	conn     *kafka.Conn
	up, down kafkaFlow
	room     chan struct{} // a token: an answer has passed, so there may be room for requests
	downOver chan struct{} // closed when no more answers come
}

// kafkaFlow is one of them. buf[r:w] is what has been read and not been understood.
type kafkaFlow struct {
	k        *kafkaFlows
	to, from *leg
	isUp     bool

	mu   sync.Mutex // guards what follows; free while the flow waits for input
	over bool
	buf  []byte             // nil: nothing is in hand
	pool *[kafkaBuffer]byte // what buf is of; nil: it has memory of its own
	r, w int
	sent int // what is between here and r has been understood, and is about to be sent
	// charged is what of a large buf is counted on Engine.held.
	charged int64
	need    int   // of what is in hand, before it is of use to ask about it
	pass    int64 // bytes to be passed on unread
}

// startKafka makes the flows between the client and a server.
func (s *session) startKafka(server *leg) *kafkaFlows {
	k := &kafkaFlows{s: s, conn: s.l.speakKafka(&s.p), room: make(chan struct{}, 1), downOver: make(chan struct{})}
	k.up = kafkaFlow{k: k, from: s.clients, to: server, isUp: true}
	k.down = kafkaFlow{k: k, from: server, to: s.clients}
	return k
}

// move is the flow until it ends (io.EOF) or fails, as the function move.
func (k *kafkaFlows) move(up bool) error {
	if up {
		return k.up.run()
	}
	defer close(k.downOver)
	return k.down.run()
}

func (f *kafkaFlow) run() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.drop()
	f.from.noWait = true
	for {
		err := f.fill()
		if e := f.forward(false); e != nil {
			return e
		}
		if err == errWait {
			f.rest()
			err = f.wait()
		}
		if err != nil {
			return err
		}
	}
}

// wait waits for input. Meanwhile the other flow may use this one, see ownAnswer.
func (f *kafkaFlow) wait() error {
	f.mu.Unlock()
	defer f.mu.Lock()
	return f.from.wait()
}

// fill reads what there is, as far as there is room for it.
func (f *kafkaFlow) fill() error {
	for {
		if err := f.makeRoom(); err != nil {
			return err
		}
		n, err := f.from.Read(f.buf[f.w:])
		if f.w += n; n > 0 {
			f.k.s.lastMove.Store(int64(f.k.s.now())) // though perhaps nothing goes out yet
		}
		if err != nil || n < fullRecord || f.w == len(f.buf) {
			return err
		}
	}
}

// makeRoom makes room to read into. A buffer that is full grows by what it has
// and not to what is asked for: a length is believed as far as its bytes come.
func (f *kafkaFlow) makeRoom() error {
	if f.charged > 0 && f.r == f.w {
		f.release() // what was long is over
	}
	have := f.buf[f.r:f.w]
	size := len(f.buf)
	switch {
	case f.w < size && size >= kafkaBuffer:
	case size < kafkaBuffer: // it has rested
		f.replace(kafkaBuffers.Get().(*[kafkaBuffer]byte)[:], have)
		f.pool = (*[kafkaBuffer]byte)(f.buf)
	case f.r > 0:
		f.w = copy(f.buf, have)
		f.sent, f.r = 0, 0
	case size > kafka.MaxBuffered:
		panic("more of Kafka's is held than package kafka asks for")
	default:
		held := &f.k.s.l.e.held
		if held.Add(int64(2*size)) > maxHeld {
			held.Add(int64(-2 * size))
			return errHeld
		}
		f.replace(make([]byte, 2*size), have)
		f.charged = int64(2 * size)
	}
	return nil
}

// errHeld ends a connection that would make us hold more than maxHeld.
var errHeld = errors.New("too much is held of answers with addresses")

// replace makes b the buffer, with what is in hand.
func (f *kafkaFlow) replace(b, have []byte) {
	w := copy(b, have)
	f.release()
	f.buf, f.w = b, w
}

// release gives the buffer back.
func (f *kafkaFlow) release() {
	if f.pool != nil {
		kafkaBuffers.Put(f.pool)
	}
	f.k.s.l.e.held.Add(-f.charged)
	f.buf, f.pool, f.sent, f.r, f.w, f.charged = nil, nil, 0, 0, 0, 0
}

// rest makes the flow hold no more than what is in hand, nothing as a rule, or twice
// that: what comes in small pieces is not worth memory of its own for each.
func (f *kafkaFlow) rest() {
	if f.r == f.w {
		f.release()
	} else if f.pool != nil && f.w-f.r <= kafkaBuffer/2 {
		f.replace(make([]byte, f.w-f.r), f.buf[f.r:f.w])
	}
}

// drop ends the flow.
func (f *kafkaFlow) drop() {
	f.over = true
	f.release()
}

// forward passes on what is in hand, as far as it goes. With due, there is
// something to be asked for even if nothing is in hand.
func (f *kafkaFlow) forward(due bool) error {
	err := f.understand(due)
	if e := f.flush(); e != nil {
		return e
	}
	return err
}

func (f *kafkaFlow) understand(due bool) error {
	for {
		have := f.buf[f.r:f.w]
		if n := int(min(f.pass, int64(len(have)))); n > 0 {
			f.r += n
			f.pass -= int64(n)
			due = f.pass == 0
			continue
		}
		if f.pass > 0 || !due && (len(have) == 0 || len(have) < f.need) {
			return nil
		}
		step, err := f.ask(have)
		if err != nil {
			return err
		}
		if due, err = f.take(have, step); err != nil {
			return err
		}
		if !due && step.Take == 0 && len(step.Send) == 0 && step.Pass == 0 {
			return nil
		}
	}
}

func (f *kafkaFlow) ask(have []byte) (kafka.Step, error) {
	if f.isUp {
		return f.k.conn.Requests(have)
	}
	return f.k.conn.Responses(have)
}

// take does what step says, and tells whether there is to be another at once.
func (f *kafkaFlow) take(have []byte, step kafka.Step) (due bool, err error) {
	f.need, f.pass = step.Need, step.Pass
	if len(step.Send) != step.Take || !begins(have, step.Send) { // else it goes with what follows
		if err := f.flush(); err != nil {
			return false, err
		}
		if err := f.send(step.Send); err != nil {
			return false, err
		}
		f.sent = f.r + step.Take
	}
	f.r += step.Take
	if !f.isUp {
		f.k.answered()
		return step.Own, nil
	}
	if !step.Own && !step.Full {
		return false, nil
	}
	if err := f.flush(); err != nil { // before anything that may wait
		return false, err
	}
	if step.Own {
		if err := f.k.ownAnswer(); err != nil {
			return false, err
		}
	}
	if step.Full {
		return true, f.awaitRoom()
	}
	return false, nil
}

// flush sends what goes as it came: buf[sent:r].
func (f *kafkaFlow) flush() error {
	err := f.send(f.buf[f.sent:f.r])
	if f.sent = f.r; f.r == f.w {
		f.sent, f.r, f.w = 0, 0, 0
	}
	return err
}

func (f *kafkaFlow) send(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if _, err := f.to.Write(b); err != nil {
		return writeError{err}
	}
	f.k.s.moved(f.isUp, len(b))
	return nil
}

// answered follows on each look at answers, once what it gave has gone. It tells the
// flow of requests that there may be room.
func (k *kafkaFlows) answered() {
	k.conn.Sent()
	k.s.l.countRewritten(&k.s.p)
	select {
	case k.room <- struct{}{}:
	default:
	}
}

// ownAnswer sends an answer that is not the server's. It must not wait for what
// the server says next: so it is the flow of requests that asks for it, unless an
// answer of the server's is half gone; the other flow asks when that is whole.
func (k *kafkaFlows) ownAnswer() error {
	d := &k.down
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over || d.pass > 0 {
		return nil
	}
	err := d.forward(true)
	if failed := (writeError{}); errors.As(err, &failed) {
		return failed.error // of the client, from which the flow that asks reads
	}
	return err
}

// awaitRoom waits until the server has answered one of the requests that are under
// way. Nothing is read meanwhile: a client that is gone is found by looking.
func (f *kafkaFlow) awaitRoom() error {
	watch := time.NewTicker(watchDialing)
	defer watch.Stop()
	for {
		select {
		case <-f.k.room:
			return nil
		case <-f.k.downOver: // what is sent now is never answered: it need not be understood
			f.pass = math.MaxInt64
			return nil
		case <-watch.C:
			if e := f.from.lost(); e != 0 {
				return e
			}
		}
	}
}

// breakOff ends the session because of what the client sent, or the server, or
// because it would cost too much to go on.
func (s *session) breakOff(err error) {
	why := noResources
	var broken *kafka.Error
	switch {
	case errors.As(err, &broken) && broken.Broker:
		why = badResponse
	case errors.As(err, &broken):
		why = badRequest
	}
	s.close(why, err.Error())
	s.end(why)
}

// isPlainKafka tells whether a client's TLS handshake failed because of a request of
// Kafka's: the four bytes of its length, of which the first one is below 64 KiB, and
// the first of its API key, which are below 256.
func isPlainKafka(err error) bool {
	var record tls.RecordHeaderError
	return errors.As(err, &record) && bytes.Equal(record.RecordHeader[:2], []byte{0, 0}) && record.RecordHeader[4] == 0
}
