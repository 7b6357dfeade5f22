package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// TestKafkaPorts: the bootstrap port leads to the servers in `to` in turn and never
// to others, a node's port to the node alone, also when it is down.
func TestKafkaPorts(t *testing.T) {
	a, b, c := newKafkaBroker(t, "a"), newKafkaBroker(t, "b"), newKafkaBroker(t, "c")
	s := newKafkaStage(t, 2, fmt.Sprintf("[%s, {server: %q, weight: 0}]", a.Addr(), b.Addr()),
		fmt.Sprintf("nodes: {1: %q, 2: %q, 3: %q}", a.Addr(), b.Addr(), c.Addr()))
	for range 12 {
		s.mustAnswer(s.connect(-1), "a")
		s.mustAnswer(s.connect(2), "b") // weight 0 is for the bootstrap port
		s.mustAnswer(s.connect(3), "c")
	}
	c.stop()
	for range 12 {
		if c, err := s.dial(3); err == nil { // the reset may be as quick as the dial
			s.mustBeReset(c)
			c.Close()
		}
	}
	if n := a.accepted() + b.accepted(); n != 24 {
		t.Errorf("the other brokers have had %d connections, want 24", n)
	}
	if r := s.end(engine.ConnectFailed, 12); r.Node == nil || *r.Node != 3 || r.Server != c.Addr().String() {
		t.Errorf("the connection to a broker that is down: %v, %s", r.Node, r.Server)
	}
	st := s.Status().Routes[0]
	var ids []int32
	for _, n := range st.Kafka.Nodes {
		ids = append(ids, n.ID)
	}
	if three := st.Kafka.Nodes[2]; !slices.Equal(ids, []int32{1, 2, 3}) || three.Accepted != 24 || three.Server != c.Addr().String() ||
		int(three.Port) != s.port+4 || three.BytesUp != 12*15 || three.BytesDown != 12*10 || three.By != string(plan.NodeWritten) || !three.Up {
		t.Errorf("the nodes are %+v", st.Kafka.Nodes)
	}
	if n := len(s.told()); n != 0 {
		t.Errorf("%d nodes told of", n)
	}
}

// TestKafkaNodeWaits: a connection to the port of a node that nobody knows waits for
// a plan that does.
func TestKafkaNodeWaits(t *testing.T) {
	a, b := newKafkaBroker(t, "a"), newKafkaBroker(t, "b")
	to := fmt.Sprintf("%q", a.Addr())
	s := newKafkaStage(t, 2, to, "connect_timeout: 60s")
	done := make(chan string, 1)
	c := s.connect(5)
	go func() {
		got, err := ask(c, 1, "!")
		done <- fmt.Sprint(got, err)
	}()
	eventually(t, "the node is told of", func() bool { return len(s.told()) > 0 })
	if told := s.told(); len(told) != 1 || told[0] != (engine.Node{Route: "r", ID: 5}) {
		t.Fatalf("told of %v, want of node 5 once", told)
	}
	if conns := s.Conns(); len(conns) != 1 || conns[0].State != "connecting" || conns[0].Node == nil || *conns[0].Node != 5 {
		t.Errorf("the connections are %+v", conns)
	}
	if n := s.Status().Routes[0].Kafka.Nodes; len(n) != 1 || n[0].ID != 5 || n[0].Active != 1 || n[0].Server != "" {
		t.Errorf("the nodes are %+v", n)
	}
	select {
	case got := <-done:
		t.Fatalf("an answer before anybody knows the node: %s", got)
	case <-time.After(100 * time.Millisecond):
	}
	port := b.Addr().(*net.TCPAddr).AddrPort().Port()
	p := s.plan(to, "connect_timeout: 60s").WithNodes(map[string][]plan.KnownNode{"r": {{ID: 5, Host: "127.0.0.1", Port: port}}})
	if _, err := s.Apply(context.Background(), allUp(p)); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got != "b!<nil>" {
		t.Errorf("the answer is %s", got)
	}
	s.mustAnswer(s.connect(5), "b")
	s.mustAnswer(s.connect(-1), "a")
	if a.accepted() != 1 {
		t.Errorf("the bootstrap server has had %d connections, want 1", a.accepted())
	}
}

