package web

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"

	"midspan/internal/plan"
	"midspan/internal/web/h1"
)

// rules are a route, made ready for requests. They do not change.
type rules struct {
	up    Upstream
	route *plan.Route
	plan.HTTP

	exact map[string][]target // by host, the longest path first
	wild  map[string][]target // by what follows the star: ".example.com"; "" is "*"
	other target              // where none fits

	request, response edits

	cookies map[string]string // of the sticky cookie, by server
	servers map[string]string // and the reverse
	private bool              // a connection to a server is for one client only

	headerTimeout, keepalive, responseTimeout time.Duration
	slack                                     time.Duration // see conn.await
}

// target is a set of servers and how a path is rewritten for it.
type target struct {
	group         int // -1: Default
	path, rewrite string
	empty         bool   // no servers
	cookie        string // the name of its sticky cookie; "": it has none
}

// edits are what is changed in the fields of a message.
type edits struct {
	drop  [h1.Kinds]bool // by kind
	names []string       // as nameOf has them: removed, or set anew
	set   []byte         // lines to add
}

func newRules(r *plan.Route, u Upstream) *rules {
	h := *r.HTTP
	x := &rules{
		up: u, route: r, HTTP: h,
		exact: map[string][]target{}, wild: map[string][]target{},
		cookies: map[string]string{}, servers: map[string]string{},
		private:       r.SendProxy != plan.SendNone && r.SendProxy != "",
		headerTimeout: time.Duration(h.HeaderTimeout), keepalive: time.Duration(h.KeepaliveTimeout), responseTimeout: time.Duration(h.ResponseTimeout),
	}
	x.slack = min(time.Second, x.keepalive/8)
	names := map[string]string{}
	x.other = target{group: -1, empty: len(r.Default) == 0, cookie: x.cookieName(names, r.Default)}
	for i, g := range r.Groups {
		t := target{group: i, path: g.Path, rewrite: g.Rewrite, empty: len(g.Servers) == 0, cookie: x.cookieName(names, g.Servers)}
		if suffix, wild := strings.CutPrefix(g.Match, "*"); wild {
			x.wild[suffix] = insert(x.wild[suffix], t)
		} else {
			x.exact[g.Match] = insert(x.exact[g.Match], t)
		}
	}
	for _, s := range r.Servers {
		v := cookieValue(r.Name, s.Name)
		x.cookies[s.Name], x.servers[v] = v, s.Name
	}
	x.edit()
	return x
}

// insert keeps targets in the order in which they are to be tried.
func insert(all []target, t target) []target {
	at := 0
	for at < len(all) && len(all[at].path) >= len(t.path) {
		at++
	}
	return append(all[:at], append([]target{t}, all[at:]...)...)
}

// cookieName is the name of the sticky cookie of a set of servers, "" if there is
// nothing to choose in it. Each set has its own, so that what a client gets from one
// does not take it off its server in another. names has those found before, by the
// servers: the first set has the name in the file, the others that and a hash that
// does not depend on the order of servers or rules.
func (x *rules) cookieName(names map[string]string, set []int) string {
	if x.Sticky == "" || len(set) < 2 {
		return ""
	}
	servers := make([]string, len(set))
	for i, s := range set {
		servers[i] = x.route.Servers[s].Name
	}
	slices.Sort(servers)
	key := strings.Join(servers, "\x00")
	if names[key] == "" {
		names[key] = x.Sticky
		if len(names) > 1 {
			sum := sha256.Sum256([]byte("midspan sticky set\x00" + key))
			names[key] += "-" + hex.EncodeToString(sum[:4])
		}
	}
	return names[key]
}

// cookieValue stands for a server in the sticky cookie. It is the same on every
// VM and after every start, and does not tell the server's name.
func cookieValue(route, server string) string {
	sum := sha256.Sum256([]byte("midspan sticky\x00" + route + "\x00" + server))
	return hex.EncodeToString(sum[:8])
}

