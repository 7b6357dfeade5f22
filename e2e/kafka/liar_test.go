package kafka

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"

	"midspan/e2e/rig"
)

// A lie is what a broker sends in answer to a client that is called after it:
// something that is not what it says it is.
type lie struct {
	key  kmsg.Key // of the request that it answers
	says string   // midspan's log
	// answer makes what is sent of a whole answer, length and all.
	answer func(frame []byte) []byte
}

// Parts of a response: its length, its correlation ID, and in flexible versions an
// empty set of tags. Source: the Kafka protocol guide, "Request Header".
const (
	frameSize = 4
	frameHead = frameSize + 4 + 1
)

// sized writes another length over the frame's own.
func sized(size int) func([]byte) []byte {
	return func(frame []byte) []byte {
		binary.BigEndian.PutUint32(frame, uint32(size))
		return frame
	}
}

// cut keeps the first n bytes, and has the length say so.
func cut(n int) func([]byte) []byte {
	return func(frame []byte) []byte { return sized(n - frameSize)(frame[:n]) }
}

// patched writes other bytes over some.
func patched(at int, b ...byte) func([]byte) []byte {
	return func(frame []byte) []byte {
		copy(frame[at:], b)
		return frame
	}
}

// metadataBrokers is where Metadata's answer (version 12) has the number of its
// brokers: behind throttle_time_ms. metadataHost is the length of the first host:
// behind that number and the node's.
const (
	metadataBrokers = frameHead + 4
	metadataHost    = metadataBrokers + 1 + 4
)

// fetchRecords is where Fetch's answer (version 16) has the length of the first
// partition's records: behind throttle_time_ms, error_code and session_id, the
// number of topics, the ID of the first, the number of its partitions, index,
// error_code, high_watermark, last_stable_offset, log_start_offset, the number of
// aborted transactions, and preferred_read_replica.
const fetchRecords = frameHead + 4 + 2 + 4 + 1 + 16 + 1 + 4 + 2 + 8 + 8 + 8 + 1 + 4

// huge is 2^31-1 as an unsigned variable-length number; a length or a count is one
// less.
var huge = kbin.AppendUvarint(nil, 1<<31-1)

