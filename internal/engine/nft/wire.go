package nft

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// batch is a transaction: netlink messages of nf_tables that the kernel runs all
// or none of.
//
// The library asks for an acknowledgement of every message. A thousand routes
// are some ten thousand messages, and to make, queue and read the answers takes
// longer than the rules. The kernel reports errors without being asked, so only
// the last message asks. Expressions are the library's.
type batch struct {
	data  []byte
	what  []subject         // of each message, for errors
	last  int               // where the last message begins
	setID uint32            // of the last new set, by which rules of the same batch refer to it
	terms map[string][]byte // encoded, by text
	err   error
}

// subject is what a message is about.
type subject struct {
	kind, name string
	rule       rule
}

func (s subject) String() string {
	if s.rule != nil {
		return fmt.Sprintf("the rule %q of chain %s", s.rule, s.name)
	}
	return s.kind + " " + s.name
}

// attr is a netlink attribute (linux/netlink.h): length, type, value, padding.
func attr(kind uint16, value []byte) []byte {
	b := make([]byte, 4, 4+len(value)+3)
	binary.NativeEndian.PutUint16(b, uint16(4+len(value)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func attrString(kind uint16, s string) []byte { return attr(kind, append([]byte(s), 0)) }

func attrNumber(kind uint16, v uint32) []byte {
	return attr(kind, binary.BigEndian.AppendUint32(nil, v))
}

func nest(kind uint16, parts ...[]byte) []byte {
	var value []byte
	for _, p := range parts {
		value = append(value, p...)
	}
	return attr(kind|unix.NLA_F_NESTED, value)
}

// message appends one message about our table.
func (b *batch) message(kind, flags uint16, what subject, parts ...[]byte) {
	b.what = append(b.what, what)
	b.last = len(b.data)
	b.raw(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, unix.NFPROTO_INET, 0, parts...)
}

// raw appends a netlink message with its nfgenmsg (linux/netfilter/nfnetlink.h).
// Messages are numbered from 1 on.
func (b *batch) raw(kind, flags uint16, family uint8, resource uint16, parts ...[]byte) {
	start := len(b.data)
	b.data = append(b.data, make([]byte, unix.SizeofNlMsghdr)...)
	b.data = append(b.data, family, unix.NFNETLINK_V0, byte(resource>>8), byte(resource))
	for _, p := range parts {
		b.data = append(b.data, p...)
	}
	head := b.data[start:]
	binary.NativeEndian.PutUint32(head, uint32(len(head))) // a multiple of 4, as all parts are
	binary.NativeEndian.PutUint16(head[4:], kind)
	binary.NativeEndian.PutUint16(head[6:], unix.NLM_F_REQUEST|flags)
	binary.NativeEndian.PutUint32(head[8:], uint32(len(b.what)))
}

func (b *batch) addTable() {
	b.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, subject{kind: "table"}, attrString(unix.NFTA_TABLE_NAME, tableName), attrNumber(unix.NFTA_TABLE_FLAGS, 0))
}

// deleteTable needs the table to be there.
func (b *batch) deleteTable() {
	b.message(unix.NFT_MSG_DELTABLE, 0, subject{kind: "table"}, attrString(unix.NFTA_TABLE_NAME, tableName))
}

// addCounter makes a named counter that starts at n.
func (b *batch) addCounter(name string, n counted) {
	number := func(kind uint16, v uint64) []byte { return attr(kind, binary.BigEndian.AppendUint64(nil, v)) }
	b.message(unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, subject{kind: "counter", name: name},
		attrString(unix.NFTA_OBJ_TABLE, tableName), attrString(unix.NFTA_OBJ_NAME, name), attrNumber(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER),
		nest(unix.NFTA_OBJ_DATA, number(unix.NFTA_COUNTER_BYTES, n.bytes), number(unix.NFTA_COUNTER_PACKETS, n.packets)))
}

func (b *batch) deleteCounter(name string) {
	b.message(unix.NFT_MSG_DELOBJ, 0, subject{kind: "counter", name: name},
		attrString(unix.NFTA_OBJ_TABLE, tableName), attrString(unix.NFTA_OBJ_NAME, name), attrNumber(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER))
}

func (b *batch) addChain(c *chain) {
	parts := [][]byte{attrString(unix.NFTA_CHAIN_TABLE, tableName), attrString(unix.NFTA_CHAIN_NAME, c.name)}
	if h := c.hook; h != nil {
		parts = append(parts,
			nest(unix.NFTA_CHAIN_HOOK, attrNumber(unix.NFTA_HOOK_HOOKNUM, h.number), attrNumber(unix.NFTA_HOOK_PRIORITY, uint32(h.priority))),
			attrNumber(unix.NFTA_CHAIN_POLICY, verdictAccept), attrString(unix.NFTA_CHAIN_TYPE, h.kind))
	}
	b.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, subject{kind: "chain", name: c.name}, parts...)
}

func (b *batch) deleteChain(name string) {
	b.message(unix.NFT_MSG_DELCHAIN, 0, subject{kind: "chain", name: name}, attrString(unix.NFTA_CHAIN_TABLE, tableName), attrString(unix.NFTA_CHAIN_NAME, name))
}

// flushChain takes its rules away.
func (b *batch) flushChain(name string) {
	b.message(unix.NFT_MSG_DELRULE, 0, subject{kind: "rules of chain", name: name}, attrString(unix.NFTA_RULE_TABLE, tableName), attrString(unix.NFTA_RULE_CHAIN, name))
}

// addRules appends the rules of c to the chain.
func (b *batch) addRules(c *chain) {
	var list []byte
	for _, r := range c.rules {
		list = list[:0]
		for _, t := range r {
			list = append(list, b.term(t)...)
		}
		b.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, subject{name: c.name, rule: r},
			attrString(unix.NFTA_RULE_TABLE, tableName), attrString(unix.NFTA_RULE_CHAIN, c.name), attr(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, list))
	}
}

