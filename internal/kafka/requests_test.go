package kafka

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// foreign are first bytes of what is no Kafka, with what the log should say of them.
var foreign = []struct{ name, in, want string }{
	{"TLS 1.2", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "add `tls`"},
	{"HTTP", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP"},
	{"HTTP POST", "POST /topics HTTP/1.1\r\n", "HTTP"},
	{"PROXY 1", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "proxy_protocol"},
	{"PROXY 2", "\r\n\r\n\x00\r\nQUIT\n!\x11\x00\x0c", "proxy_protocol"},
	{"SSH", "SSH-2.0-OpenSSH_9.2\r\n", "does not speak Kafka"},
	{"too short", "\x00\x00\x00\x07\x00\x12\x00\x00\x00\x00\x00", "a request of 7 bytes"},
	{"negative", "\xff\xff\xff\xff", "a request of -1 bytes"},
	{"2 GiB", "\x7f\xff\xff\xff\x00\x00\x00\x00", "a request of 2147483647 bytes"},
	{"key 201", "\x00\x00\x00\x20\x00\xc9\x00\x00\x00\x00\x00\x00", "API 201"},
	{"key -1", "\x00\x00\x00\x20\xff\xff\x00\x00\x00\x00\x00\x00", "API -1"},
	{"version -1", "\x00\x00\x00\x20\x00\x03\xff\xff\x00\x00\x00\x00", "version -1"},
	{"version 201", "\x00\x00\x00\x20\x00\x10\x00\xc9\x00\x00\x00\x00", "API 16 in version 201"},
	{"Metadata 14", "\x00\x00\x00\x20\x00\x03\x00\x0e\x00\x00\x00\x00", "Metadata in version 14"},
	{"Fetch 19", "\x00\x00\x00\x20\x00\x01\x00\x13\x00\x00\x00\x00", "Fetch in version 19"},
	{"SASL without handshake", "\x00\x00\x00\x20\x60\x82\x00\x13\x00\x00\x00\x00", "API 24706"},
	{"client id -2", "\x00\x00\x00\x20\x00\x00\x00\x03\x00\x00\x00\x00\xff\xfe", "a length of -2"},
	{"client id longer than the frame", "\x00\x00\x00\x0c\x00\x00\x00\x03\x00\x00\x00\x00\x00\x09ab", "a field of 9 bytes, where 2 are left"},
	{"no acks", "\x00\x00\x00\x0b\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x01", "in the middle of a field"},
	{"endless varint", "\x00\x00\x00\x20\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x80\x80\x80\x80\x80\x80", "a length that does not end"},
	{"tags of 1 MiB before acks", "\x00\x20\x00\x00\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x01\x09\x80\x80\x40", "without acks"},
}

func TestForeign(t *testing.T) {
	for _, test := range foreign {
		for place := range len(test.in) + 1 {
			p := newPair(t, &Options{Rewrite: rewriteAll}, at(place))
			good := ask(keyMetadata, 12, 1)
			p.request(append(good, test.in...))
			var e *Error
			if !errors.As(p.req.err, &e) || e.Broker || !strings.Contains(e.Text, test.want) {
				t.Fatalf("%s: %v, want %q", test.name, p.req.err, test.want)
			}
			if !bytes.Equal(p.req.out, good) {
				t.Fatalf("%s: %x went before the error", test.name, p.req.out)
			}
			if _, err := p.c.Requests(good); !errors.Is(err, p.req.err) {
				t.Fatalf("%s: then %v", test.name, err)
			}
		}
	}
}

// TestForeignAnswers is the same for what the broker sends, after Metadata was asked for.
func TestForeignAnswers(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"TLS alert", "\x15\x03\x03\x00\x02\x02\x50", "add `upstream_tls`"},
		{"HTTP", "HTTP/1.1 400 Bad Request\r\n", "HTTP"},
		{"negative", "\xff\xff\xff\xff", "an answer of -1 bytes"},
		{"too short", "\x00\x00\x00\x03", "an answer of 3 bytes"},
		{"2 GiB", "\x7f\xff\xff\xff", "an answer of 2147483647 bytes"},
		{"another's", "\x00\x00\x00\x10\x00\x00\x00\x09", "an answer with correlation id 9, where Metadata (version 0) with 7 waits"},
		{"empty", "\x00\x00\x00\x04\x00\x00\x00\x07", "it ends in the middle of a field"},
		{"many brokers", "\x00\x00\x00\x0c\x00\x00\x00\x07\x7f\xff\xff\xff\x00\x00\x00\x00", "an array of 2147483647 elements, where 4 bytes are left"},
		{"-2 brokers", "\x00\x00\x00\x0c\x00\x00\x00\x07\xff\xff\xff\xfe\x00\x00\x00\x00", "a length of -2"},
		{"a host longer than the frame", "\x00\x00\x00\x12\x00\x00\x00\x07\x00\x00\x00\x01\x00\x00\x00\x01\x00\x05ab", "a field of 5 bytes, where 4 are left"},
	} {
		for place := range len(test.in) + 20 {
			p := newPair(t, &Options{Rewrite: rewriteAll}, at(place))
			p.request(ask(keyMetadata, 0, 7))
			p.response([]byte(test.in + strings.Repeat("\x00", 20)))
			var e *Error
			if !errors.As(p.res.err, &e) || !e.Broker || !strings.Contains(e.Text, test.want) {
				t.Fatalf("%s: %v, want %q", test.name, p.res.err, test.want)
			}
			if len(p.res.out) > 0 {
				t.Fatalf("%s: %x went before the error", test.name, p.res.out)
			}
		}
	}
	c := New(&Options{Rewrite: rewriteAll})
	if _, err := c.Responses([]byte("\x00\x00\x00\x10\x00\x00\x00\x09")); err == nil || !strings.Contains(err.Error(), "no request waits") {
		t.Errorf("an answer that nobody asked for: %v", err)
	}
}