// TestKafkaNodeUnknown: a connection to a node that stays unknown is reset when
// connect_timeout is over, and the log says what to write; the test of a load
// balancer is neither waited for nor told of.
func TestKafkaNodeUnknown(t *testing.T) {
	a := newKafkaBroker(t, "a")
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", a.Addr()), "connect_timeout: 1s, kafka: {learn: off}, nodes: {1: \"127.0.0.1:9\"}")
	probe := s.connect(6)
	time.Sleep(4 * awaitNode) // it is looked at meanwhile
	probe.Close()
	eventually(t, "the probe is counted", func() bool { return s.Status().Routes[0].Counters.Ended[engine.Probe] == 1 })
	began := time.Now()
	s.mustRefuse(5)
	if took := time.Since(began); took < ms(950) || took > 2900*time.Millisecond {
		t.Errorf("it was reset after %s, want 1s", took)
	}
	if r := s.end(engine.UnknownNode, 1); r.Node == nil || *r.Node != 5 {
		t.Errorf("it ended as one of node %v", r.Node)
	}
	if told := s.told(); !slices.Equal(told, []engine.Node{{Route: "r", ID: 5}}) {
		t.Errorf("told of %v, want of node 5 once", told)
	}
	if s.said("nobody has said where node 5 is; write it in `nodes`") != 1 {
		t.Errorf("the log has %s", s.log.String())
	}
	if a.accepted() != 0 {
		t.Error("the bootstrap server has had a connection")
	}
}

// mustRefuse makes a connection to a node that must be reset, which may be as early
// as the dial.
func (s *kafkaStage) mustRefuse(node int) {
	s.t.Helper()
	c, err := s.dial(node)
	if err == nil {
		defer c.Close()
		if err = c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			s.t.Fatal(err)
		}
		if _, err = c.Write(kafkaRequest(plainAPI, 0, 1, nil)); err == nil {
			_, err = c.Read(make([]byte, 1))
		}
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		s.t.Errorf("node %d: %v, want a reset", node, err)
	}
}

// allUp is p with all servers up, at their addresses.
func allUp(p *plan.Plan) *plan.Plan {
	return p.With(nil, func(*plan.Route, *plan.Server, netip.Addr) (bool, bool) { return true, false })
}

// TestKafkaNodeNotLearned: the log says so when the cluster has said where a node
// is, and nobody may connect there; and a node's name without an address is waited
// for.
func TestKafkaNodeNotLearned(t *testing.T) {
	b := newKafkaBroker(t, "b")
	b.reply(func(_, _ int16, id int32, _ []byte) []byte {
		return kafkaAnswer(id, metadata1(3, "broker3.internal", 9092, nil))
	})
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", b.Addr()), "connect_timeout: 200ms, kafka: {learn: \"*.invalid\"}")
	known := map[string][]plan.KnownNode{"r": {{ID: 4, Host: "broker4.invalid", Port: 9092}}}
	if _, err := s.Apply(t.Context(), s.plan(fmt.Sprintf("%q", b.Addr()), "connect_timeout: 200ms, kafka: {learn: \"*.invalid\"}").WithNodes(known)); err != nil {
		t.Fatal(err)
	}
	c := s.connect(-1)
	if _, err := c.Write(kafkaRequest(keyMetadata, 1, 1, []byte{0, 0, 0, 0})); err != nil {
		t.Fatal(err)
	}
	if _, err := readKafka(c); err != nil {
		t.Fatal(err)
	}
	s.mustRefuse(3)
	s.end(engine.UnknownNode, 1)
	if s.said("the cluster says that node 3 is at broker3.internal:9092, which may not be learned; add its host to `learn`, or the node to `nodes`") != 1 {
		t.Errorf("the log has %s", s.log.String())
	}
	began := time.Now()
	s.mustRefuse(4)
	if took := time.Since(began); took < ms(180) {
		t.Errorf("reset after %s, want 200ms", took)
	}
	s.end(engine.NoServer, 1)
}