// term is the expressions of t. Most rules are of the same few terms.
func (b *batch) term(t term) []byte {
	if list, known := b.terms[t.text]; known {
		return list
	}
	id := uint32(0)
	if t.set != nil {
		id = b.addSet(t.set)
	}
	var list []byte
	for _, e := range t.exprs {
		list = append(list, nest(unix.NFTA_LIST_ELEM, b.expression(e, id))...)
	}
	if b.terms == nil {
		b.terms = map[string][]byte{}
	}
	if t.set == nil {
		b.terms[t.text] = list
	}
	return list
}

func (b *batch) expression(e any, anonymous uint32) []byte {
	switch e := e.(type) {
	case masq:
		return append(attrString(unix.NFTA_EXPR_NAME, "masq"), nest(unix.NFTA_EXPR_DATA,
			attrNumber(unix.NFTA_MASQ_FLAGS, unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY),
			attrNumber(unix.NFTA_MASQ_REG_PROTO_MIN, e.min), attrNumber(unix.NFTA_MASQ_REG_PROTO_MAX, e.max))...)
	case *expr.Lookup:
		if e.SetName == "" {
			in := *e
			in.SetName, in.SetID = anonymousName, anonymous
			return b.marshal(&in)
		}
		return b.marshal(e)
	case expr.Any:
		return b.marshal(e)
	}
	panic(fmt.Sprintf("nft: %T is no expression", e))
}

func (b *batch) marshal(e expr.Any) []byte {
	data, err := expr.Marshal(unix.NFPROTO_INET, e)
	if err != nil && b.err == nil {
		b.err = err
	}
	return data
}

// anonymousName is what the kernel makes a name from.
const anonymousName = "__set%d"

// addSet makes a set with its elements and returns the number that rules of
// this batch may refer to it by.
func (b *batch) addSet(s *set) uint32 {
	b.setID++
	name, flags := s.name, uint32(0)
	if name == "" {
		name, flags = anonymousName, unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT
	}
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	size, magic := 0, uint32(0)
	var fields []byte
	for _, t := range s.key {
		magic = magic<<magicBits | t.magic
		if s.concatenated() {
			size += padded(t.size)
			fields = append(fields, nest(unix.NFTA_LIST_ELEM, attrNumber(setFieldLen, uint32(t.size)))...)
		} else {
			size += t.size
		}
	}
	parts := [][]byte{
		attrString(unix.NFTA_SET_TABLE, tableName), attrString(unix.NFTA_SET_NAME, name),
		attrNumber(unix.NFTA_SET_KEY_TYPE, magic), attrNumber(unix.NFTA_SET_KEY_LEN, uint32(size)), attrNumber(unix.NFTA_SET_ID, b.setID),
	}
	if s.data != nil {
		flags |= unix.NFT_SET_MAP
		parts = append(parts, attrNumber(unix.NFTA_SET_DATA_TYPE, s.data.magic), attrNumber(unix.NFTA_SET_DATA_LEN, uint32(s.data.size)))
	}
	if s.concatenated() {
		flags |= setConcat
		parts = append(parts, nest(unix.NFTA_SET_DESC, attr(setDescConcat|unix.NLA_F_NESTED, fields)))
	}
	if s.key[0] == typeInteger {
		parts = append(parts, attr(unix.NFTA_SET_USERDATA, hostOrder))
	}
	parts = append(parts, attrNumber(unix.NFTA_SET_FLAGS, flags))
	b.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, subject{kind: "set", name: s.name}, parts...)
	b.addElements(s, b.setID, s.keys())
	return b.setID
}

