package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"midspan/internal/engine"
)

const (
	keyProduce     = 0
	keyFetch       = 1
	keyMetadata    = 3
	keyAPIVersions = 18
)

// encode is a body of an answer, with the tags of a flexible header.
func encode(r kmsg.Response) []byte {
	var b []byte
	if r.IsFlexible() && r.Key() != keyAPIVersions {
		b = append(b, 0)
	}
	return r.AppendTo(b)
}

// fetched is an answer to Fetch of one partition with n bytes of records.
func fetched(version int16, n int) []byte {
	part := kmsg.NewFetchResponseTopicPartition()
	part.RecordBatches = bytes.Repeat([]byte("r"), n)
	topic := kmsg.NewFetchResponseTopic()
	topic.Topic, topic.Partitions = "t", append(topic.Partitions, part)
	r := kmsg.NewPtrFetchResponse()
	r.Version, r.Topics = version, append(r.Topics, topic)
	return encode(r)
}

// kafkaTalk is what a client sends, what the broker sends to that, and what the
// client is to get.
func kafkaTalk(port int) (sent, answered, got []byte) {
	add := func(key, version int16, id int32, body, answer, changed []byte) {
		sent = append(sent, kafkaRequest(key, version, id, body)...)
		if answer != nil {
			answered = append(answered, kafkaAnswer(id, answer)...)
			got = append(got, kafkaAnswer(id, changed)...)
		}
	}
	add(plainAPI, 0, 1, []byte("first"), []byte("one"), []byte("one"))
	add(keyMetadata, 1, 2, []byte{0xff, 0xff, 0xff, 0xff}, metadata1(3, "broker3.internal", 9092, nil), metadata1(3, stageHost, int32(port+1+3), nil))
	add(keyProduce, 2, 3, []byte{0, 0, 0, 0, 0, 1, 0, 0, 0, 0}, nil, nil) // acks 0
	add(plainAPI, 0, 4, bytes.Repeat([]byte("x"), 40), bytes.Repeat([]byte("y"), 40), bytes.Repeat([]byte("y"), 40))
	return sent, answered, got
}

// TestKafkaSplits: the frames come out the same wherever the streams are cut, either
// way, and also byte by byte.
func TestKafkaSplits(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", ln.Addr()), "")
	sent, answered, want := kafkaTalk(s.port)
	run := func(name string, up, down func(net.Conn, []byte) error) {
		c := s.connect(-1)
		b, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		defer c.Close()
		if err := b.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for _, x := range []struct {
			from, to   net.Conn
			send, want []byte
			how        func(net.Conn, []byte) error
		}{{c, b, sent, sent, up}, {b, c, answered, want, down}} {
			got := make([]byte, len(x.want))
			done := make(chan error, 1)
			go func() { done <- x.how(x.from, x.send) }()
			if _, err := io.ReadFull(x.to, got); err != nil || !bytes.Equal(got, x.want) {
				t.Fatalf("%s: %v\n%q, want\n%q", name, err, got, x.want)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	}
	at := func(n int) func(net.Conn, []byte) error {
		return func(c net.Conn, b []byte) error {
			for _, part := range [][]byte{b[:n], b[n:]} {
				if _, err := c.Write(part); err != nil {
					return err
				}
				time.Sleep(500 * time.Microsecond)
			}
			return nil
		}
	}
	for n := range len(sent) {
		run(fmt.Sprintf("cut at %d", n), at(n), at(min(n, len(answered))))
	}
	bytewise := func(c net.Conn, b []byte) error {
		for i := range b {
			if _, err := c.Write(b[i : i+1]); err != nil {
				return err
			}
			time.Sleep(100 * time.Microsecond)
		}
		return nil
	}
	run("byte by byte", bytewise, bytewise)
	st := s.Status().Routes[0].Kafka
	if n := uint64(len(sent) + 1); st.Rewritten != n || st.Requests[0] != (engine.APICount{Key: keyProduce, Version: 2, Count: n}) ||
		st.Requests[2] != (engine.APICount{Key: plainAPI, Version: 0, Count: 2 * n}) {
		t.Errorf("the status is %+v", st)
	}
}

// TestKafkaLargeFetch: the records of large answers do not go through user space,
// in answers that are looked into as in others; small frames go at once.
func TestKafkaLargeFetch(t *testing.T) {
	for _, version := range []int16{4, 17} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			b := newKafkaBroker(t, "b")
			big := fetched(version, 1<<20)
			b.reply(func(key, _ int16, id int32, body []byte) []byte {
				if key == keyFetch {
					return kafkaAnswer(id, big)
				}
				return kafkaAnswer(id, body)
			})
			s := newKafkaStage(t, 1, fmt.Sprintf("%q", b.Addr()), "")
			c := s.connect(-1)
			fetch := func(n int) {
				for i := range n {
					if _, err := c.Write(kafkaRequest(keyFetch, version, int32(i), make([]byte, 40))); err != nil {
						t.Fatal(err)
					}
					frame, err := readKafka(c)
					if err != nil || !bytes.Equal(frame[4:], big) {
						t.Fatalf("answer %d: %d bytes, %v; want the %d that the broker has sent", i, len(frame), err, len(big)+4)
					}
				}
			}
			fetch(1)
			spliced, copied := s.moved()
			fetch(64)
			spliced2, copied2 := s.moved()
			spliced, copied = spliced2-spliced, copied2-copied
			if all := uint64(64 * (len(big) + 8 + 54)); spliced+copied != all || copied*100 > all {
				t.Errorf("of %d bytes %d were spliced and %d copied", all, spliced, copied)
			}
			for range 100 {
				s.mustAnswer(c, "")
			}
			if n := len(s.loops[0].pipes); n > keepPipes {
				t.Errorf("%d pipes are kept", n)
			}
		})
	}
}