// TestKafkaOldPort: a port that is the route's no more is none for the bootstrap.
func TestKafkaOldPort(t *testing.T) {
	s := settings{Route: &plan.Route{Listen: []plan.Listen{{From: 9, To: 9}, {From: 20, To: 30}}}}
	for port, want := range map[uint16]bool{9: true, 20: true, 30: true, 8: false, 19: false, 31: false} {
		if s.listensOn(port) != want {
			t.Errorf("port %d: %v", port, !want)
		}
	}
	if drained := (settings{Route: &plan.Route{}}); !drained.listensOn(9) {
		t.Error("a connection of before the drain is refused")
	}
}

// TestKafkaTellsOfNodes: what the cluster says of its nodes is told of once, as long
// as it is news.
func TestKafkaTellsOfNodes(t *testing.T) {
	b := newKafkaBroker(t, "b")
	b.reply(func(_, _ int16, id int32, _ []byte) []byte {
		return kafkaAnswer(id, metadata1(3, "broker3.internal", 9092, nil))
	})
	to := fmt.Sprintf("%q", b.Addr())
	s := newKafkaStage(t, 1, to, "")
	c := s.connect(-1)
	metadata := func() {
		if _, err := c.Write(kafkaRequest(keyMetadata, 1, 1, []byte{0, 0, 0, 0})); err != nil {
			t.Fatal(err)
		}
		if frame, err := readKafka(c); err != nil || !bytes.Equal(frame[4:], metadata1(3, stageHost, int32(s.port+1+3), nil)) {
			t.Fatalf("the client gets %q, %v", frame, err)
		}
	}
	began := time.Now()
	for range 20 {
		metadata()
	}
	want := engine.Node{Route: "r", ID: 3, Host: "broker3.internal", Port: 9092}
	most := 1 + int(time.Since(began)/repeat) // 1, unless the machine is slow
	before := len(s.told())
	if told := s.told(); before < 1 || before > most || told[0] != want {
		t.Errorf("told of %v, want once of %v", told, want)
	}
	p := s.plan(to, "kafka: {learn: [\"*.internal\"]}").WithNodes(map[string][]plan.KnownNode{"r": {{ID: 3, Host: "broker3.internal", Port: 9092}}})
	if _, err := s.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	time.Sleep(repeat + 10*time.Millisecond)
	metadata() // on a connection that was made before the node was known
	if told := s.told(); len(told) != before {
		t.Errorf("told of %v, want of no more than the %d of before", told, before)
	}
}

// TestKafkaNodeUp: a node is up where its probe says so: not if connections are made to
// it only because there is nothing better.
func TestKafkaNodeUp(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	for _, x := range []struct {
		endpoints []plan.Endpoint
		up        bool
	}{
		{[]plan.Endpoint{{Addr: addr, Up: true}}, true},
		{[]plan.Endpoint{{Addr: addr}, {Addr: addr.Next(), Up: true}}, true},
		{[]plan.Endpoint{{Addr: addr}}, false},
		{[]plan.Endpoint{{Addr: addr, Up: true, LastResort: true}}, false},
		{nil, false},
	} {
		r := &plan.Route{
			Servers: []*plan.Server{{Name: "a:1", Endpoints: x.endpoints}},
			Kafka:   &plan.Kafka{Nodes: []plan.Node{{ID: 1}}},
		}
		if s := newCluster(nil, "r", 1).nodeStatus(r); len(s) != 1 || s[0].Up != x.up || s[0].Server != "a:1" {
			t.Errorf("%+v: %+v", x.endpoints, s)
		}
	}
}
