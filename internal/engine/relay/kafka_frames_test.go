package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"midspan/internal/engine"
	"midspan/internal/plan"
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
	for deadline := time.Now().Add(time.Second); s.held.Load() != 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if n := s.held.Load(); n != 0 {
		t.Errorf("%d bytes are counted as held", n)
	}
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

// TestKafkaLies: who does not speak the protocol is reset, with the reason in the
// log; another connection lives on.
func TestKafkaLies(t *testing.T) {
	b := newKafkaBroker(t, "b")
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", b.Addr()), "")
	other := s.connect(-1)
	s.mustAnswer(other, "b")
	for i, x := range []struct {
		name, say, answer, log string
		why                    engine.Reason
	}{
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "", "the client speaks TLS", engine.BadRequest},
		{"size", "\x7f\xff\xff\xff\x00\x00", "", "", engine.BadRequest},
		{"PROXY", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "", headerOnOff, engine.ProxyNotAllowed},
		{"HTTP", string(kafkaRequest(plainAPI, 0, 1, nil)), "HTTP/1.1 400 Bad Request\r\n\r\n", "the server speaks HTTP", engine.BadResponse},
		{"correlation id", string(kafkaRequest(plainAPI, 0, 1, nil)), string(kafkaAnswer(2, nil)), "", engine.BadResponse},
		{"broken", string(kafkaRequest(keyMetadata, 1, 1, []byte{0, 0, 0, 0})), string(kafkaAnswer(1, []byte{0x7f, 0xff, 0xff, 0xff, 0})), "", engine.BadResponse},
	} {
		t.Run(x.name, func(t *testing.T) {
			b.reply(func(int16, int16, int32, []byte) []byte { return []byte(x.answer) })
			c := s.connect(-1)
			if _, err := io.WriteString(c, x.say); err != nil {
				t.Fatal(err)
			}
			s.mustBeReset(c)
			n := 1
			if x.why == engine.BadResponse {
				n = i - 2
			} else if x.why == engine.BadRequest {
				n = i + 1
			}
			r := s.end(x.why, n)
			if !strings.Contains(r.Err, x.log) || r.Err == "" {
				t.Errorf("the record says %q, want %q", r.Err, x.log)
			}
			b.reply(nil)
			s.mustAnswer(other, "b")
		})
	}
	for _, why := range []string{"bad request", "bad response"} {
		if s.said(why) != 1 { // of three each
			t.Errorf("the log has %s", s.log.String())
		}
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

// TestKafkaFull: a client that asks more than can be under way is read no further
// until there are answers, and nothing is lost.
func TestKafkaFull(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", ln.Addr()), "")
	c := s.connect(-1)
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	const n = 5000
	var sent []byte
	for i := range int32(n) {
		sent = append(sent, kafkaRequest(plainAPI, 0, i, []byte("question"))...)
	}
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	got := make(chan error, 1)
	go func() {
		for i := range n {
			if frame, err := readKafka(c); err != nil || int(binary.BigEndian.Uint32(frame)) != i {
				got <- fmt.Errorf("answer %d: %q, %w", i, frame, err)
				return
			}
		}
		got <- nil
	}()
	time.Sleep(50 * time.Millisecond) // until it is full
	if err := b.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	const atOnce = 1000 // the codec lets so many be under way
	var answers []byte
	for i := range int32(n) {
		if _, err := readKafka(b); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		// At once: nothing else happens that would have the client read.
		if answers = append(answers, kafkaAnswer(i, []byte("answer"))...); i%atOnce < atOnce-1 {
			continue
		}
		if _, err := b.Write(answers); err != nil {
			t.Fatal(err)
		}
		answers = nil
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the last request: %v", err)
	}
}

// TestKafkaEnds: both ways the end of a flow and a reset are passed on, after what
// came before.
func TestKafkaEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", ln.Addr()), "")
	both := func() (client, broker *net.TCPConn) {
		client = s.connect(-1)
		b, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		broker = b.(*net.TCPConn)
		if err := broker.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return client, broker
	}
	const size = 3 << 20
	request := kafkaRequest(plainAPI, 0, 1, make([]byte, size))
	answer := kafkaAnswer(1, make([]byte, size))
	write := func(c *net.TCPConn, b []byte, then func(*net.TCPConn) error) {
		if _, err := c.Write(b); err != nil {
			t.Error(err)
		}
		if err := then(c); err != nil {
			t.Error(err)
		}
	}
	c, b := both()
	go write(c, request, (*net.TCPConn).CloseWrite)
	if all, err := io.ReadAll(b); err != nil || len(all) != len(request) {
		t.Fatalf("the broker got %d bytes, %v; want %d", len(all), err, len(request))
	}
	go write(b, answer, (*net.TCPConn).CloseWrite)
	if all, err := io.ReadAll(c); err != nil || len(all) != len(answer) {
		t.Fatalf("the client got %d bytes, %v; want %d", len(all), err, len(answer))
	}
	s.end(engine.ClosedByClient, 1)

	c, b = both()
	go write(b, nil, (*net.TCPConn).CloseWrite)
	if all, err := io.ReadAll(c); err != nil || len(all) != 0 {
		t.Fatalf("the client got %d bytes, %v", len(all), err)
	}
	go write(c, request[:1000], (*net.TCPConn).CloseWrite) // and ends within a frame
	if all, err := io.ReadAll(b); err != nil || len(all) != 1000 {
		t.Fatalf("the broker got %d bytes, %v", len(all), err)
	}
	s.end(engine.ClosedByServer, 1)

	reset := func(c *net.TCPConn) error {
		_ = c.SetLinger(0)
		return c.Close()
	}
	c, b = both()
	go write(c, request[:100], reset)
	if _, err := io.ReadAll(b); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the broker: %v, want a reset", err)
	}
	s.end(engine.ResetByClient, 1)

	c, b = both()
	write(c, request[:100], func(*net.TCPConn) error { return nil })
	if _, err := io.ReadFull(b, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	go write(b, nil, reset)
	s.mustBeReset(c)
	s.end(engine.ResetByServer, 1)
}

