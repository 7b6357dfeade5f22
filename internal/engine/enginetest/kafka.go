package enginetest

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// kafkaCases are each run with TLS and without.
func kafkaCases() (all []testCase) {
	for _, w := range kafkaWays {
		for _, c := range []struct {
			name string
			test func(*rig, kafkaWay)
		}{
			{"addresses", testKafkaAddresses},
			{"versions", testKafkaVersions},
			{"node ports", testKafkaNodePorts},
			{"a node that is down", testKafkaNodeDown},
			{"a node that is learned", testKafkaNodeLearned},
			{"a node that is not known", testKafkaNodeUnknown},
			{"acks 0", testKafkaNoAcks},
			{"pipelining", testKafkaPipelining},
			{"more under way than are noted", testKafkaBackPressure},
			{"an end with more under way than are noted", testKafkaFullEnd},
			{"large frames", testKafkaLarge},
			{"byte by byte", testKafkaBytes},
			{"an answer of its own", testKafkaOwn},
			{"SASL tokens without a header", testKafkaTokens},
			{"half-close", testKafkaHalfClose},
			{"resets and kill", testKafkaResets},
			{"idle_timeout", testKafkaIdle},
			{"what a client must not send", testKafkaBadRequests},
			{"what a broker must not send", testKafkaBadAnswers},
			{"TLS on one side only", testKafkaPairing},
		} {
			all = append(all, testCase{"kafka " + w.name + ": " + c.name, func(r *rig) { c.test(r, w) }})
		}
	}
	return append(all, testCase{"kafka TLS with brokers: names", testKafkaNames})
}

// kafkaStatus is what the engine says of the route.
func (c *cluster) kafkaStatus() *engine.KafkaStatus {
	c.Helper()
	s := c.engine.Status().Routes[0].Kafka
	if s == nil {
		c.Fatal("the status has nothing of Kafka's")
	}
	return s
}

// testKafkaAddresses: every address that a client is told is the route's own, and a
// node that has no port is not told of.
func testKafkaAddresses(r *rig, w kafkaWay) {
	said := append(nodesUpTo(3), nodeAt{99, nodeName(99), 9092}, nodeAt{0, nodeName(0), 9092})
	c := newCluster(r, w, 3, func(b *broker, e *kafkaEnd) { (&broker{id: b.id, said: said}).answerAll(e) }).route(true, "")
	want := c.told(said)
	if len(want) != 4 {
		r.Fatalf("the case is wrong: %v", want)
	}
	e := c.client(c.at)
	sent, got := 0, 0
	for i, version := range []int16{1, 9, 0, 9} {
		if version == 0 {
			q := request(apiCoordinator, 0, 8, message{}.str("group"))
			a, err := e.ask(8, q)
			in := &reading{b: a}
			code, p := in.i16(), nodeAt{in.i32(), in.str(), in.i32()}
			if last := c.told(said[4:])[0]; err != nil || code != 0 || p != last || len(in.b) > 0 {
				r.Errorf("coordinator: %v, error code %d, %v; want %v", p, code, err, last)
			}
			sent, got = sent+len(q), got+8+len(a)
			continue
		}
		q := metadataRequest(version, 7)
		a, err := e.ask(7, q)
		if err != nil {
			r.Fatal(err)
		}
		sent, got = sent+len(q), got+8+len(a)
		nodes, controller, err := nodesIn(version, a)
		if err != nil || !slices.Equal(nodes, want) || controller != 1 {
			r.Errorf("answer %d, version %d: %s; controller %d; %v\nwant %s", i, version, inWords(nodes), controller, err, inWords(want))
		}
	}
	if err := e.bye(); err != nil {
		r.Error(err)
	}
	r.wantBytes(r.endsFor(e.peer.local, engine.ClosedByClient), sent, got)
	s := c.kafkaStatus()
	if s.Dropped != 3 || s.Rewritten != 4 || s.Unknown != 0 {
		r.Errorf("dropped %d, rewritten %d, unknown %d; want 3, 4, 0", s.Dropped, s.Rewritten, s.Unknown)
	}
	if want := []engine.APICount{{Key: 3, Version: 1, Count: 1}, {Key: 3, Version: 9, Count: 2}, {Key: 10, Version: 0, Count: 1}}; !slices.Equal(s.Requests, want) {
		r.Errorf("requests counted: %v, want %v", s.Requests, want)
	}
}