// edit works out which fields are not passed on as they came.
func (x *rules) edit() {
	for k := range h1.Kinds {
		hop := h1.Kind(k).Hop()
		x.request.drop[k], x.response.drop[k] = hop, hop
	}
	// These are written anew, so that servers get them in one spelling.
	for _, k := range []h1.Kind{h1.Host, h1.ContentLength, h1.TransferEncoding, h1.Expect} {
		x.request.drop[k] = true
	}
	x.response.drop[h1.ContentLength], x.response.drop[h1.TransferEncoding] = true, true
	if x.Forwarded != plan.ForwardedOff {
		x.request.drop[h1.XFor] = true
	}
	if x.Forwarded == plan.ForwardedReplace {
		x.request.drop[h1.Forwarded], x.request.drop[h1.XProto], x.request.drop[h1.XHost] = true, true, true
	}
	for _, f := range x.SetRequest {
		x.request.add(f.Name.V, f.Value.V)
	}
	for _, f := range x.SetResponse {
		x.response.add(f.Name.V, f.Value.V)
	}
	x.request.remove(x.RemoveRequest)
	x.response.remove(x.RemoveResponse)
}

func (e *edits) add(name, value string) {
	e.names = append(e.names, nameOf(name))
	e.set = append(e.set, name+": "+value+"\r\n"...)
}

func (e *edits) remove(names []string) {
	for _, n := range names {
		e.names = append(e.names, nameOf(n))
	}
}

// nameOf is a name in the spelling in which names are compared.
func nameOf(name string) string { return strings.ReplaceAll(strings.ToLower(name), "_", "-") }

// named tells whether a field of that name is removed or set. One that a server
// cannot tell from it is, too: a client could claim in X_User what the route says in
// X-User.
func (e *edits) named(name []byte) bool {
	for _, n := range e.names {
		if h1.Alike(name, n) {
			return true
		}
	}
	return false
}

// strip takes the fields out that are removed or set.
func (e *edits) strip(h http.Header) {
	for n := range h {
		if e.named([]byte(n)) {
			delete(h, n)
		}
	}
}

// overrides tells whether the route's own words go before what the proxy would
// write in a field of that name.
func (e *edits) overrides(lower string) bool {
	for _, n := range e.names {
		if n == lower {
			return true
		}
	}
	return false
}

// maxName is the longest host name there is (RFC 1035, section 2.3.4).
const maxName = 255

// match finds the servers for a request: by the exact host, then the longest
// "*." that fits; among those by the longest path.
func (x *rules) match(authority, path []byte) target {
	if len(x.exact) == 0 && len(x.wild) == 0 {
		return x.other
	}
	host, _ := h1.SplitHost(authority)
	if n := len(host); n > 0 && host[n-1] == '.' {
		host = host[:n-1]
	}
	if len(host) > maxName {
		return x.other
	}
	var buf [maxName]byte
	name := buf[:copy(buf[:], host)]
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			name[i] = c | 0x20
		}
	}
	if all, ok := x.exact[string(name)]; ok {
		return x.byPath(all, path)
	}
	for i := 1; i < len(name); i++ {
		if name[i] != '.' {
			continue
		}
		if all, ok := x.wild[string(name[i:])]; ok {
			return x.byPath(all, path)
		}
	}
	return x.byPath(x.wild[""], path)
}

// root is the path of a target without one.
var root = []byte{'/'}

func (x *rules) byPath(all []target, path []byte) target {
	if end := indexByte(path, '?'); end >= 0 {
		path = path[:end]
	}
	if len(path) == 0 {
		path = root
	}
	for _, t := range all {
		if len(path) >= len(t.path) && string(path[:len(t.path)]) == t.path {
			return t
		}
	}
	return x.other
}

// appendPath writes the path that the server gets. The prefix is replaced; a
// slash that would be doubled by that is left out.
func (t *target) appendPath(out, path []byte) []byte {
	if len(path) == 0 || path[0] == '?' { // of "http://host?query"
		return append(t.appendPath(out, root), path...)
	}
	if t.rewrite == "" || path[0] != '/' || len(path) < len(t.path) {
		return append(out, path...)
	}
	rest := path[len(t.path):]
	out = append(out, t.rewrite...)
	if n := len(t.rewrite); len(rest) > 0 && rest[0] == '/' && t.rewrite[n-1] == '/' {
		rest = rest[1:]
	}
	return append(out, rest...)
}
