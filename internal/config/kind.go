package config

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

type schema = map[string]any

// kind says how a T is written: how to read it, how to write it, and the
// schema of both.
type kind[T any] struct {
	schema schema
	decode func(d *decoder, n *yaml.Node, v *T) bool // false: a problem was reported
	encode func(v T) *yaml.Node                      // nil: nothing to write
}

// key is one key of the mapping that an S is written as.
type key[S any] struct {
	name, doc string
	required  bool
	unless    string // required only where that key is not written
	schema    schema
	decode    func(d *decoder, n *yaml.Node, s *S)
	encode    func(s *S) *yaml.Node
}

func required[S any](k key[S]) key[S] {
	k.required = true
	return k
}

// field is a key with one value that keeps its position.
func field[S, T any](name, doc string, k kind[T], at func(*S) *Field[T]) key[S] {
	return key[S]{
		name: name, doc: doc, schema: k.schema,
		decode: func(d *decoder, n *yaml.Node, s *S) {
			var v T
			if k.decode(d, n, &v) {
				*at(s) = At(v, d.pos(n))
			}
		},
		encode: func(s *S) *yaml.Node {
			if !at(s).Set() {
				return nil
			}
			return k.encode(at(s).V)
		},
	}
}

// embed is a key whose value is a struct of Fields.
func embed[S, T any](name, doc string, k kind[T], at func(*S) *T) key[S] {
	return key[S]{
		name: name, doc: doc, schema: k.schema,
		decode: func(d *decoder, n *yaml.Node, s *S) { k.decode(d, n, at(s)) },
		encode: func(s *S) *yaml.Node { return k.encode(*at(s)) },
	}
}

// list is a key with one value or a list of them.
func list[S, T any](name, doc string, k kind[T], at func(*S) *[]Field[T]) key[S] {
	one := kind[Field[T]]{
		schema: k.schema,
		decode: func(d *decoder, n *yaml.Node, v *Field[T]) bool {
			v.Pos = d.pos(n)
			return k.decode(d, n, &v.V)
		},
		encode: func(v Field[T]) *yaml.Node { return k.encode(v.V) },
	}
	return structs(name, doc, one, at)
}

// structs is list for values that hold their own positions.
func structs[S, T any](name, doc string, k kind[T], at func(*S) *[]T) key[S] {
	k2 := oneOrMore(k)
	return key[S]{
		name: name, doc: doc, schema: k2.schema,
		decode: func(d *decoder, n *yaml.Node, s *S) { k2.decode(d, n, at(s)) },
		encode: func(s *S) *yaml.Node { return k2.encode(*at(s)) },
	}
}

// oneOrMore is one value or a list of them.
func oneOrMore[T any](k kind[T]) kind[[]T] {
	return kind[[]T]{
		schema: anyOf(k.schema, schema{"type": "array", "minItems": 1, "items": k.schema}),
		decode: func(d *decoder, n *yaml.Node, vs *[]T) bool {
			before := len(d.problems)
			items := []*yaml.Node{n}
			if n.Kind == yaml.SequenceNode {
				items = n.Content
				if len(items) == 0 {
					d.addf(n, "the list is empty; write at least one")
				}
			}
			for _, item := range items {
				var v T
				if item = follow(item); k.decode(d, item, &v) {
					*vs = append(*vs, v)
				}
			}
			return len(d.problems) == before
		},
		encode: func(vs []T) *yaml.Node {
			switch len(vs) {
			case 0:
				return nil
			case 1:
				return k.encode(vs[0])
			}
			seq := &yaml.Node{Kind: yaml.SequenceNode}
			for _, v := range vs {
				seq.Content = append(seq.Content, k.encode(v))
			}
			if !slices.ContainsFunc(seq.Content, func(n *yaml.Node) bool { return n.Kind != yaml.ScalarNode }) {
				seq.Style = yaml.FlowStyle
			}
			return seq
		},
	}
}

// object is a mapping with the given keys and no others.
func object[S any](keys []key[S]) kind[S] {
	return kind[S]{
		schema: objectSchema(keys),
		decode: func(d *decoder, n *yaml.Node, s *S) bool {
			before := len(d.problems)
			meant := map[string]bool{} // keys that a misspelt one stands for
			if n.Kind != yaml.MappingNode {
				d.addf(n, "%s stands where keys are expected; write %s", describe(n), exampleKeys(keys))
				return false
			}
			seen := d.mapping(n, func(k, v *yaml.Node) {
				i := slices.IndexFunc(keys, func(x key[S]) bool { return x.name == k.Value })
				if i < 0 {
					hint, key := suggestKey(k.Value, names(keys))
					meant[key] = true
					d.addf(k, "unknown key %q; %s", k.Value, hint)
				} else {
					keys[i].decode(d, v, s)
				}
			})
			for _, k := range keys {
				if k.required && !seen[k.name] && !meant[k.name] && !seen[k.unless] {
					d.addf(n, "%q is missing; it is: %s", k.name, k.doc)
				}
			}
			return len(d.problems) == before
		},
		encode: func(s S) *yaml.Node {
			m := &yaml.Node{Kind: yaml.MappingNode}
			for _, k := range keys {
				if v := k.encode(&s); v != nil {
					m.Content = append(m.Content, scalarNode(k.name), v)
				}
			}
			if len(m.Content) == 0 {
				return nil
			}
			return m
		},
	}
}

