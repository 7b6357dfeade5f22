package relay

import (
	"fmt"
	"testing"

	"midspan/internal/engine"
)

// TestKafkaBookedToTheEnd: a node has the bytes of its last turn too; and the log does
// not say of a connection that was served that it was refused.
func TestKafkaBookedToTheEnd(t *testing.T) {
	b := newKafkaBroker(t, "b")
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", b.Addr()), fmt.Sprintf("nodes: {1: %q}", b.Addr()))
	c := s.connect(1)
	s.mustAnswer(c, "b")
	if _, err := c.Write(append(kafkaRequest(plainAPI, 0, 1, []byte("last")), "\x7f\xff\xff\xff"...)); err != nil {
		t.Fatal(err)
	}
	s.mustBeReset(c)
	s.end(engine.BadRequest, 1)
	st := s.Status().Routes[0]
	if want := uint64(15 + 18); st.Counters.BytesUp != want || st.Kafka.Nodes[0].BytesUp != want {
		t.Errorf("%d bytes went up on the route, %d to the node, want %d", st.Counters.BytesUp, st.Kafka.Nodes[0].BytesUp, want)
	}
	if s.said("a connection was broken off") != 1 || s.said("refused") != 0 {
		t.Errorf("the log has %s", s.log.String())
	}
}
