package main

import (
	"strings"

	"midspan/internal/engine"
)

// statuses are nginx's for midspan's reasons; all others are 200.
var statuses = map[engine.Reason]int{
	engine.NotAllowed: 403, engine.ConsumerNotAllowed: 403, engine.UnknownConsumer: 403,
	engine.BadProxyHeader: 400, engine.ProxyNotAllowed: 400, engine.OpeningTimeout: 400, engine.NotTLS: 400,
	engine.TLSFailed: 500, engine.NoServerName: 500, engine.UnknownServerName: 500, engine.Fault: 500,
	engine.RateLimit: 503, engine.RouteLimit: 503, engine.SourceLimit: 503, engine.ConsumerLimit: 503,
	engine.ConnectFailed: 502, engine.NoServer: 502, engine.ServersFull: 502, engine.NoResources: 502,
}

// status is $status.
func (s *session) status() int {
	if s.record == nil {
		return 0 // nginx's value before the end is 000
	}
	if s.unit.bad && s.record.Reason == engine.NoServer {
		return 500
	}
	if s.record.Reason == engine.TLSFailed && len(s.unit.byName) > 0 {
		return 400 // a ClientHello that could not be read
	}
	if n := statuses[s.record.Reason]; n != 0 {
		return n
	}
	return 200
}

// limitStatus is $limit_conn_status.
func (s *session) limitStatus() string {
	switch {
	case s.unit.all("limit_conn") == nil || s.unit.on("limit_conn_dry_run"):
		return ""
	case s.record != nil && s.record.Reason == engine.SourceLimit:
		return "REJECTED"
	}
	return "PASSED"
}

// upstream are variables of the servers that were tried, from midspan's record.
func (s *session) upstream(name string) (string, bool) {
	rest, is := strings.CutPrefix(name, "upstream_")
	if !is {
		return "", false
	}
	r := s.record
	if _, answers := s.unit.returns(); answers || r == nil || statuses[r.Reason] != 0 && statuses[r.Reason] != 502 {
		return "", true
	}
	tried := s.tried()
	each := func(failed, last string) string {
		all := make([]string, len(tried))
		for i := range all {
			all[i] = failed
		}
		if r.Connect > 0 && len(all) > 0 {
			all[len(all)-1] = last
		}
		return strings.Join(all, ", ")
	}
	switch rest {
	case "addr":
		if len(tried) == 0 {
			return s.unit.passes, true
		}
		return strings.Join(tried, ", "), true
	case "bytes_sent":
		return each("0", s.count(func(r *engine.Record) uint64 { return r.BytesUp })), true
	case "bytes_received":
		return each("0", s.count(func(r *engine.Record) uint64 { return r.BytesDown })), true
	case "connect_time":
		return each("-", seconds(r.Connect)), true
	case "session_time", "first_byte_time":
		return each("-", seconds(r.End.Sub(r.Start))), true
	}
	return "", false
}

// tried are the servers of the connection: those that failed, and the one that
// did not.
func (s *session) tried() (all []string) {
	for _, a := range s.record.Tried {
		all = append(all, a.String())
	}
	if s.record.Connect > 0 {
		all = append(all, s.record.Endpoint.String())
	}
	return all
}

// serverName is the name that the client asked for in TLS.
func (s *session) serverName() string {
	switch {
	case s.conn != nil:
		return s.conn.ServerName
	case s.record != nil:
		return s.record.ServerName
	}
	return ""
}

// tls are variables of the TLS that midspan ended.
func (s *session) tls(name string) (string, bool) {
	if v, found := s.preread(name); found {
		return v, true
	}
	rest, is := strings.CutPrefix(name, "ssl_")
	if !is {
		return "", false
	}
	if !s.unit.bind.ssl {
		return "", true
	}
	if rest == "server_name" {
		return s.serverName(), true
	}
	agreed := s.agreed()
	if agreed == nil {
		return "", true
	}
	switch rest {
	case "protocol":
		return "TLSv" + agreed.Version, true
	case "cipher":
		return agreed.Cipher, true
	case "alpn_protocol":
		return agreed.Protocol, true
	case "session_reused":
		if agreed.Resumed {
			return "r", true
		}
		return ".", true
	}
	return "", true
}

// agreed is what midspan has agreed on with the client in TLS; nil: nothing.
func (s *session) agreed() *engine.TLS {
	switch {
	case s.conn != nil:
		return s.conn.TLS
	case s.record != nil:
		return s.record.TLS
	}
	return nil
}
