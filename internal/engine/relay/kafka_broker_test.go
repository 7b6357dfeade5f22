package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// A request of an API without addresses, which the codec passes as it is.
const plainAPI = 22

// kafkaRequest is one frame; the body follows on the header, which has no client id.
func kafkaRequest(key, version int16, correlation int32, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(10+len(body)))
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, uint32(correlation))
	b = append(b, 0xff, 0xff)
	return append(b, body...)
}

func kafkaAnswer(correlation int32, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))
	b = binary.BigEndian.AppendUint32(b, uint32(correlation))
	return append(b, body...)
}

func appendString16(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// metadata1 is a body of Metadata's answer in version 1 with one broker, and as
// much behind it as rest says.
func metadata1(node int32, host string, port int32, rest []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 1)
	b = binary.BigEndian.AppendUint32(b, uint32(node))
	b = appendString16(b, host)
	b = binary.BigEndian.AppendUint32(b, uint32(port))
	b = binary.BigEndian.AppendUint16(b, 0xffff)            // no rack
	b = binary.BigEndian.AppendUint32(b, uint32(node))      // the controller
	b = binary.BigEndian.AppendUint32(b, uint32(len(rest))) // topics, if any
	return append(b, rest...)
}

// answerer makes the answer to a request; nil: none.
type answerer func(key, version int16, correlation int32, body []byte) []byte

// kafkaBroker answers requests: with its name and the request's body, or otherwise;
// see reply.
type kafkaBroker struct {
	net.Listener
	name string

	mu     sync.Mutex
	answer answerer
	conns  []*net.TCPConn
}

func newKafkaBroker(t *testing.T, name string) *kafkaBroker {
	t.Helper()
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	b := &kafkaBroker{Listener: ln, name: name}
	t.Cleanup(b.stop)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns = append(b.conns, c.(*net.TCPConn))
			b.mu.Unlock()
			go b.serve(c.(*net.TCPConn))
		}
	}()
	return b
}

// reply sets how the broker answers; nil: as at first.
func (b *kafkaBroker) reply(how answerer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = how
}

// stop closes the broker, and resets its connections.
func (b *kafkaBroker) stop() {
	b.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		_ = c.SetLinger(0)
		c.Close()
	}
	b.conns = nil
}

func (b *kafkaBroker) accepted() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

func (b *kafkaBroker) serve(c *net.TCPConn) {
	for {
		frame, err := readKafka(c)
		if err != nil {
			_ = c.CloseWrite()
			return
		}
		key, version := int16(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:]))
		correlation, body := int32(binary.BigEndian.Uint32(frame[4:])), frame[10:]
		var out []byte
		b.mu.Lock()
		answer := b.answer
		b.mu.Unlock()
		if answer != nil {
			out = answer(key, version, correlation, body)
		} else {
			out = kafkaAnswer(correlation, append([]byte(b.name), body...))
		}
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

// readKafka reads a frame, and leaves its length out.
func readKafka(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(r, frame)
	return frame, err
}

// kafkaStage is an engine with one route of mode kafka, of nodes 0 to 7, and what it
// said.
type kafkaStage struct {
	*Engine
	t    *testing.T
	port int // bootstrap; node n is at port+1+n

	mu      sync.Mutex
	log     bytes.Buffer
	nodes   []engine.Node
	records []*engine.Record
}

const (
	stageNodes = 8
	stageHost  = "kafka.example.com"
)

func newKafkaStage(t *testing.T, loops int, to, settings string) *kafkaStage {
	t.Helper()
	port, err := freePorts(1 + stageNodes)
	if err != nil {
		t.Fatal(err)
	}
	s := &kafkaStage{t: t, port: port}
	s.Engine, err = New(Options{Loops: loops, Log: slog.New(slog.NewTextHandler(s, nil)), Hooks: engine.Hooks{
		Node: func(n engine.Node) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.nodes = append(s.nodes, n)
		},
		Record: func(r *engine.Record) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.records = append(s.records, r)
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.apply(to, settings)
	return s
}

// Write takes the log.
func (s *kafkaStage) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

func (s *kafkaStage) plan(to, settings string) *plan.Plan {
	s.t.Helper()
	p, err := planFor(fmt.Sprintf("routes: {r: {mode: kafka, listen: \"127.0.0.1:%d\", to: %s, advertise: {host: %s, ports: %d-%d}, check: off, %s}}",
		s.port, to, stageHost, s.port+1, s.port+stageNodes, settings))
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *kafkaStage) apply(to, settings string) {
	s.t.Helper()
	if _, err := s.Apply(context.Background(), s.plan(to, settings)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *kafkaStage) dial(node int) (net.Conn, error) {
	return net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port+1+node))
}

// connect opens a connection to the bootstrap port (node -1) or a node's.
func (s *kafkaStage) connect(node int) *net.TCPConn {
	s.t.Helper()
	c, err := s.dial(node)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		s.t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// ask sends a request and is the body of its answer.
func ask(c net.Conn, correlation int32, body string) (string, error) {
	if _, err := c.Write(kafkaRequest(plainAPI, 0, correlation, []byte(body))); err != nil {
		return "", err
	}
	frame, err := readKafka(c)
	if err != nil {
		return "", err
	}
	if got := int32(binary.BigEndian.Uint32(frame)); got != correlation {
		return "", fmt.Errorf("the answer to %d, not to %d", got, correlation)
	}
	return string(frame[4:]), nil
}

func (s *kafkaStage) mustAnswer(c net.Conn, want string) {
	s.t.Helper()
	if got, err := ask(c, 7, "!"); err != nil || got != want+"!" {
		s.t.Errorf("the answer is %q, %v; want %q", got, err, want+"!")
	}
}

func (s *kafkaStage) mustBeReset(c net.Conn) {
	s.t.Helper()
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		s.t.Errorf("read %d, %v; want a reset", n, err)
	}
}

// end waits for the n-th connection that ends so.
func (s *kafkaStage) end(why engine.Reason, n int) *engine.Record {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if r := s.nthEnd(why, n); r != nil {
			return r
		}
	}
	s.t.Fatalf("no %d connections have ended so: %s", n, why)
	return nil
}

func (s *kafkaStage) nthEnd(why engine.Reason, n int) *engine.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.records {
		if !r.End.IsZero() && r.Reason == why {
			if n--; n == 0 {
				return r
			}
		}
	}
	return nil
}

// said is how often a text is in the log.
func (s *kafkaStage) said(text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.log.String(), text)
}

func (s *kafkaStage) told() []engine.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]engine.Node(nil), s.nodes...)
}
