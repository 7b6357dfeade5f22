package enginetest

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"midspan/internal/engine"
)

func consumerCases() []testCase {
	return []testCase{
		{"consumers, each with a target", testConsumerTargets},
		{"consumers of a guarded route", testConsumerGuard},
		{"consumers by address", testConsumerFrom},
		{"consumer with max_connections", testConsumerLimit},
		{"consumer with a rate", testConsumerRate},
		{"consumers after a reload", testConsumerReload},
	}
}

// callerIs is a PROXY header with an id.
func callerIs(tlv string) string { return v2(far, front, tlv) }

func vpce(id string) string {
	return "\xea" + string([]byte{0, byte(len(id) + 1)}) + "\x01" + id
}

// hasName sends s to at, which must be answered by the server of that name.
func (r *rig) hasName(at netip.AddrPort, s, name string) *peer {
	r.Helper()
	c := r.dial(at)
	if err := c.say(s); err != nil {
		r.Fatal(err)
	}
	if err := c.hear(name); err != nil {
		r.Fatalf("%q: %v", s, err)
	}
	return c
}

// testConsumerTargets: two private endpoints, one listener, two servers; who is
// none of them is reset, with a record that says who it was.
func testConsumerTargets(r *rig) {
	servers := r.serveNames("abc")
	at := r.freePort()
	consumers := "consumers: { one: { link_id: 1001 }, two: { endpoint_id: vpce-2 }, three: { endpoint_id: \"77\" }, four: { link_id: 4 } }"
	r.apply("%s\nroute: { listen: %q, proxy_protocol: required, to: { one: %q, two: %q, three: [%q, %q] } }",
		consumers, at, servers[0].addr, servers[1].addr, servers[2].addr, servers[0].addr)
	for range 4 { // one has no part in the turns of the others
		r.hasName(at, callerIs(linkID(1001)), "a")
		r.hasName(at, callerIs(vpce("vpce-2")), "b")
	}
	gcp := "\xe0\x00\x08\x00\x00\x00\x00\x00\x00\x00\x4d" // 77
	r.hasName(at, callerIs(gcp), "c")
	r.hasName(at, callerIs(gcp), "a")
	for _, conn := range r.engine.Conns() {
		want := map[string]string{"azure:1001": "one", "aws:vpce-2": "two", "gcp:77": "three"}[conn.Link]
		if want == "" || conn.Consumer != want || conn.Client != far {
			r.Errorf("listed is %+v, want consumer %q", conn, want)
		}
	}
	end := r.wantReset(at, callerIs(linkID(1002)), engine.UnknownConsumer)
	if end.Link != "azure:1002" || end.Client != far || end.Consumer != "" {
		r.Errorf("the record of the unknown one is %+v", end)
	}
	r.wantReset(at, callerIs(""), engine.UnknownConsumer)
	end = r.wantReset(at, callerIs(linkID(4)), engine.ConsumerNotAllowed)
	if end.Link != "azure:4" || end.Consumer != "four" {
		r.Errorf("the record of the one without a server is %+v", end)
	}

	// In a set the order is its own.
	r.apply("%s\nroute: { listen: %q, proxy_protocol: required, balance: first, to: { one: %q, three: [%q, %q] } }",
		consumers, at, servers[0].addr, servers[2].addr, servers[0].addr)
	r.hasName(at, callerIs(gcp), "c")

	// With a default, those without a server of their own come there.
	r.apply("%s\nroute: { listen: %q, proxy_protocol: required, to: { one: %q, default: %q } }",
		"consumers: { one: { link_id: 1001 }, two: { endpoint_id: vpce-2 } }", at, servers[0].addr, servers[2].addr)
	r.hasName(at, callerIs(linkID(1001)), "a")
	r.hasName(at, callerIs(vpce("vpce-2")), "c")
}

