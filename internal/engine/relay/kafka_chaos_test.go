package relay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// kafkaScript is what a client asks in turn, and what it is to get.
type kafkaScript struct {
	requests, answers, wants [][]byte // an answer may be nil: none, and a want too
}

func newKafkaScript(r *rand.Rand, n, port int) *kafkaScript {
	s := &kafkaScript{}
	add := func(id int, key, version int16, body, answer, want []byte) {
		s.requests = append(s.requests, kafkaRequest(key, version, int32(id), body))
		frame := func(b []byte) []byte {
			if b == nil {
				return nil
			}
			return kafkaAnswer(int32(id), b)
		}
		s.answers, s.wants = append(s.answers, frame(answer)), append(s.wants, frame(want))
	}
	filler := func() []byte {
		return bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN([]int{10, 100, 5000, 70000, 300000}[r.IntN(5)]))
	}
	for i := range n {
		switch r.IntN(6) {
		case 0:
			// Topics without a name, of 9 bytes each, as many as there may be.
			rest := make([]byte, 9*r.IntN(20000))
			a, b := metadata1(3, "broker3.internal", 9092, nil), metadata1(3, stageHost, int32(port+1+3), nil)
			for _, x := range [][]byte{a, b} {
				binary.BigEndian.PutUint32(x[len(x)-4:], uint32(len(rest)/9))
			}
			add(i, keyMetadata, 1, []byte{0, 0, 0, 0}, append(a, rest...), append(b, rest...))
		case 1:
			body := append([]byte{0, 0, 0, 0, 0, 1}, filler()...)
			add(i, keyProduce, 2, body, nil, nil)
		case 2:
			a := fetched(17, len(filler()))
			add(i, keyFetch, 17, nil, a, a)
		case 3:
			add(i, keyAPIVersions, 99, filler(), nil, []byte("\x00\x23\x00\x00\x00\x01\x00\x12\x00\x00\x00\x05"))
		default:
			a := filler()
			add(i, plainAPI, 0, filler(), a, a)
		}
	}
	return s
}

// play writes parts in pieces of any size, sometimes with a rest between.
func play(c net.Conn, r *rand.Rand, parts [][]byte) error {
	for b := bytes.Join(parts, nil); len(b) > 0; {
		n := min(1+r.IntN([]int{20, 3000, 100000}[r.IntN(3)]), len(b))
		if _, err := c.Write(b[:n]); err != nil {
			return err
		}
		if b = b[n:]; r.IntN(8) == 0 {
			time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
		}
	}
	return nil
}

// hesitant reads in pieces of any size, sometimes with a rest between.
type hesitant struct {
	net.Conn
	r *rand.Rand
}

func (s hesitant) Read(b []byte) (int, error) {
	if s.r.IntN(10) == 0 {
		time.Sleep(time.Duration(s.r.IntN(1000)) * time.Microsecond)
	}
	return s.Conn.Read(b[:min(len(b), 1+s.r.IntN(50000))])
}

// TestKafkaChaos: whatever is asked and answered, in whatever pieces, comes out as
// it should, with requests and answers under way at the same time.
func TestKafkaChaos(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", ln.Addr()), "")
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			script := newKafkaScript(r, 60, s.port)
			c := s.connect(-1)
			b, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if seed%2 == 0 {
				for _, x := range []net.Conn{c, b} {
					if err := x.(*net.TCPConn).SetReadBuffer(128 << 10); err != nil {
						t.Fatal(err)
					}
				}
			}
			asked, answered := make(chan error, 1), make(chan error, 1)
			go func() { asked <- play(c, rand.New(rand.NewPCG(seed, 2)), script.requests) }()
			go func() { answered <- script.answer(b, seed) }()
			got := make([]byte, 0, 1<<20)
			from := hesitant{c, rand.New(rand.NewPCG(seed, 3))}
			for i, want := range script.wants {
				got = got[:len(want)]
				if _, err := io.ReadFull(from, got); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("answer %d: %v, %.100q; want %.100q", i, err, got, want)
				}
			}
			for _, done := range []chan error{asked, answered} {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// answer is the broker's part: it answers what it is asked, and leaves out what it
// is not to see.
func (s *kafkaScript) answer(c net.Conn, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 4))
	from := hesitant{c, rand.New(rand.NewPCG(seed, 5))}
	for i, want := range s.requests {
		if s.answers[i] == nil && s.wants[i] != nil {
			continue
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(from, got); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("request %d: %w, %.100q; want %.100q", i, err, got, want)
		}
		if err := play(c, r, [][]byte{s.answers[i]}); err != nil {
			return err
		}
	}
	return nil
}
