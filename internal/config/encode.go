package config

import (
	"bytes"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Encode writes f in the form that Parse reads, in the shortest spelling, with
// the comments of f and of its routes.
func Encode(f *File) []byte {
	root := object(fileKeys).encode(*f)
	var buf bytes.Buffer
	buf.WriteString(comment(f.Comment))
	if root == nil {
		return buf.Bytes()
	}
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	// Neither can fail: the nodes are ours and the buffer is memory.
	_ = enc.Encode(root)
	_ = enc.Close()
	return buf.Bytes()
}

func comment(s string) string {
	if s == "" {
		return ""
	}
	var b strings.Builder
	for line := range strings.Lines(strings.TrimRight(s, "\n")) {
		b.WriteString(strings.TrimRight("# "+strings.TrimRight(line, "\n"), " ") + "\n")
	}
	return b.String() + "\n"
}

// scalarNode is a plain scalar: a number, a word, a key.
func scalarNode(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Value: s}
}

// stringNode is a string, quoted where YAML would read something else.
func stringNode(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

// flow puts a small mapping on one line.
func flow(n *yaml.Node) *yaml.Node {
	if n != nil {
		n.Style = yaml.FlowStyle
	}
	return n
}

// routesKey is written by hand: the only mapping whose keys are the user's.
func routesKey() key[File] {
	route := object(routeKeys)
	return key[File]{
		name: "routes", required: true,
		doc: "What is forwarded: one entry for each route, under a name of your choice.",
		schema: schema{
			"type": "object", "minProperties": 1,
			"propertyNames":        schema{"pattern": routeName},
			"additionalProperties": route.schema,
		},
		decode: func(d *decoder, n *yaml.Node, f *File) {
			f.RoutesPos = d.pos(n)
			if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
				d.addf(n, "there is no route; write NAME: { listen: PORT, to: HOST:PORT }")
				return
			}
			if n.Kind != yaml.MappingNode {
				d.addf(n, "%s stands where routes are expected; write NAME: { listen: PORT, to: HOST:PORT }", describe(n))
				return
			}
			d.mapping(n, func(k, v *yaml.Node) {
				if !routeNameRE.MatchString(k.Value) {
					d.addf(k, "route name %q: use letters, digits, dot, dash and underscore, at most 63, a letter or digit first", clip(k.Value))
				}
				r := Route{Name: At(k.Value, d.pos(k))}
				if route.decode(d, v, &r) {
					f.Routes = append(f.Routes, r)
				} else {
					f.BrokenRoutes = append(f.BrokenRoutes, k.Value)
				}
			})
		},
		encode: func(f *File) *yaml.Node {
			if len(f.Routes) == 0 {
				return nil
			}
			m := &yaml.Node{Kind: yaml.MappingNode}
			for _, r := range f.Routes {
				name := stringNode(r.Name.V)
				name.HeadComment = strings.TrimSuffix(comment(r.Comment), "\n\n")
				m.Content = append(m.Content, name, route.encode(r))
			}
			return m
		},
	}
}