// shorthand is an object that may also be written as the bare value of one of
// its fields.
func shorthand[S, T any](k kind[T], at func(*S) *Field[T], keys []key[S]) kind[S] {
	obj := object(keys)
	return kind[S]{
		schema: anyOf(k.schema, obj.schema),
		decode: func(d *decoder, n *yaml.Node, s *S) bool {
			if n.Kind != yaml.ScalarNode {
				return obj.decode(d, n, s)
			}
			f := at(s)
			if !k.decode(d, n, &f.V) {
				return false
			}
			f.Pos = d.pos(n)
			return true
		},
		encode: func(s S) *yaml.Node {
			n := obj.encode(s)
			if n != nil && len(n.Content) == 2 && at(&s).Set() {
				return k.encode(at(&s).V)
			}
			return flow(n)
		},
	}
}

// switchable is shorthand with the further word "off".
func switchable[S, T any](k kind[T], off func(*S) *Field[bool], at func(*S) *Field[T], keys []key[S]) kind[S] {
	inner := shorthand(k, at, keys)
	return kind[S]{
		schema: anyOf(schema{"const": "off"}, inner.schema),
		decode: func(d *decoder, n *yaml.Node, s *S) bool {
			if isOff(n) {
				*off(s) = At(true, d.pos(n))
				return true
			}
			return inner.decode(d, n, s)
		},
		encode: func(s S) *yaml.Node {
			if off(&s).V {
				return scalarNode("off")
			}
			return inner.encode(s)
		},
	}
}

// listShorthand is an object that may also be written as the bare values of one
// of its lists.
func listShorthand[S, T any](k kind[T], at func(*S) *[]Field[T], keys []key[S]) kind[S] {
	obj := object(keys)
	short := list("", "", k, at)
	return kind[S]{
		schema: anyOf(short.schema, obj.schema),
		decode: func(d *decoder, n *yaml.Node, s *S) bool {
			if n.Kind == yaml.MappingNode {
				return obj.decode(d, n, s)
			}
			before := len(d.problems)
			short.decode(d, n, s)
			return len(d.problems) == before
		},
		encode: func(s S) *yaml.Node {
			n := obj.encode(s)
			if n != nil && len(n.Content) == 2 && len(*at(&s)) > 0 {
				return short.encode(&s)
			}
			return flow(n)
		},
	}
}

// onKind is an object that may also be written as the word "on" (all of its
// defaults) or "off".
func onKind[S any](on func(*S) *Field[bool], keys []key[S]) kind[S] {
	obj := object(keys)
	return kind[S]{
		schema: anyOf(schema{"enum": []any{"on", "off"}}, obj.schema),
		decode: func(d *decoder, n *yaml.Node, s *S) bool {
			switch {
			case n.Kind != yaml.ScalarNode:
				*on(s) = At(true, d.pos(n))
				return obj.decode(d, n, s)
			case n.Value == "on" || n.Value == "off":
				*on(s) = At(n.Value == "on", d.pos(n))
				return true
			}
			d.addf(n, "%s stands where on, off or keys are expected; write on, or %s", describe(n), exampleKeys(keys))
			return false
		},
		encode: func(s S) *yaml.Node {
			n := obj.encode(s)
			switch {
			case n != nil:
				return flow(n)
			case !on(&s).Set():
				return nil
			case on(&s).V:
				return scalarNode("on")
			}
			return scalarNode("off")
		},
	}
}

// unsigned is a number of 32 bits.
func unsigned(what string) kind[uint32] {
	return kind[uint32]{
		schema: schema{"type": "integer", "minimum": 0, "maximum": math.MaxUint32},
		decode: func(d *decoder, n *yaml.Node, v *uint32) bool {
			if n.ShortTag() != "!!int" || n.Decode(v) != nil {
				d.addf(n, "%s is not a %s; write a number from 0 to %d", describe(n), what, uint32(math.MaxUint32))
				return false
			}
			return true
		},
		encode: func(v uint32) *yaml.Node { return scalarNode(fmt.Sprint(v)) },
	}
}

// offOr is k or the word "off".
func offOr[T any](k kind[T]) kind[OffOr[T]] {
	return kind[OffOr[T]]{
		schema: anyOf(schema{"const": "off"}, k.schema),
		decode: func(d *decoder, n *yaml.Node, v *OffOr[T]) bool {
			if isOff(n) {
				v.Off = true
				return true
			}
			return k.decode(d, n, &v.V)
		},
		encode: func(v OffOr[T]) *yaml.Node {
			if v.Off {
				return scalarNode("off")
			}
			return k.encode(v.V)
		},
	}
}

