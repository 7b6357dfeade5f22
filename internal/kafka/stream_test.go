package kafka

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// large is a random answer that is not waited for whole.
func large(key, version int16, seed uint64) (kmsg.Response, []byte) {
	r := random{rand.New(rand.NewPCG(seed, uint64(key)<<8|uint64(version))), 40000}
	for {
		m := r.answer(key, version)
		if b := frame(m, 7); len(b) > smallFrame {
			return m, b
		}
	}
}

// ends is where a large frame is cut: at its head and at its tail, and at some places between.
func ends(n int, r *rand.Rand) (places []int) {
	for i := range 25 {
		places = append(places, i, n-i, r.IntN(n))
	}
	return places
}

// TestLargeFetch: records pass, addresses behind them give way to a field that nobody knows, and
// nothing else changes, the length of the frame included.
func TestLargeFetch(t *testing.T) {
	const seeds = 8
	hidden, frames := 0, 0
	for _, key := range []int16{keyFetch, keyShareFetch} {
		for version := range kmsg.ResponseForKey(key).MaxVersion() + 1 {
			if layoutOf(key, version) == nil {
				continue
			}
			for seed := range uint64(seeds) {
				m, answer := large(key, version, seed)
				o := &Options{Rewrite: rewriteAll}
				p := exchange(t, o, whole, m, answer)
				frames++
				if had := checkHidden(t, m, answer, p.res.out); had != (p.c.Rewritten() == 1) {
					t.Fatalf("addresses: %v, %d counted", had, p.c.Rewritten())
				} else if had {
					hidden++
				}
				r := rand.New(rand.NewPCG(seed, 1))
				for _, place := range ends(len(answer), r) {
					sameOut(t, p, exchange(t, o, at(place), m, answer))
				}
				q := exchange(t, o, randomly(r), m, answer)
				sameOut(t, p, q)
				sameOut(t, p, exchange(t, o, bytewise, m, answer))
				if q.res.most > 4<<10 {
					t.Fatalf("%s %d, seed %d: %d bytes were to be held", apiName(key), version, seed, q.res.most)
				}
			}
		}
	}
	if hidden < frames/2 || hidden == frames {
		t.Errorf("addresses in %d of %d", hidden, frames)
	}
}

// checkHidden compares a large answer with what was made of it, and tells whether it had addresses.
func checkHidden(t *testing.T, m kmsg.Response, answer, out []byte) bool {
	t.Helper()
	if len(out) != len(answer) {
		t.Fatalf("%d bytes became %d", len(answer), len(out))
	}
	got := decode(m.Key(), m.GetVersion(), out[headOf(m):])
	want := decode(m.Key(), m.GetVersion(), answer[headOf(m):])
	var had bool
	var tags, gotTags *kmsg.Tags
	switch want := want.(type) {
	case *kmsg.FetchResponse:
		had = len(want.Brokers) > 0
		want.Brokers, tags, gotTags = nil, &want.UnknownTags, &got.(*kmsg.FetchResponse).UnknownTags
	case *kmsg.ShareFetchResponse:
		had = len(want.NodeEndpoints) > 0
		want.NodeEndpoints, tags, gotTags = nil, &want.UnknownTags, &got.(*kmsg.ShareFetchResponse).UnknownTags
	}
	if !had {
		if !bytes.Equal(out, answer) {
			t.Fatal("an answer without addresses changed")
		}
		return false
	}
	used, free := map[uint32]bool{}, uint32(padTag)
	tags.Each(func(number uint32, _ []byte) { used[number] = true })
	for used[free] {
		free--
	}
	gotTags.Each(func(number uint32, data []byte) {
		if number == free {
			if len(bytes.Trim(data, "\x00")) > 0 {
				t.Fatalf("the field that fills up has %x", data)
			}
			tags.Set(number, data)
		}
	})
	if !bytes.Equal(got.AppendTo(nil), want.AppendTo(nil)) {
		t.Fatalf("got %x\nwant %x", got.AppendTo(nil), want.AppendTo(nil))
	}
	return true
}