var lies = map[string]lie{
	"a negative length":              {kmsg.Metadata, "an answer of -1 bytes", sized(-1)},
	"a length of 2 GiB":              {kmsg.Metadata, "an answer of 2147483647 bytes", sized(1<<31 - 1)},
	"shorter than a head":            {kmsg.Metadata, "an answer of 3 bytes", cut(7)},
	"nothing behind the head":        {kmsg.Metadata, "a broken answer to Metadata", cut(frameHead)},
	"the end in a field":             {kmsg.Metadata, "a broken answer to Metadata", cut(metadataHost + 3)},
	"2 billion brokers":              {kmsg.Metadata, "a broken answer to Metadata", patched(metadataBrokers, huge...)},
	"a name of 2 GiB":                {kmsg.Metadata, "a broken answer to Metadata", patched(metadataHost, huge...)},
	"a length that does not end":     {kmsg.Metadata, "a broken answer to Metadata", patched(metadataHost, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)},
	"another's answer":               {kmsg.Metadata, "correlation id", patched(frameSize, 0x7f)},
	"an answer to nobody":            {kmsg.Metadata, "where no request waits for one", func(f []byte) []byte { return slices.Concat(f, f) }},
	"not Kafka":                      {kmsg.Metadata, "speaks HTTP", func([]byte) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") }},
	"TLS":                            {kmsg.Metadata, "speaks TLS", func([]byte) []byte { return []byte{0x15, 3, 3, 0, 2, 2, 22} }}, // an alert: record overflow
	"records beyond the answer":      {kmsg.Fetch, "a broken answer to Fetch", patched(fetchRecords, huge...)},
	"records of which the end lacks": {kmsg.Fetch, "a broken answer to Fetch", cut(fetchRecords + 100)},
	"2 billion topics":               {kmsg.Fetch, "a broken answer to Fetch", patched(frameHead+4+2+4, huge...)},
	"too large to hold": {kmsg.DescribeCluster, "would have to be held", func(f []byte) []byte {
		const size = 70 << 20
		return append(sized(size)(f), make([]byte, size+frameSize-len(f))...)
	}},
}

// liar is a broker that tells clients the truth but those that are called after a
// lie.
type liar struct {
	t    testing.TB
	addr *net.TCPAddr
}

func (l *liar) serve(c *net.TCPConn) {
	for {
		key, version, correlation, client, err := readRequest(c)
		if err != nil {
			return
		}
		answer := l.truth(key, version, correlation)
		if answer == nil {
			l.t.Errorf("the broker is asked for API %d, version %d", key, version)
			return
		}
		if lie, ok := lies[client]; ok && lie.key.Int16() == key {
			answer = lie.answer(answer)
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// readRequest reads one, and its head.
func readRequest(r io.Reader) (key, version int16, correlation int32, client string, err error) {
	frame, err := readFrame(r)
	if err != nil {
		return 0, 0, 0, "", err
	}
	b := kbin.Reader{Src: frame}
	key, version, correlation = b.Int16(), b.Int16(), b.Int32()
	if name := b.NullableString(); name != nil {
		client = *name
	}
	return key, version, correlation, client, b.Complete()
}

func readFrame(r io.Reader) ([]byte, error) {
	var size [frameSize]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(r, frame)
	return frame, err
}

// truth is a whole answer, nil to what nobody should ask.
func (l *liar) truth(key, version int16, correlation int32) []byte {
	var body kmsg.Response
	switch kmsg.Key(key) {
	case kmsg.ApiVersions:
		r := kmsg.NewPtrApiVersionsResponse()
		r.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: 1, MaxVersion: 16}, {ApiKey: 3, MaxVersion: 12}, {ApiKey: 18, MaxVersion: 3}, {ApiKey: 60, MaxVersion: 1}}
		body = r
	case kmsg.Metadata:
		r := kmsg.NewPtrMetadataResponse()
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = 1, l.addr.IP.String(), int32(l.addr.Port)
		r.Brokers = append(r.Brokers, b)
		body = r
	case kmsg.DescribeCluster:
		r := kmsg.NewPtrDescribeClusterResponse()
		r.Brokers = append(r.Brokers, kmsg.DescribeClusterResponseBroker{NodeID: 1, Host: l.addr.IP.String(), Port: int32(l.addr.Port)})
		body = r
	case kmsg.Fetch:
		body = someRecords()
	default:
		return nil
	}
	body.SetVersion(version)
	frame := binary.BigEndian.AppendUint32(make([]byte, frameSize), uint32(correlation))
	if body.IsFlexible() && key != kmsg.ApiVersions.Int16() {
		frame = append(frame, 0) // no tags
	}
	frame = body.AppendTo(frame)
	return sized(len(frame) - frameSize)(frame)
}

// someRecords is an answer that has a megabyte of them.
func someRecords() kmsg.Response {
	r, t, p := kmsg.NewPtrFetchResponse(), kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopicPartition()
	p.RecordBatches = rig.Bytes(1, 1<<20)
	t.Partitions = append(t.Partitions, p)
	r.Topics = append(r.Topics, t)
	return r
}

// lieTime bounds a request and its answer; where a connection is to be ended, that is
// to happen long before.
const lieTime = 40 * time.Second

// ask sends a request by the name of a client, and reads the answer's frame.
func ask(c net.Conn, client string, key kmsg.Key) ([]byte, error) {
	request := key.Request()
	request.SetVersion(map[kmsg.Key]int16{kmsg.Metadata: 12, kmsg.Fetch: 16, kmsg.DescribeCluster: 1}[key])
	if err := c.SetDeadline(time.Now().Add(lieTime)); err != nil {
		return nil, err
	}
	if _, err := c.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID(client)).AppendRequest(nil, request, 7)); err != nil {
		return nil, err
	}
	return readFrame(c)
}

// honest asks for what is answered well, and wants it so.
func honest(c net.Conn, advertised string) error {
	frame, err := ask(c, "honest", kmsg.Metadata)
	if err != nil {
		return err
	}
	r := kmsg.NewPtrMetadataResponse()
	r.SetVersion(12)
	if err := r.ReadFrom(frame[frameHead-frameSize:]); err != nil {
		return err
	}
	if len(r.Brokers) != 1 || fmt.Sprintf("%s:%d", r.Brokers[0].Host, r.Brokers[0].Port) != advertised {
		return fmt.Errorf("told of the brokers %+v, want %s", r.Brokers, advertised)
	}
	if frame, err = ask(c, "honest", kmsg.Fetch); err == nil && len(frame) < 1<<20 {
		err = fmt.Errorf("a fetch of %d bytes", len(frame))
	}
	return err
}
