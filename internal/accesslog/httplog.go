package accesslog

import (
	"cmp"
	"strconv"
	"time"

	"midspan/internal/engine"
)

// appendHTTP appends r, which is of a request, as HAProxy's `option httplog` does
// (its configuration manual, section 8.2.3):
//
//	%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %{+Q}r
//
// What the fields of a connection are is said at appendTCP. Beside them:
//
//   - %TR, the time in which the request came, is 0, or -1 if it never was whole;
//   - %Tc is 0 where the connection to the server was there already;
//   - %Tr, the server's time, is that from the end of the request's head to that of
//     the response's, or -1 if there was none;
//   - %ST, the status, is -1 if the client got none;
//   - %B is of the body; HAProxy counts the head too;
//   - %CC and %CS, captured cookies, and the two letters of %tsc that are about
//     persistence are always "-";
//   - a request that was not understood is <BADREQ>; in others, what is not
//     printable ASCII, " and # are # and two hexadecimal digits (section 8.6).
func appendHTTP(b []byte, r *engine.Record, loc *time.Location) []byte {
	h := r.HTTP
	b = appendWho(b, r, loc)
	request, response := int64(0), int64(-1)
	if h.Method == "" {
		request = -1
	}
	if h.Wait > 0 {
		response = h.Wait.Milliseconds()
	}
	wait, connect := times(r)
	if r.Connect == 0 && r.Server != "" && r.Reason != engine.ConnectFailed {
		connect = 0
	}
	b = appendInts(b, request, wait, connect, response, max(0, r.End.Sub(r.Start).Milliseconds()))
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(cmp.Or(h.Status, -1)), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, r.BytesDown, 10)
	b = append(b, " - - "...)
	b = append(b, requestState(r)...)
	b = append(b, "-- "...)
	b = appendActive(b, r)
	b = append(b, ` "`...)
	if h.Method == "" {
		b = append(b, "<BADREQ>"...)
	} else {
		b = appendPrintable(b, h.Method)
		b = append(b, ' ')
		b = appendPrintable(b, h.Path)
		b = append(b, ' ')
		b = appendPrintable(b, h.Protocol)
	}
	return append(b, "\"\n"...)
}

// switchingProtocols is the status that makes a connection a tunnel (RFC 9110,
// section 15.2.2).
const switchingProtocols = 101

// requestState is stateOf for a request. The connection to the server may have
// been there before, so that no time to connect says nothing; and a request that
// was answered whole ends nothing, so that an end of a side is too early.
func requestState(r *engine.Record) string {
	phase := "H"
	switch {
	case r.HTTP.Method == "":
		phase = "R"
	case r.Server == "":
		phase = "C"
	case r.HTTP.Wait > 0:
		phase = "D"
	}
	switch r.Reason {
	case engine.ClosedByClient:
		if r.HTTP.Status == switchingProtocols { // both sides have
			return "--"
		}
		return "C" + phase
	case engine.ResetByClient, engine.LostClient:
		return "C" + phase
	case engine.ClosedByServer, engine.ResetByServer:
		return "S" + phase
	case engine.ResponseTimeout:
		return "s" + phase
	case engine.BadResponse:
		return "P" + phase
	case engine.ServerDown:
		return "D" + phase
	}
	return stateOf(r)
}

func appendPrintable(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '#' {
			b = append(b, '#', upperHex[c>>4], upperHex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}

const upperHex = "0123456789ABCDEF"
