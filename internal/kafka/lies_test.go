package kafka

import (
	"bytes"
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