// TestPass: what need not be seen is not asked for: of a large answer all but its heads and
// its tail, when the source gives it in small pieces.
func TestPass(t *testing.T) {
	m := kmsg.NewPtrFetchResponse()
	m.Version = 18
	for range 3 {
		p := kmsg.NewFetchResponseTopicPartition()
		p.RecordBatches = make([]byte, 100000)
		topic := kmsg.NewFetchResponseTopic()
		topic.Partitions = append(topic.Partitions, p)
		m.Topics = append(m.Topics, topic)
	}
	m.Brokers = []kmsg.FetchResponseBroker{{NodeID: 1, Host: "b1.real.invalid", Port: 9092}}
	answer := frame(m, 7)
	c := New(&Options{Rewrite: rewriteAll})
	if _, err := c.Requests(ask(keyFetch, 18, 7)); err != nil {
		t.Fatal(err)
	}
	var passed int64
	var out []byte
	for rest, have := answer, 0; len(rest) > 0; {
		have = min(have+50, len(rest))
		s, err := c.Responses(rest[:have])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s.Send...)
		rest = rest[s.Take:]
		out = append(out, rest[:s.Pass]...)
		rest = rest[s.Pass:]
		passed += s.Pass
		if s.Within != (s.Pass > 0) {
			t.Errorf("%d bytes pass, the frame goes on: %v", s.Pass, s.Within)
		}
		have = max(0, have-s.Take-int(s.Pass))
	}
	if passed != 300000 {
		t.Errorf("%d bytes passed unread", passed)
	}
	if !checkHidden(t, m, answer, out) || bytes.Contains(out, []byte("real.invalid")) {
		t.Error("the address is still there")
	}
}

// TestPassToEnd: an answer that need not be seen at all passes to its end.
func TestPassToEnd(t *testing.T) {
	m := kmsg.NewPtrFetchResponse()
	m.Version = 4
	m.Topics = []kmsg.FetchResponseTopic{{Topic: "t", Partitions: []kmsg.FetchResponseTopicPartition{{RecordBatches: make([]byte, 100000)}}}}
	answer := frame(m, 7)
	c := New(&Options{Rewrite: rewriteAll})
	if _, err := c.Requests(ask(keyFetch, 4, 7)); err != nil {
		t.Fatal(err)
	}
	if s, err := c.Responses(answer[:50]); err != nil || s.Take != 0 || s.Pass != int64(len(answer)) || s.Within {
		t.Errorf("of %d bytes: %+v, %v", len(answer), s, err)
	}
}

// TestLargeMetadata: only what is up to the end of the brokers is held.
func TestLargeMetadata(t *testing.T) {
	for version := range int16(14) {
		for _, brokers := range []int{3, 1500} {
			m := kmsg.NewPtrMetadataResponse()
			m.Version = version
			for i := range brokers {
				m.Brokers = append(m.Brokers, kmsg.MetadataResponseBroker{NodeID: int32(i), Host: fmt.Sprintf("b%d.real.invalid", i), Port: 9092})
			}
			for i := range 1500 {
				topic := kmsg.NewMetadataResponseTopic()
				topic.Topic = kmsg.StringPtr(fmt.Sprintf("topic-%d-with-a-name-that-makes-the-frame-large-enough-not-to-be-held", i))
				m.Topics = append(m.Topics, topic)
			}
			answer := frame(m, 7)
			o := &Options{Rewrite: rewriteAll}
			p := exchange(t, o, whole, m, answer)
			if want := frame(expected(m, rewriteAll, false), 7); !bytes.Equal(p.res.out, want) {
				t.Fatalf("version %d: %d bytes, want %d", version, len(p.res.out), len(want))
			}
			r := rand.New(rand.NewPCG(uint64(version), 2))
			for _, place := range ends(len(answer), r) {
				sameOut(t, p, exchange(t, o, at(place), m, answer))
			}
			q := exchange(t, o, bytewise, m, answer)
			sameOut(t, p, q)
			if head := brokers * 60; q.res.most > 2*head {
				t.Errorf("version %d: %d bytes were to be held for %d brokers", version, q.res.most, brokers)
			}
		}
	}
}

// TestLargeProduce: an answer of which all has to be held is asked for as it comes.
func TestLargeProduce(t *testing.T) {
	m, answer := manyTopics(keyProduce, 13)
	o := &Options{Rewrite: rewriteAll}
	p := exchange(t, o, whole, m, answer)
	if want := frame(expected(m, rewriteAll, false), 7); !bytes.Equal(p.res.out, want) {
		t.Fatalf("%d bytes, want %d", len(p.res.out), len(want))
	}
	sameOut(t, p, exchange(t, o, bytewise, m, answer))
}

