package enginetest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Kafka's protocol, as far as the cases need it, by the protocol guide
// (kafka.apache.org/protocol) and not by package kafka, which is under test.

// API keys.
const (
	apiProduce     = 0
	apiFetch       = 1
	apiMetadata    = 3
	apiCoordinator = 10
	apiHandshake   = 17
	apiVersions    = 18
)

// flexible tells whether a version of an API has tagged fields (KIP-482).
func flexible(key, version int16) bool {
	return key == apiMetadata && version >= 9
}

// message is what is being written.
type message []byte

func (m message) i16(v int16) message { return binary.BigEndian.AppendUint16(m, uint16(v)) }
func (m message) i32(v int32) message { return binary.BigEndian.AppendUint32(m, uint32(v)) }
func (m message) str(s string) message {
	return append(m.i16(int16(len(s))), s...)
}

// compact is a string of flexible versions, and of less than 127 bytes.
func (m message) compact(s string) message {
	return append(append(m, byte(len(s)+1)), s...)
}

// framed is m with its length before it.
func (m message) framed() []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(m))), m...)
}

// request is one, as the client sends it.
func request(key, version int16, id int32, body message) []byte {
	m := message{}.i16(key).i16(version).i32(id).str("enginetest")
	if flexible(key, version) {
		m = append(m, 0)
	}
	return append(m, body...).framed()
}

// metadataRequest asks for no topic.
func metadataRequest(version int16, id int32) []byte {
	if flexible(apiMetadata, version) {
		return request(apiMetadata, version, id, message{1, 0, 0, 0, 0})
	}
	return request(apiMetadata, version, id, message{}.i32(0))
}

// produceRequest is of version 3: without a transaction, acks, timeout, and
// something for records.
func produceRequest(id int32, acks int16, records string) []byte {
	return request(apiProduce, 3, id, append(message{}.i16(-1).i16(acks).i32(1000), records...))
}

// asked is a request that a broker has got.
type asked struct {
	key, version int16
	id           int32
	body         []byte
	whole        int // bytes of it with its length
}

// maxFrame is the longest frame that a broker takes, in bytes
// (socket.request.max.bytes).
const maxFrame = 100 << 20

// readFrame reads what has its length before it.
func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return nil, fmt.Errorf("a frame of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("in a frame of %d bytes: %w", n, err)
	}
	return b, nil
}

func readRequest(r io.Reader) (q asked, err error) {
	b, err := readFrame(r)
	if err != nil {
		return q, err
	}
	in := &reading{b: b}
	q = asked{key: in.i16(), version: in.i16(), id: in.i32(), whole: 4 + len(b)}
	in.str()
	if flexible(q.key, q.version) {
		in.take(1)
	}
	q.body = in.b
	return q, in.err
}

// reading is a message that is being read.
type reading struct {
	b   []byte
	err error
}

func (r *reading) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.err = errors.New("a message is too short")
		r.b = nil
		return make([]byte, max(n, 0, 8))
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reading) i16() int16      { return int16(binary.BigEndian.Uint16(r.take(2))) }
func (r *reading) i32() int32      { return int32(binary.BigEndian.Uint32(r.take(4))) }
func (r *reading) str() string     { return string(r.take(max(0, int(r.i16())))) }
func (r *reading) compact() string { return string(r.take(max(0, int(r.take(1)[0])-1))) }

// nodeAt is where a node is, or is said to be.
type nodeAt struct {
	id   int32
	host string
	port int32
}

func (p nodeAt) String() string { return fmt.Sprintf("%d at %s:%d", p.id, p.host, p.port) }

func inWords(all []nodeAt) string {
	words := make([]string, len(all))
	for i, p := range all {
		words[i] = p.String()
	}
	return strings.Join(words, ", ")
}

// metadata is the body of an answer that has nodes, a controller and no topic.
func metadata(version int16, nodes []nodeAt, controller int32) (m message) {
	if !flexible(apiMetadata, version) {
		m = m.i32(int32(len(nodes)))
		for _, n := range nodes {
			m = m.i32(n.id).str(n.host).i32(n.port).str("rack")
		}
		return m.i32(controller).i32(0)
	}
	m = append(message{0}.i32(0), byte(len(nodes)+1)) // tags of the header, throttle
	for _, n := range nodes {
		m = append(m.i32(n.id).compact(n.host).i32(n.port).compact("rack"), 0)
	}
	return append(m.compact("cluster").i32(controller), 1, 0x80, 0, 0, 0, 0) // no topic, operations, tags
}

// nodesIn are those of such an answer, and its controller; nothing else may be in it.
func nodesIn(version int16, body []byte) (nodes []nodeAt, controller int32, err error) {
	in := &reading{b: body}
	compact := flexible(apiMetadata, version)
	n := int32(0)
	if compact {
		in.take(5)
		n = int32(in.take(1)[0]) - 1
	} else {
		n = in.i32()
	}
	for range n {
		if in.err != nil {
			break
		}
		p := nodeAt{id: in.i32()}
		if compact {
			p.host, p.port = in.compact(), in.i32()
			in.compact()
			in.take(1)
		} else {
			p.host, p.port = in.str(), in.i32()
			in.str()
		}
		nodes = append(nodes, p)
	}
	if compact {
		in.compact()
	}
	controller = in.i32()
	rest := map[bool]int{true: 6, false: 4}[compact]
	if in.take(rest); in.err == nil && len(in.b) > 0 {
		in.err = fmt.Errorf("%d bytes behind the message", len(in.b))
	}
	return nodes, controller, in.err
}
