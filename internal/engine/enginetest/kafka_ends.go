package enginetest

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"midspan/internal/engine"
	"midspan/internal/plan"
)

// testKafkaNodeUnknown: a client of a node that stays unknown is turned away after
// connect_timeout.
func testKafkaNodeUnknown(r *rig, w kafkaWay) {
	c := newCluster(r, w, 1, nil).route(true, ", connect_timeout: 400ms")
	first := metadataRequest(1, 1)
	if w.front {
		first = helloFor(kafkaName)
	}
	r.inTime("it was turned away", 350*time.Millisecond, 3*time.Second, func() time.Duration {
		began := time.Now()
		end := r.wantReset(c.nodePort(5), string(first), engine.UnknownNode)
		if !strings.Contains(end.Err, "node 5") {
			r.Errorf("the record says %q", end.Err)
		}
		return time.Since(began)
	})
	if n := c.brokers[0].accepted.Load(); n != 0 {
		r.Errorf("%d connections for node 5 went to node 1", n)
	}
}

// testKafkaOwn: an answer that is not the broker's waits for those before it, and for
// nothing else that the broker may say.
func testKafkaOwn(r *rig, w kafkaWay) {
	gate := make(chan struct{})
	c := newCluster(r, w, 1, behind(gate)).route(true, "")
	e := c.client(c.at)
	q, check := c.mixed(3)
	for range 3 { // the broker says nothing at all
		a, err := e.ask(3, q)
		if err == nil {
			err = check(a)
		}
		if err != nil {
			r.Fatal(err)
		}
	}
	if _, err := e.conn.Write(append(metadataRequest(1, 0), q...)); err != nil {
		r.Fatal(err)
	}
	close(gate)
	for _, i := range []int32{0, 3} {
		a, err := e.answer(i)
		if err == nil {
			_, check := c.mixed(i)
			err = check(a)
		}
		if err != nil {
			r.Error(err)
		}
	}
	if err := e.bye(); err != nil {
		r.Error(err)
	}
}

// testKafkaTokens: after SaslHandshake in version 0 come tokens that have no header,
// and then requests again.
func testKafkaTokens(r *rig, w kafkaWay) {
	c := newCluster(r, w, 1, nil).route(true, "")
	e := c.client(c.at)
	if _, err := e.ask(1, request(apiHandshake, 0, 1, message{}.str("SCRAM-SHA-256"))); err != nil {
		r.Fatal(err)
	}
	for _, token := range []string{"n,,n=alice,r=fyko+d2lbbFgONRv9qkxdawL", "c=biws,r=fyko+d2lbbFgONRv9qkxdawL,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="} {
		if _, err := e.conn.Write(message(token).framed()); err != nil {
			r.Fatal(err)
		}
		if b, err := readFrame(e.in); err != nil || string(b) != "for "+token {
			r.Fatalf("the answer to %q is %q, %v", token, b, err)
		}
	}
	if err := c.answers(e, 1); err != nil {
		r.Error(err)
	}
	if err := e.bye(); err != nil {
		r.Error(err)
	}
}

// testKafkaHalfClose: who has ended can still be answered, and the ends are passed on
// in their order.
func testKafkaHalfClose(r *rig, w kafkaWay) {
	c := newCluster(r, w, 2, func(b *broker, e *kafkaEnd) {
		var answers []byte
		for {
			q, err := readRequest(e.in)
			if err != nil {
				break
			}
			answers = append(answers, b.answer(q)...)
		}
		_, _ = e.conn.Write(answers)
		_ = e.conn.CloseWrite()
	}).route(true, "")
	e := c.client(c.at)
	err := together(func() error {
		for i := range int32(20) {
			if i%5 == 3 {
				continue // not before the broker has answered
			}
			q, _ := c.mixed(i)
			if _, err := e.conn.Write(q); err != nil {
				return err
			}
		}
		return e.conn.CloseWrite()
	}, func() error {
		for i := range int32(20) {
			if i%5 == 3 {
				continue
			}
			a, err := e.answer(i)
			if err == nil {
				_, check := c.mixed(i)
				err = check(a)
			}
			if err != nil {
				return fmt.Errorf("answer %d: %w", i, err)
			}
		}
		return e.wantEnd("end")
	})
	if err != nil {
		r.Error(err)
	}
	e.peer.Close()
	r.endsFor(e.peer.local, engine.ClosedByClient)

	// The broker ends first, as it does with a connection that is idle for long.
	c = newCluster(r, w, 1, func(b *broker, e *kafkaEnd) {
		if q, err := readRequest(e.in); err == nil {
			_, _ = e.conn.Write(b.answer(q))
		}
		_ = e.conn.CloseWrite()
		_, _ = io.Copy(io.Discard, e.in)
	}).route(true, "")
	e = c.client(c.at)
	if err := c.answers(e, 1); err != nil {
		r.Error(err)
	}
	if err := e.wantEnd("end"); err != nil {
		r.Error(err)
	}
	if err := e.bye(); err != nil {
		r.Error(err)
	}
	r.endsFor(e.peer.local, engine.ClosedByServer)
}

