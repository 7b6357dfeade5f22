package nft

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// family is an IP version, as the kernel numbers them (NFPROTO_*).
type family uint8

const (
	ipv4 family = unix.NFPROTO_IPV4
	ipv6 family = unix.NFPROTO_IPV6
)

var families = []family{ipv4, ipv6}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

func (f family) String() string {
	if f == ipv4 {
		return "ipv4"
	}
	return "ipv6"
}

// header is the word for the family's header in a rule.
func (f family) header() string {
	if f == ipv4 {
		return "ip"
	}
	return "ip6"
}

// datatype is a type of nft's: name, size in bytes, and the number by which nft
// recognises it when it lists a set (its include/datatype.h).
type datatype struct {
	name  string
	size  int
	magic uint32
}

var (
	typeInteger  = datatype{"integer", 4, 4}
	typeAddr4    = datatype{"ipv4_addr", 4, 7}
	typeAddr6    = datatype{"ipv6_addr", 16, 8}
	typeProto    = datatype{"inet_proto", 1, 12}
	typeService  = datatype{"inet_service", 2, 13}
	typeIface    = datatype{"ifname", 16, 41}
	typeVerdict  = datatype{"verdict", 0, unix.NFT_DATA_VERDICT}
	magicBits    = 6 // of each type in the number of a concatenation
	registerSize = 4 // each part of a concatenation fills whole registers
)

func typeAddr(f family) datatype {
	if f == ipv4 {
		return typeAddr4
	}
	return typeAddr6
}

func padded(size int) int { return (size + registerSize - 1) / registerSize * registerSize }

// set is a set or map. Elements are found by their text.
type set struct {
	name     string // "": anonymous, part of a rule
	key      []datatype
	data     *datatype // of a map
	interval bool
	elements map[string]element
}

// element is a member of a set, with its value in a map.
type element struct {
	key, end []byte // end: of an interval, inclusive
	chain    string // of a verdict map: goto
	value    []byte // of another map
	text     string // the value as nft writes it
}

func (s *set) add(text string, e element) {
	if s.elements == nil {
		s.elements = map[string]element{}
	}
	s.elements[text] = e
}

// keys are the texts of the elements in a fixed order.
func (s *set) keys() []string {
	return slices.SortedFunc(maps.Keys(s.elements), func(a, b string) int {
		return slices.Compare(s.elements[a].key, s.elements[b].key)
	})
}

func (s *set) concatenated() bool { return len(s.key) > 1 }

func (s *set) typeText() string {
	var names []string
	for _, t := range s.key {
		names = append(names, t.name)
	}
	text := strings.Join(names, " . ")
	if s.data != nil {
		text += " : " + s.data.name
	}
	return text
}

func (s *set) elementText(key string) string {
	if s.data == nil {
		return key
	}
	return key + " : " + s.elements[key].text
}

// inline is an anonymous set in a rule.
func (s *set) inline() string {
	var parts []string
	for _, k := range s.keys() {
		parts = append(parts, s.elementText(k))
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

// declaration is the head of the set, without its elements.
func (s *set) declaration() string {
	kind := "set"
	if s.data != nil {
		kind = "map"
	}
	text := fmt.Sprintf("\t%s %s {\n\t\ttype %s\n", kind, s.name, s.typeText())
	if s.interval {
		text += "\t\tflags interval\n"
	}
	return text
}

func (s *set) String() string {
	var b strings.Builder
	b.WriteString(s.declaration())
	for i, k := range s.keys() {
		switch {
		case i == 0:
			b.WriteString("\t\telements = { ")
		default:
			b.WriteString(",\n\t\t\t     ")
		}
		b.WriteString(s.elementText(k))
	}
	if len(s.elements) > 0 {
		b.WriteString(" }\n")
	}
	b.WriteString("\t}\n")
	return b.String()
}

// port16 and the like are parts of keys, each filled up to whole registers.
func port16(p uint16) []byte { return append(binary.BigEndian.AppendUint16(nil, p), 0, 0) }

func proto8(p uint8) []byte { return []byte{p, 0, 0, 0} }

func iface16(name string) []byte {
	b := make([]byte, typeIface.size)
	copy(b, name)
	return b
}
