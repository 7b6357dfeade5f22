package main

import (
	"regexp"
	"strconv"
	"strings"
)

// mapping is `map SOURCE $VARIABLE { … }`.
type mapping struct {
	source   string
	exact    map[string]string // by the value in lower case
	patterns []pattern
	def      string
}

type pattern struct {
	*regexp.Regexp
	value string
}

func newMapping(d *directive) (*mapping, error) {
	if err := mustArgs(d, 2); err != nil {
		return nil, err
	}
	m := &mapping{source: d.arg(0), exact: map[string]string{}}
	for _, e := range d.block {
		switch {
		case len(e.args) == 0 && (e.name == "volatile" || e.name == "hostnames"):
		case len(e.args) != 1:
			return nil, e.errorf("invalid number of the map parameters")
		case e.name == "default":
			m.def = e.arg(0)
		case strings.HasPrefix(e.name, "~"):
			re, err := compile(e.name)
			if err != nil {
				return nil, e.errorf("%v", err)
			}
			m.patterns = append(m.patterns, pattern{re, e.arg(0)})
		default:
			m.exact[strings.ToLower(strings.TrimPrefix(e.name, `\`))] = e.arg(0)
		}
	}
	return m, nil
}

// compile reads nginx's `~…` and `~*…`.
func compile(text string) (*regexp.Regexp, error) {
	text = text[1:]
	if i, ok := strings.CutPrefix(text, "*"); ok {
		text = "(?i)" + i
	}
	return regexp.Compile(text)
}

func (m *mapping) value(get lookup) (string, bool) {
	v, known := expand(m.source, get)
	if !known {
		return "", false
	}
	if out, found := m.exact[strings.ToLower(v)]; found {
		return expand(out, get)
	}
	for _, p := range m.patterns {
		if groups := p.FindStringSubmatch(v); groups != nil {
			return expand(p.value, captures(p.Regexp, groups, get))
		}
	}
	return expand(m.def, get)
}

// captures is get with the groups of a match, by number and by name.
func captures(re *regexp.Regexp, groups []string, get lookup) lookup {
	return func(name string) (string, bool) {
		if i, err := strconv.Atoi(name); err == nil {
			if i < len(groups) {
				return groups[i], true
			}
			return "", true
		}
		if i := re.SubexpIndex(name); i > 0 {
			return groups[i], true
		}
		return get(name)
	}
}

// split is `split_clients SOURCE $VARIABLE { … }`.
type split struct {
	source string
	parts  []splitPart
}

type splitPart struct {
	below uint32 // hashes below it; 0: all that are left
	value string
}

func newSplit(d *directive) (*split, error) {
	if err := mustArgs(d, 2); err != nil {
		return nil, err
	}
	s := &split{source: d.arg(0)}
	sum := uint64(0) // in hundredths of a percent
	for _, e := range d.block {
		if e.name == "*" {
			s.parts = append(s.parts, splitPart{0, e.arg(0)})
			continue
		}
		percent, err := strconv.ParseFloat(strings.TrimSuffix(e.name, "%"), 64)
		if err != nil || !strings.HasSuffix(e.name, "%") || percent <= 0 {
			return nil, e.errorf("invalid percent value %q", e.name)
		}
		if sum += uint64(percent*100 + 0.5); sum > 10000 {
			return nil, e.errorf("percent total is greater than 100%%")
		}
		s.parts = append(s.parts, splitPart{uint32(sum * 0xffffffff / 10000), e.arg(0)})
	}
	return s, nil
}

func (s *split) value(get lookup) (string, bool) {
	v, known := expand(s.source, get)
	if !known {
		return "", false
	}
	hash := murmur2(v)
	for _, p := range s.parts {
		if p.below == 0 || hash < p.below {
			return expand(p.value, get)
		}
	}
	return "", true
}

// murmur2 is MurmurHash2 with a seed of 0, by which nginx documents that it
// splits clients.
func murmur2(s string) uint32 {
	const m = 0x5bd1e995
	h := uint32(len(s))
	for len(s) >= 4 {
		k := uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
		k *= m
		k ^= k >> 24
		k *= m
		h = h*m ^ k
		s = s[4:]
	}
	switch len(s) {
	case 3:
		h ^= uint32(s[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(s[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(s[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}