func manyTopics(key, version int16) (kmsg.Response, []byte) {
	m := kmsg.NewPtrProduceResponse()
	m.Version = version
	for range 3000 {
		topic := kmsg.NewProduceResponseTopic()
		topic.Partitions = append(topic.Partitions, kmsg.NewProduceResponseTopicPartition())
		m.Topics = append(m.Topics, topic)
	}
	m.Brokers = []kmsg.ProduceResponseBroker{{NodeID: 1, Host: "b1.real.invalid", Port: 9092}, {NodeID: 2000, Host: "b2.real.invalid", Port: 9092}}
	return m, frame(m, 7)
}

// TestField: the field that fills up has exactly the size it should have, where the length
// of its own length changes too.
func TestField(t *testing.T) {
	var rooms []int
	for _, turn := range []int{0, 128, 1 << 14, 1 << 21} { // where a size needs a byte more
		for i := range 40 {
			rooms = append(rooms, max(0, turn-20+i))
		}
	}
	for _, room := range rooms {
		var e editor
		ok := e.field(padTag, room)
		if ok != (room >= 2) {
			t.Fatalf("room %d: %v", room, ok)
		}
		if !ok {
			continue
		}
		size, n := binary.Uvarint(e.out[1:])
		if len(e.out) != room || e.out[0] != padTag || 1+n+int(size) != room {
			t.Fatalf("room %d: %d bytes, of size %d", room, len(e.out), size)
		}
	}
}

// TestHideOrder: fields stay in order, whichever numbers are taken.
func TestHideOrder(t *testing.T) {
	for _, numbers := range [][]uint32{{}, {1}, {1, 2}, {127}, {126, 127}, {1, 127, 128}, {128, 300}} {
		m := kmsg.NewPtrFetchResponse()
		m.Version = 16
		partition := kmsg.NewFetchResponseTopicPartition()
		partition.RecordBatches = bytes.Repeat([]byte("r"), smallFrame)
		m.Topics = []kmsg.FetchResponseTopic{{Partitions: []kmsg.FetchResponseTopicPartition{partition}}}
		m.Brokers = []kmsg.FetchResponseBroker{{NodeID: 1, Host: "b1.real.invalid", Port: 9092}}
		for _, n := range numbers {
			m.UnknownTags.Set(n, []byte{1, 2, 3})
		}
		answer := frame(m, 7)
		p := exchange(t, &Options{Rewrite: rewriteAll}, whole, m, answer)
		checkHidden(t, m, answer, p.res.out)
		r := reader{b: p.res.out[bytes.LastIndexByte(p.res.out, 'r')+1+2:]} // behind the tags of partition and topic
		last := int64(-1)
		for n := r.uvarint(); n > 0; n-- {
			number, _, _ := r.tag()
			if number <= last {
				t.Errorf("%v: field %d after %d", numbers, number, last)
			}
			last = number
		}
		if r.bad || r.at != len(r.b) {
			t.Errorf("%v: %x", numbers, r.b)
		}
	}
}

// TestEverySplit: what is walked while it passes comes out the same wherever the stream is cut.
func TestEverySplit(t *testing.T) {
	for _, key := range []int16{keyFetch, keyShareFetch, keyMetadata} {
		for version := range kmsg.ResponseForKey(key).MaxVersion() + 1 {
			for seed := range uint64(3) {
				r := random{rand.New(rand.NewPCG(seed, uint64(key)<<8|uint64(version))), 900}
				m := r.answer(key, version)
				answer := frame(m, 7, 1, 4, 2, 'h', 'i') // with a tag in its header, if it has any
				o := &Options{Rewrite: rewriteAll, small: 1}
				p := exchange(t, o, whole, m, answer)
				for place := range answer {
					sameOut(t, p, exchange(t, o, at(place), m, answer))
				}
				sameOut(t, p, exchange(t, o, bytewise, m, answer))
				if key == keyMetadata {
					if want := frame(expected(m, rewriteAll, false), 7, 1, 4, 2, 'h', 'i'); !bytes.Equal(p.res.out, want) {
						t.Fatalf("version %d: got %x\nwant %x", version, p.res.out, want)
					}
				} else if layoutOf(key, version) != nil {
					cut := func(b []byte) []byte { return append(b[:answerHead:answerHead], b[answerHead+4:]...) } // without the tag
					checkHidden(t, m, cut(answer), cut(p.res.out))
				}
			}
		}
	}
}
