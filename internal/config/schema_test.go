package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("midspan.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("midspan.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// samples are values of every type and form that the file knows, and some that
// it does not.
var samples = []any{
	nil, true, false, 0, 1, 5, 127, 128, 256, 257, 8080, 65535, 65536, -1, 1.5, 20_000_000,
	"", "off", "on", "tcp", "http", "json", "tcplog", "stdout", "roundrobin", "leastconn", "source", "first",
	"no_route", "self", "any_route", "3s", "500ms", "1h30m", "5", "3 s", "-3s", "9000h", "1us",
	"80", "80-90", "90-80", ":80", "*:80", "%eth0:80", "10.0.0.1%eth0:80", "10.0.0.1:80", "[::1]:80", "::1:80", "eth0:80", "10.0.0.1", "10.0.0.999:80", "0",
	"host:80", "host", "host:+5", "host:", "host:0", "ho st:80", "http://host", "10.0.0.1:53", "/x", "/a b", "10.0.0.0/8", "10.0.0.1/8", "10.0.0.0/33", "fd00::/64", "fd00::4", "udp", "relay", "nft", "keep", "cut", "x\ty", "a\x01b",
	200, 599, 600, "200", "404", "600", "200-299", "299-200", "200-", "tls", "tds", "mysql", "expect", "PING\r\n", "\u00ff", "\u2713", strings.Repeat("x", 4097),
	"yes", "azure:99", "azure:x", "azure:", "azure:99999999999",
	[]any{},
	[]any{"80"},
	[]any{"host:80", "other:80"},
	[]any{nil},
	[]any{[]any{"80"}},
	[]any{map[string]any{}},
	map[string]any{},
	map[string]any{"nonsense": 1},
}

// beyond are the problems that a JSON Schema cannot express; only they may
// make Parse refuse what the schema accepts.
var beyond = []string{
	"out of range", "is not a port", "ends before it starts", "is not an IP address", "is not an interface name",
	"is not a host name", "port is missing", "is not a port shift", "a URL is not a server", "brackets do not hold", "stands in brackets", "is not a duration",
	"is not a network", "has bits outside its mask",
}

// TestSchemaIsTheDecoder puts every sample at every key of the schema, and adds
// an unknown key and takes a required one away at every mapping: decoder and
// schema must be of one mind.
func TestSchemaIsTheDecoder(t *testing.T) {
	validate := compileSchema(t)
	var tree map[string]any
	if err := json.Unmarshal(Schema(), &tree); err != nil {
		t.Fatal(err)
	}
	accepted, tried := 0, 0
	compare := func(what string, doc map[string]any) {
		t.Helper()
		text, err := yaml.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		_, errParse := Parse("t", text)
		errSchema := validate.Validate(normal(t, doc))
		tried++
		switch {
		case errParse == nil && errSchema == nil:
			accepted++
		case errParse == nil:
			t.Errorf("%s: the decoder accepts what the schema refuses:\n%s%v", what, text, errSchema)
		case errSchema == nil && !onlyBeyond(errParse):
			t.Errorf("%s: the schema accepts what the decoder refuses:\n%s%v", what, text, errParse)
		}
	}
	compare("minimal", minimal())
	for _, path := range keyPaths(tree, nil) {
		for _, v := range samples {
			compare(fmt.Sprintf("%v=%#v", path, v), with(path, v))
		}
		compare(fmt.Sprintf("%v: unknown key", path), with(append(slices.Clone(path[:len(path)-1]), "nonsense"), "x"))
	}
	for _, missing := range []string{"listen", "to"} {
		doc := minimal()
		delete(doc["routes"].(map[string]any)["r"].(map[string]any), missing)
		compare("missing "+missing, doc)
	}
	compare("missing routes", map[string]any{})
	for _, name := range []string{"a b", "", "-a", "ü", strings.Repeat("x", 64), strings.Repeat("x", 63), "a.b-c_d"} {
		compare("route "+name, map[string]any{"routes": map[string]any{name: map[string]any{"listen": 1, "to": "h:1"}}})
	}
	if accepted < 100 || tried-accepted < 1000 {
		t.Errorf("the samples are lopsided: %d of %d accepted", accepted, tried)
	}
	t.Logf("%d documents, %d accepted by both", tried, accepted)
}

func onlyBeyond(err error) bool {
	for _, p := range err.(Problems) {
		if !slices.ContainsFunc(beyond, func(s string) bool { return strings.Contains(p.Text, s) }) {
			return false
		}
	}
	return true
}

func minimal() map[string]any {
	return map[string]any{"routes": map[string]any{"r": map[string]any{"listen": 80, "to": "host:80"}}}
}

// with is the minimal document with v at path; * in a path is the route, # the
// first item of a list.
func with(path []string, v any) map[string]any {
	doc := minimal()
	m := doc
	for _, p := range path[:len(path)-1] {
		if p == "*" {
			p = "r"
		}
		next, ok := m[p].(map[string]any)
		if !ok {
			next = map[string]any{}
			if p == "to" {
				next["server"] = "host:80"
			}
			m[p] = next
		}
		m = next
	}
	last := path[len(path)-1]
	if last == "*" {
		last = "r"
	}
	m[last] = v
	return doc
}

// keyPaths are the paths of every key in the schema.
func keyPaths(s map[string]any, at []string) [][]string {
	var out [][]string
	if props, ok := s["properties"].(map[string]any); ok {
		for _, k := range slices.Sorted(maps.Keys(props)) {
			p := append(slices.Clone(at), k)
			out = append(out, p)
			out = append(out, keyPaths(props[k].(map[string]any), p)...)
		}
	}
	if more, ok := s["additionalProperties"].(map[string]any); ok {
		p := append(slices.Clone(at), "*")
		out = append(out, p)
		out = append(out, keyPaths(more, p)...)
	}
	if alternatives, ok := s["anyOf"].([]any); ok {
		for _, a := range alternatives {
			out = append(out, keyPaths(a.(map[string]any), at)...)
		}
	}
	return out
}

// normal is v as a JSON decoder would give it.
func normal(t *testing.T, v any) any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return out
}