// scalar is a string with a form of its own.
func scalar[T any](what, pattern string, parse func(string) (T, error), format func(T) string) kind[T] {
	return kind[T]{
		schema: schema{"type": "string", "pattern": pattern},
		decode: func(d *decoder, n *yaml.Node, v *T) bool {
			if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
				d.addf(n, "%s stands where %s is expected", describe(n), what)
				return false
			}
			parsed, err := parse(n.Value)
			if err != nil {
				d.addf(n, "%s", err)
				return false
			}
			if n.ShortTag() != "!!str" {
				d.addf(n, "%s is not text to YAML; put it in quotes", n.Value)
				return false
			}
			*v = parsed
			return true
		},
		encode: func(v T) *yaml.Node { return stringNode(format(v)) },
	}
}

// orPort lets a scalar also be written as a bare port number.
func orPort[T any](k kind[T]) kind[T] { return orInteger(k, 1, 65535) }

// orInteger lets a scalar also be written as what is a number to YAML.
func orInteger[T any](k kind[T], lo, hi int) kind[T] {
	inner := k
	k.schema = anyOf(inner.schema, schema{"type": "integer", "minimum": lo, "maximum": hi})
	k.decode = func(d *decoder, n *yaml.Node, v *T) bool {
		if n.ShortTag() == "!!int" {
			text := *n
			text.Tag = "!!str"
			n = &text
		}
		return inner.decode(d, n, v)
	}
	k.encode = func(v T) *yaml.Node {
		n := inner.encode(v)
		if _, err := strconv.Atoi(n.Value); err == nil {
			return scalarNode(n.Value)
		}
		return n
	}
	return k
}

func duration(lo, hi time.Duration) kind[time.Duration] {
	return scalar("a duration (3s)", `^([0-9]+(ms|s|m|h))+$`, func(s string) (time.Duration, error) {
		v, err := parseDuration(s)
		if n, bad := strconv.Atoi(s); bad == nil && (time.Duration(n)*time.Second < lo || n > int(hi/time.Millisecond)) {
			return 0, fmt.Errorf("duration %q is out of range and has no unit; write %s to %s", s, FormatDuration(lo), FormatDuration(hi))
		}
		if err == nil && (v < lo || v > hi) {
			err = fmt.Errorf("%s is out of range; write %s to %s", s, FormatDuration(lo), FormatDuration(hi))
		}
		return v, err
	}, FormatDuration)
}

func integer(what string, lo, hi int) kind[int] {
	return kind[int]{
		schema: schema{"type": "integer", "minimum": lo, "maximum": hi},
		decode: func(d *decoder, n *yaml.Node, v *int) bool {
			if n.ShortTag() != "!!int" || n.Decode(v) != nil || *v < lo || *v > hi {
				d.addf(n, "%s is not a %s; write a number from %d to %d", describe(n), what, lo, hi)
				return false
			}
			return true
		},
		encode: func(v int) *yaml.Node { return scalarNode(fmt.Sprint(v)) },
	}
}

func boolean() kind[bool] {
	return kind[bool]{
		schema: schema{"type": "boolean"},
		decode: func(d *decoder, n *yaml.Node, v *bool) bool {
			if n.ShortTag() != "!!bool" || n.Decode(v) != nil {
				d.addf(n, "%s is neither true nor false; write one of them", describe(n))
				return false
			}
			return true
		},
		encode: func(v bool) *yaml.Node { return scalarNode(fmt.Sprint(v)) },
	}
}

func enum(what string, words []string) kind[string] {
	k := scalar("a "+what, "", func(s string) (string, error) {
		if !slices.Contains(words, s) {
			return "", fmt.Errorf("unknown %s %q; %s", what, s, suggest(s, words))
		}
		return s, nil
	}, func(s string) string { return s })
	k.schema = schema{"enum": toAny(words)}
	return k
}

func anyOf(ss ...schema) schema {
	alternatives := []any{}
	for _, s := range ss {
		if inner, ok := s["anyOf"].([]any); ok && len(s) == 1 {
			alternatives = append(alternatives, inner...)
		} else {
			alternatives = append(alternatives, s)
		}
	}
	return schema{"anyOf": alternatives}
}

func objectSchema[S any](keys []key[S]) schema {
	properties, must, either := schema{}, []any{}, []any{}
	for _, k := range keys {
		p := maps.Clone(k.schema)
		p["description"] = k.doc
		properties[k.name] = p
		switch {
		case k.unless != "":
			either = append(either, schema{"required": []any{k.name}}, schema{"required": []any{k.unless}})
		case k.required:
			must = append(must, k.name)
		}
	}
	s := schema{"type": "object", "additionalProperties": false, "properties": properties}
	if len(either) > 0 {
		s["anyOf"] = either
	}
	if len(must) > 0 {
		s["required"] = must
	}
	return s
}

func names[S any](keys []key[S]) []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k.name
	}
	return out
}

func exampleKeys[S any](keys []key[S]) string {
	n := names(keys)
	return "keys such as " + strings.Join(n[:min(3, len(n))], ", ")
}

func toAny(words []string) []any {
	out := make([]any, len(words))
	for i, w := range words {
		out[i] = w
	}
	return out
}