func testConsumerGuard(r *rig) {
	servers := r.serveNames("ab")
	at, open := r.freePort(), r.freePort()
	r.apply("consumers: { one: { link_id: 1, routes: [guarded] }, two: { link_id: 2, routes: [other] } }\n"+
		"guarded: { listen: %q, proxy_protocol: required, to: %q }\nother: { listen: %q, proxy_protocol: required, to: %q }\nopen: { listen: %q, proxy_protocol: required, to: %q }",
		at, servers[0].addr, r.freePort(), servers[0].addr, open, servers[1].addr)
	r.hasName(at, callerIs(linkID(1)), "a")
	end := r.wantReset(at, callerIs(linkID(2)), engine.ConsumerNotAllowed)
	if end.Consumer != "two" || end.Link != "azure:2" {
		r.Errorf("the record is %+v", end)
	}
	r.wantReset(at, callerIs(linkID(3)), engine.UnknownConsumer)
	r.wantReset(at, v1(far, front), engine.UnknownConsumer)
	for _, s := range []string{callerIs(linkID(2)), callerIs(linkID(3)), v1(far, front)} {
		r.hasName(open, s, "b")
	}
	// A load balancer's test is no consumer's, and no reason to complain; but as a
	// way in it does not serve.
	probe := r.dial(at)
	if err := probe.say(v2Raw(0x20, 0, "")); err != nil {
		r.Fatal(err)
	}
	if err := probe.all().want(0, "end"); err != nil {
		r.Errorf("a test that stays: %v", err)
	}
	if n := r.engine.Status().Routes[0].Counters.Ended[engine.Probe]; n != 1 {
		r.Errorf("%d probes are counted, want 1", n)
	}
	r.wantReset(at, v2Raw(0x20, 0, "")+"hello", engine.UnknownConsumer)
	want := []engine.ConsumerStatus{{Name: "one", Active: 1, Accepted: 1}, {Name: "two", Active: 1, Accepted: 1, Refused: 1}}
	r.until("the counts of consumers", func() bool {
		got := r.engine.Status().Consumers
		for i := range got {
			got[i].BytesDown = 0
		}
		return fmt.Sprint(got) == fmt.Sprint(want)
	})
}

// testConsumerFrom: without ids, the client's address tells, with a header or
// without; the smallest network is meant. An id is not overruled by an address.
func testConsumerFrom(r *rig) {
	servers := r.serveNames("ab")
	at, plain := r.freePort(), r.freePort()
	consumers := "consumers: { all: { from: %s, routes: [plain] }, far: { from: 192.0.2.0/24, routes: [route] }, near: { from: 192.0.2.7, routes: [route] }, id: { link_id: 1, routes: [route] } }"
	r.apply(consumers+"\nroute: { listen: %q, proxy_protocol: required, to: %q }\nplain: { listen: %q, to: %q }",
		r.place.client[0], at, servers[0].addr, plain, servers[1].addr)
	r.hasName(at, v1(far, front), "a")
	r.hasName(at, v1(netip.MustParseAddrPort("192.0.2.8:1"), front), "a")
	r.wantReset(at, v1(netip.MustParseAddrPort("192.0.3.8:1"), front), engine.UnknownConsumer)
	r.wantReset(at, callerIs(linkID(2)), engine.UnknownConsumer)
	c, err := r.connectFrom(r.place.client[0], plain)
	if err != nil {
		r.Fatal(err)
	}
	if err := c.hear("b"); err != nil {
		r.Fatal(err)
	}
	names := map[string]string{}
	for _, conn := range r.engine.Conns() {
		names[conn.Client.Addr().String()] = conn.Consumer
	}
	want := map[string]string{"192.0.2.7": "near", "192.0.2.8": "far", r.place.client[0].String(): "all"}
	if fmt.Sprint(names) != fmt.Sprint(want) {
		r.Errorf("the consumers are %v, want %v", names, want)
	}
}

func testConsumerLimit(r *rig) {
	servers := r.serveNames("a")
	first, second := r.freePort(), r.freePort()
	r.apply("consumers: { one: { link_id: 1, max_connections: 3 }, two: { link_id: 2 } }\n"+
		"r1: { listen: %q, proxy_protocol: required, to: %q }\nr2: { listen: %q, proxy_protocol: required, to: %[2]q }", first, servers[0].addr, second)
	var held []*peer
	for _, at := range []netip.AddrPort{first, second, first} { // over all routes
		held = append(held, r.hasName(at, callerIs(linkID(1)), "a"))
	}
	for range 3 {
		r.wantReset(second, callerIs(linkID(1)), engine.ConsumerLimit)
	}
	r.hasName(second, callerIs(linkID(2)), "a")
	if err := held[0].ping([]byte("hello")); err != nil {
		r.Fatal(err)
	}
	if err := held[0].bye(); err != nil {
		r.Fatal(err)
	}
	r.until("one has ended", func() bool { return r.engine.Status().Consumers[0].Active == 2 })
	r.hasName(second, callerIs(linkID(1)), "a")
	want := engine.ConsumerStatus{Name: "one", Active: 3, Accepted: 4, Refused: 3, BytesUp: 5, BytesDown: 4 + 5}
	r.until(fmt.Sprintf("the counts are %+v", want), func() bool { return r.engine.Status().Consumers[0] == want })
}