// produce is a request of that version, for which acks 0 means: no answer.
func produce(version, acks int16, transaction *string, correlation int32) []byte {
	m := kmsg.NewPtrProduceRequest()
	m.Version, m.Acks, m.TransactionID = version, acks, transaction
	m.Topics = []kmsg.ProduceRequestTopic{{Topic: "t", Partitions: []kmsg.ProduceRequestTopicPartition{{Records: make([]byte, 300)}}}}
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("a client")).AppendRequest(nil, m, correlation)
}

// TestAcks: a Produce request with acks 0 waits for no answer, in every version, with and
// without a transactional id, and with tags in its header.
func TestAcks(t *testing.T) {
	id := kmsg.StringPtr("transaction")
	for version := range int16(14) {
		for _, acks := range []int16{0, 1, -1} {
			for _, transaction := range []*string{nil, id, kmsg.StringPtr("")} {
				b := produce(version, acks, transaction, 5)
				if version >= 9 { // one tagged field in the header, where there is none
					at := requestHead + 2 + len("a client")
					b = bytes.Join([][]byte{b[:at], {1, 5, 3, 'x', 'y', 'z'}, b[at+1:]}, nil)
					b[3] += 5
				}
				for _, c := range []cut{whole, bytewise, at(20), at(40)} {
					var seen [][2]int16
					p := newPair(t, &Options{Rewrite: rewriteAll, Seen: func(k, v int16) { seen = append(seen, [2]int16{k, v}) }}, c)
					p.request(append(b, b...))
					want := 2
					if acks == 0 {
						want = 0
					}
					if p.req.err != nil || p.c.Pending() != want || !bytes.Equal(p.req.out, append(b, b...)) {
						t.Fatalf("version %d, acks %d: %d pending, %v", version, acks, p.c.Pending(), p.req.err)
					}
					if len(seen) != 2 || seen[1] != [2]int16{keyProduce, version} {
						t.Fatalf("seen: %v", seen)
					}
				}
			}
		}
	}
}

