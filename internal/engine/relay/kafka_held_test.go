package relay

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"
)

// TestKafkaHeldInPlace: what is held of a large frame is not copied for each read
// of some bytes more, and not lost where it has to be.
func TestKafkaHeldInPlace(t *testing.T) {
	const size, reads = 32 << 20, 50
	l := &loop{e: &Engine{}}
	f := &brokerFlow{need: size}
	room := l.growInput(&pair{}, f)
	if len(room) != size {
		t.Fatalf("there is room for %d bytes", len(room))
	}
	f.in.rest = room[:size-1]
	copies := time.Now()
	other := make([]byte, size)
	for range reads / 10 {
		copy(other, room)
	}
	few, took := time.Since(copies), time.Hour
	for range 5 { // one of them without another process in between
		began := time.Now()
		for range reads {
			l.growInput(&pair{}, f)
		}
		took = min(took, time.Since(began))
	}
	if took > few {
		t.Errorf("%d reads take %s more, as long as %.1f copies", reads, took, float64(took)/float64(few)*reads/10)
	}
	copy(room[100:], "rest")
	f.in.rest = room[100:104]
	if got := l.growInput(&pair{}, f); string(f.in.rest) != "rest" || string(got[:4]) != "rest" {
		t.Errorf("what was in hand is %q, and %q where it is read to", f.in.rest, got[:4])
	}
}

// TestKafkaPromises: a request that says that its acks are far off has no memory
// held for that.
func TestKafkaPromises(t *testing.T) {
	b := newKafkaBroker(t, "b")
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", b.Addr()), "")
	c := s.connect(-1)
	const id, sent = 100_000, 5000
	body := append([]byte{0}, binary.AppendUvarint(nil, id+1)...)
	body = append(body, make([]byte, id)...)
	body = append(body, 0, 1, 0, 0, 0, 0, 1, 0) // acks 1, a timeout, no topics
	request := kafkaRequest(keyProduce, 9, 1, body)
	var got, held int
	for _, part := range [][]byte{request[:sent-1], request[sent-1 : sent]} {
		if _, err := c.Write(part); err != nil {
			t.Fatal(err)
		}
		want := got + len(part)
		eventually(t, "it is in hand", func() bool {
			s.loops[0].call(func() {
				for p := range s.loops[0].all() {
					if p.kafka != nil && p.kafka.up.in != nil {
						got, held = len(p.kafka.up.in.rest), cap(p.kafka.up.in.full)
					}
				}
			})
			return got >= want
		})
	}
	if n := s.held.Load(); got != sent || held > bufferSize || n != 0 {
		t.Errorf("of %d bytes sent, %d are in hand, in %d, of which %d are counted", sent, got, held, n)
	}
	if _, err := c.Write(request[sent:]); err != nil {
		t.Fatal(err)
	}
	if frame, err := readKafka(c); err != nil || string(frame[4:]) != "b"+string(body) {
		t.Errorf("the answer has %d bytes, %v", len(frame), err)
	}
}
