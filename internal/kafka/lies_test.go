package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestLies: whatever byte of an answer is wrong, either it passes, or there is an error that names the
// answer; no more is held than has come, or little; and what addresses there still are is not told.
func TestLies(t *testing.T) {
	values := []func(byte) byte{
		func(byte) byte { return 0xff },
		func(byte) byte { return 0x7f },
		func(byte) byte { return 0x80 },
		func(b byte) byte { return b + 1 },
		func(b byte) byte { return b - 1 },
	}
	failed := 0
	everyVersion(t, func(t *testing.T, key, version int16) {
		r := random{rand.New(rand.NewPCG(3, uint64(key)<<8|uint64(version))), 40}
		answer := frame(r.answer(key, version), 7)
		for _, small := range []int{1, smallFrame} {
			for place := answerHead; place < len(answer); place += 1 + len(answer)/100 {
				lie := bytes.Clone(answer)
				lie[place] = values[place%len(values)](lie[place])
				if checkAnswer(t, key, version, lie, small, uint64(place)) != nil {
					failed++
				}
			}
			for n := answerHead; n < len(answer); n += 1 + len(answer)/100 { // shorter than what it should have
				short := bytes.Clone(answer[:n])
				short[2], short[3] = byte((n-sizeLen)>>8), byte(n-sizeLen)
				checkAnswer(t, key, version, short, small, uint64(n))
			}
		}
	})
	if failed < 100 {
		t.Errorf("only %d lies were found out", failed)
	}
}

// checkAnswer sends an answer, of anything, and holds the codec to what is always so. It gives
// the error that there was.
func checkAnswer(t testing.TB, key, version int16, answer []byte, small int, seed uint64) error {
	run := func(c cut, rewrite Rewrite) *pair {
		p := newPair(t, &Options{Rewrite: rewrite, PassUnknown: true, small: small}, c)
		p.request(ask(key, version, 7))
		p.response(answer)
		if p.res.most > max(smallFrame, 2*len(answer)) {
			t.Fatalf("%d bytes to be held of %d", p.res.most, len(answer))
		}
		return p
	}
	p := run(whole, rewriteAll)
	q := run(randomly(rand.New(rand.NewPCG(seed, 9))), rewriteAll)
	if p.res.waits() || q.res.waits() {
		if n := min(len(p.res.out), len(q.res.out)); !bytes.Equal(p.res.out[:n], q.res.out[:n]) {
			t.Fatalf("%s %d: of a part\n%x\n%x", apiName(key), version, p.res.out, q.res.out)
		}
		return p.res.err
	}
	if (p.res.err == nil) != (q.res.err == nil) || p.res.err != nil && p.res.err.Error() != q.res.err.Error() {
		t.Fatalf("%s %d: %v; cut elsewhere %v\n%x", apiName(key), version, p.res.err, q.res.err, answer)
	}
	if a, b := p.res.out, q.res.out; p.res.err != nil {
		if n := min(len(a), len(b)); !bytes.Equal(a[:n], b[:n]) {
			t.Fatalf("%s %d: before an error\n%x\n%x", apiName(key), version, a, b)
		}
		var e *Error
		if !errors.As(p.res.err, &e) || !e.Broker {
			t.Fatal(p.res.err)
		}
		return p.res.err
	} else if p.res.pass == q.res.pass && !bytes.Equal(a, b) {
		t.Fatalf("%s %d: cut elsewhere\n%x\n%x", apiName(key), version, a, b)
	}
	if k := run(whole, keepAll); small >= len(answer) && key != keyApiVersions && !bytes.Equal(k.res.out, p.res.out) {
		if len(k.res.out) > 0 && !strings.HasPrefix(string(answer), string(k.res.out)) {
			t.Fatalf("%s %d: nothing to change, and\n%x became\n%x", apiName(key), version, answer, k.res.out)
		}
	}
	return nil
}

