package kafka

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestBackPressure: what is too many under way waits, is no error, and goes on.
func TestBackPressure(t *testing.T) {
	const all = 3*maxUnderWay + 7
	var requests, answers []byte
	for i := range int32(all) {
		requests = append(requests, ask(keyFetch, 4, i)...)
		answers = binary.BigEndian.AppendUint32(answers, 4+8)
		answers = binary.BigEndian.AppendUint32(answers, uint32(i))
		answers = append(answers, "12345678"...)
	}
	for _, c := range []cut{whole, bytewise, randomly(rand.New(rand.NewPCG(1, 1)))} {
		p := newPair(t, &Options{Rewrite: rewriteAll}, c)
		p.request(requests)
		if !p.req.full || p.c.Pending() != maxUnderWay {
			t.Fatalf("full: %v, %d pending", p.req.full, p.c.Pending())
		}
		for rest := answers; len(rest) > 0; {
			n := min(len(rest), 16*100)
			p.response(rest[:n])
			rest = rest[n:]
			if p.res.err != nil || p.req.err != nil {
				t.Fatal(p.res.err, p.req.err)
			}
		}
		if !bytes.Equal(p.req.out, requests) || !bytes.Equal(p.res.out, answers) || p.c.Pending() != 0 {
			t.Fatalf("%d of %d, %d of %d, %d pending", len(p.req.out), len(requests), len(p.res.out), len(answers), p.c.Pending())
		}
		if cap(p.c.queue.ring) > keepRing {
			t.Errorf("a connection that rests keeps room for %d requests", cap(p.c.queue.ring))
		}
	}
}

// TestCorrelation: answers are known by their place, and their ids must say the same.
func TestCorrelation(t *testing.T) {
	p := newPair(t, &Options{Rewrite: rewriteAll}, whole)
	p.request(append(ask(keyFetch, 4, 1), ask(keyMetadata, 12, 2)...))
	good := []byte{0, 0, 0, 4, 0, 0, 0, 1}
	p.response(append(good, 0, 0, 0, 4, 0, 0, 0, 1))
	if p.res.err == nil || p.res.err.Error() != "an answer with correlation id 1, where Metadata (version 12) with 2 waits for one" {
		t.Error(p.res.err)
	}
	if !bytes.Equal(p.res.out, good) {
		t.Errorf("%x went before the error", p.res.out)
	}
}

// token is a SASL token as version 0 of the handshake has it sent.
func token(s string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
}

// TestHandshake0: after SaslHandshake version 0, tokens pass both ways until the client sends
// a request; of version 1 all are requests.
func TestHandshake0(t *testing.T) {
	handshake := ask(keySaslHandshake, 0, 1)
	answer := append([]byte{0, 0, 0, 10, 0, 0, 0, 1}, make([]byte, 6)...)
	for _, test := range []struct {
		name   string
		tokens []string // client's and broker's in turn
	}{
		{"PLAIN", []string{"\x00alice\x00secret", ""}},
		{"PLAIN, short", []string{"\x00a\x00b", ""}},
		{"PLAIN, another identity", []string{"bob\x00alice\x00secret-of-some-length", ""}},
		{"SCRAM", []string{"n,,n=alice,r=fyko+d2lbbFgONRv9qkxdawL", "r=fyko,s=c2FsdA==,i=4096", "c=biws,r=fyko,p=dHJ1ZQ==", "v=cHJvb2Y="}},
		{"OAUTHBEARER", []string{"n,,\x01auth=Bearer e30.e30.\x01\x01", ""}},
		{"GSSAPI", []string{"\x60\x82\x02\x6e\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02", "\x60\x81\x99", "", "\x05\x04\x05\xff\x00\x0c\x00\x00", "\x05\x04\x04\xff\x00\x0c\x00\x00\x00\x00\x00\x00"}},
	} {
		for _, c := range []cut{whole, bytewise, at(15), at(30)} {
			p := newPair(t, &Options{Rewrite: rewriteAll}, c)
			p.request(handshake)
			p.response(answer)
			want, wantAnswers := handshake, answer
			for i, s := range test.tokens {
				if i%2 == 0 {
					p.request(token(s))
					want = append(want[:len(want):len(want)], token(s)...)
				} else {
					p.response(token(s))
					wantAnswers = append(wantAnswers[:len(wantAnswers):len(wantAnswers)], token(s)...)
				}
			}
			asked := ask(keyMetadata, 4, 2)
			p.request(asked)
			m := kmsg.NewPtrMetadataResponse()
			m.Version = 4
			m.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 1, Host: "b.real.invalid", Port: 9092}}
			p.response(frame(m, 2))
			want = append(want[:len(want):len(want)], asked...)
			wantAnswers = append(wantAnswers[:len(wantAnswers):len(wantAnswers)], frame(expected(m, rewriteAll, false), 2)...)
			if p.req.err != nil || p.res.err != nil || !bytes.Equal(p.req.out, want) || !bytes.Equal(p.res.out, wantAnswers) {
				t.Fatalf("%s: %v, %v\n got %x\nwant %x\n got %x\nwant %x", test.name, p.req.err, p.res.err, p.req.out, want, p.res.out, wantAnswers)
			}
			if p.response(token("x")); p.res.err == nil {
				t.Fatalf("%s: a token after the first request", test.name)
			}
		}
	}
	p := newPair(t, &Options{Rewrite: rewriteAll}, whole)
	p.request(ask(keySaslHandshake, 1, 1))
	p.response(answer)
	if p.request(token("\x00alice\x00secret")); p.req.err == nil || !strings.Contains(p.req.err.Error(), "do not exist") {
		t.Errorf("a token after version 1: %v", p.req.err)
	}
}

// TestLongToken: tokens have a limit.
func TestLongToken(t *testing.T) {
	p := newPair(t, &Options{Rewrite: rewriteAll}, whole)
	p.request(ask(keySaslHandshake, 0, 1))
	p.response([]byte{0, 0, 0, 4, 0, 0, 0, 1})
	long := append([]byte{0, 0x10, 0, 1}, "n,,n=alice"...)
	if p.request(long); p.req.err == nil || !strings.Contains(p.req.err.Error(), "a SASL token of 1048577 bytes") {
		t.Error(p.req.err)
	}
	if p.response(long); p.res.err == nil {
		t.Error("the broker may send more")
	}
}

// TestTwoGoroutines: the directions share a connection; for the race detector.
func TestTwoGoroutines(t *testing.T) {
	const all = 2000
	o := &Options{Rewrite: rewriteAll}
	c := New(o)
	m := kmsg.NewPtrMetadataResponse()
	m.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 1, Host: "b.real.invalid", Port: 9092}}
	sent := make(chan int32, 50)
	var wait sync.WaitGroup
	wait.Go(func() {
		defer close(sent)
		for i := range int32(all) {
			if s, err := c.Requests(ask(keyMetadata, 0, i)); err != nil || s.Take == 0 {
				t.Errorf("%+v, %v", s, err)
				return
			}
			sent <- i
		}
	})
	wait.Go(func() {
		for i := range sent {
			if s, err := c.Responses(frame(m, i)); err != nil || s.Take == 0 {
				t.Errorf("%+v, %v", s, err)
				return
			}
			c.Pending()
		}
	})
	wait.Wait()
	if c.Rewritten() != all {
		t.Errorf("%d of %d", c.Rewritten(), all)
	}
}