// TestOwnAnswer: ApiVersions in a version that is not known is answered here, in its place
// among the answers, and the broker never sees it.
func TestOwnAnswer(t *testing.T) {
	newer := ask(keyApiVersions, 5, 2)
	newer[7] = 9 // the version
	after := ask(keyMetadata, 0, 3)
	before := ask(keyMetadata, 0, 1)
	m := kmsg.NewPtrMetadataResponse()
	m.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 1, Host: "b.real.invalid", Port: 9092}}
	own := kmsg.NewPtrApiVersionsResponse()
	own.ErrorCode = 35
	own.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: 18, MaxVersion: 5}}
	first, second := frame(expected(m, rewriteAll, false), 1), frame(expected(m, rewriteAll, false), 3)
	o := &Options{Rewrite: rewriteAll}
	for place := range len(newer) + len(before) + len(after) {
		for _, answers := range []cut{whole, bytewise, at(place)} {
			p := newPair(t, o, at(place))
			p.res.cut = answers
			p.request(bytes.Join([][]byte{before, newer, after, newer}, nil))
			if want := append(before[:len(before):len(before)], after...); !bytes.Equal(p.req.out, want) {
				t.Fatalf("cut at %d: the broker got %x", place, p.req.out)
			}
			if len(p.res.out) > 0 {
				t.Fatal("an answer before its turn")
			}
			p.response(append(frame(m, 1), frame(m, 3)...))
			want := bytes.Join([][]byte{first, frame(own, 2), second, frame(own, 2)}, nil)
			if p.res.err != nil || !bytes.Equal(p.res.out, want) || p.c.Pending() != 0 {
				t.Fatalf("cut at %d: %v, %d pending\n got %x\nwant %x", place, p.res.err, p.c.Pending(), p.res.out, want)
			}
		}
	}
	c := New(o) // before input that is there already, which is to be looked at again
	if s, err := c.Requests(append(newer[:len(newer):len(newer)], after...)); err != nil || s.Take != len(newer) || !s.Own {
		t.Fatalf("%+v, %v", s, err)
	}
	if s, err := c.Requests(after); err != nil || s.Take != len(after) {
		t.Fatalf("%+v, %v", s, err)
	}
	if s, err := c.Responses(frame(m, 3)); err != nil || !bytes.Equal(s.Send, frame(own, 2)) || s.Take != 0 || !s.Own {
		t.Fatalf("%+v, %v", s, err)
	}
	if s, err := c.Responses(frame(m, 3)); err != nil || !bytes.Equal(s.Send, second) || s.Own {
		t.Fatalf("%+v, %v", s, err)
	}
	p := newPair(t, o, whole) // alone, and twice
	p.request(append(newer, newer...))
	if want := append(frame(own, 2), frame(own, 2)...); !bytes.Equal(p.res.out, want) || len(p.req.out) > 0 {
		t.Errorf("alone: %x, want %x", p.res.out, want)
	}
}

// TestOwnWhilePassing: an answer of our own waits for the one that is passing.
func TestOwnWhilePassing(t *testing.T) {
	newer := ask(keyApiVersions, 5, 2)
	newer[7] = 9
	p := newPair(t, &Options{Rewrite: rewriteAll}, whole)
	p.request(ask(keyFetch, 4, 1))
	answer := append([]byte{0, 0, 1, 0, 0, 0, 0, 1}, make([]byte, 252)...)
	p.response(answer[:100])
	p.request(newer)
	if p.req.own || len(p.res.out) != 100 {
		t.Fatal("an answer of our own in the middle of another")
	}
	p.response(answer[100:])
	if len(p.res.out) != len(answer)+20 || p.res.out[len(answer)+9] != 35 {
		t.Errorf("%x", p.res.out[100:])
	}
}

// TestUnsupportedVersion: where the broker does not know the version either, its answer is in the layout
// of version 0, and passes.
func TestUnsupportedVersion(t *testing.T) {
	m := kmsg.NewPtrApiVersionsResponse()
	m.ErrorCode = 35
	m.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: 18, MaxVersion: 9}, {ApiKey: 99, MaxVersion: 1}}
	answer := frame(m, 7)
	for version := range int16(6) {
		m.Version = version
		for _, c := range []cut{whole, bytewise} {
			if p := exchange(t, &Options{Rewrite: rewriteAll}, c, m, answer); !bytes.Equal(p.res.out, answer) {
				t.Errorf("version %d: %x", version, p.res.out)
			}
		}
	}
}
