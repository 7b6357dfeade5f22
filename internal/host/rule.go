package host

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// action is what a rule does with a packet besides a verdict.
type action int8

const (
	nothing action = iota
	dnat
	masquerade
	notrack
	drop
)

// outcome is what a rule does with a packet.
type outcome struct {
	match    truth
	verdicts []branch
	does     action
	to       string // where dnat leads
	narrow   bool   // it asks for more than the outgoing interface and the protocol family
}

// branch is a verdict that holds for some packets.
type branch struct {
	match   truth
	verdict expr.Verdict
}

// machine runs one rule on a packet, like the kernel's, but with what is known
// of fields instead of fields. Registers are counted in words of 32 bits.
type machine struct {
	packet
	rules     *ruleset
	table     *nftables.Table
	registers map[uint32]value
	outcome
}

// word is the first 32-bit word of a register: 1 to 4 are of 128 bits, 8 to 23
// are their words (linux/netfilter/nf_tables.h, nft_registers).
func word(register uint32) uint32 {
	if register < unix.NFT_REG32_00 {
		return (register - 1) * 4
	}
	return register - unix.NFT_REG32_00
}

func (m *machine) load(register uint32, v value) {
	if register != 0 {
		m.registers[word(register)] = v
	}
}

func (m *machine) get(register uint32) value { return m.registers[word(register)] }

func (m *machine) require(t truth) { m.match = min(m.match, t) }

// run stops at the first condition that does not hold.
func (m *machine) run(exprs []any) {
	for _, e := range exprs {
		if m.match == no {
			return
		}
		if !m.loads(e) && !m.tests(e) {
			m.acts(e)
		}
	}
}

// loads handles what fills registers.
func (m *machine) loads(e any) bool {
	switch e := e.(type) {
	case *expr.Meta:
		if !e.SourceRegister {
			m.narrow = m.narrow || e.Key != expr.MetaKeyOIFNAME && e.Key != expr.MetaKeyOIF && e.Key != expr.MetaKeyNFPROTO
			m.load(e.Register, m.meta(e.Key))
		}
	case *expr.Payload:
		if e.OperationType == expr.PayloadLoad {
			m.narrow = true
			m.load(e.DestRegister, m.payload(e))
		}
	case *expr.Ct:
		if !e.SourceRegister {
			m.narrow = true
			m.load(e.Register, m.ct(e))
		}
	case *expr.Immediate:
		m.load(e.Register, exactly(e.Data))
	case *expr.Bitwise:
		m.load(e.DestRegister, m.get(e.SourceRegister).masked(e.Mask, e.Xor))
	case opaque:
		m.narrow = true
		clear(m.registers)
		m.require(maybe)
	default:
		return false
	}
	return true
}

// tests handles conditions.
func (m *machine) tests(e any) bool {
	switch e := e.(type) {
	case *expr.Cmp:
		m.require(m.get(e.Register).compare(e.Op, e.Data))
	case *expr.Range:
		t := m.get(e.Register).within(e.FromData, e.ToData)
		if e.Op == expr.CmpOpNeq {
			t = t.not()
		}
		m.require(t)
	case *expr.Lookup:
		m.lookup(e)
	case *expr.Match:
		m.narrow = true
		m.require(m.matchXT(e))
	default:
		return false
	}
	return true
}

// acts handles what a rule does once its conditions hold.
func (m *machine) acts(e any) {
	switch e := e.(type) {
	case *expr.Verdict:
		m.verdicts = append(m.verdicts, branch{yes, *e})
	case *expr.NAT:
		// In an inet table it is for one family (nft_nat_inet_eval).
		if e.Type == expr.NATTypeDestNAT && byte(e.Family) == m.family {
			m.does, m.to = dnat, m.natTarget(e)
		}
	case *expr.Redir:
		m.does, m.to = dnat, "this host"
		if v := m.get(e.RegisterProtoMin); e.RegisterProtoMin != 0 && v.exact() {
			m.to += portText(v)
		}
	case *expr.Masq:
		m.does = masquerade
	case *expr.Notrack:
		m.does = notrack
	case *expr.Reject:
		m.does = drop
	case *expr.Target:
		m.does, m.to = targetXT(e)
	}
}

func (m *machine) natTarget(e *expr.NAT) string {
	to := "an address that a map chooses"
	v := m.get(e.RegAddrMin)
	addr, ok := netip.AddrFromSlice(v.low)
	if e.RegAddrMin == 0 {
		to = "the same address"
	} else if v.exact() && ok {
		to = addr.String()
	}
	if p := m.get(e.RegProtoMin); e.RegProtoMin != 0 && p.exact() {
		if addr.Is6() {
			to = "[" + to + "]"
		}
		to += portText(p)
	}
	return to
}

func portText(v value) string {
	if len(v.low) < 2 {
		return ""
	}
	return ":" + strconv.Itoa(int(binary.BigEndian.Uint16(v.low)))
}

// lookup decides a set or map: a match for each element, of which the surest
// counts.
func (m *machine) lookup(e *expr.Lookup) {
	elements, ok := m.rules.elements(m.table, e.SetName)
	found := no
	if !ok {
		found = maybe
	}
	toVerdict := e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT
	for _, el := range elements {
		t := m.element(e.SourceRegister, el)
		found = max(found, t)
		if v, ok := decodeVerdict(el.Val); ok && toVerdict && t != no {
			m.verdicts = append(m.verdicts, branch{t, v})
		}
	}
	if e.Invert {
		found = found.not()
	}
	if toVerdict {
		return // the rule goes on when nothing is found
	}
	m.require(found)
	if e.IsDestRegSet {
		m.load(e.DestRegister, value{})
	}
}

// element matches the fields that lie in the registers from first on, each
// padded to a word, with an element's key; several fields are a concatenation.
func (m *machine) element(first uint32, el element) truth {
	t := yes
	for at, i := 0, word(first); at < len(el.from); {
		v, loaded := m.registers[i]
		n := v.len
		if !loaded || n == 0 || at+n > len(el.from) || at+n > len(el.to) {
			return min(t, maybe)
		}
		from, to := el.from[at:at+n], el.to[at:at+n]
		if bytes.Equal(from, to) {
			t = min(t, v.equals(from))
		} else {
			t = min(t, v.within(from, to))
		}
		words := (n + 3) / 4
		at, i = at+4*words, i+uint32(words)
	}
	return t
}

// element of a set, with both ends included.
type element struct {
	from, to []byte
	Val      []byte
}

// intervals turns what the kernel lists into elements. Sets of intervals list
// a start and, marked, the first key behind it, unless the end is that of all
// keys; concatenations list both ends in one.
func intervals(list []nftables.SetElement) []element {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 || a.IntervalEnd == b.IntervalEnd {
			return c
		}
		if a.IntervalEnd { // where one interval begins right behind another
			return -1
		}
		return 1
	})
	bounded := slices.ContainsFunc(list, func(e nftables.SetElement) bool { return e.IntervalEnd })
	var out []element
	for i, e := range list {
		if e.IntervalEnd {
			continue
		}
		to := e.Key
		switch {
		case e.KeyEnd != nil:
			to = e.KeyEnd
		case bounded && i+1 < len(list):
			to = before(list[i+1].Key)
		case bounded:
			to = bytes.Repeat([]byte{0xff}, len(e.Key))
		}
		out = append(out, element{e.Key, to, e.Val})
	}
	return out
}

// before is the key that comes before k.
func before(k []byte) []byte {
	k = slices.Clone(k)
	for i := len(k) - 1; i >= 0; i-- {
		k[i]--
		if k[i] != 0xff {
			break
		}
	}
	return k
}
