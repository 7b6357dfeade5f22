// Package load is both ends of a measurement: a target that answers requests of
// any size with answers of any size, and a client that makes connections and
// requests as fast as it gets through, and counts.
//
// Each end is one thread around one epoll instance, to be run in a process of
// its own.
package load

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"math"
)

// A request begins with a header, all of it little-endian: the magic number,
// flags, the length of the whole request, and the length of the answer wanted.
const (
	headerSize = 24
	magic      = 0x6e70736d
	flagCheck  = 1
)

// Endless is the length of an answer that goes on until the client closes.
const Endless = math.MaxInt64

type header struct {
	check           bool
	request, answer int64
}

func (h header) encode(b []byte) {
	binary.LittleEndian.PutUint32(b, magic)
	flags := uint32(0)
	if h.check {
		flags = flagCheck
	}
	binary.LittleEndian.PutUint32(b[4:], flags)
	binary.LittleEndian.PutUint64(b[8:], uint64(h.request))
	binary.LittleEndian.PutUint64(b[16:], uint64(h.answer))
}

func decode(b []byte) (header, error) {
	if m := binary.LittleEndian.Uint32(b); m != magic {
		return header{}, fmt.Errorf("a request begins with %08x", m)
	}
	h := header{
		check:   binary.LittleEndian.Uint32(b[4:])&flagCheck != 0,
		request: int64(binary.LittleEndian.Uint64(b[8:])),
		answer:  int64(binary.LittleEndian.Uint64(b[16:])),
	}
	if h.request < headerSize || h.answer < 0 {
		return header{}, fmt.Errorf("a request of %d bytes for an answer of %d", h.request, h.answer)
	}
	return h, nil
}

// A checked message ends in the SHA-256 of what is before it (in a request,
// after the header). What is before it is of no pattern that a lost or doubled
// piece could leave intact.

// source makes the bytes of a checked message.
type source struct {
	hash  hash.Hash
	state uint64
	left  int64 // before the digest
	sum   []byte
}

func newSource(seed uint64, size int64) (*source, error) {
	if size < sha256.Size {
		return nil, fmt.Errorf("a checked message of %d bytes has no room for its digest", size)
	}
	return &source{hash: sha256.New(), state: seed*2 + 1, left: size - sha256.Size}, nil
}

// fill makes the next bytes and returns how many; 0 at the end.
func (s *source) fill(b []byte) int {
	if s.left == 0 {
		if s.sum == nil {
			s.sum = s.hash.Sum(nil)
		}
		n := copy(b, s.sum)
		s.sum = s.sum[n:]
		return n
	}
	b = b[:min(int64(len(b)), s.left)]
	for i := 0; i < len(b); i += 8 { // xorshift64*, Vigna 2014
		s.state ^= s.state >> 12
		s.state ^= s.state << 25
		s.state ^= s.state >> 27
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], s.state*2685821657736338717)
		copy(b[i:], word[:])
	}
	s.hash.Write(b)
	s.left -= int64(len(b))
	return len(b)
}

// sink checks the bytes of a checked message.
type sink struct {
	hash hash.Hash
	left int64 // before the digest
	sum  []byte
}

func newSink(size int64) *sink { return &sink{hash: sha256.New(), left: size - sha256.Size} }

func (s *sink) take(b []byte) {
	n := min(int64(len(b)), s.left)
	s.hash.Write(b[:n])
	s.left -= n
	s.sum = append(s.sum, b[n:]...)
}

// ok tells whether the whole message came as it was sent.
func (s *sink) ok() bool { return s.left == 0 && string(s.sum) == string(s.hash.Sum(nil)) }
