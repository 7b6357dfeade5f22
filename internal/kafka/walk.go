package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A message is walked by a program: a list of what its fields are, made once for each
// version (layouts.go). The walk can stop anywhere and go on with more bytes, keeps nothing of
// them, and believes no length and no count that is more than the bytes that are left.
type op struct {
	code opcode
	n    int
}

type opcode uint8

const (
	opFix   opcode = iota // n bytes
	opValue               // n bytes, kept as walk.value (big endian)
	opStr                 // int16 length, bytes; -1: null
	opCStr                // uvarint length+1, bytes; 0: null (KIP-482; strings and bytes alike)
	opArr                 // int32 count, elements up to opEnd; -1: null. n: behind that opEnd
	opCArr                // uvarint count+1, the same
	opEnd                 // n: the first op of the element
	opTags                // tagged fields
	opMark                // stop here
)

// maxDepth is how deep arrays are in one another: topics, partitions, aborted transactions.
const maxDepth = 3

// passMin is the least number of bytes to pass unread, where only some of them are there; fewer
// are waited for. Records are nearly always more.
const passMin = 512

// Errors of a walk. They do not say where: what is broken once is not worth a position.
var (
	errShort  = errors.New("it ends in the middle of a field")
	errVarint = errors.New("a length that does not end")
)

// walk is where a walk has come to. Its zero value with prog and left is at the begin.
type walk struct {
	prog  []op
	pc    int
	left  int64 // bytes of the frame from here on
	skip  int64 // of them: bytes before the next op
	depth int
	count [maxDepth]int64 // elements left, from the outermost array
	tags  int64           // tagged fields left
	in    bool            // in the middle of them
	value uint64          // of the last opValue
	at    int             // where b of hold has been walked to
}

// stop is why run came back: a mark (need and pass are 0), more bytes are needed (how many from
// there), or bytes that need not be seen (how many).
type stop struct {
	need int
	pass int64
}

// hold walks a frame that is kept from its begin: b has all that has come of it, and on the
// next call more. It gives the place of the next mark, or how many bytes b should have.
func (w *walk) hold(b []byte) (at, need int, err error) {
	n, s, err := w.run(b[w.at:], false)
	w.at += n
	if s.need > 0 {
		return w.at, w.at + s.need, err
	}
	return w.at, 0, err
}

// run walks b, which goes on where the last run stopped, as far as it can: n bytes.
func (w *walk) run(b []byte, pass bool) (n int, s stop, err error) {
	for {
		if w.skip > 0 {
			have := min(w.skip, int64(len(b)-n))
			if have < w.skip && (!pass || w.skip < passMin) {
				return n, stop{need: int(w.skip)}, nil
			}
			w.left -= w.skip
			if have < w.skip {
				s.pass, w.skip = w.skip, 0
				return n, s, nil
			}
			n += int(w.skip)
			w.skip = 0
		}
		o := w.prog[w.pc]
		if o.code == opMark {
			w.pc++
			return n, s, nil
		}
		avail := b[n:]
		if int64(len(avail)) > w.left {
			avail = avail[:w.left]
		}
		used, err := w.step(o, avail)
		if err != nil {
			return n, s, err
		}
		if used < 0 {
			if int64(-used) > w.left {
				return n, s, errShort
			}
			return n, stop{need: -used}, nil
		}
		n += used
		w.left -= int64(used)
		if w.skip > w.left {
			return n, s, fmt.Errorf("a field of %d bytes, where %d are left", w.skip, w.left)
		}
	}
}

// step does one op: it uses bytes of b, or gives the negative of how many it needs.
func (w *walk) step(o op, b []byte) (used int, err error) {
	switch o.code {
	case opFix:
		w.skip = int64(o.n)
	case opValue:
		if len(b) < o.n {
			return -o.n, nil
		}
		w.value = 0
		for _, x := range b[:o.n] {
			w.value = w.value<<8 | uint64(x)
		}
		used = o.n
	case opStr, opCStr:
		if w.skip, used, err = length(b, o.code == opCStr, 2); used <= 0 {
			return used, err
		}
		w.skip = max(w.skip, 0)
	case opArr, opCArr:
		return w.array(o, b)
	case opEnd:
		if w.count[w.depth-1]--; w.count[w.depth-1] > 0 {
			w.pc = o.n
			return 0, nil
		}
		w.depth--
	case opTags:
		return w.tagged(b)
	}
	w.pc++
	return used, nil
}

// array begins one, or goes past it if it is empty.
func (w *walk) array(o op, b []byte) (used int, err error) {
	n, used, err := length(b, o.code == opCArr, 4)
	if used <= 0 {
		return used, err
	}
	if n > w.left-int64(used) { // an element has a byte at least
		return 0, fmt.Errorf("an array of %d elements, where %d bytes are left", n, w.left-int64(used))
	}
	if n <= 0 {
		w.pc = o.n
		return used, nil
	}
	w.count[w.depth] = n
	w.depth++
	w.pc++
	return used, nil
}

// tagged goes over the head of tagged fields, or of the next of them.
func (w *walk) tagged(b []byte) (used int, err error) {
	if !w.in {
		n, used := uvarint(b)
		if used <= 0 {
			return varintNeed(b, used)
		}
		if n > (w.left-int64(used))/2 { // a field has a number and a size at least
			return 0, fmt.Errorf("%d tagged fields, where %d bytes are left", n, w.left-int64(used))
		}
		w.tags, w.in = n, true
		return used, nil
	}
	if w.tags == 0 {
		w.in = false
		w.pc++
		return 0, nil
	}
	_, a := uvarint(b)
	if a <= 0 {
		return varintNeed(b, a)
	}
	size, z := uvarint(b[a:])
	if z <= 0 {
		used, err = varintNeed(b[a:], z)
		return used - a, err
	}
	w.tags--
	w.skip = size
	return a + z, nil
}

// length reads the length of a string or an array: compact, or of width bytes. -1 is null.
// used is negative where b is too short: how many bytes it should have.
func length(b []byte, compact bool, width int) (n int64, used int, err error) {
	if compact {
		n, used = uvarint(b)
		if used <= 0 {
			used, err = varintNeed(b, used)
			return 0, used, err
		}
		return n - 1, used, nil
	}
	if len(b) < width {
		return 0, -width, nil
	}
	if width == 2 {
		n = int64(int16(binary.BigEndian.Uint16(b)))
	} else {
		n = int64(int32(binary.BigEndian.Uint32(b)))
	}
	if n < -1 {
		return 0, 0, fmt.Errorf("a length of %d", n)
	}
	return n, width, nil
}

// maxVarint is how many bytes an unsigned varint of 32 bits has at most.
const maxVarint = 5

// uvarint reads one. used is 0 where b ends before it does, negative where it does not end.
func uvarint(b []byte) (v int64, used int) {
	if len(b) > 0 && b[0] < 0x80 {
		return int64(b[0]), 1
	}
	for i, x := range b[:min(len(b), maxVarint)] {
		v |= int64(x&0x7f) << (7 * i)
		if x < 0x80 {
			if v > 1<<32-1 {
				return 0, -1
			}
			return v, i + 1
		}
	}
	if len(b) >= maxVarint {
		return 0, -1
	}
	return 0, 0
}

// varintNeed is the answer where uvarint(b) gave used <= 0.
func varintNeed(b []byte, used int) (int, error) {
	if used < 0 {
		return 0, errVarint
	}
	return -(len(b) + 1), nil
}