// moved are the bytes that the only loop has read.
func (s *kafkaStage) moved() (spliced, copied uint64) {
	l := s.loops[0]
	l.call(func() { spliced, copied = l.spliced, l.copied })
	return spliced, copied
}

// TestKafkaSizes: frames of sizes about those of the buffers come through, alone
// and many at a time, both ways.
func TestKafkaSizes(t *testing.T) {
	b := newKafkaBroker(t, "")
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", b.Addr()), "")
	c := s.connect(-1)
	sizes := []int{0, 1, peekSize - 14, peekSize, enterSplice - 14, enterSplice, enterSplice + 1, bufferSize - 15, bufferSize - 14, bufferSize - 8, bufferSize, 3*bufferSize + 1, 2 << 20, 10}
	var sent []byte
	for i := range 200 {
		sent = append(sent, kafkaRequest(plainAPI, 0, int32(i), bytes.Repeat([]byte{byte(i)}, sizes[i%len(sizes)]))...)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		done <- err
	}()
	for i := range 200 {
		frame, err := readKafka(c)
		if err != nil {
			t.Fatal(err)
		}
		if id, want := binary.BigEndian.Uint32(frame), bytes.Repeat([]byte{byte(i)}, sizes[i%len(sizes)]); int(id) != i || !bytes.Equal(frame[4:], want) {
			t.Fatalf("answer %d is to %d and has %d bytes, want %d", i, id, len(frame)-4, len(want))
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestKafkaLargeMetadata: an answer that has to be held before it can be rewritten
// comes through whole, to a client that reads slowly too, and nothing stays held.
func TestKafkaLargeMetadata(t *testing.T) {
	b := newKafkaBroker(t, "b")
	r := kmsg.NewPtrMetadataResponse()
	r.Version = 9
	topic := kmsg.NewMetadataResponseTopic()
	topic.Topic = kmsg.StringPtr(strings.Repeat("t", 200))
	for range 20000 {
		r.Topics = append(r.Topics, topic)
	}
	for i := range int32(12) { // the last have no ports
		broker := kmsg.NewMetadataResponseBroker()
		broker.NodeID, broker.Host, broker.Port = i, fmt.Sprintf("broker%d.internal", i), 9092
		r.Brokers = append(r.Brokers, broker)
	}
	b.reply(func(_, _ int16, id int32, _ []byte) []byte { return kafkaAnswer(id, encode(r)) })
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", b.Addr()), "")
	c := s.connect(-1)
	if err := c.SetReadBuffer(16 << 10); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := c.Write(kafkaRequest(keyMetadata, 9, int32(i), []byte{0, 0, 0, 0, 0})); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		frame, err := readKafka(c)
		if err != nil {
			t.Fatal(err)
		}
		got := kmsg.NewPtrMetadataResponse()
		got.Version = 9
		if err := got.ReadFrom(frame[5:]); err != nil {
			t.Fatal(err)
		}
		if len(got.Topics) != 20000 || len(got.Brokers) != stageNodes {
			t.Fatalf("%d topics, %d brokers", len(got.Topics), len(got.Brokers))
		}
		for i, x := range got.Brokers {
			if x.NodeID != int32(i) || x.Host != stageHost || int(x.Port) != s.port+1+i {
				t.Errorf("node %d is told to be at %s:%d", x.NodeID, x.Host, x.Port)
			}
		}
	}
	eventually(t, "nothing is counted as held", func() bool { return s.held.Load() == 0 })
	if st := s.Status().Routes[0].Kafka; st.Rewritten != 3 || st.Dropped != 12 {
		t.Errorf("%d answers rewritten, %d nodes dropped; want 3, 12", st.Rewritten, st.Dropped)
	}
	if n := s.said("has no port"); n != 1 {
		t.Errorf("the log says %d times that a node has no port", n)
	}
}

// TestKafkaHeldBound: the connection whose answer would make too much be held in
// all is reset, and no other.
func TestKafkaHeldBound(t *testing.T) {
	b := newKafkaBroker(t, "b")
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", b.Addr()), "")
	other := s.connect(-1)
	s.mustAnswer(other, "b")
	r := kmsg.NewPtrFindCoordinatorResponse()
	r.Version = 4
	r.Coordinators = make([]kmsg.FindCoordinatorResponseCoordinator, 20000)
	b.reply(func(key, _ int16, id int32, body []byte) []byte {
		if key == 10 {
			return kafkaAnswer(id, encode(r))
		}
		return kafkaAnswer(id, append([]byte("b"), body...))
	})
	s.held.Store(maxHeld - 1)
	c := s.connect(-1)
	if _, err := c.Write(kafkaRequest(10, 4, 1, make([]byte, 10))); err != nil {
		t.Fatal(err)
	}
	s.mustBeReset(c)
	s.end(engine.NoResources, 1)
	s.mustAnswer(other, "b")
	s.held.Store(0)
	c = s.connect(-1)
	if _, err := c.Write(kafkaRequest(10, 4, 1, make([]byte, 10))); err != nil {
		t.Fatal(err)
	}
	if frame, err := readKafka(c); err != nil || !bytes.Equal(frame[4:], encode(r)) {
		t.Errorf("%d bytes, %v", len(frame), err)
	}
}

// TestKafkaOwnAnswer: an answer of midspan's own (to ApiVersions in a version of the
// future) comes in its turn, and the broker has not seen the question.
func TestKafkaOwnAnswer(t *testing.T) {
	b := newKafkaBroker(t, "b")
	keys := make(chan int16, 10)
	b.reply(func(key, _ int16, id int32, body []byte) []byte {
		keys <- key
		time.Sleep(20 * time.Millisecond)
		return kafkaAnswer(id, body)
	})
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", b.Addr()), "")
	c := s.connect(-1)
	sent := append(kafkaRequest(plainAPI, 0, 1, []byte("one")), kafkaRequest(keyAPIVersions, 99, 2, nil)...)
	if _, err := c.Write(append(sent, kafkaRequest(plainAPI, 0, 3, []byte("three"))...)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for id := range int32(3) {
		frame, err := readKafka(c)
		if err != nil || int32(binary.BigEndian.Uint32(frame)) != id+1 {
			t.Fatalf("answer %d: %q, %v", id+1, frame, err)
		}
		if id == 1 && binary.BigEndian.Uint16(frame[4:]) != 35 { // UNSUPPORTED_VERSION
			t.Errorf("the answer to ApiVersions is %q", frame)
		}
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the last answer: %v", err)
	}
	if a, b := <-keys, <-keys; a != plainAPI || b != plainAPI || len(keys) > 0 {
		t.Errorf("the broker was asked for %d, %d and %d more", a, b, len(keys))
	}
	s.end(engine.ClosedByClient, 1)
}
