package relay

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// serveFrames is a broker that answers each request with as many bytes.
func serveFrames(c net.Conn) {
	var head [12]byte
	for {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		size := int64(binary.BigEndian.Uint32(head[:])) - 8
		if _, err := io.CopyN(io.Discard, c, size); err != nil {
			return
		}
		answer := append(binary.BigEndian.AppendUint32(nil, uint32(4+size)), head[8:]...)
		if _, err := c.Write(answer); err != nil {
			return
		}
		if _, err := io.CopyN(c, zeros{}, size); err != nil {
			return
		}
	}
}

// serveHalf is a broker that answers with the first bytes of what it says are 16 MiB
// of nodes.
func serveHalf(c net.Conn) {
	var head [12]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return
	}
	answer := append(binary.BigEndian.AppendUint32(nil, 16<<20), head[8:]...)
	answer = binary.BigEndian.AppendUint32(answer, 1<<20)
	_, _ = c.Write(append(answer, make([]byte, 3000)...))
	_, _ = io.Copy(io.Discard, c)
}

// TestIdleCostKafka: what a session of mode kafka costs that has exchanged something
// and rests: as one of mode tcp, and what package kafka keeps. So does one that rests
// in the middle of a frame, whatever length that says it has.
func TestIdleCostKafka(t *testing.T) {
	a := newAuthority(t)
	pem := a.leaf("s.pem", "127.0.0.1")
	front, back := "tls: "+pem, "upstream_tls: {ca: "+a.file("ca.pem")+"}"
	server := &tls.Config{Certificates: []tls.Certificate{a.pair("s.pem")}}
	client := &tls.Config{RootCAs: a.pool(), ServerName: "127.0.0.1"}
	for _, c := range []struct {
		name, settings string
		tls, backTLS   bool
		bulk           int64 // bytes of the request and of its answer
		half           bool  // of the answer not all comes
		most           float64
	}{
		{"with clients", front, true, false, 64, false, 36},
		{"with servers", back, false, true, 64, false, 44},
		{"with both", front + ", " + back, true, true, 64, false, 52},
		{"with both, after bulk", front + ", " + back, true, true, 1 << 20, false, 135},
		{"in the middle of a long answer", front, true, false, 64, true, 40},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := 1000
			if raceDetector || c.bulk > 64 { // it says nothing then, or takes long
				n = 200
			}
			serve, key, to := serveFrames, uint16(plainAPI), ""
			if c.half {
				serve, key = serveHalf, 3 // Metadata
			}
			if c.backTLS {
				to = serveTLS(t, server, func(conn *tls.Conn) { serve(conn) })
			} else {
				to = newGuests(t, serve).addr
			}
			port := freePort(t)
			t.Setenv(childSettings, fmt.Sprintf(", mode: kafka, check: off, advertise: {host: kafka.test, ports: %d-%d}, %s", port, port, c.settings))
			pid, addr, tidy := startTidyChild(t, to)
			open := func() net.Conn {
				var conn net.Conn
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				if c.tls {
					secure := tls.Client(conn, client)
					if err := secure.Handshake(); err != nil {
						t.Fatal(err)
					}
					conn = secure
				}
				request := binary.BigEndian.AppendUint32(nil, uint32(c.bulk+8))
				request = binary.BigEndian.AppendUint16(request, key)
				request = append(binary.BigEndian.AppendUint16(request, 1), "corr"...)
				sent := make(chan error, 1)
				go func() {
					_, err := conn.Write(append(request, make([]byte, c.bulk)...))
					sent <- err
				}()
				if !c.half {
					if _, err := io.CopyN(io.Discard, conn, 8+c.bulk); err != nil {
						t.Fatal(err)
					}
				}
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
				return conn
			}
			open().Close()
			tidy()
			rss, fds := residentKiB(t, pid), openFDs(t, pid)
			for range n {
				open()
			}
			tidy()
			perConn, perFD := float64(residentKiB(t, pid)-rss)/float64(n), float64(openFDs(t, pid)-fds)/float64(n)
			if (perConn > c.most && !raceDetector) || perFD > 2 {
				t.Errorf("%.1f KiB and %.1f descriptors for each idle connection, want at most %.0f and 2", perConn, perFD, c.most)
			}
			t.Logf("%.1f KiB and %.1f descriptors for each of %d idle connections", perConn, perFD, n)
		})
	}
}

// TestKafkaSessionMoves: in a session too, bytes of a frame that is held are
// movement: a large answer that comes slowly is not idle.
func TestKafkaSessionMoves(t *testing.T) {
	r := kmsg.NewPtrFindCoordinatorResponse()
	r.Version = 4
	for i := range int32(10) {
		r.Coordinators = append(r.Coordinators, kmsg.FindCoordinatorResponseCoordinator{NodeID: i % stageNodes, Host: "broker.internal", Port: 9092})
	}
	answer := kafkaAnswer(1, encode(r))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a := newAuthority(t)
	s := newKafkaStage(t, 1, fmt.Sprintf("%q", ln.Addr()), "idle_timeout: 2s, tls: "+a.leaf("s.pem", "a.test"))
	c := tls.Client(s.connect(-1), &tls.Config{RootCAs: a.pool(), ServerName: "a.test"})
	if _, err := c.Write(kafkaRequest(10, 4, 1, make([]byte, 10))); err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := readKafka(b); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		for i := range 8 {
			time.Sleep(400 * time.Millisecond)
			if _, err := b.Write(answer[i*len(answer)/8 : (i+1)*len(answer)/8]); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	frame, err := readKafka(c)
	if err != nil || !strings.Contains(string(frame), stageHost) {
		t.Errorf("the answer is %q, %v", frame, err)
	}
	if err := <-sent; err != nil {
		t.Errorf("the broker: %v", err)
	}
}

// TestKafkaSessionRests: a flow that gets small pieces of a frame does not have memory
// made for each; one that has little in hand holds no more than that.
func TestKafkaSessionRests(t *testing.T) {
	f := &kafkaFlow{k: &kafkaFlows{s: &session{l: &loop{e: &Engine{}}}}}
	cycle := func() {
		if err := f.makeRoom(); err != nil {
			t.Fatal(err)
		}
		f.rest()
	}
	cycle()
	if f.buf != nil {
		t.Errorf("a flow with nothing in hand holds %d bytes", len(f.buf))
	}
	if err := f.makeRoom(); err != nil {
		t.Fatal(err)
	}
	f.w = 40 << 10
	if n := testing.AllocsPerRun(100, cycle); n > 0 {
		t.Errorf("%.0f allocations for each piece", n)
	}
	f.r = f.w - 100
	if f.rest(); len(f.buf) != 100 || f.pool != nil {
		t.Errorf("a flow with 100 bytes in hand holds %d", len(f.buf))
	}
}