// testKafkaFullEnd: while more requests wait than are noted, a client that resets is
// found, and a broker that ends, and its client then too, leave nothing behind.
func testKafkaFullEnd(r *rig, w kafkaWay) {
	end := make(chan struct{})
	c := newCluster(r, w, 1, func(_ *broker, e *kafkaEnd) {
		select {
		case <-end:
		case <-time.After(time.Until(r.deadline)):
		}
		_ = e.conn.CloseWrite()
		_, _ = io.Copy(io.Discard, e.in)
	}).route(true, "")
	var out []byte
	for i := range int32(3000) {
		out = append(out, metadataRequest(1, i)...)
	}
	full := func() *kafkaEnd {
		e := c.client(c.at)
		if _, err := e.conn.Write(out); err != nil {
			r.Fatal(err)
		}
		r.until("no more is read", func() bool {
			all := r.engine.Conns()
			return len(all) == 1 && all[0].BytesUp > 0 && all[0].Idle > 100*time.Millisecond
		})
		if up := r.engine.Conns()[0].BytesUp; up >= uint64(len(out)) {
			r.Errorf("%d bytes were passed on: nothing was held back", up)
		}
		return e
	}
	e := full()
	e.peer.reset()
	r.endsFor(e.peer.local, engine.ResetByClient)
	e = full()
	close(end)
	if err := e.wantEnd("end"); err != nil {
		r.Error(err)
	}
	if err := e.bye(); err != nil {
		r.Error(err)
	}
	r.endsFor(e.peer.local, engine.ClosedByServer)
}

// silent is a broker that has answered one request and then waits; it says how the
// connection ends.
func silent(fates chan<- string) func(*broker, *kafkaEnd) {
	return func(b *broker, e *kafkaEnd) {
		q, err := readRequest(e.in)
		if err != nil {
			return
		}
		_, _ = e.conn.Write(b.answer(q))
		_, err = readFrame(e.in)
		fates <- fate(err)
	}
}

// testKafkaResets: a reset is passed on as one, both ways, and Kill resets both sides.
func testKafkaResets(r *rig, w kafkaWay) {
	fates := make(chan string, 1)
	c := newCluster(r, w, 1, silent(fates)).route(true, "")
	open := func() *kafkaEnd {
		e := c.client(c.at)
		if err := c.answers(e, 1); err != nil {
			r.Fatal(err)
		}
		return e
	}
	e := open()
	e.peer.reset()
	if got := <-fates; got != "reset" {
		r.Errorf("of a reset client the broker sees: %s", got)
	}
	r.endsFor(e.peer.local, engine.ResetByClient)

	e = open()
	for _, conn := range r.engine.Conns() {
		r.engine.Kill(conn.ID)
	}
	if got := <-fates; got != "reset" {
		r.Errorf("of a killed connection the broker sees: %s", got)
	}
	if err := e.wantEnd("reset"); err != nil {
		r.Error(err)
	}
	r.endsFor(e.peer.local, engine.Killed)

	c = newCluster(r, w, 1, func(b *broker, e *kafkaEnd) {
		if q, err := readRequest(e.in); err == nil {
			a := b.answer(q)
			_, _ = e.conn.Write(a[:len(a)/2])
			e.peer.reset()
		}
	}).route(true, "")
	e = c.client(c.at)
	_, err := e.ask(1, metadataRequest(9, 1))
	if !errors.Is(err, syscall.ECONNRESET) {
		r.Errorf("of a broker that resets in the middle of an answer the client sees: %v", err)
	}
	r.endsFor(e.peer.local, engine.ResetByServer)
}

func testKafkaIdle(r *rig, w kafkaWay) {
	fates := make(chan string, 1)
	c := newCluster(r, w, 1, silent(fates)).route(true, ", idle_timeout: 2s")
	e := c.client(c.at)
	if err := c.answers(e, 1); err != nil {
		r.Fatal(err)
	}
	if err := e.wantEnd("reset"); err != nil {
		r.Error(err)
	}
	if got := <-fates; got != "reset" {
		r.Errorf("the broker sees: %s", got)
	}
	r.endsFor(e.peer.local, engine.IdleTimeout)
}