// testConsumerRate: a second's worth at once, then as many as the rate lets in.
func testConsumerRate(r *rig) {
	const tries = 3 // a slow machine does not come often enough to be let in so often
	servers := r.serveNames("a")
	at := r.freePort()
	r.apply("consumers: { one: { link_id: 1, rate: 5/s }, two: { link_id: 2, rate: 1/m } }\nroute: { listen: %q, proxy_protocol: required, to: %q }", at, servers[0].addr)
	for try := 1; ; try++ {
		began := time.Now()
		in := 0
		for time.Since(began) < 1500*time.Millisecond {
			c := r.dial(at)
			if err := c.say(callerIs(linkID(1))); err != nil {
				r.Fatal(err)
			}
			if c.hear("a") == nil {
				in++
			}
			c.Close()
			time.Sleep(10 * time.Millisecond)
		}
		took := time.Since(began)
		most := 5 + int(took/(200*time.Millisecond)) + 1
		if in > most || in < 5+5 && try == tries {
			r.Errorf("%d were let in within %s, want 10 to %d", in, took, most)
		}
		if in >= 5+5 || try == tries {
			break
		}
		time.Sleep(time.Second) // the next second's worth
	}
	r.hasName(at, callerIs(linkID(2)), "a")
	r.wantReset(at, callerIs(linkID(2)), engine.ConsumerLimit)
}

// testConsumerReload: a consumer is told by its name from plan to plan; its counts
// go on, and its limit is about all its connections.
func testConsumerReload(r *rig) {
	backend := r.serveNames("a")[0]
	at := r.freePort()
	apply := func(consumers string) {
		r.apply("consumers: { %s }\nroute: { listen: %q, proxy_protocol: required, to: %q }", consumers, at, backend.addr)
	}
	apply("one: { link_id: 1 }, two: { link_id: 2 }")
	one, two := r.hasName(at, callerIs(linkID(1)), "a"), r.hasName(at, callerIs(linkID(2)), "a")
	apply("one: { link_id: [1, 11], max_connections: 2 }")
	r.hasName(at, callerIs(linkID(11)), "a")
	r.wantReset(at, callerIs(linkID(1)), engine.ConsumerLimit)
	r.wantReset(at, callerIs(linkID(2)), engine.UnknownConsumer)
	r.wantEcho(one, "a connection from before")
	r.wantEcho(two, "a connection of a consumer that is gone")
	all := r.engine.Status().Consumers
	if len(all) != 2 || all[0].Name != "one" || all[0].Active != 2 || all[0].Accepted != 2 || all[0].Refused != 1 || all[1].Name != "two" || all[1].Active != 1 {
		r.Errorf("counted is %+v", all)
	}
	two.Close()
	r.until("the end of the last one of two", func() bool { return r.engine.Status().Consumers[1].Active == 0 })
	apply("one: { link_id: [1, 11] }")
	if all := r.engine.Status().Consumers; len(all) != 1 {
		r.Errorf("listed is %+v", all)
	}

	testConsumersUnderLoad(r, at, backend)
}

// testConsumersUnderLoad has plans follow each other quickly: nobody is lost, nor
// counted twice. Two connections are there before.
func testConsumersUnderLoad(r *rig, at netip.AddrPort, backend *server) {
	before := r.engine.Status().Consumers[0].Accepted
	n := amount(400, 100)
	var left atomic.Int64
	left.Store(int64(n))
	work := func() error {
		for left.Add(-1) >= 0 {
			c, err := r.connect(at)
			if err != nil {
				return err
			}
			if err := c.say(callerIs(linkID(1))); err != nil {
				return err
			}
			if err := c.hear("a"); err != nil {
				return err
			}
			if err := c.bye(); err != nil {
				return err
			}
		}
		return nil
	}
	err := together(work, work, work, func() error {
		for i := 0; left.Load() > 0; i++ {
			p := r.plan("consumers: { one: { link_id: [1, %d] } }\nroute: { listen: %q, proxy_protocol: required, to: %q }", 100+i, at, backend.addr)
			if _, err := r.engine.Apply(context.Background(), p); err != nil {
				return err
			}
			time.Sleep(2 * time.Millisecond)
		}
		return nil
	})
	if err != nil {
		r.Error(err)
	}
	r.until("all are counted", func() bool {
		s := r.engine.Status().Consumers[0]
		return s.Accepted-before == uint64(n) && s.Active == 2
	})
}
