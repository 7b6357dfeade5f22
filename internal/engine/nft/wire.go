package nft

import (
	"cmp"
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
	table string // that it is about; "": ours
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

// The methods that follow append to the message that is being written. A netlink
// attribute (linux/netlink.h) is its length, its type, and its value, filled up to
// four bytes.

func (b *batch) attr(kind uint16, value []byte) {
	b.header(kind, len(value))
	b.data = append(b.data, value...)
	b.pad()
}

func (b *batch) string(kind uint16, s string) {
	b.header(kind, len(s)+1)
	b.data = append(b.data, s...)
	b.data = append(b.data, 0)
	b.pad()
}

func (b *batch) number(kind uint16, v uint32) {
	b.header(kind, 4)
	b.data = binary.BigEndian.AppendUint32(b.data, v)
}

func (b *batch) number64(kind uint16, v uint64) {
	b.header(kind, 8)
	b.data = binary.BigEndian.AppendUint64(b.data, v)
}

func (b *batch) header(kind uint16, size int) {
	b.data = binary.NativeEndian.AppendUint16(b.data, uint16(unix.SizeofNlAttr+size))
	b.data = binary.NativeEndian.AppendUint16(b.data, kind)
}

func (b *batch) pad() {
	for len(b.data)%unix.NLA_ALIGNTO != 0 {
		b.data = append(b.data, 0)
	}
}

// nest writes an attribute whose value are those that inner writes.
func (b *batch) nest(kind uint16, inner func()) {
	start := len(b.data)
	b.header(kind|unix.NLA_F_NESTED, 0)
	inner()
	binary.NativeEndian.PutUint16(b.data[start:], uint16(len(b.data)-start))
}

// message writes one message about our table.
func (b *batch) message(kind, flags uint16, what subject, attrs func()) {
	b.what = append(b.what, what)
	b.last = len(b.data)
	b.raw(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, unix.NFPROTO_INET, 0, attrs)
}

// raw writes a netlink message with its nfgenmsg (linux/netfilter/nfnetlink.h).
// Messages are numbered from 1 on.
func (b *batch) raw(kind, flags uint16, family uint8, resource uint16, attrs func()) {
	start := len(b.data)
	b.data = append(b.data, make([]byte, unix.SizeofNlMsghdr)...)
	b.data = append(b.data, family, unix.NFNETLINK_V0, byte(resource>>8), byte(resource))
	attrs()
	head := b.data[start:]
	binary.NativeEndian.PutUint32(head, uint32(len(head))) // a multiple of 4, as all parts are
	binary.NativeEndian.PutUint16(head[4:], kind)
	binary.NativeEndian.PutUint16(head[6:], unix.NLM_F_REQUEST|flags)
	binary.NativeEndian.PutUint32(head[8:], uint32(len(b.what)))
}

func (b *batch) addTable() {
	b.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, subject{kind: "table"}, func() {
		b.string(unix.NFTA_TABLE_NAME, tableName)
		b.number(unix.NFTA_TABLE_FLAGS, 0)
	})
}

// deleteTable needs the table to be there.
func (b *batch) deleteTable() {
	b.message(unix.NFT_MSG_DELTABLE, 0, subject{kind: "table"}, func() { b.string(unix.NFTA_TABLE_NAME, tableName) })
}

// addCounter makes a named counter that starts at n.
func (b *batch) addCounter(name string, n counted) {
	b.message(unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, subject{kind: "counter", name: name}, func() {
		b.counter(name)
		b.nest(unix.NFTA_OBJ_DATA, func() {
			b.number64(unix.NFTA_COUNTER_BYTES, n.bytes)
			b.number64(unix.NFTA_COUNTER_PACKETS, n.packets)
		})
	})
}

func (b *batch) deleteCounter(name string) {
	b.message(unix.NFT_MSG_DELOBJ, 0, subject{kind: "counter", name: name}, func() { b.counter(name) })
}

func (b *batch) counter(name string) {
	b.string(unix.NFTA_OBJ_TABLE, tableName)
	b.string(unix.NFTA_OBJ_NAME, name)
	b.number(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
}

func (b *batch) addChain(c *chain) {
	b.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, subject{kind: "chain", name: c.name}, func() {
		b.string(unix.NFTA_CHAIN_TABLE, cmp.Or(b.table, tableName))
		b.string(unix.NFTA_CHAIN_NAME, c.name)
		if c.comment != "" {
			b.attr(chainUserData, append([]byte{chainComment, byte(len(c.comment) + 1)}, c.comment+"\x00"...))
		}
		if h := c.hook; h != nil {
			b.nest(unix.NFTA_CHAIN_HOOK, func() {
				b.number(unix.NFTA_HOOK_HOOKNUM, h.number)
				b.number(unix.NFTA_HOOK_PRIORITY, uint32(h.priority))
			})
			b.number(unix.NFTA_CHAIN_POLICY, verdictAccept)
			b.string(unix.NFTA_CHAIN_TYPE, h.kind)
		}
	})
}

