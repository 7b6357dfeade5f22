package web

import (
	"bytes"
	"net/http"
	"strconv"

	"midspan/internal/plan"
	"midspan/internal/web/h1"
)

func indexByte(b []byte, c byte) int { return bytes.IndexByte(b, c) }

// appendFields copies the fields that e lets through, as they came: in runs, for
// most are neighbours.
func (e *edits) appendFields(out []byte, h *h1.Head) []byte {
	from, end := h.Start, h.Start
	for i := range h.Fields {
		f := &h.Fields[i]
		if end = f.End; e.drop[f.Kind] || len(e.names) > 0 && e.named(h.Name(f)) {
			out = append(out, h.Bytes[from:f.At]...)
			from = f.End
		}
	}
	return append(out, h.Bytes[from:end]...)
}

// appendFraming says how a body ends, always in the same words.
func appendFraming(out []byte, h *h1.Head) []byte {
	switch h.Body {
	case h1.Length:
		return appendLength(out, h.Length)
	case h1.Chunked:
		return append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	return out
}

func appendLength(out []byte, n int64) []byte {
	out = append(out, "Content-Length: "...)
	out = strconv.AppendInt(out, n, 10)
	return append(out, "\r\n"...)
}

// appendRequest writes the head that the server gets.
func (c *conn) appendRequest(out []byte, x *exchange, server string) []byte {
	r, rules := &x.req, x.rules
	out = append(out, r.Method...)
	out = append(out, ' ')
	out = x.target.appendPath(out, r.Path)
	out = append(out, " HTTP/1.1\r\nHost: "...)
	out = appendHost(out, rules, r.Authority, server)
	out = append(out, "\r\n"...)
	out = rules.request.appendFields(out, &r.Head)
	out = c.appendForwarded(out, x)
	out = append(out, rules.request.set...)
	out = appendFraming(out, &r.Head)
	if r.Continue {
		out = append(out, "Expect: 100-continue\r\n"...)
	}
	switch {
	case x.upgrade:
		out = append(out, "Connection: Upgrade\r\n"...)
		out = appendAll(out, &r.Head, h1.Upgrade, "Upgrade: ")
	case r.Trailers:
		out = append(out, "TE: trailers\r\nConnection: TE\r\n"...)
	}
	return append(out, "\r\n"...)
}

// appendHost writes the Host that the server gets. HTTP/1.0 may have none to keep.
func appendHost(out []byte, r *rules, authority []byte, server string) []byte {
	switch {
	case r.Host == plan.HostOfServer, r.Host == "" && len(authority) == 0:
		return append(out, server...)
	case r.Host == "":
		return append(out, authority...)
	}
	return append(out, r.Host...)
}

func appendAll(out []byte, h *h1.Head, k h1.Kind, name string) []byte {
	for i := range h.Fields {
		if f := &h.Fields[i]; f.Kind == k {
			out = append(out, name...)
			out = append(out, h.Value(f)...)
			out = append(out, "\r\n"...)
		}
	}
	return out
}

// appendForwarded says who the client is. A field that the route sets or removes
// is the route's.
func (c *conn) appendForwarded(out []byte, x *exchange) []byte {
	rules, h := x.rules, &x.req.Head
	if rules.Forwarded == plan.ForwardedOff {
		return out
	}
	e := &rules.request
	own := len(e.names) > 0
	if !own || !e.overrides("x-forwarded-for") {
		out = append(out, "X-Forwarded-For: "...)
		if rules.Forwarded == plan.ForwardedAppend {
			for i := range h.Fields {
				if f := &h.Fields[i]; f.Kind == h1.XFor && f.Stop > f.Value {
					out = append(out, h.Value(f)...)
					out = append(out, ", "...)
				}
			}
		}
		out = append(out, c.addr...)
		out = append(out, "\r\n"...)
	}
	add := rules.Forwarded == plan.ForwardedReplace
	if (add || h.Find(h1.XProto) == nil) && (!own || !e.overrides("x-forwarded-proto")) {
		out = append(out, c.protoLine...)
	}
	if (add || h.Find(h1.XHost) == nil) && len(x.req.Authority) > 0 && (!own || !e.overrides("x-forwarded-host")) {
		out = append(out, "X-Forwarded-Host: "...)
		out = append(out, x.req.Authority...)
		out = append(out, "\r\n"...)
	}
	return out
}

// appendResponse writes the head that the client gets. closing: this is the last
// response on its connection.
func (c *conn) appendResponse(out []byte, x *exchange, closing bool) []byte {
	r, rules := &x.resp, x.rules
	out = append(out, "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(r.Status), 10)
	out = append(out, ' ')
	out = append(out, r.Reason...)
	out = append(out, "\r\n"...)
	if r.Status < 200 && r.Status != http.StatusSwitchingProtocols {
		out = rules.response.appendFields(out, &r.Head)
		return append(out, "\r\n"...)
	}
	out = rules.response.appendFields(out, &r.Head)
	switch {
	case r.Status < 200 || r.Status == http.StatusNoContent:
	case r.Body == h1.None: // of HEAD, or 304: what the body would be
		out = appendAll(out, &r.Head, h1.ContentLength, "Content-Length: ")
		if !x.req.Old {
			out = appendAll(out, &r.Head, h1.TransferEncoding, "Transfer-Encoding: ")
		}
	case r.Body == h1.Chunked && x.req.Old:
	default:
		out = appendFraming(out, &r.Head)
	}
	out = append(out, rules.response.set...)
	if x.target.cookie != "" && x.cookie != x.Server {
		out = c.appendCookie(out, x)
	}
	switch {
	case r.Status == http.StatusSwitchingProtocols:
		out = append(out, "Connection: Upgrade\r\n"...)
		out = appendAll(out, &r.Head, h1.Upgrade, "Upgrade: ")
	case closing:
		out = append(out, "Connection: close\r\n"...)
	case x.req.Old:
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	return append(out, "\r\n"...)
}

// appendCookie keeps the client on its server.
func (c *conn) appendCookie(out []byte, x *exchange) []byte {
	out = append(out, "Set-Cookie: "...)
	return append(appendSticky(out, x.rules, x.target.cookie, x.Server, c.from.TLS), "\r\n"...)
}

func appendSticky(out []byte, r *rules, name, server string, secure bool) []byte {
	out = append(out, name...)
	out = append(out, '=')
	out = append(out, r.cookies[server]...)
	out = append(out, "; Path=/; HttpOnly; SameSite=Lax"...)
	if secure {
		out = append(out, "; Secure"...)
	}
	return out
}

// stuckTo is the server that the request's cookie of that name stands for, or "".
func (r *rules) stuckTo(h *h1.Head, name string) string {
	for i := range h.Fields {
		if f := &h.Fields[i]; f.Kind == h1.Cookie {
			if s := r.servers[cookieIn(string(h.Value(f)), name)]; s != "" {
				return s
			}
		}
	}
	return ""
}
