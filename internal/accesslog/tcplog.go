package accesslog

import (
	"cmp"
	"net/netip"
	"strconv"
	"time"

	"midspan/internal/engine"
)

// states are HAProxy's termination states (its configuration manual, section
// 8.5): what ended the connection, and what it was doing then. Tools that read
// tcplog lines know them. Where the reason alone does not tell whether a server
// was connected by then, the second state is for when none was.
//
// PR is what HAProxy says of all that its rules turn away, limits among them:
// `tcp-request content reject` logs it. (Of what `tcp-request connection reject`
// or a wrong PROXY header ends, it writes no such line.)
var states = map[engine.Reason][2]string{
	engine.ClosedByClient:     {"--", "CC"}, // normal end; or the client did not wait for the connect
	engine.ClosedByServer:     {"--"},
	engine.ResetByClient:      {"CD", "CC"}, // the client aborted during data; or while we connected
	engine.ResetByServer:      {"SD"},       // the server aborted during data
	engine.NotAllowed:         {"PR"},
	engine.Probe:              {"CR"}, // the client ended before it asked for anything; gets no line
	engine.OpeningTimeout:     {"cR"}, // as `timeout http-request`
	engine.BadProxyHeader:     {"PR"},
	engine.ProxyNotAllowed:    {"PR"},
	engine.UnknownConsumer:    {"PR"},
	engine.ConsumerNotAllowed: {"PR"},
	engine.ConsumerLimit:      {"PR"},
	engine.RateLimit:          {"PR"},
	engine.RouteLimit:         {"PR"},
	engine.SourceLimit:        {"PR"},
	engine.NoServerName:       {"PR"},
	engine.UnknownServerName:  {"PR"},
	engine.UnknownHost:        {"PR"},
	engine.NotTLS:             {"PR"},       // as `reject if !{ req.ssl_hello_type 1 }`
	engine.TLSFailed:          {"PR"},       // HAProxy writes a line of another form: "SSL handshake failure"
	engine.BadRequest:         {"PR"},       // and <BADREQ>
	engine.UnknownNode:        {"SC"},       // as if nothing listened where the broker is to be
	engine.ConnectFailed:      {"SC"},       // refused, unreachable, or no answer (HAProxy tells the last apart, as sC)
	engine.NoServer:           {"SC"},       // what HAProxy says with <NOSRV>
	engine.ServersFull:        {"sQ"},       // every server at its maxconn; HAProxy says so after timeout queue, we at once
	engine.NoResources:        {"RC"},       // fds, memory or source ports ran out while connecting
	engine.BadResponse:        {"PH"},       // HAProxy refuses it, too
	engine.ResponseTimeout:    {"sH"},       // as `timeout server`
	engine.IdleTimeout:        {"cD"},       // as `timeout client` strikes
	engine.FinTimeout:         {"sD"},       // one side had finished and the other did not follow, mostly the server
	engine.LostClient:         {"CD", "CC"}, // keepalive gave up: an error of the socket, to HAProxy too
	engine.LostServer:         {"SD"},       // the same on the other side
	engine.ServerDown:         {"DD"},       // as `on-marked-down shutdown-sessions`
	engine.Killed:             {"K-"},       // as HAProxy's `shutdown session`
	engine.Stopped:            {"K-"},       // HAProxy has none: it writes no line for what a hard stop cuts
	engine.Fault:              {"ID"},       // internal error
}

func stateOf(r *engine.Record) string {
	s, known := states[r.Reason]
	switch {
	case !known: // a request after which the connection goes on
		return "--"
	case r.Connect == 0 && s[1] != "":
		return s[1]
	}
	return s[0]
}

// appendHaproxy appends r as HAProxy would: what it logs of a connection in mode
// tcp, or of a request in mode http.
func appendHaproxy(b []byte, r *engine.Record, loc *time.Location) []byte {
	if r.HTTP != nil {
		return appendHTTP(b, r, loc)
	}
	return appendTCP(b, r, loc)
}

// appendTCP appends r as HAProxy's `option tcplog` does:
//
//	%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq
//
// A route is both frontend and backend. There is no queue, so that its time and
// lengths are 0, or -1 for the time if no server was found. Of the connections
// at this moment, the one that ends counts in %ac and %fc and no more in %bc and
// %sc, as it does there.
func appendTCP(b []byte, r *engine.Record, loc *time.Location) []byte {
	b = appendWho(b, r, loc)
	wait, connect := times(r)
	b = appendInts(b, wait, connect, max(0, r.End.Sub(r.Start).Milliseconds()))
	b = append(b, ' ')
	b = strconv.AppendUint(b, r.BytesDown, 10)
	b = append(b, ' ')
	b = append(b, stateOf(r)...)
	b = append(b, ' ')
	b = appendActive(b, r)
	return append(b, '\n')
}

// appendWho appends the client, the time, and the route twice with the server.
func appendWho(b []byte, r *engine.Record, loc *time.Location) []byte {
	b = appendBare(b, r.Client)
	b = append(b, " ["...)
	b = r.Start.In(loc).AppendFormat(b, "02/Jan/2006:15:04:05.000")
	b = append(b, "] "...)
	b = append(b, r.Route...)
	b = append(b, ' ')
	b = append(b, r.Route...)
	b = append(b, '/')
	b = append(b, cmp.Or(r.Server, "<NOSRV>")...)
	return append(b, ' ')
}

// times are those in the queue and to connect, in ms; -1: it did not come to that.
func times(r *engine.Record) (wait, connect int64) {
	connect = -1
	if r.Connect > 0 {
		connect = r.Connect.Milliseconds()
	}
	if r.Server == "" {
		wait = -1
	}
	return wait, connect
}

// appendActive appends the connections at this moment, the retries, and the queues.
func appendActive(b []byte, r *engine.Record) []byte {
	b = appendInts(b, int64(r.TotalActive), int64(r.RouteActive), max(0, int64(r.RouteActive)-1),
		max(0, int64(r.ServerActive)-1), int64(r.Retries))
	return append(b, " 0/0"...)
}

func appendInts(b []byte, ns ...int64) []byte {
	for i, n := range ns {
		if i > 0 {
			b = append(b, '/')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return b
}

// appendBare appends address and port without brackets around IPv6, as HAProxy
// does.
func appendBare(b []byte, a netip.AddrPort) []byte {
	b = a.Addr().Unmap().AppendTo(b)
	b = append(b, ':')
	return strconv.AppendUint(b, uint64(a.Port()), 10)
}
