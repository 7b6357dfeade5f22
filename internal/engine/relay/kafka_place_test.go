package relay

import (
	"fmt"
	"testing"
	"time"
)

// TestKafkaHearsay: brokers that disagree on where a node is do not have each answer
// told of.
func TestKafkaHearsay(t *testing.T) {
	s := newKafkaStage(t, 1, `"127.0.0.1:9"`, "")
	c := s.routes[0].set.Load().cluster
	began := time.Now()
	for range 1000 {
		c.hear(3, "a.internal", 9092)
		c.hear(3, "b.internal", 9092)
	}
	if n, most := len(s.told()), 1+int(time.Since(began)/change); n < 1 || n > most {
		t.Errorf("told %d times, want once to %d times", n, most)
	}
	time.Sleep(change + 10*time.Millisecond)
	c.hear(3, "c.internal", 9092)
	if told := s.told(); told[len(told)-1].Host != "c.internal" {
		t.Errorf("told of %v, want of another place too", told)
	}
}

// TestKafkaPatience: who has waited for a node for long looks for it seldom.
func TestKafkaPatience(t *testing.T) {
	s := newKafkaStage(t, 1, `"127.0.0.1:9"`, "connect_timeout: 60s")
	if _, err := s.connect(5).Write(kafkaRequest(plainAPI, 0, 1, nil)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	var most time.Duration
	for deadline := time.Now().Add(30 * time.Second); most < 100*time.Millisecond && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		s.loops[0].call(func() {
			for p := range s.loops[0].all() {
				most = max(most, p.timer-s.loops[0].now)
			}
		})
	}
	if most < 100*time.Millisecond || most > watchDialing {
		t.Errorf("after a second it looks again in %s at the most, want up to %s", most, watchDialing)
	}
	looks := 0
	for at := awaitNode; at < 3*time.Second; at += nextLook(at) {
		looks++
	}
	if looks > 30 {
		t.Errorf("%d looks in three seconds", looks)
	}
}

// TestKafkaNodeMoves: a connection that waits for room at its node goes where the
// node is by then.
func TestKafkaNodeMoves(t *testing.T) {
	a, b := newKafkaBroker(t, "a"), newKafkaBroker(t, "b")
	to := fmt.Sprintf("{server: %q, max_connections: 1}", a.Addr())
	s := newKafkaStage(t, 1, to, fmt.Sprintf("connect_timeout: 60s, nodes: {1: %q}", a.Addr()))
	first := s.connect(1)
	s.mustAnswer(first, "a")
	second := s.connect(1)
	full := false
	eventually(t, "the second connection waits for room", func() bool {
		s.loops[0].call(func() {
			for p := range s.loops[0].all() {
				full = full || p.dial != nil && p.dial.full
			}
		})
		return full
	})
	s.apply(to, fmt.Sprintf("connect_timeout: 60s, nodes: {1: %q}", b.Addr()))
	s.mustAnswer(second, "b")
	s.mustAnswer(first, "a")
}
