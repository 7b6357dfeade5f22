package relay

import (
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
)

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
	s.full()
	if err := b.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
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

// full waits until a connection of the first loop has as many requests under way as
// are taken.
func (s *kafkaStage) full() {
	s.t.Helper()
	eventually(s.t, "the codec takes no more requests", func() (full bool) {
		s.loops[0].call(func() {
			for p := range s.loops[0].all() {
				full = full || p.kafka != nil && p.kafka.up.full
			}
		})
		return full
	})
}

// TestKafkaFullReset: a client that resets while it has more requests under way than
// are taken is gone also if it is a write of an answer that finds it out.
func TestKafkaFullReset(t *testing.T) {
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
	gone := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, b)
		gone <- err
	}()
	var sent []byte
	for i := range int32(4000) {
		sent = append(sent, kafkaRequest(plainAPI, 0, i, nil)...)
	}
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	s.full()
	// The loop stands still until both are there: the answer, which comes first in
	// its list of events, and the reset.
	s.loops[0].call(func() {
		if _, err := b.Write(kafkaAnswer(0, []byte("answer"))); err != nil {
			t.Error(err)
		}
		time.Sleep(20 * time.Millisecond)
		_ = c.SetLinger(0)
		c.Close()
		time.Sleep(20 * time.Millisecond)
	})
	s.end(engine.ResetByClient, 1)
	if err := <-gone; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the broker: %v, want a reset", err)
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
	eventually(t, "the answer is held", func() bool { return s.held.Load() >= 8<<20 })
	if n := s.held.Load(); n > 64<<20 {
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
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", b.Addr()), "idle_timeout: 2s")
	c := s.connect(-1)
	s.mustAnswer(c, "b")
	began := time.Now()
	if _, err := c.Write(kafkaRequest(plainAPI, 0, 2, nil)); err != nil {
		t.Fatal(err)
	}
	s.mustBeReset(c)
	if took := time.Since(began); took < 1900*time.Millisecond {
		t.Errorf("it was reset after %s", took)
	}
	s.end(engine.IdleTimeout, 1)
}
