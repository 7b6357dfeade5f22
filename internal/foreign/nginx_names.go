package foreign

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"midspan/internal/config"
)

// nginxPreread is how long nginx waits for a ClientHello where nothing else is
// written.
const nginxPreread = 30 * time.Second

// byServerName is the variable with the name that a TLS client asks for.
const byServerName = "ssl_preread_server_name"

// whyAnyName is why the name that a client asks for cannot be the server.
const whyAnyName = "midspan goes to the servers of its file, and not to whatever name a client asks for; write the names"

// named is what a map says of a server name.
type named struct {
	node  *node
	match string // a name, "*." and one, "" for no name, "default"
	value string // "": nowhere
}

// byName makes r a route whose servers are chosen by server name: proxy_pass
// has a variable that a map makes of it, or it itself.
func (x *nginx) byName(r *config.Route, n, pass *node, c *nginxSettings) bool {
	variable, port := passVariable(pass.arg(1))
	var list []named
	if m := x.maps["$"+variable]; m != nil && !x.rules(len(m.block)) || m == nil && !x.rules(len(x.stream)) {
		return false
	}
	switch m := x.maps["$"+variable]; {
	case variable == byServerName && port != "":
		x.lost(pass.stmt, whyAnyName)
		return false
	case variable == byServerName:
		list = x.upstreamNames(nil)
	case m == nil:
		x.lost(pass.stmt, "variables are not evaluated; write a route for each value")
		return false
	case strings.Trim(m.arg(1), "${}") != byServerName:
		x.lost(pass.stmt, "midspan chooses servers by `$ssl_preread_server_name`, and "+quote("map "+m.arg(1))+" is by something else; write a route for each value")
		return false
	default:
		x.carry(m.stmt)
		list = x.mapped(m, port != "")
	}
	sets := map[string]passed{}
	for _, e := range list {
		if e.value == "" {
			continue
		}
		p, why := x.servers(e.value+port, x.stream, "", e.node.pos)
		if why != "" {
			x.lost(e.node.stmt, why)
			continue
		}
		sets[e.match] = p
	}
	x.carry(pass.stmt)
	return x.choose(r, n, list, sets, c)
}

// passVariable is the name in $NAME, ${NAME} and $NAME:PORT.
func passVariable(s string) (name, port string) {
	name, port, found := strings.Cut(s, ":")
	if found {
		port = ":" + port
	}
	return strings.Trim(name, "${}"), port
}