// testKafkaBadRequests: what cannot be a request ends the connection, and the record
// says what it looks like.
func testKafkaBadRequests(r *rig, w kafkaWay) {
	c := newCluster(r, w, 1, nil).route(true, "")
	for _, tt := range []struct{ sent, why string }{
		{"\x7f\xff\xff\xff", "2147483647 bytes"},
		{"\xff\xff\xff\xff", "-1 bytes"},
		{"\x00\x00\x00\x04abcd", "4 bytes"},
		{string(helloFor("x")), "speaks TLS"},
		{"GET / HTTP/1.1\r\n\r\n", "HTTP"},
		{"\x00\x00\x00\x0a\x7f\xff\x00\x00\x00\x00\x00\x01\x00\x00", "API 32767"},
		{string(request(apiMetadata, 99, 1, nil)), "Metadata in version 99"},
		{string(request(apiProduce, 3, 1, message{}.i16(2000))), "Produce"}, // a transactional id that is longer than the request
	} {
		e := c.client(c.at)
		if err := c.answers(e, 1); err != nil {
			r.Fatal(err)
		}
		if _, err := io.WriteString(e.conn, tt.sent); err != nil {
			r.Fatal(err)
		}
		if err := e.wantEnd("reset"); err != nil {
			r.Errorf("%q: %v", tt.sent[:min(len(tt.sent), 20)], err)
		}
		if end := r.endsFor(e.peer.local, engine.BadRequest); !strings.Contains(end.Err, tt.why) {
			r.Errorf("%q: the record says %q, want %q", tt.sent[:min(len(tt.sent), 20)], end.Err, tt.why)
		}
	}
}

// testKafkaBadAnswers: likewise for the broker's. None of it reaches the client.
func testKafkaBadAnswers(r *rig, w kafkaWay) {
	for _, tt := range []struct {
		answer []byte
		why    string
	}{
		{message{}.i32(8).i32(0).framed(), ""}, // to another request
		{message{}.i32(7).i32(1 << 30).framed(), ""},
		{append(message{}.i32(7), metadata(1, []nodeAt{{1, "abc", 1}}, 1)[:12]...).framed(), ""},
		{[]byte("\x7f\xff\xff\xff"), "2147483647 bytes"},
		{[]byte("\x15\x03\x03\x00\x02\x02\x50"), "speaks TLS"},
		{[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), "HTTP"},
	} {
		c := newCluster(r, w, 1, func(_ *broker, e *kafkaEnd) {
			if _, err := readRequest(e.in); err != nil {
				return
			}
			_, _ = e.conn.Write(tt.answer)
			_, _ = io.Copy(io.Discard, e.in)
		}).route(true, "")
		e := c.client(c.at)
		if _, err := e.conn.Write(metadataRequest(1, 7)); err != nil {
			r.Fatal(err)
		}
		if err := e.wantEnd("reset"); err != nil {
			r.Errorf("%q: %v", tt.answer, err)
		}
		if end := r.endsFor(e.peer.local, engine.BadResponse); end.Err == "" || !strings.Contains(end.Err, tt.why) {
			r.Errorf("%q: the record says %q, want %q", tt.answer, end.Err, tt.why)
		}
		for _, conn := range r.engine.Conns() {
			r.Errorf("left is %s", summary(conn))
		}
		_ = c.brokers[0].l.Close()
	}
}

// testKafkaPairing: where one side speaks TLS and the other does not, the record says
// which, and a client in plain text is sent nothing: what TLS would say reads as the
// length of an answer, for which some clients take the memory.
func testKafkaPairing(r *rig, w kafkaWay) {
	w.odd = true
	c := newCluster(r, w, 1, nil).route(true, "")
	want, why := "the broker speaks TLS", engine.BadResponse
	if w.back {
		want, why = "speaks plain text; take upstream_tls out", engine.ConnectFailed
	}
	if end := c.turnedAway(c.at.Port(), why); !strings.Contains(end.Err, want) {
		r.Errorf("the record says %q, want %q", end.Err, want)
	}
	if !w.front {
		return
	}
	p := r.dial(c.at)
	if _, err := p.Write(request(apiVersions, 3, 1, nil)); err != nil {
		r.Fatal(err)
	}
	if g := p.all(); g.bytes != 0 {
		r.Errorf("a client in plain text is sent: %s", g)
	}
	p.Close()
	if end := r.endsFor(p.local, engine.TLSFailed); !strings.Contains(end.Err, "the client speaks Kafka in plain text") {
		r.Errorf("the record says %q", end.Err)
	}
}

// testKafkaNames: a node's certificate is verified for the name that the cluster has
// for it, once that is known, and till then for the server's host.
func testKafkaNames(r *rig) {
	c := newCluster(r, kafkaWay{back: true}, 1, nil)
	c.route(true, "")
	const other = "another.inside.test"
	for host, want := range map[string]string{"": "", nodeName(1): "", other: other} {
		p := c.plan(true, "")
		if host != "" {
			p = p.WithNodes(map[string][]plan.KnownNode{"route": {{ID: 1, Host: host, Port: 9092}}})
		}
		c.applyPlan(p)
		if want == "" {
			e := c.client(c.nodePort(1))
			if err := c.answers(e, 1); err != nil {
				r.Errorf("as %q: %v", host, err)
			}
			continue
		}
		if end := c.turnedAway(c.nodePort(1).Port(), engine.ConnectFailed); !strings.Contains(end.Err, "not "+want) {
			r.Errorf("as %q: %q", host, end.Err)
		}
	}
}