// testKafkaVersions: clients are told of no version and no API that is not known
// here.
func testKafkaVersions(r *rig, w kafkaWay) {
	for _, settings := range []string{"", ", kafka: { unknown_apis: pass }"} {
		c := newCluster(r, w, 1, nil).route(true, settings)
		a, err := c.client(c.at).ask(3, request(apiVersions, 0, 3, nil))
		if err != nil {
			r.Fatal(err)
		}
		in := &reading{b: a}
		code, n := in.i16(), in.i32()
		most := map[int16]int16{}
		for range n {
			key := in.i16()
			in.i16()
			most[key] = in.i16()
		}
		_, unknown := most[150]
		if code != 0 || in.err != nil || len(in.b) > 0 || most[apiFetch] > 30 || most[apiFetch] < 16 || most[apiMetadata] != 9 || unknown != (settings != "") {
			r.Errorf("%s: code %d, versions %v, %v, %d bytes more", settings, code, most, in.err, len(in.b))
		}
	}
}

// testKafkaNodePorts: a node's port leads to that node.
func testKafkaNodePorts(r *rig, w kafkaWay) {
	c := newCluster(r, w, 3, nil).route(true, "")
	for id := int32(1); id <= 3; id++ {
		for range 3 {
			e := c.client(c.nodePort(id))
			if nodes, controller, err := e.nodes(9); err != nil || controller != id || !slices.Equal(nodes, c.told(c.places())) {
				r.Errorf("node %d: its port leads to %d; %s; %v", id, controller, inWords(nodes), err)
			}
			if err := e.bye(); err != nil {
				r.Error(err)
			}
			if end := r.endsFor(e.peer.local, engine.ClosedByClient); end.Endpoint != c.brokers[id-1].addr {
				r.Errorf("node %d: the record says %s", id, end.Endpoint)
			}
		}
	}
	r.until("all are counted as over", func() bool { return r.engine.Status().Routes[0].Counters.Active == 0 })
	for i, n := range c.kafkaStatus().Nodes {
		if n.ID != int32(i)+1 || n.Port != c.nodePort(n.ID).Port() || n.Server != c.brokers[i].addr.String() || !n.Up || n.By != "file" || n.Accepted != 3 || n.Active != 0 || n.BytesUp == 0 || n.BytesDown == 0 {
			r.Errorf("node %d: %+v", i+1, n)
		}
	}
}

// testKafkaNodeDown: no other broker stands in for a node.
func testKafkaNodeDown(r *rig, w kafkaWay) {
	c := newCluster(r, w, 2, nil)
	r.down[c.brokers[1].addr.String()] = true
	c.route(true, "")
	c.turnedAway(c.nodePort(2).Port(), engine.NoServer)
	r.down = map[string]bool{}
	c.brokers[1].l.Close()
	c.route(true, "")
	c.turnedAway(c.nodePort(2).Port(), engine.ConnectFailed)
	if n := c.brokers[0].accepted.Load(); n != 0 {
		r.Errorf("%d connections for node 2 went to node 1", n)
	}
}

// turnedAway wants a client on a port to be reset, and is the record of that.
func (c *cluster) turnedAway(port uint16, why engine.Reason) *engine.Record {
	c.Helper()
	before := c.log.all()
	e, err := c.connectTo(c.rig.at(port))
	if err == nil {
		_, _, err = e.nodes(9)
	}
	if got := fate(err); got != "reset" { // which may be there before the connect is reported
		c.Errorf("the client sees: %s; want a reset", got)
	}
	var end *engine.Record
	c.until("a record of "+string(why), func() bool {
		for _, one := range c.log.all()[len(before):] {
			if one.Reason == why {
				end = one
			}
		}
		return end != nil
	})
	return end
}