// mapped are the entries of a map that midspan can tell apart. All others are
// noted.
func (x *nginx) mapped(m *node, withPort bool) (out []named) {
	wild := slices.ContainsFunc(m.block, func(e *node) bool { return e.name() == "hostnames" && len(e.words) == 1 })
	for _, e := range m.block {
		key, value := strings.TrimPrefix(e.name(), `\`), e.arg(1)
		own := strings.Trim(value, "${}") == byServerName && strings.HasPrefix(value, "$")
		switch {
		case key == "hostnames" || key == "volatile":
			x.carry(e.stmt)
		case len(e.words) != 2:
			x.lost(e.stmt, "it is not a name and a value")
		case own && withPort:
			x.lost(e.stmt, whyAnyName)
		case key == "default" && own:
			x.carry(e.stmt)
			out = append(out, x.upstreamNames(e)...)
		case strings.Contains(value, "$"):
			x.lost(e.stmt, "variables are not evaluated; write the name of an upstream, or HOST:PORT")
		case key == "default" || key == "":
			x.carry(e.stmt)
			out = append(out, named{e, key, value})
		case strings.HasPrefix(e.name(), "~"):
			x.lost(e.stmt, "regular expressions are not evaluated, so these names go to the default; write the names, or *.NAME")
		default:
			out = append(out, x.mappedName(e, key, value, wild)...)
		}
	}
	return out
}

// mappedName is an entry for a host name.
func (x *nginx) mappedName(e *node, key, value string, wild bool) []named {
	names := []string{key}
	if rest, both := strings.CutPrefix(key, "."); both && wild {
		names = []string{rest, "*." + rest}
	}
	var out []named
	for _, name := range names {
		match, ok := matchName(name)
		if strings.HasPrefix(match, "*") && !wild {
			x.needless(e.stmt, "without `hostnames` it is a name of its own, that no client asks for")
			return nil
		}
		if !ok || value == "" {
			x.lost(e.stmt, "midspan chooses by NAME or *.NAME, and refuses what nothing fits where there is no default")
			return nil
		}
		out = append(out, named{e, match, value})
	}
	x.carry(e.stmt)
	return out
}

// upstreamNames are the upstreams, where connections go to the one whose name
// the client asks for. Other names lead nowhere in nginx either. e says so; it
// is the whole of the proxy_pass if it is nil.
func (x *nginx) upstreamNames(e *node) (out []named) {
	for _, name := range slices.Sorted(maps.Keys(x.stream)) {
		u := x.stream[name]
		at := e
		if at == nil {
			at = u.node
		}
		if match, ok := matchName(name); ok && !strings.HasPrefix(match, "*") {
			out = append(out, named{at, match, name})
		}
	}
	return out
}

// choose fills in the sets of servers, and what becomes of clients that name
// none. For nginx, what is not TLS has the empty name.
func (x *nginx) choose(r *config.Route, n *node, list []named, sets map[string]passed, c *nginxSettings) bool {
	def, hasDefault := sets["default"]
	none, hasNone := sets[""]
	i := slices.IndexFunc(list, func(e named) bool { return e.match == "" })
	first := def
	switch {
	case hasNone && !hasDefault:
		first = none
	case !hasDefault:
		first = passed{}
	}
	if !c.sslPreread { // then the name is always empty
		if hasNone {
			first = none
		} else if i >= 0 {
			first = passed{}
		}
	}
	r.To = first.servers
	if !c.sslPreread {
		x.firstOf(r, first, n, c, "")
		return true
	}
	r.Mode = config.At(modeSNI, n.pos)
	for _, e := range list {
		p, known := sets[e.match]
		if !known || e.match == "" || e.match == "default" {
			continue
		}
		if first.servers == nil {
			first = p
		}
		r.Groups = append(r.Groups, config.Group{Match: config.At(e.match, e.node.pos), To: p.servers})
		x.sameUpstream(first, p)
	}
	x.firstOf(r, first, n, c, first.name)
	x.nameless(r, n, list, i, hasDefault, hasNone)
	wait := config.At(nginxPreread, n.pos)
	if c.preread.V > 0 {
		wait = c.preread
	}
	r.SNI.MaxHello = c.maxHello
	r.SNI.Timeout = config.At(x.within(wait.Pos, wait.V, time.Millisecond, time.Hour), wait.Pos)
	return true
}

// nameless says what becomes of clients without a name; i is the entry for
// them in list, or -1.
func (x *nginx) nameless(r *config.Route, n *node, list []named, i int, hasDefault, hasNone bool) {
	if len(r.To) == 0 {
		return
	}
	word := "default"
	if i >= 0 && hasDefault {
		d := slices.IndexFunc(list, func(e named) bool { return e.match == "default" })
		switch e := list[i]; {
		case e.value == list[d].value:
		case e.value == "":
			word = "reset"
		default:
			word = "reset"
			x.note(e.node.stmt, "%s is not carried over: in midspan, clients that name no server go to the default or are refused, as they are now", quote(`"" `+e.value))
		}
	}
	if hasNone && !hasDefault {
		x.because(list[i].node.stmt, list[i].node.pos, quote(`"" `+list[i].value), moreMark+"is carried over as the default: names that nothing fits go there too, which nginx refuses; take `default` out to refuse both")
	}
	if word == "reset" {
		r.SNI.NoName = config.At(word, n.pos)
	} else {
		r.SNI.NotTLS = config.At(word, n.pos)
	}
}

// sameUpstream notes what a set of servers has of its own that a route has once.
func (x *nginx) sameUpstream(first, p passed) {
	settings := func(p passed) string {
		if p.up == nil {
			return ""
		}
		return fmt.Sprint(p.up.balance.Or(""), p.up.slowStart.V, p.up.sticky.V, p.up.check.Fall.V, p.up.check.Every.V)
	}
	if p.up != nil && len(p.servers) > 1 && settings(p) != settings(first) {
		x.notes.Addf(p.up.node.pos, "upstream %s: its way of balancing, slow_start, sticky and max_fails are not carried over: midspan has them once for a route, and takes those of the default, or of the first", printable(p.up.name))
	}
}
