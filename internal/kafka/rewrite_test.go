package kafka

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// exchange sends a request and its answer through a new connection.
func exchange(t *testing.T, o *Options, c cut, m kmsg.Response, answer []byte) *pair {
	t.Helper()
	p := newPair(t, o, c)
	asked := ask(m.Key(), m.GetVersion(), 7)
	p.request(asked)
	if p.req.err != nil || !bytes.Equal(p.req.out, asked) {
		t.Fatalf("the request: %v, %x", p.req.err, p.req.out)
	}
	p.response(answer)
	if p.res.err != nil || len(p.res.in) > 0 || p.res.pass > 0 || p.c.Pending() != 0 {
		t.Fatalf("%v; %d bytes and %d to pass left of %d, %d pending", p.res.err, len(p.res.in), p.res.pass, len(answer), p.c.Pending())
	}
	p.c.Sent()
	if p.c.resp.out != nil {
		t.Fatal("a buffer is held")
	}
	return p
}

// everyVersion calls f for every version of every API that is looked into.
func everyVersion(t *testing.T, f func(t *testing.T, key, version int16)) {
	for _, key := range rewritten {
		t.Run(kmsg.NameForKey(key), func(t *testing.T) {
			for v := range kmsg.ResponseForKey(key).MaxVersion() + 1 {
				f(t, key, v)
			}
		})
	}
}

// TestEveryVersion: addresses are written anew and nothing else, wherever the stream is cut.
func TestEveryVersion(t *testing.T) {
	everyVersion(t, func(t *testing.T, key, version int16) {
		for seed := range uint64(25) {
			r := random{rand.New(rand.NewPCG(seed, uint64(key)<<8|uint64(version))), 40}
			m := r.answer(key, version)
			o := &Options{Rewrite: rewriteAll, PassUnknown: seed%2 == 0}
			want := expected(m, rewriteAll, o.PassUnknown)
			answer := frame(m, 7)
			p := exchange(t, o, whole, m, answer)
			got := decode(key, version, p.res.out[headOf(m):])
			if !bytes.Equal(got.AppendTo(nil), want.AppendTo(nil)) {
				t.Fatalf("version %d, seed %d:\n got %+v\nwant %+v", version, seed, got, want)
			}
			// A tagged field whose nodes are all dropped stays, empty: kmsg would leave it out.
			if all := frame(want, 7); !bytes.Equal(p.res.out, all) && len(p.res.out) != len(all)+3 {
				t.Fatalf("version %d, seed %d:\n got %x\nwant %x", version, seed, p.res.out, all)
			}
			if changed := !bytes.Equal(answer, p.res.out); key != keyApiVersions && changed != (p.c.Rewritten() == 1) {
				t.Fatalf("version %d, seed %d: changed %v, counted %d", version, seed, changed, p.c.Rewritten())
			}
			step := max(1, len(answer)/100)
			for place := seed % uint64(step); place <= uint64(len(answer)); place += uint64(step) {
				sameOut(t, p, exchange(t, o, at(int(place)), m, answer))
			}
			sameOut(t, p, exchange(t, o, bytewise, m, answer))
		}
	})
}

// sameOut compares what the client got.
func sameOut(t *testing.T, a, b *pair) {
	t.Helper()
	if !bytes.Equal(a.res.out, b.res.out) || !bytes.Equal(a.req.out, b.req.out) || a.c.Rewritten() != b.c.Rewritten() {
		t.Fatalf("cut elsewhere:\n%x\n%x", a.res.out, b.res.out)
	}
}

// TestLongHost: a host that is longer than names can be is not written, but kept where it is
// what the broker says.
func TestLongHost(t *testing.T) {
	long := strings.Repeat("h", maxHost+1)
	for _, test := range []struct {
		rewrite Rewrite
		want    int
	}{
		{keepAll, 1},
		{func(_ int32, host string, port int32) (string, int32, bool) { return host[1:], port, true }, 1},
		{func(_ int32, host string, port int32) (string, int32, bool) { return host, port + 1, true }, 0},
		{func(_ int32, host string, port int32) (string, int32, bool) { return host, port, false }, 0},
	} {
		m := kmsg.NewPtrMetadataResponse()
		m.Version = 12
		m.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 1, Host: long, Port: 9092}}
		p := exchange(t, &Options{Rewrite: test.rewrite}, whole, m, frame(m, 7))
		if got := decode(keyMetadata, 12, p.res.out[headOf(m):]).(*kmsg.MetadataResponse); len(got.Brokers) != test.want {
			t.Errorf("%d brokers, want %d", len(got.Brokers), test.want)
		}
	}
}
