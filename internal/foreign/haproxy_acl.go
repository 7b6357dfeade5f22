package foreign

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// fact is what a condition of HAProxy's asks about, as far as midspan can know it.
type fact int

const (
	factOther  fact = iota // something else: test.why says what to do
	factAlways             // holds for every connection, or none
	factHello              // the client begins with a ClientHello
	factTLS                // the client speaks TLS with us
	factSNI                // the server name of a ClientHello that is not decrypted
	factHost               // the Host of a request
	factPath               // the path of a request
	factSrc                // the client's address
	factConns              // how many connections the client's address has
	factRate               // how many it has made in some time
)

// test is one condition: that the fact is one of some values.
type test struct {
	fact   fact
	values []string       // names ("*.x" for all below x), or what paths begin with
	nets   []netip.Prefix // of factSrc
	limit  int            // of factConns and factRate: more than that holds
	not    bool
	differ string // how what is carried over differs
	why    string // why it is not
}

// cond is the alternatives of a condition: one holds if all its tests do.
type cond [][]test

// acl is one line that defines a named test.
type acl struct {
	line *stmt
	test
	used bool
}

// maxAlternatives bounds what a condition is multiplied out to.
const maxAlternatives = 64

// always is the condition that is not written.
func always() cond { return cond{{}} }

func unknownCond(why string) cond { return cond{{test{why: why}}} }

// cond reads `if …` or `unless …` of a line of p.
func (h *haproxy) cond(p *proxy, words []word) cond {
	if len(words) == 0 {
		return always()
	}
	if words[0].text != "if" && words[0].text != "unless" {
		return unknownCond(quote(phrase(words)) + " is not a condition")
	}
	var all cond
	one, not := always(), false
	for i := 1; i < len(words); i++ {
		w := words[i].text
		for strings.HasPrefix(w, "!") {
			not, w = !not, w[1:]
		}
		var literal cond
		switch w {
		case "":
			continue
		case "||", "or", "OR":
			all, one = append(all, one...), always()
			continue
		case "{":
			end := i
			for end < len(words) && words[end].text != "}" {
				end++
			}
			if end == len(words) {
				return unknownCond("the { is not closed")
			}
			literal = cond{{expression(words[i+1 : end])}}
			i = end
		default:
			literal = p.named(w)
		}
		if not {
			literal, not = literal.negated(), false
		}
		one = one.and(literal)
	}
	all = append(all, one...)
	if words[0].text == "unless" {
		all = all.negated()
	}
	if len(all) > maxAlternatives {
		return unknownCond("the condition has too many alternatives")
	}
	return all
}

// and multiplies two conditions out.
func (c cond) and(d cond) cond {
	var out cond
	for _, a := range c {
		for _, b := range d {
			if len(out) > maxAlternatives {
				return out
			}
			out = append(out, slices.Concat(a, b))
		}
	}
	return out
}

func (c cond) negated() cond {
	out := always()
	for _, tests := range c {
		var any cond
		for _, t := range tests {
			t.not = !t.not
			any = append(any, []test{t})
		}
		out = out.and(any)
	}
	return out
}

// why is the reason why the condition cannot be carried over, or "".
func (c cond) why() string {
	for _, tests := range c {
		for _, t := range tests {
			if t.fact == factOther {
				return t.why
			}
		}
	}
	return ""
}

// differ are how the condition differs when it is carried over.
func (c cond) differ() (all []string) {
	for _, tests := range c {
		for _, t := range tests {
			if t.differ != "" && !slices.Contains(all, t.differ) {
				all = append(all, t.differ)
			}
		}
	}
	return all
}

// named is the condition that the ACLs of a name are.
func (p *proxy) named(name string) cond {
	var out cond
	for _, a := range p.acls[name] {
		a.used = true
		out = append(out, []test{a.test})
	}
	switch {
	case len(out) > 0:
		return out
	case name == "TRUE" || name == "WAIT_END":
		return cond{{test{fact: factAlways}}}
	case name == "FALSE":
		return cond{{test{fact: factAlways, not: true}}}
	case name == "LOCALHOST":
		return cond{{test{fact: factSrc, nets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)}}}}
	}
	return unknownCond("midspan cannot tell " + quote(name))
}

// setACL keeps `acl NAME EXPRESSION`.
func (h *haproxy) setACL(p *proxy, s *stmt) {
	if p.acls == nil {
		p.acls = map[string][]*acl{}
	}
	a := &acl{line: s, test: expression(s.words[2:])}
	p.acls[s.arg(1)] = append(p.acls[s.arg(1)], a)
	h.acls = append(h.acls, a)
}

// unusedACLs notes those that nothing asked for.
func (h *haproxy) unusedACLs() {
	for _, a := range h.acls {
		if !a.used {
			h.needless(a.line, "no condition that is looked at here uses it")
		}
	}
}

// fetch is a sample of HAProxy's that midspan knows, and how it is compared by
// default.
type fetch struct {
	fact   fact
	method string
}

