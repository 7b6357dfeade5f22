package accesslog

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"midspan/internal/engine"
)

// appendJSON appends r as one line of JSON. The order of the keys is fixed. A
// key whose value there is none of (no server, never connected, no error) is
// left out.
func appendJSON(b []byte, r *engine.Record) []byte {
	at, event := r.End, "end"
	if at.IsZero() {
		at, event = r.Start, "start"
	}
	b = append(b, `{"time":"`...)
	b = at.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	b = append(b, `","event":"`...)
	b = append(b, event...)
	b = append(b, `","id":`...)
	b = appendString(b, r.ID)
	b = append(b, `,"route":`...)
	b = appendString(b, r.Route)
	if r.Node != nil {
		b = append(b, `,"node":`...)
		b = strconv.AppendInt(b, int64(*r.Node), 10)
	}
	b = append(b, `,"client":`...)
	b = appendAddr(b, r.Client)
	b = appendCaller(b, &r.Caller)
	if r.Server != "" {
		b = append(b, `,"server":`...)
		b = appendString(b, r.Server)
	}
	if r.Endpoint.IsValid() {
		b = append(b, `,"endpoint":`...)
		b = appendAddr(b, r.Endpoint)
	}
	if event == "end" {
		b = appendEnd(b, r)
	}
	return append(b, "}\n"...)
}

// appendKey appends a key and its value, unless that is empty.
func appendKey(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	b = append(append(append(b, `,"`...), key...), `":`...)
	return appendString(b, value)
}

func appendCaller(b []byte, c *engine.Caller) []byte {
	if c.Peer.IsValid() {
		b = append(b, `,"peer":`...)
		b = appendAddr(b, c.Peer)
	}
	b = appendKey(b, "link", c.Link)
	b = appendKey(b, "consumer", c.Consumer)
	b = appendKey(b, "server_name", c.ServerName)
	if t := c.TLS; t != nil {
		b = appendKey(b, "tls", t.Version)
		b = appendKey(b, "cipher", t.Cipher)
		b = appendKey(b, "alpn", t.Protocol)
		if t.Resumed {
			b = append(b, `,"resumed":true`...)
		}
	}
	return b
}

// appendRequest appends what an HTTP record has beside those of connections.
func appendRequest(b []byte, h *engine.HTTP) []byte {
	b = appendKey(b, "method", h.Method)
	b = appendKey(b, "host", h.Host)
	b = appendKey(b, "path", h.Path)
	b = appendKey(b, "protocol", h.Protocol)
	if h.Status != 0 {
		b = append(b, `,"status":`...)
		b = strconv.AppendInt(b, int64(h.Status), 10)
	}
	if h.Wait > 0 {
		b = append(b, `,"wait_ms":`...)
		b = appendMillis(b, h.Wait)
	}
	return b
}

func appendEnd(b []byte, r *engine.Record) []byte {
	if r.HTTP != nil {
		b = appendRequest(b, r.HTTP)
	}
	b = append(b, `,"duration_ms":`...)
	b = appendMillis(b, r.End.Sub(r.Start))
	if r.Connect > 0 {
		b = append(b, `,"connect_ms":`...)
		b = appendMillis(b, r.Connect)
	}
	b = append(b, `,"bytes_up":`...)
	b = strconv.AppendUint(b, r.BytesUp, 10)
	b = append(b, `,"bytes_down":`...)
	b = strconv.AppendUint(b, r.BytesDown, 10)
	b = appendKey(b, "reason", string(r.Reason)) // a request may end without one
	b = append(b, `,"retries":`...)
	b = strconv.AppendInt(b, int64(r.Retries), 10)
	for i, a := range r.Tried {
		b = append(b, [2]string{`,"tried":[`, `,`}[min(i, 1)]...)
		b = appendAddr(b, a)
	}
	if len(r.Tried) > 0 {
		b = append(b, ']')
	}
	if r.Err != "" {
		b = append(b, `,"error":`...)
		b = appendString(b, r.Err)
	}
	return b
}

// appendMillis appends d as milliseconds, to the microsecond: many connections
// last less than one.
func appendMillis(b []byte, d time.Duration) []byte {
	us := d.Microseconds()
	if us < 0 {
		us = 0 // the clock was set back
	}
	b = strconv.AppendInt(b, us/1000, 10)
	f := us % 1000
	return append(b, '.', byte('0'+f/100), byte('0'+f/10%10), byte('0'+f%10))
}

// appendAddr appends a as a string; an IPv4 address as such, although a
// dual-stack socket knows it by its IPv6 form.
func appendAddr(b []byte, a netip.AddrPort) []byte {
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	if a.Addr().Zone() != "" {
		return appendString(b, a.String()) // the name of an interface may have any character
	}
	return append(a.AppendTo(append(b, '"')), '"')
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(append(b, s[from:i]...), `\ufffd`...)
				from = i + 1
			}
			i += n
			continue
		}
		if c < ' ' || c == '"' || c == '\\' || c == 0x7f {
			b = appendEscape(append(b, s[from:i]...), c)
			from = i + 1
		}
		i++
	}
	return append(append(b, s[from:]...), '"')
}

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, `\n`...)
	case '\t':
		return append(b, `\t`...)
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}
