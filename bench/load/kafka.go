package load

import (
	"context"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// ServeKafka is a broker of Kafka as far as a forwarder can tell: it answers
// Produce and Fetch requests of the versions below with frames that are whole, of
// zeros where records are.
func ServeKafka(ctx context.Context, addr string) error {
	return serve(ctx, addr, func(t *target) { t.kafka = true })
}

// API keys and versions, of Kafka's protocol guide: the oldest versions in which
// answers can name brokers, in a part behind all else (KIP-951).
const (
	keyProduce, versionProduce = 0, 10
	keyFetch, versionFetch     = 1, 16
)

// The parts of frames that have a fixed size.
const (
	kafkaSize    = 4  // of a frame's length
	kafkaHead    = 12 // length, API key, version, correlation id
	correlation  = 7  // of all requests: there is one at a time
	fetchRecords = 1 << 20
)

// ProduceKafka is a step that produces records of a size, in bytes.
func ProduceKafka(records int) Step {
	return Step{Send: int64(len(kafkaProduce(records))), Receive: int64(len(produced()))}
}

// FetchKafka is a step that fetches records of 1 MiB.
func FetchKafka() Step {
	head := fetched()
	return Step{Send: int64(len(kafkaFetch())), Receive: int64(len(head) + fetchRecords + fetchTail)}
}

// kafkaRequest is the request of a step.
func kafkaRequest(s Step) ([]byte, error) {
	if s == FetchKafka() {
		return kafkaFetch(), nil
	}
	// The length of the records is written in one to five bytes.
	for records := max(1, int(s.Send)-len(kafkaProduce(0))-4); records <= int(s.Send); records++ {
		if ProduceKafka(records) == s {
			return kafkaProduce(records), nil
		}
	}
	return nil, fmt.Errorf("a step of %d bytes up and %d down is none of Kafka's", s.Send, s.Receive)
}

// kafkaFrame begins a request.
func kafkaFrame(key, version uint16) []byte {
	b := make([]byte, kafkaSize)
	b = binary.BigEndian.AppendUint16(b, key)
	b = binary.BigEndian.AppendUint16(b, version)
	b = binary.BigEndian.AppendUint32(b, correlation)
	b = binary.BigEndian.AppendUint16(b, 0xffff) // client id: null
	return append(b, 0)                          // tagged fields of the header
}

// sized writes the length of a frame that more bytes follow.
func sized(b []byte, more int) []byte {
	binary.BigEndian.PutUint32(b, uint32(len(b)-kafkaSize+more))
	return b
}

func kafkaProduce(records int) []byte {
	b := kafkaFrame(keyProduce, versionProduce)
	b = append(b, 0)                                       // transactional id: null
	b = binary.BigEndian.AppendUint16(b, 0xffff)           // acks: all
	b = binary.BigEndian.AppendUint32(b, 30000)            // timeout, ms
	b = append(b, 2, 2, 't', 2)                            // one topic "t", of one partition
	b = binary.BigEndian.AppendUint32(b, 0)                // its index
	b = binary.AppendUvarint(b, uint64(records)+1)         // its records
	return sized(append(b, make([]byte, records+3)...), 0) // tagged fields of partition, topic, request
}

func produced() []byte {
	b := append(make([]byte, kafkaSize), 0, 0, 0, correlation, 0) // and the header's tagged fields
	b = append(b, 2, 2, 't', 2)                                   // as asked for
	b = append(b, make([]byte, 4+2+8+8+8)...)                     // index, error, base offset, append time, start offset
	b = append(b, 1, 0)                                           // no record errors, no message
	b = append(b, 0, 0)                                           // tagged fields of partition and topic
	return sized(append(b, make([]byte, 4+1)...), 0)              // throttle time, tagged fields
}

func kafkaFetch() []byte {
	b := kafkaFrame(keyFetch, versionFetch)
	b = binary.BigEndian.AppendUint32(b, 500)          // longest wait, ms
	b = binary.BigEndian.AppendUint32(b, 1)            // fewest bytes
	b = binary.BigEndian.AppendUint32(b, 50<<20)       // most bytes
	b = append(b, 0)                                   // isolation
	b = append(b, make([]byte, 4+4)...)                // session, epoch
	b = append(append(b, 2), make([]byte, 16)...)      // one topic, by id
	b = append(b, 2)                                   // of one partition
	b = append(b, make([]byte, 4+4+8+4+8)...)          // index, leader's epoch, offset, last epoch, start offset
	b = binary.BigEndian.AppendUint32(b, fetchRecords) // most bytes of it
	return sized(append(b, 0, 0, 1, 1, 0), 0)          // tags of partition and topic, nothing forgotten, no rack, tags
}

// fetchTail are the tagged fields of partition, topic and answer: none.
const fetchTail = 3

// fetched is an answer before its records.
func fetched() []byte {
	b := append(make([]byte, kafkaSize), 0, 0, 0, correlation, 0)
	b = append(b, make([]byte, 4+2+4)...)         // throttle time, error, session
	b = append(append(b, 2), make([]byte, 16)...) // as asked for
	b = append(b, 2)
	b = append(b, make([]byte, 4+2+8+8+8)...) // index, error, high watermark, last stable offset, start offset
	b = append(b, 0)                          // aborted transactions: null
	b = binary.BigEndian.AppendUint32(b, 0xffffffff)
	b = binary.AppendUvarint(b, fetchRecords+1)
	return sized(b, fetchRecords+fetchTail)
}

// kafkaRequest reads a request and begins its answer.
func (t *target) kafkaRequest(c *served) unix.Errno {
	n, e := read(c.fd, t.buffer)
	if e != 0 {
		return e
	}
	if n == 0 {
		return unix.EPIPE // the end
	}
	b := t.buffer[:n]
	for len(b) > 0 {
		if c.unread == 0 {
			m := copy(c.head[c.have:kafkaHead], b)
			c.have, b = c.have+m, b[m:]
			if c.have < kafkaHead {
				return 0
			}
			c.have = 0
			c.unread = int64(binary.BigEndian.Uint32(c.head[:])) + kafkaSize - kafkaHead
			if c.unread <= 0 || c.unread > 1<<26 {
				return unix.EPROTO
			}
		}
		m := min(int64(len(b)), c.unread)
		c.unread, b = c.unread-m, b[m:]
		if c.unread == 0 {
			if len(b) > 0 {
				return unix.EPROTO // the client does not wait for the answer
			}
			return t.kafkaBegin(c)
		}
	}
	return 0
}

func (t *target) kafkaBegin(c *served) unix.Errno {
	switch key, version := binary.BigEndian.Uint16(c.head[4:]), binary.BigEndian.Uint16(c.head[6:]); {
	case key == keyProduce && version == versionProduce:
		c.pending, c.unsent = produced(), int64(len(produced()))
	case key == keyFetch && version == versionFetch:
		c.pending, c.unsent = fetched(), FetchKafka().Receive
	default:
		return unix.EPROTO
	}
	copy(c.pending[kafkaSize:], c.head[8:kafkaHead]) // a forwarder may have its own
	return t.kafkaAnswer(c)
}

// kafkaAnswer writes what there is of the answer: its head, then zeros.
func (t *target) kafkaAnswer(c *served) unix.Errno {
	b := t.zeros
	if len(c.pending) > 0 {
		b = c.pending
	}
	b = b[:min(int64(len(b)), c.unsent)]
	n, e := write(c.fd, b)
	if e != 0 {
		return e
	}
	c.pending = c.pending[min(n, len(c.pending)):]
	c.unsent -= int64(n)
	return 0
}
