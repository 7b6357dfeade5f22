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
	b = append(b, `,"client":`...)
	b = appendAddr(b, r.Client)
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

func appendEnd(b []byte, r *engine.Record) []byte {
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
	b = append(b, `,"reason":`...)
	b = appendString(b, string(r.Reason))
	b = append(b, `,"retries":`...)
	b = strconv.AppendInt(b, int64(r.Retries), 10)
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
