package kafka

import (
	"encoding/binary"
	"errors"
)

// reader reads fields of bytes that have been walked. What is broken nevertheless makes it bad,
// and it reads zeros from then on.
type reader struct {
	b   []byte
	at  int
	bad bool
}

var errPart = errors.New("a field that is longer than what it stands in")

func (r *reader) err() error {
	if r.bad {
		return errPart
	}
	return nil
}

func (r *reader) bytes(n int64) []byte {
	if n < 0 || n > int64(len(r.b)-r.at) {
		r.at, r.bad = len(r.b), true
		return nil
	}
	r.at += int(n)
	return r.b[r.at-int(n) : r.at]
}

func (r *reader) int16() int16 {
	if b := r.bytes(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *reader) int32() int32 {
	if b := r.bytes(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (r *reader) uvarint() int64 {
	v, used := uvarint(r.b[r.at:])
	if used <= 0 {
		r.at, r.bad = len(r.b), true
		return 0
	}
	r.at += used
	return v
}

// length is that of a string (width 2) or an array (width 4); null is -1.
func (r *reader) length(flexible bool, width int) int64 {
	n, used, err := length(r.b[r.at:], flexible, width)
	if used <= 0 || err != nil {
		r.at, r.bad = len(r.b), true
		return -1
	}
	r.at += used
	return n
}

// str is empty where the string is null.
func (r *reader) str(flexible bool) []byte {
	return r.bytes(max(r.length(flexible, 2), 0))
}

// count is how many elements an array says it has, which may be a lie; null is -1.
func (r *reader) count(flexible bool) int64 { return r.length(flexible, 4) }

// tag is the next tagged field, and where it begins.
func (r *reader) tag() (number int64, data []byte, from int) {
	from = r.at
	number = r.uvarint()
	return number, r.bytes(r.uvarint()), from
}

func (r *reader) tags(flexible bool) {
	if !flexible {
		return
	}
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		r.tag()
	}
}

// editor writes a part of an answer anew: out has what was before it.
type editor struct {
	o       *Options
	in      reader
	out     []byte
	changed bool
}

func (e *editor) part(l *layout) error {
	switch l.part {
	case partNodes:
		e.nodes(l.shape)
	case partTag:
		return e.tagged(l.shape)
	case partCoordinator:
		e.coordinator(l.shape)
	case partCoordinators:
		e.coordinators()
	case partVersions:
		e.versions(l.shape.flexible)
	}
	return e.in.err()
}

// raw writes what was read since from, as it is.
func (e *editor) raw(from int) { e.out = append(e.out, e.in.b[from:e.in.at]...) }

func (e *editor) int16(v int16) { e.out = binary.BigEndian.AppendUint16(e.out, uint16(v)) }
func (e *editor) int32(v int32) { e.out = binary.BigEndian.AppendUint32(e.out, uint32(v)) }

func (e *editor) str(s string, flexible bool) {
	if flexible {
		e.out = binary.AppendUvarint(e.out, uint64(len(s)+1))
	} else {
		e.int16(int16(len(s)))
	}
	e.out = append(e.out, s...)
}

// widest is a number that is not known yet, see settle.
var widest [maxVarint]byte

// settle writes n as a varint where widest stands at from, and moves up what is behind.
func (e *editor) settle(from int, n int) {
	var b [binary.MaxVarintLen64]byte
	w := copy(e.out[from:from+maxVarint], b[:binary.PutUvarint(b[:], uint64(n))])
	e.out = append(e.out[:from+w], e.out[from+maxVarint:]...)
}

// array writes one whose elements each writes, or leaves out and gives false.
func (e *editor) array(flexible bool, each func() bool) {
	from := e.in.at
	n := e.in.count(flexible)
	if n <= 0 {
		e.raw(from)
		return
	}
	start, kept := len(e.out), 0
	if flexible {
		e.out = append(e.out, widest[:]...)
	} else {
		e.int32(0)
	}
	for range n {
		if e.in.bad {
			return
		}
		if each() {
			kept++
		} else {
			e.changed = true
		}
	}
	if flexible {
		e.settle(start, kept+1)
	} else {
		binary.BigEndian.PutUint32(e.out[start:], uint32(kept))
	}
}

// maxHost is how long a host may be, in bytes: what DNS takes.
const maxHost = 255

// address is what is said of a node, and where.
type address struct {
	node  int32
	host  []byte
	port  int32
	after int // where in the input the port ends
}

func (r *reader) address(flexible bool) address {
	a := address{node: r.int32(), host: r.str(flexible), port: r.int32()}
	a.after = r.at
	return a
}

// node is an element of an array of nodes.
func (r *reader) node(s shape) address {
	a := r.address(s.flexible)
	if s.rack {
		r.str(s.flexible)
	}
	r.bytes(int64(s.extra))
	r.tags(s.flexible)
	return a
}

// fate is what becomes of an address.
type fate uint8

const (
	same fate = iota
	changed
	dropped
)

// lookUp changes a to what is to be said.
func (e *editor) lookUp(a *address) (host string, f fate) {
	if a.node < 0 || len(a.host) == 0 || e.in.bad {
		return "", same
	}
	host, port, ok := e.o.Rewrite(a.node, string(a.host), a.port)
	switch {
	case ok && host == string(a.host) && port == a.port:
		return host, same
	case !ok || len(host) > maxHost:
		f = dropped
	default:
		f = changed
	}
	a.port = port
	e.changed = true
	return host, f
}

// address writes one that is changed.
func (e *editor) address(a address, host string, flexible bool) {
	e.int32(a.node)
	e.str(host, flexible)
	e.int32(a.port)
}

func (e *editor) nodes(s shape) {
	e.array(s.flexible, func() bool {
		from := e.in.at
		a := e.in.node(s)
		switch host, f := e.lookUp(&a); f {
		case dropped:
			return false
		case same:
			e.raw(from)
		case changed:
			e.address(a, host, s.flexible)
			e.raw(a.after)
		}
		return true
	})
}

var errTagOrder = errors.New("tagged fields out of order")

// tagged writes tagged fields, of which 0 has nodes.
func (e *editor) tagged(s shape) error {
	n := e.in.uvarint()
	e.raw(0)
	last := int64(-1)
	for ; n > 0 && !e.in.bad; n-- {
		number, data, from := e.in.tag()
		if number <= last && !e.in.bad {
			return errTagOrder
		}
		last = number
		if number != 0 {
			e.raw(from)
			continue
		}
		e.out = append(e.out, 0)
		start := len(e.out)
		e.out = append(e.out, widest[:]...)
		inner := editor{o: e.o, in: reader{b: data}, out: e.out}
		inner.nodes(s)
		e.out = append(inner.out, data[inner.in.at:]...)
		e.settle(start, len(e.out)-start-maxVarint)
		e.changed, e.in.bad = inner.changed, inner.in.bad || e.in.bad
	}
	return e.in.err()
}

// errCoordinatorNotAvailable is Kafka's error code for it: clients ask again.
const errCoordinatorNotAvailable = 15

func (e *editor) coordinator(s shape) {
	e.in.int16()
	if s.message {
		e.in.str(s.flexible)
	}
	before := e.in.at
	a := e.in.address(s.flexible)
	switch host, f := e.lookUp(&a); f {
	case same:
		e.raw(0)
	case changed:
		e.out = append(e.out, e.in.b[:before]...)
		e.address(a, host, s.flexible)
	case dropped:
		e.int16(errCoordinatorNotAvailable)
		if s.message {
			e.null(s.flexible)
		}
		e.noNode(s.flexible)
	}
}

// null writes a string that is null.
func (e *editor) null(flexible bool) {
	if flexible {
		e.out = append(e.out, 0)
	} else {
		e.int16(-1)
	}
}

// noNode writes what Kafka does where there is none: Node.noNode.
func (e *editor) noNode(flexible bool) {
	e.int32(-1)
	e.str("", flexible)
	e.int32(-1)
}

func (e *editor) coordinators() {
	e.array(true, func() bool {
		from := e.in.at
		e.in.str(true) // key
		before := e.in.at
		a := e.in.address(true)
		e.in.int16() // error
		e.in.str(true)
		message := e.in.at
		e.in.tags(true)
		host, f := e.lookUp(&a)
		if f == same {
			e.raw(from)
			return true
		}
		e.out = append(e.out, e.in.b[from:before]...)
		if f == changed {
			e.address(a, host, true)
			e.raw(a.after)
			return true
		}
		e.noNode(true)
		e.int16(errCoordinatorNotAvailable)
		e.null(true)
		e.raw(message)
		return true
	})
}

// versions writes what APIs the broker speaks, in versions that are known here.
func (e *editor) versions(flexible bool) {
	e.array(flexible, func() bool {
		from := e.in.at
		key, first, last := e.in.int16(), e.in.int16(), e.in.int16()
		behind := e.in.at
		e.in.tags(flexible)
		if key > lastKey && !e.o.PassUnknown {
			return false
		}
		known := last
		if v, ok := lastVersion(max(key, 0)); ok && key >= 0 {
			known = min(v, last)
		}
		if known == last {
			e.raw(from)
			return true
		}
		if first > known {
			return false
		}
		e.changed = true
		e.int16(key)
		e.int16(first)
		e.int16(known)
		e.raw(behind)
		return true
	})
}

// appendUnsupported appends an answer to ApiVersions in a version that is not known here, for
// the client to ask again: an error, and the versions that it may ask in, in the layout of
// version 0 (KIP-511).
func appendUnsupported(out []byte, correlation int32) []byte {
	last, _ := lastVersion(keyApiVersions)
	const size = 4 + 2 + 4 + 3*2
	out = binary.BigEndian.AppendUint32(out, size)
	out = binary.BigEndian.AppendUint32(out, uint32(correlation))
	out = binary.BigEndian.AppendUint16(out, errUnsupportedVersion)
	out = binary.BigEndian.AppendUint32(out, 1)
	for _, v := range [3]int16{keyApiVersions, 0, last} {
		out = binary.BigEndian.AppendUint16(out, uint16(v))
	}
	return out
}