// fetches are known by their names in lower case.
var fetches = map[string]fetch{
	"req.ssl_sni": {factSNI, "str"}, "req_ssl_sni": {factSNI, "str"},
	"hdr(host)": {factHost, "str"}, "req.hdr(host)": {factHost, "str"}, "req.fhdr(host)": {factHost, "str"}, "fhdr(host)": {factHost, "str"},
	"hdr_dom(host)": {factHost, "dom"}, "hdr_end(host)": {factHost, "end"}, "hdr_beg(host)": {factHost, "beg"}, "hdr_sub(host)": {factHost, "sub"}, "hdr_reg(host)": {factHost, "reg"},
	"path": {factPath, "str"}, "path_beg": {factPath, "beg"}, "path_end": {factPath, "end"}, "path_dir": {factPath, "dir"}, "path_reg": {factPath, "reg"}, "path_sub": {factPath, "sub"}, "url_beg": {factPath, "beg"},
	"src":    {factSrc, "ip"},
	"ssl_fc": {factTLS, "bool"}, "always_true": {factAlways, "bool"}, "req.ssl_hello_type": {factHello, "int"}, "req_ssl_hello_type": {factHello, "int"},
	"src_conn_cur": {factConns, "int"}, "sc0_conn_cur": {factConns, "int"}, "sc1_conn_cur": {factConns, "int"}, "sc2_conn_cur": {factConns, "int"}, "sc_conn_cur(0)": {factConns, "int"},
	"src_conn_rate": {factRate, "int"}, "sc0_conn_rate": {factRate, "int"}, "sc1_conn_rate": {factRate, "int"}, "sc2_conn_rate": {factRate, "int"}, "sc_conn_rate(0)": {factRate, "int"},
}

// sameName are converters that leave a name what it is to midspan.
var sameName = []string{"lower", "host_only", "field(1,:)", "field(1,':')", "word(1,:)"}

// expression reads what stands between the braces of a condition, or after the
// name of an ACL: a sample, flags, and values.
func expression(words []word) test {
	if len(words) == 0 {
		return test{why: "the condition is empty"}
	}
	sample := strings.ToLower(words[0].text)
	name, converters := cutConverters(sample)
	f, known := fetches[name]
	if !known || (converters != "" && !slices.Contains(sameName, converters)) {
		return test{why: "midspan cannot tell " + quote(words[0].text)}
	}
	t := test{fact: f.fact}
	i := 1
	for ; i < len(words) && strings.HasPrefix(words[i].text, "-"); i++ {
		switch words[i].text {
		case "-i":
			if t.fact == factPath {
				t.differ = "paths are compared with regard to case"
			}
		case "-m":
			if i++; i < len(words) {
				f.method = words[i].text
			}
		case "--":
			return t.compare(f.method, words[i+1:])
		default:
			return test{why: quote(words[i].text) + " is not read here; write its values"}
		}
	}
	return t.compare(f.method, words[min(i, len(words)):])
}

// cutConverters splits SAMPLE,CONVERTERS at the first comma outside parentheses.
func cutConverters(s string) (name, converters string) {
	depth := 0
	for i, c := range s {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// compare reads the values that the fact is compared with.
func (t test) compare(method string, values []word) test {
	switch t.fact {
	case factTLS, factAlways:
		return t
	case factHello:
		if len(values) != 1 || values[0].text != "1" {
			return test{why: "midspan looks for a ClientHello only"}
		}
		return t
	case factSrc:
		return t.networks(values)
	case factConns, factRate:
		return t.count(values)
	}
	for _, v := range values {
		if t = t.value(method, v.text); t.fact == factOther {
			return t
		}
	}
	if len(values) == 0 {
		return test{why: "the condition has no value"}
	}
	return t
}

// value is t with one more name or path.
func (t test) value(method, v string) test {
	if t.fact == factPath {
		switch {
		case !plainPath(v) || (method != "beg" && method != "str") || (method == "str" && v == "/"):
			return test{why: "midspan chooses by the beginning of a path"}
		case method == "str":
			t.differ = "paths that go on after " + quote(v) + " are among them"
		}
		t.values = append(t.values, v)
		return t
	}
	name := strings.TrimPrefix(v, ".")
	names := []string{name}
	switch below := name != v; {
	case method == "end" && below:
		names = []string{"*." + name}
	case method == "end" || method == "dom":
		names = append(names, "*."+name)
		t.differ = quote(v) + " stands for the name and all names below it"
	case method != "str":
		return test{why: "midspan chooses by a whole name or by its end (`-m end`)"}
	case below:
		return test{why: quote(v) + " is not a host name"}
	}
	for _, n := range names {
		n, ok := matchName(n)
		if !ok || strings.HasPrefix(v, "*") {
			return test{why: quote(v) + " is not a host name"}
		}
		t.values = append(t.values, n)
	}
	return t
}

func (t test) networks(values []word) test {
	for _, v := range values {
		n, ok := network(longNetwork(v.text))
		if !ok {
			return test{why: quote(v.text) + " is not a network"}
		}
		t.nets = append(t.nets, n)
	}
	return t
}

// count reads `gt N` or `ge N`.
func (t test) count(values []word) test {
	if len(values) == 2 {
		if n, err := strconv.Atoi(values[1].text); err == nil && n > 0 && n < connsMax {
			switch values[0].text {
			case "gt":
				t.limit = n
				return t
			case "ge":
				t.limit = n - 1
				return t
			}
		}
	}
	return test{why: "a limit is written with gt or ge"}
}

// table is what a stick-table counts.
type table struct {
	line *stmt
	rate time.Duration // of conn_rate; 0: none
}
