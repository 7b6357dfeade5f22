package kafka

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// FuzzResponses: an answer of anything, to any request that is looked into. See checkAnswer.
func FuzzResponses(f *testing.F) {
	for i, key := range rewritten {
		for version := range len(layouts[key]) {
			r := random{rand.New(rand.NewPCG(uint64(i), uint64(version))), 20}
			f.Add(uint8(i), uint8(version), frame(r.answer(key, int16(version)), 7), uint64(version))
		}
	}
	f.Fuzz(func(t *testing.T, which, version uint8, answer []byte, seed uint64) {
		key := rewritten[int(which)%len(rewritten)]
		v := int16(version) % int16(len(layouts[key]))
		checkAnswer(t, key, v, answer, smallFrame, seed)
		checkAnswer(t, key, v, answer, 1, seed)
	})
}

// FuzzRequests: anything from a client comes out the same wherever it is cut, is what came in
// but for requests that are answered here, and notes no more than may wait.
func FuzzRequests(f *testing.F) {
	for _, test := range foreign {
		f.Add([]byte(test.in), uint64(1))
	}
	f.Add(bytes.Join([][]byte{ask(keyApiVersions, 3, 1), ask(keySaslHandshake, 0, 2), token("n,,n=a"), ask(keyMetadata, 12, 3), produce(9, 0, nil, 4)}, nil), uint64(2))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		o := &Options{Rewrite: rewriteAll}
		p, q := newPair(t, o, whole), newPair(t, o, randomly(rand.New(rand.NewPCG(seed, 3))))
		p.request(stream)
		q.request(stream)
		sameStreams(t, &p.req, &q.req)
		sameStreams(t, &p.res, &q.res)
		if p.c.Pending() > maxUnderWay {
			t.Fatalf("%d pending", p.c.Pending())
		}
		if !passedOn(stream, p.req.out) {
			t.Fatalf("%x became\n%x", stream, p.req.out)
		}
	})
}

// passedOn tells whether out is the begin of stream without requests that may be answered here.
// The answers themselves tell less: they wait for those of the requests before.
func passedOn(stream, out []byte) bool {
	for len(out) > 0 {
		if len(stream) == 0 {
			return false
		}
		n := len(stream)
		if n >= sizeLen {
			n = min(n, sizeLen+int(max(0, int32(binary.BigEndian.Uint32(stream)))))
		}
		gone := min(n, len(out))
		switch {
		case bytes.Equal(stream[:gone], out[:gone]):
			out = out[gone:]
		case !answeredHere(stream[:n]):
			return false
		}
		stream = stream[n:]
	}
	return true
}

// answeredHere tells whether a request asks for ApiVersions in a version that is not known.
func answeredHere(request []byte) bool {
	last, _ := lastVersion(keyApiVersions)
	return len(request) >= requestHead && binary.BigEndian.Uint16(request[4:]) == keyApiVersions && binary.BigEndian.Uint16(request[6:]) > uint16(last)
}

// FuzzStreams is for both directions, one after the other and then again.
func FuzzStreams(f *testing.F) {
	r := random{rand.New(rand.NewPCG(1, 1)), 20}
	metadata, fetch := frame(r.answer(keyMetadata, 12), 7), frame(r.answer(keyFetch, 16), 7)
	newer := ask(keyApiVersions, 5, 2)
	newer[7] = 9
	f.Add(append(ask(keyMetadata, 12, 7), newer...), append(metadata, metadata...), uint64(1))
	f.Add(append(ask(keyFetch, 16, 7), newer...), append(fetch, fetch...), uint64(2))
	f.Add(append(ask(keySaslHandshake, 0, 1), token("n,,n=a")...), append([]byte{0, 0, 0, 4, 0, 0, 0, 1}, token("r=f")...), uint64(3))
	f.Fuzz(func(t *testing.T, client, broker []byte, seed uint64) {
		o := &Options{Rewrite: rewriteAll, small: 100}
		p, q := newPair(t, o, whole), newPair(t, o, randomly(rand.New(rand.NewPCG(seed, 3))))
		for range 2 {
			for _, x := range []*pair{p, q} {
				x.request(client)
				x.response(broker)
			}
		}
		sameStreams(t, &p.req, &q.req)
		sameStreams(t, &p.res, &q.res)
		if p.c.Pending() != q.c.Pending() && !p.res.waits() && !q.res.waits() && !p.req.waits() && !q.req.waits() && p.req.err == nil && p.res.err == nil {
			t.Fatalf("%d and %d pending", p.c.Pending(), q.c.Pending())
		}
	})
}

// sameStreams compares what came of one stream that was cut in two ways. Up to an error more or
// less of a frame may have gone, and the bytes of one that is not whole may have or not.
func sameStreams(t *testing.T, a, b *flow) {
	t.Helper()
	n := min(len(a.out), len(b.out))
	if !bytes.Equal(a.out[:n], b.out[:n]) {
		t.Fatalf("cut elsewhere\n%x\n%x", a.out, b.out)
	}
	if a.waits() || b.waits() {
		return
	}
	if (a.err == nil) != (b.err == nil) || a.err != nil && a.err.Error() != b.err.Error() {
		t.Fatalf("%v; cut elsewhere %v", a.err, b.err)
	}
}