// TestLiesInside are such as are not found by walking a frame, or only there where it ends.
func TestLiesInside(t *testing.T) {
	const fetch = "\x00\x00\x00\x07" + "\x00" + "\x00\x00\x00\x00" + "\x00\x00" + "\x00\x00\x00\x05" + "\x01"          // up to the topics, of which there are none
	const share = "\x00\x00\x00\x07" + "\x00" + "\x00\x00\x00\x00" + "\x00\x00" + "\x00" + "\x00\x00\x00\x00" + "\x01" // the same of ShareFetch 1
	const node = "\x00\x00\x00\x01" + "\x03b1" + "\x00\x00\x23\x84" + "\x00" + "\x00"
	for _, test := range []struct {
		name       string
		key        int16
		answer     string
		held, pass string // the errors where it is held whole, and where it passes; "": none
	}{
		{"many tags", keyFetch, fetch + "\xff\xff\xff\xff\x0f", "4294967295 tagged fields, where 0 bytes are left", errPart.Error()},
		{"more tags than there are", keyFetch, fetch + "\x03" + "\x00\x0e\x02" + node + "\x05\x00", errShort.Error(), errPart.Error()},
		{"many nodes in the tag", keyFetch, fetch + "\x01" + "\x00\x0e\x7f" + node, errPart.Error(), ""},
		{"a tag twice", keyFetch, fetch + "\x02" + "\x00\x0e\x02" + node + "\x00\x0e\x02" + node, errTagOrder.Error(), errTagOrder.Error()},
		{"an empty tag", keyFetch, fetch + "\x81\x00" + "\x00\x00", errPart.Error(), ""},
		{"all numbers are taken", keyFetch, fetch + "\x80\x01" + "\x00\x0e\x02" + node + tags(1, padTag), "", errNoRoom.Error()},
		{"all numbers but one", keyFetch, fetch + "\x7f" + "\x00\x0e\x02" + node + tags(2, padTag), "", ""},
		{"many nodes", keyShareFetch, share + "\x7f" + node + "\x00", "an array of 126 elements", errPart.Error()},
		{"many tags behind the nodes", keyShareFetch, share + "\x02" + node + "\x7f", "", errPart.Error()},
	} {
		version := map[int16]int16{keyFetch: 16, keyShareFetch: 1}[test.key]
		answer := binary.BigEndian.AppendUint32(nil, uint32(len(test.answer)))
		answer = append(answer, test.answer...)
		for small, want := range map[int]string{smallFrame: test.held, 1: test.pass} {
			err := checkAnswer(t, test.key, version, answer, small, 1)
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s, small frames up to %d: %v, want %q", test.name, small, err, want)
			}
		}
	}
}

// tags are empty ones.
func tags(first, last byte) (s string) {
	for number := first; number <= last; number++ {
		s += string([]byte{number, 0})
	}
	return s
}

// TestPromises: bytes that are promised are not held before they come, and too many never.
func TestPromises(t *testing.T) {
	for _, test := range []struct {
		key, version int16
		answer       string
		need         int
		want         string
	}{
		{keyFindCoordinator, 3, "\x00\xa0\x00\x00" + "\x00\x00\x00\x07", smallFrame, ""},
		{keyFindCoordinator, 3, "\x04\x00\x00\x00" + "\x00\x00\x00\x07", 0, "67108868 bytes would have to be held"},
		{keyFindCoordinator, 3, "\x03\xff\xff\xfc" + "\x00\x00\x00\x07", smallFrame, ""},
		{keyMetadata, 9, "\x08\x00\x00\x00" + "\x00\x00\x00\x07" + "\x00" + "\x00\x00\x00\x00" + "\x02" + "\x00\x00\x00\x01" + "\x80\x80\x80\x10", smallFrame, ""},
		{keyMetadata, 9, "\x08\x00\x00\x00" + "\x00\x00\x00\x07" + "\x00" + "\x00\x00\x00\x00" + "\x02" + "\x00\x00\x00\x01" + "\x80\x80\x80\x20", 0, "would have to be held"},
	} {
		c := New(&Options{Rewrite: rewriteAll})
		if _, err := c.Requests(ask(test.key, test.version, 7)); err != nil {
			t.Fatal(err)
		}
		s, err := c.Responses([]byte(test.answer))
		if s.Need != test.need || (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%x: %+v, %v", test.answer, s, err)
		}
	}
}

// TestKeepBuffer: what a large answer took is not kept for the next.
func TestKeepBuffer(t *testing.T) {
	var o Options
	large := make([]byte, 0, keepBuffer+1)
	o.release(&large)
	if b := o.buffer(); cap(*b) > keepBuffer {
		t.Errorf("a buffer of %d bytes was kept", cap(*b))
	}
}
