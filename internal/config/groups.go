package config

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The parts of the file whose keys are the user's: consumers, and sets of servers
// by consumer, server name, host and path.

var (
	kServer  = shorthand(kTarget, func(s *Server) *Field[Target] { return &s.Target }, serverKeys)
	kServers = oneOrMore(kServer)
	kLink    = linkID()
)

// linkID is a number, or what the log has of it (azure:99).
func linkID() kind[uint32] {
	k := unsigned("link id")
	number := k.decode
	k.schema = anyOf(k.schema, schema{"type": "string", "pattern": "^azure:[0-9]{1,10}$"})
	k.decode = func(d *decoder, n *yaml.Node, v *uint32) bool {
		if logged, is := strings.CutPrefix(n.Value, "azure:"); is && n.Kind == yaml.ScalarNode {
			if id, err := strconv.ParseUint(logged, 10, 32); err == nil && len(logged) <= 10 {
				*v = uint32(id)
				return true
			}
		}
		return number(d, n, v)
	}
	return k
}

// isServer tells whether a mapping is one server and not a set of groups. The
// schema has the same rule.
func isServer(n *yaml.Node) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if slices.Contains(names(serverKeys), n.Content[i].Value) {
			return true
		}
	}
	return false
}

// groupName is what a key of `to` looks like: a consumer, or a server name.
var groupName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9][A-Za-z0-9._-]{0,252}$`)

// notServerKeys is the schema of names that are not keys of a server.
func notServerKeys(pattern string) schema {
	return schema{"pattern": pattern, "not": schema{"enum": toAny(names(serverKeys))}}
}

// toKey is `to`: one server, a list of them, or sets of them by name.
func toKey() key[Route] {
	groups := schema{"type": "object", "minProperties": 1, "propertyNames": notServerKeys(groupName.String()), "additionalProperties": kServers.schema}
	return key[Route]{
		name: "to", required: true, unless: "hosts",
		doc:    "HOST:PORT, or a list of servers. HOST alone, or HOST:+N, keeps (or shifts) the port that the connection came in on. Or servers by name, `default` for the rest: { NAME: HOST:PORT }, by the server name (mode sni) or the consumer (mode tcp).",
		schema: anyOf(kServers.schema, groups),
		decode: func(d *decoder, n *yaml.Node, r *Route) {
			if n.Kind != yaml.MappingNode || isServer(n) {
				kServers.decode(d, n, &r.To)
				return
			}
			if len(n.Content) == 0 {
				d.addf(n, "there is no server; write HOST:PORT")
			}
			d.mapping(n, func(k, v *yaml.Node) {
				if !groupName.MatchString(k.Value) {
					d.addf(k, "%q is neither a consumer nor a server name; write NAME: HOST:PORT", clip(k.Value))
					return
				}
				var servers []Server
				switch ok := kServers.decode(d, v, &servers); {
				case !ok:
				case k.Value == "default":
					r.To = servers
				default:
					r.Groups = append(r.Groups, Group{Match: At(k.Value, d.pos(k)), To: servers})
				}
			})
		},
		encode: func(r *Route) *yaml.Node {
			groups := slices.DeleteFunc(slices.Clone(r.Groups), func(g Group) bool { return g.Path.Set() })
			if len(groups) == 0 || r.Mode.V == "http" {
				if len(r.To) == 0 {
					return nil
				}
				return kServers.encode(r.To)
			}
			m := &yaml.Node{Kind: yaml.MappingNode}
			for _, g := range groups {
				m.Content = append(m.Content, stringNode(g.Match.V), kServers.encode(g.To))
			}
			if len(r.To) > 0 {
				m.Content = append(m.Content, stringNode("default"), kServers.encode(r.To))
			}
			return m
		},
	}
}

var (
	hostPatternRE = regexp.MustCompile(hostPattern)
	pathKeys      = []key[Group]{
		required(key[Group]{
			name: "to", doc: "HOST:PORT, or a list of servers.", schema: kServers.schema,
			decode: func(d *decoder, n *yaml.Node, g *Group) { kServers.decode(d, n, &g.To) },
			encode: func(g *Group) *yaml.Node { return kServers.encode(g.To) },
		}),
		field("rewrite", "What the servers get in place of this part of the path.", kPrefix, func(g *Group) *Field[string] { return &g.Rewrite }),
	}
	kPathGroup = object(pathKeys)
)

// hostsKey is `hosts`: servers by host, or by host and path.
func hostsKey() key[Route] {
	target := anyOf(kServers.schema, kPathGroup.schema)
	paths := schema{"type": "object", "minProperties": 1, "propertyNames": schema{"pattern": kPrefix.schema["pattern"]}, "additionalProperties": target}
	return key[Route]{
		name: "hosts",
		doc:  "mode http: servers by the request's host: { NAME: HOST:PORT }, *.NAME for all names below it, or by host and path: { NAME: { /: HOST:PORT, /api/: HOST:PORT } }, of which the longest that fits is taken. What fits none goes to `to`.",
		schema: schema{
			"type": "object", "minProperties": 1, "propertyNames": schema{"pattern": `^\*$|` + hostPattern},
			"additionalProperties": anyOf(kServers.schema, paths),
		},
		decode: func(d *decoder, n *yaml.Node, r *Route) {
			if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
				d.addf(n, "%s stands where hosts are expected; write NAME: HOST:PORT", describe(n))
				return
			}
			d.mapping(n, func(k, v *yaml.Node) {
				if k.Value != "*" && !hostPatternRE.MatchString(k.Value) {
					d.addf(k, "%q is not a host; write a name, *.NAME, or * for all", clip(k.Value))
					return
				}
				r.Groups = append(r.Groups, hostGroups(d, At(strings.ToLower(k.Value), d.pos(k)), v)...)
			})
		},
		encode: func(r *Route) *yaml.Node {
			if r.Mode.V != "http" || len(r.Groups) == 0 {
				return nil
			}
			return encodeHosts(r.Groups)
		},
	}
}

// hostGroups are the groups of one host.
func hostGroups(d *decoder, host Field[string], n *yaml.Node) (groups []Group) {
	if n.Kind != yaml.MappingNode || isServer(n) {
		g := Group{Match: host, Path: At("/", host.Pos)}
		if kServers.decode(d, n, &g.To) {
			groups = append(groups, g)
		}
		return groups
	}
	if len(n.Content) == 0 {
		d.addf(n, "there is no server; write HOST:PORT")
	}
	d.mapping(n, func(k, v *yaml.Node) {
		g := Group{Match: host}
		if !kPrefix.decode(d, k, &g.Path.V) {
			return
		}
		g.Path.Pos = d.pos(k)
		decode := func() bool { return kServers.decode(d, v, &g.To) }
		if v.Kind == yaml.MappingNode && !isServer(v) {
			decode = func() bool { return kPathGroup.decode(d, v, &g) }
		}
		if decode() {
			groups = append(groups, g)
		}
	})
	return groups
}

// encodeHosts writes groups of the same host, which follow each other, as one.
func encodeHosts(groups []Group) *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	for i := 0; i < len(groups); {
		host := groups[i].Match.V
		end := i
		for end < len(groups) && groups[end].Match.V == host {
			end++
		}
		value := kServers.encode(groups[i].To)
		if end-i > 1 || groups[i].Path.V != "/" || groups[i].Rewrite.Set() {
			value = &yaml.Node{Kind: yaml.MappingNode}
			for _, g := range groups[i:end] {
				to := kServers.encode(g.To)
				if g.Rewrite.Set() {
					to = kPathGroup.encode(g)
				}
				value.Content = append(value.Content, stringNode(g.Path.V), to)
			}
		}
		m.Content = append(m.Content, stringNode(host), value)
		i = end
	}
	return m
}

// consumersKey is `consumers`.
func consumersKey() key[File] {
	consumer := object(consumerKeys)
	return key[File]{
		name: "consumers",
		doc:  "Who may use which route: one entry for each, under a name of your choice, by link id, endpoint id or address. Routes that a consumer lists, or all where one lists none, are closed to everybody else.",
		schema: schema{
			"type": "object", "minProperties": 1,
			"propertyNames":        schema{"pattern": routeName, "not": schema{"enum": []any{"default"}}},
			"additionalProperties": consumer.schema,
		},
		decode: func(d *decoder, n *yaml.Node, f *File) {
			if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
				d.addf(n, "%s stands where consumers are expected; write NAME: { link_id: NUMBER, routes: [ROUTE] }", describe(n))
				return
			}
			d.mapping(n, func(k, v *yaml.Node) {
				name, err := parseWord(k.Value)
				switch {
				case err != nil:
					d.addf(k, "consumer %s", err)
				case name == "default":
					d.addf(k, "consumer \"default\": that word stands for all others in `to`; choose another name")
				}
				c := Consumer{Name: At(k.Value, d.pos(k))}
				c.Broken = !consumer.decode(d, v, &c)
				f.Consumers = append(f.Consumers, c)
			})
		},
		encode: func(f *File) *yaml.Node {
			if len(f.Consumers) == 0 {
				return nil
			}
			m := &yaml.Node{Kind: yaml.MappingNode}
			for _, c := range f.Consumers {
				m.Content = append(m.Content, stringNode(c.Name.V), flow(consumer.encode(c)))
			}
			return m
		},
	}
}

var headersKeys = []key[Headers]{
	{
		name: "set", doc: "NAME: VALUE; what was there of that name goes.",
		schema: schema{"type": "object", "propertyNames": kToken.schema, "additionalProperties": kValue.schema},
		decode: func(d *decoder, n *yaml.Node, h *Headers) {
			if n.Kind != yaml.MappingNode {
				d.addf(n, "%s stands where headers are expected; write NAME: VALUE", describe(n))
				return
			}
			d.mapping(n, func(k, v *yaml.Node) {
				var x Header
				if kToken.decode(d, k, &x.Name.V) && kValue.decode(d, v, &x.Value.V) {
					x.Name.Pos, x.Value.Pos = d.pos(k), d.pos(v)
					h.Set = append(h.Set, x)
				}
			})
		},
		encode: func(h *Headers) *yaml.Node {
			if len(h.Set) == 0 {
				return nil
			}
			m := &yaml.Node{Kind: yaml.MappingNode}
			for _, x := range h.Set {
				m.Content = append(m.Content, stringNode(x.Name.V), stringNode(x.Value.V))
			}
			return m
		},
	},
	list("remove", "Names.", kToken, func(h *Headers) *[]Field[string] { return &h.Remove }),
}

var kValue = text("a header's value")