// TestKafkaHeaders: what was read with a PROXY header counts as the client's, and
// the header that the server gets comes before it.
func TestKafkaHeaders(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", ln.Addr()), "proxy_protocol: required, send_proxy: v1")
	request := kafkaRequest(plainAPI, 0, 1, []byte("question"))
	for n := range len(request) + 1 {
		c := s.connect(-1)
		if _, err := c.Write(append([]byte("PROXY TCP4 10.1.2.3 10.0.0.2 1000 2000\r\n"), request[:n]...)); err != nil {
			t.Fatal(err)
		}
		b, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(request[n:]); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		want := "PROXY TCP4 10.1.2.3 10.0.0.2 1000 2000\r\n" + string(request)
		if got, err := io.ReadAll(b); err != nil || string(got) != want {
			t.Fatalf("cut at %d: the broker gets %q, %v; want %q", n, got, err, want)
		}
		b.Close()
		c.Close()
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
	for range 20 {
		metadata()
	}
	want := engine.Node{Route: "r", ID: 3, Host: "broker3.internal", Port: 9092}
	if told := s.told(); len(told) != 1 || told[0] != want {
		t.Errorf("told of %v, want once of %v", told, want)
	}
	p := s.plan(to, "kafka: {learn: [\"*.internal\"]}").WithNodes(map[string][]plan.KnownNode{"r": {{ID: 3, Host: "broker3.internal", Port: 9092}}})
	if _, err := s.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	time.Sleep(repeat + 10*time.Millisecond)
	metadata() // on a connection that was made before the node was known
	if told := s.told(); len(told) != 1 {
		t.Errorf("told of %v, want of no more than before", told)
	}
}

// TestKafkaKilled: what a connection holds is given back when it is ended.
func TestKafkaKilled(t *testing.T) {
	b := newKafkaBroker(t, "b")
	r := kmsg.NewPtrFindCoordinatorResponse()
	r.Version = 4
	r.Coordinators = make([]kmsg.FindCoordinatorResponseCoordinator, 1<<20)
	b.reply(func(_, _ int16, id int32, _ []byte) []byte {
		frame := kafkaAnswer(id, encode(r))
		return frame[:len(frame)-1] // so it is held
	})
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", b.Addr()), "")
	c := s.connect(-1)
	if _, err := c.Write(kafkaRequest(10, 4, 1, make([]byte, 10))); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); s.held.Load() < 8<<20 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if n := s.held.Load(); n < 8<<20 || n > 64<<20 {
		t.Errorf("%d bytes are held", n)
	}
	if conns := s.Conns(); len(conns) != 1 || !s.Kill(conns[0].ID) {
		t.Fatalf("the connections are %+v", conns)
	}
	s.mustBeReset(c)
	s.end(engine.Killed, 1)
	if n := s.held.Load(); n != 0 {
		t.Errorf("%d bytes are held after the end", n)
	}
}

// TestKafkaIdle: an answer may take its time, as long as the route lets a
// connection be idle.
func TestKafkaIdle(t *testing.T) {
	b := newKafkaBroker(t, "b")
	b.reply(func(_, _ int16, id int32, _ []byte) []byte {
		if id == 2 {
			return nil
		}
		time.Sleep(300 * time.Millisecond)
		return kafkaAnswer(id, []byte("b!"))
	})
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", b.Addr()), "idle_timeout: 1s")
	c := s.connect(-1)
	s.mustAnswer(c, "b")
	if _, err := c.Write(kafkaRequest(plainAPI, 0, 2, nil)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.mustBeReset(c)
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("it was reset after %s", took)
	}
	s.end(engine.IdleTimeout, 1)
}
