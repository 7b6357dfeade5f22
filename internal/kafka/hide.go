package kafka

import (
	"encoding/binary"
	"errors"
)

// The end of a large answer, whose length has gone before it was known whether addresses come
// behind the records: it keeps its length, so addresses cannot be replaced. They are taken out,
// and a tagged field that nobody knows fills their place with zeros. Clients skip such fields
// (KIP-482), and then look for the leader in Metadata as before KIP-951.

// padTag is the number of that field: the highest of one byte, or the next below that is free.
const padTag = 127

var errNoRoom = errors.New("no room for a tagged field in place of addresses")

// hides tells whether there are addresses in what is behind the first mark.
func (e *editor) hides(l *layout) bool {
	if l.part == partNodes {
		return e.in.count(l.shape.flexible) > 0
	}
	for n := e.in.uvarint(); n > 0 && !e.in.bad; n-- {
		if number, _, _ := e.in.tag(); number == 0 && !e.in.bad {
			return true
		}
	}
	return false
}

// hide writes what is behind the first mark without them, in the same length.
func (e *editor) hide(l *layout) error {
	if l.part == partTag {
		return e.pad(len(e.in.b), true)
	}
	for n := e.in.count(l.shape.flexible); n > 0 && !e.in.bad; n-- {
		e.in.node(l.shape)
	}
	e.out = append(e.out, 1) // an array of none
	return e.pad(len(e.in.b)-1, false)
}

// pad writes tagged fields, without the one with number 0 if it is to be hidden, with one that
// fills up to total bytes, and what is behind them.
func (e *editor) pad(total int, hide bool) error {
	begin, others, size := e.in.at, 0, 0
	last, used := int64(-1), [padTag + 1]bool{}
	for n := e.in.uvarint(); n > 0 && !e.in.bad; n-- {
		number, _, from := e.in.tag()
		if number <= last && !e.in.bad {
			return errTagOrder
		}
		last = number
		if hide && number == 0 {
			continue
		}
		others++
		size += e.in.at - from
		if number <= padTag {
			used[number] = true
		}
	}
	if e.in.bad {
		return errPart
	}
	free := padTag
	for free > 0 && used[free] {
		free--
	}
	before := len(e.out)
	e.out = binary.AppendUvarint(e.out, uint64(others+1))
	room := total - (len(e.out) - before) - size - (len(e.in.b) - e.in.at)
	e.in.at = begin
	return e.fields(hide, int64(free), room)
}

// fields writes the fields of pad: all in the order of their numbers.
func (e *editor) fields(hide bool, free int64, room int) error {
	padded := false
	for n := e.in.uvarint(); n > 0; n-- {
		number, _, from := e.in.tag()
		if hide && number == 0 {
			continue
		}
		if number > free && !padded {
			padded = e.field(free, room)
		}
		e.raw(from)
	}
	if !padded && !e.field(free, room) {
		return errNoRoom
	}
	e.out = append(e.out, e.in.b[e.in.at:]...)
	return nil
}

// field writes a tagged field of room bytes in all. Where its size would need a byte more if
// it were a byte longer, it is written in one more than it needs: decoders take that.
func (e *editor) field(number int64, room int) bool {
	for width := 1; width <= maxVarint; width++ {
		size := room - 1 - width
		if size < 0 || number <= 0 {
			return false
		}
		if size >= 1<<(7*width) {
			continue
		}
		e.out = append(e.out, byte(number))
		for i := range width {
			b := byte(size>>(7*i)) & 0x7f
			if i < width-1 {
				b |= 0x80
			}
			e.out = append(e.out, b)
		}
		e.out = append(e.out, make([]byte, size)...)
		return true
	}
	return false
}