// testKafkaNodeLearned: a client of a node that nobody knows waits for a plan that
// has it; who makes plans is told that it is wanted, and what the cluster says.
func testKafkaNodeLearned(r *rig, w kafkaWay) {
	const patient = ", connect_timeout: 20s"
	c := newCluster(r, w, 2, nil).route(false, patient)
	boot := c.client(c.at)
	if _, _, err := boot.nodes(9); err != nil {
		r.Fatal(err)
	}
	for _, p := range c.places() {
		want := engine.Node{Route: "route", ID: p.id, Host: p.host, Port: uint16(p.port)}
		r.until("node "+p.String()+" is told of", func() bool { return slices.Contains(r.log.nodes(), want) })
	}
	done := make(chan error, 1)
	c.wg.Go(func() {
		e, err := c.connectTo(c.nodePort(2))
		if err == nil {
			if err = c.answers(e, 2); err == nil {
				err = e.bye()
			}
		}
		done <- err
	})
	r.until("node 2 is wanted", func() bool { return slices.Contains(r.log.nodes(), engine.Node{Route: "route", ID: 2}) })
	time.Sleep(50 * time.Millisecond)
	at := c.brokers[1].addr
	known := map[string][]plan.KnownNode{"route": {{ID: 2, Host: at.Addr().String(), Port: at.Port()}}}
	c.applyPlan(r.with(c.plan(false, patient).WithNodes(known)))
	if err := <-done; err != nil {
		r.Fatal(err)
	}
	if n := c.kafkaStatus().Nodes; len(n) != 1 || n[0].ID != 2 || n[0].By != "learned" || n[0].Accepted != 1 {
		r.Errorf("the nodes are said to be %+v", n)
	}
}

// answers wants a node to be at the other end.
func (c *cluster) answers(e *kafkaEnd, id int32) error {
	_, controller, err := e.nodes(9)
	if err == nil && controller != id {
		err = fmt.Errorf("node %d answers, want %d", controller, id)
	}
	return err
}

// testKafkaNoAcks: what is not answered is not waited for.
func testKafkaNoAcks(r *rig, w kafkaWay) {
	c := newCluster(r, w, 1, nil).route(true, "")
	e := c.client(c.at)
	for i := range int32(3000) { // more than could be under way
		q := produceRequest(i, 0, "some records")
		if i%1000 == 999 {
			q = append(q, produceRequest(i, 1, "some records")...)
		}
		if _, err := e.conn.Write(q); err != nil {
			r.Fatal(err)
		}
		if i%1000 == 999 {
			if _, err := e.answer(i); err != nil {
				r.Fatal(err)
			}
		}
	}
	if err := e.bye(); err != nil {
		r.Error(err)
	}
}

// mixed is request i of many, and what is wanted of its answer.
func (c *cluster) mixed(i int32) (q []byte, check func([]byte) error) {
	switch want := c.told(c.places()); i % 5 {
	case 0, 1:
		version := []int16{1, 9}[i%2]
		return metadataRequest(version, i), func(a []byte) error {
			nodes, _, err := nodesIn(version, a)
			if err == nil && !slices.Equal(nodes, want) {
				err = fmt.Errorf("nodes %s", inWords(nodes))
			}
			return err
		}
	case 2: // and one before it that is not answered
		return append(produceRequest(-1, 0, strings.Repeat("x", int(i)%5000)), produceRequest(i, 1, "y")...), func(a []byte) error {
			if len(a) != 8 {
				return fmt.Errorf("%d bytes", len(a))
			}
			return nil
		}
	case 3:
		return request(apiVersions, 99, i, message{9, 9, 9, 9}), func(a []byte) error {
			if in := (&reading{b: a}); in.i16() != 35 { // UNSUPPORTED_VERSION (KIP-511)
				return fmt.Errorf("it is %x", a)
			}
			return nil
		}
	}
	size := int(i) * 7919 % 40_000
	return fetchRequest(i, size), func(a []byte) error {
		if !bytes.Equal(a, records(i, size)) {
			return fmt.Errorf("other records, %d bytes", len(a))
		}
		return nil
	}
}