func (b *batch) deleteChain(name string) {
	b.message(unix.NFT_MSG_DELCHAIN, 0, subject{kind: "chain", name: name}, func() {
		b.string(unix.NFTA_CHAIN_TABLE, tableName)
		b.string(unix.NFTA_CHAIN_NAME, name)
	})
}

// flushChain takes its rules away.
func (b *batch) flushChain(name string) {
	b.message(unix.NFT_MSG_DELRULE, 0, subject{kind: "rules of chain", name: name}, func() {
		b.string(unix.NFTA_RULE_TABLE, tableName)
		b.string(unix.NFTA_RULE_CHAIN, name)
	})
}

// addRules appends the rules of c to the chain.
func (b *batch) addRules(c *chain) {
	for _, r := range c.rules {
		var sets [4]uint32 // of the rule's terms; no rule has more terms with one
		n := 0
		for _, t := range r {
			if t.set != nil {
				sets[n] = b.addSet(t.set) // a message of its own, before the rule's
				n++
			}
		}
		n = 0
		b.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, subject{name: c.name, rule: r}, func() {
			b.string(unix.NFTA_RULE_TABLE, cmp.Or(b.table, tableName))
			b.string(unix.NFTA_RULE_CHAIN, c.name)
			b.nest(unix.NFTA_RULE_EXPRESSIONS, func() {
				for _, t := range r {
					if t.set != nil {
						b.expressions(t, sets[n])
						n++
					} else {
						b.term(t)
					}
				}
			})
		})
	}
}

// term writes the expressions of t. Most rules are of the same few terms.
func (b *batch) term(t term) {
	if list, known := b.terms[t.text]; known {
		b.data = append(b.data, list...)
		return
	}
	start := len(b.data)
	b.expressions(t, 0)
	if b.terms == nil {
		b.terms = map[string][]byte{}
	}
	b.terms[t.text] = slices.Clone(b.data[start:])
}

func (b *batch) expressions(t term, anonymous uint32) {
	for _, e := range t.exprs {
		b.nest(unix.NFTA_LIST_ELEM, func() { b.expression(e, anonymous) })
	}
}

func (b *batch) expression(e any, anonymous uint32) {
	switch e := e.(type) {
	case masq:
		b.string(unix.NFTA_EXPR_NAME, "masq")
		b.nest(unix.NFTA_EXPR_DATA, func() {
			// Without the second flag the ports are not looked at.
			b.number(unix.NFTA_MASQ_FLAGS, unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY|unix.NF_NAT_RANGE_PROTO_SPECIFIED)
			b.number(unix.NFTA_MASQ_REG_PROTO_MIN, e.min)
			b.number(unix.NFTA_MASQ_REG_PROTO_MAX, e.max)
		})
	case *expr.Lookup:
		if e.SetName == "" {
			in := *e
			in.SetName, in.SetID = anonymousName, anonymous
			e = &in
		}
		b.library(e)
	case expr.Any:
		b.library(e)
	default:
		panic(fmt.Sprintf("nft: %T is no expression", e))
	}
}

func (b *batch) library(e expr.Any) {
	data, err := expr.Marshal(unix.NFPROTO_INET, e)
	if err != nil && b.err == nil {
		b.err = err
	}
	b.data = append(b.data, data...)
}

// anonymousName is what the kernel makes a name from.
const anonymousName = "__set%d"

// addSet makes a set with its elements and returns the number that rules of
// this batch may refer to it by.
func (b *batch) addSet(s *set) uint32 {
	b.setID++
	id := b.setID
	flags := uint32(0)
	if s.name == "" {
		flags = unix.NFT_SET_ANONYMOUS | unix.NFT_SET_CONSTANT
	}
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if s.data != nil {
		flags |= unix.NFT_SET_MAP
	}
	if s.concatenated() {
		flags |= setConcat
	}
	size, magic := s.keyType()
	b.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, subject{kind: "set", name: s.name}, func() {
		b.string(unix.NFTA_SET_TABLE, tableName)
		b.string(unix.NFTA_SET_NAME, s.wireName())
		b.number(unix.NFTA_SET_FLAGS, flags)
		b.number(unix.NFTA_SET_KEY_TYPE, magic)
		b.number(unix.NFTA_SET_KEY_LEN, size)
		b.number(unix.NFTA_SET_ID, id)
		if s.data != nil {
			b.number(unix.NFTA_SET_DATA_TYPE, s.data.magic)
			b.number(unix.NFTA_SET_DATA_LEN, uint32(s.data.size))
		}
		if s.concatenated() {
			b.nest(unix.NFTA_SET_DESC, func() { b.nest(setDescConcat, func() { b.fields(s) }) })
		}
		if s.key[0] == typeInteger {
			b.attr(unix.NFTA_SET_USERDATA, hostOrder)
		}
	})
	b.addElements(s, id, s.keys())
	return id
}

// fields describes the parts of a concatenation.
func (b *batch) fields(s *set) {
	for _, t := range s.key {
		b.nest(unix.NFTA_LIST_ELEM, func() { b.number(setFieldLen, uint32(t.size)) })
	}
}