func (b *batch) deleteSet(name string) {
	b.message(unix.NFT_MSG_DELSET, 0, subject{kind: "set", name: name}, attrString(unix.NFTA_SET_TABLE, tableName), attrString(unix.NFTA_SET_NAME, name))
}

// Of linux/netfilter/nf_tables.h, and not in x/sys.
const (
	verdictAccept = 1    // NF_ACCEPT
	setConcat     = 0x80 // NFT_SET_CONCAT
	setDescConcat = 2    // NFTA_SET_DESC_CONCAT
	setFieldLen   = 1    // NFTA_SET_FIELD_LEN
	setElemKeyEnd = 10   // NFTA_SET_ELEM_KEY_END
)

// hostOrder tells nft, when it lists the set, that keys are numbers in the
// host's byte order (libnftnl's NFTNL_UDATA_SET_KEYBYTEORDER 0, length 4, value
// 1: BYTEORDER_HOST_ENDIAN).
var hostOrder = append([]byte{0, 4}, native(1)...)

// elementsAtOnce keeps the list of elements below the 64 KiB of an attribute.
const elementsAtOnce = 400

func (b *batch) addElements(s *set, id uint32, keys []string) {
	b.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, s, id, keys)
}

// deleteElements removes elements of a named set that is in force.
func (b *batch) deleteElements(s *set, keys []string) {
	b.elements(unix.NFT_MSG_DELSETELEM, 0, s, 0, keys)
}

func (b *batch) elements(kind, flags uint16, s *set, id uint32, keys []string) {
	name := s.name
	if name == "" {
		name = anonymousName
	}
	for len(keys) > 0 {
		n := min(len(keys), elementsAtOnce)
		var list []byte
		for _, k := range keys[:n] {
			list = append(list, s.wire(s.elements[k])...)
		}
		parts := [][]byte{attrString(unix.NFTA_SET_ELEM_LIST_TABLE, tableName), attrString(unix.NFTA_SET_ELEM_LIST_SET, name)}
		if id != 0 {
			parts = append(parts, attrNumber(unix.NFTA_SET_ELEM_LIST_SET_ID, id))
		}
		parts = append(parts, attr(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, list))
		b.message(kind, flags, subject{kind: "elements of", name: s.name}, parts...)
		keys = keys[n:]
	}
}

func (s *set) wire(e element) []byte {
	parts := [][]byte{nest(unix.NFTA_SET_ELEM_KEY, attr(unix.NFTA_DATA_VALUE, e.key))}
	if e.end != nil && s.concatenated() {
		parts = append(parts, nest(setElemKeyEnd, attr(unix.NFTA_DATA_VALUE, e.end)))
	}
	switch {
	case e.chain != "":
		to := int32(expr.VerdictGoto)
		parts = append(parts, nest(unix.NFTA_SET_ELEM_DATA, nest(unix.NFTA_DATA_VERDICT,
			attrNumber(unix.NFTA_VERDICT_CODE, uint32(to)), attrString(unix.NFTA_VERDICT_CHAIN, e.chain))))
	case s.data != nil:
		parts = append(parts, nest(unix.NFTA_SET_ELEM_DATA, attr(unix.NFTA_DATA_VALUE, e.value)))
	}
	wire := nest(unix.NFTA_LIST_ELEM, parts...)
	if next := after(e.end); s.interval && !s.concatenated() && next != nil {
		// Where keys are single values the kernel wants the end as an element of
		// its own: the first value that is outside.
		wire = append(wire, nest(unix.NFTA_LIST_ELEM,
			attrNumber(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END),
			nest(unix.NFTA_SET_ELEM_KEY, attr(unix.NFTA_DATA_VALUE, next)))...)
	}
	return wire
}

// after is the number after key, big endian; nil: there is none.
func after(key []byte) []byte {
	next := slices.Clone(key)
	for i := len(next) - 1; i >= 0; i-- {
		if next[i]++; next[i] != 0 {
			return next
		}
	}
	return nil
}