// converse sends n mixed requests as fast as they go, and reads their answers.
func (c *cluster) converse(e *kafkaEnd, n int32) error {
	return together(func() error {
		var out bytes.Buffer
		for i := range n {
			q, _ := c.mixed(i)
			if out.Write(q); out.Len() > 10_000 || i == n-1 {
				if _, err := out.WriteTo(e.conn); err != nil {
					return err
				}
			}
		}
		return nil
	}, func() error {
		for i := range n {
			a, err := e.answer(i)
			if err == nil {
				_, check := c.mixed(i)
				err = check(a)
			}
			if err != nil {
				return fmt.Errorf("answer %d: %w", i, err)
			}
		}
		return nil
	})
}

func testKafkaPipelining(r *rig, w kafkaWay) {
	c := newCluster(r, w, 2, nil).route(true, "")
	err := parallel(4, func(int) error {
		e, err := c.connectTo(c.at)
		if err == nil {
			err = c.converse(e, int32(amount(2000, 500)))
		}
		if err == nil {
			err = e.bye()
		}
		return err
	})
	if err != nil {
		r.Error(err)
	}
}

// testKafkaBackPressure: a client that sends many requests to a broker that does not
// answer is not read any more, and nothing is lost.
func testKafkaBackPressure(r *rig, w kafkaWay) {
	gate := make(chan struct{})
	c := newCluster(r, w, 1, behind(gate)).route(true, "")
	e := c.client(c.at)
	open := time.AfterFunc(500*time.Millisecond, func() { close(gate) })
	defer open.Stop()
	if err := c.converse(e, 5000); err != nil {
		r.Error(err)
	}
	if err := e.bye(); err != nil {
		r.Error(err)
	}
	r.endsFor(e.peer.local, engine.ClosedByClient)
}

// testKafkaLarge: frames of many megabytes, both ways at once.
func testKafkaLarge(r *rig, w kafkaWay) {
	c := newCluster(r, w, 1, nil).route(true, "")
	e := c.client(c.at)
	size, times := amount(8<<20, 2<<20), int32(4)
	more := strings.Repeat("records ", size/8)
	err := together(func() error {
		for i := range times {
			if _, err := e.conn.Write(append(produceRequest(2*i, 1, more), fetchRequest(2*i+1, size)...)); err != nil {
				return err
			}
		}
		return nil
	}, func() error {
		for i := range times {
			if _, err := e.answer(2 * i); err != nil {
				return err
			}
			if a, err := e.answer(2*i + 1); err != nil || !bytes.Equal(a, records(2*i+1, size)) {
				return fmt.Errorf("other records, %d bytes, %v", len(a), err)
			}
		}
		return nil
	})
	if err == nil {
		err = e.bye()
	}
	if err != nil {
		r.Error(err)
	}
}

// testKafkaBytes: it does not matter in what pieces frames come.
func testKafkaBytes(r *rig, w kafkaWay) {
	c := newCluster(r, w, 2, func(b *broker, e *kafkaEnd) {
		for {
			q, err := readRequest(e.in)
			if err != nil || drip(e.conn, b.answer(q)) != nil {
				return
			}
		}
	}).route(true, "")
	e := c.client(c.at)
	for i := range int32(10) {
		q, check := c.mixed(i)
		if i%5 == 4 {
			q, check = fetchRequest(i, 300), func([]byte) error { return nil }
		}
		if err := drip(e.conn, q); err != nil {
			r.Fatal(err)
		}
		a, err := e.answer(i)
		if err == nil {
			err = check(a)
		}
		if err != nil {
			r.Fatalf("answer %d: %v", i, err)
		}
	}
}

// drip writes b byte by byte.
func drip(to io.Writer, b []byte) error {
	for i := range b {
		if _, err := to.Write(b[i : i+1]); err != nil {
			return err
		}
		if i%8 == 0 {
			time.Sleep(50 * time.Microsecond)
		}
	}
	return nil
}