// keyType is the size of a key in bytes, and the number of its type for nft.
func (s *set) keyType() (size, magic uint32) {
	for _, t := range s.key {
		magic = magic<<magicBits | t.magic
		if s.concatenated() {
			size += uint32(padded(t.size))
		} else {
			size += uint32(t.size)
		}
	}
	return size, magic
}

func (s *set) wireName() string {
	if s.name == "" {
		return anonymousName
	}
	return s.name
}

func (b *batch) deleteSet(name string) {
	b.message(unix.NFT_MSG_DELSET, 0, subject{kind: "set", name: name}, func() {
		b.string(unix.NFTA_SET_TABLE, tableName)
		b.string(unix.NFTA_SET_NAME, name)
	})
}

// Of linux/netfilter.h and linux/netfilter/nf_tables.h, and not in x/sys.
const (
	tableOwner    = 2    // NFT_TABLE_F_OWNER
	verdictAccept = 1    // NF_ACCEPT
	chainUserData = 12   // NFTA_CHAIN_USERDATA
	chainComment  = 0    // NFTNL_UDATA_CHAIN_COMMENT, of libnftnl
	setConcat     = 0x80 // NFT_SET_CONCAT
	setFieldLen   = 1    // NFTA_SET_FIELD_LEN
	setDescConcat = 2    // NFTA_SET_DESC_CONCAT
	setElemKeyEnd = 10   // NFTA_SET_ELEM_KEY_END
)

// hostOrder tells nft, when it lists the set, that keys are numbers in the
// host's byte order (libnftnl's NFTNL_UDATA_SET_KEYBYTEORDER 0, length 4, value
// 1: BYTEORDER_HOST_ENDIAN).
var hostOrder = append([]byte{0, 4}, native(1)...)

// elementsAtOnce keeps the list of elements below the 64 KiB of an attribute.
const elementsAtOnce = 200

// addElements adds elements to a set: to a new one of this batch by its number,
// to one that is in force with number 0.
func (b *batch) addElements(s *set, id uint32, keys []string) {
	b.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, s, id, keys)
}

// deleteElements removes elements of a named set that is in force.
func (b *batch) deleteElements(s *set, keys []string) {
	b.elements(unix.NFT_MSG_DELSETELEM, 0, s, 0, keys)
}

func (b *batch) elements(kind, flags uint16, s *set, id uint32, keys []string) {
	for some := range slices.Chunk(keys, elementsAtOnce) {
		b.message(kind, flags, subject{kind: "elements of", name: s.name}, func() {
			b.string(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
			b.string(unix.NFTA_SET_ELEM_LIST_SET, s.wireName())
			if id != 0 {
				b.number(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
			}
			b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
				for _, k := range some {
					b.element(s, s.elements[k])
				}
			})
		})
	}
}

func (b *batch) element(s *set, e element) {
	b.nest(unix.NFTA_LIST_ELEM, func() {
		b.nest(unix.NFTA_SET_ELEM_KEY, func() { b.attr(unix.NFTA_DATA_VALUE, e.key) })
		if e.end != nil && s.concatenated() {
			b.nest(setElemKeyEnd, func() { b.attr(unix.NFTA_DATA_VALUE, e.end) })
		}
		switch {
		case e.chain != "":
			b.nest(unix.NFTA_SET_ELEM_DATA, func() {
				b.nest(unix.NFTA_DATA_VERDICT, func() {
					to := int32(expr.VerdictGoto)
					b.number(unix.NFTA_VERDICT_CODE, uint32(to))
					b.string(unix.NFTA_VERDICT_CHAIN, e.chain)
				})
			})
		case s.data != nil:
			b.nest(unix.NFTA_SET_ELEM_DATA, func() { b.attr(unix.NFTA_DATA_VALUE, e.value) })
		}
	})
	if next := after(e.end); s.interval && !s.concatenated() && next != nil {
		// Where keys are single values the kernel wants the end as an element of
		// its own: the first value that is outside.
		b.nest(unix.NFTA_LIST_ELEM, func() {
			b.number(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
			b.nest(unix.NFTA_SET_ELEM_KEY, func() { b.attr(unix.NFTA_DATA_VALUE, next) })
		})
	}
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

// anchorName is a table of ours that does not lead anything anywhere. It belongs
// to this process's socket, so that nobody else can flush or delete it. With it
// the kernel keeps translating the addresses of live connections when somebody
// flushes all rules, until ours are back; without, it would take the hooks out
// with the last rule, and this host's TCP would reset what comes in.
const anchorName = tableName + "_anchor"

// anchor needs Linux 5.12.
func anchor() *batch {
	b := &batch{table: anchorName}
	b.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, subject{kind: "table", name: anchorName}, func() {
		b.string(unix.NFTA_TABLE_NAME, anchorName)
		b.number(unix.NFTA_TABLE_FLAGS, tableOwner)
	})
	c := &chain{name: "hold", hook: hookPrerouting}
	c.add(marked(markOurs, markOursBits), verdict(expr.VerdictReturn, "")) // keeps connection tracking on
	b.addChain(c)
	b.addRules(c)
	return b
}
