package main

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"midspan/internal/engine"
)

// session is one connection as the configuration's variables see it. What they
// say of addresses, bytes, times and servers is midspan's: from the PROXY header
// that it sends, from its list of live connections and from its access records.
type session struct {
	unit   *unit
	serial uint64
	client netip.AddrPort // invalid: of a Unix socket
	local  netip.AddrPort
	header *header        // the PROXY header that the client sent; nil: none
	conn   *engine.Conn   // as midspan lists it; nil: not listed
	record *engine.Record // at the end; nil: not yet
	hello  []byte         // what the client sent first, where `return` needs it
	sets   map[string]string
	groups lookup // captures of the server name; nil: none
	now    time.Time
	depth  int
}

// maxDepth bounds variables that are made of each other.
const maxDepth = 20

// expand is text with this session's values. At run time a variable that has
// none is empty.
func (s *session) expand(text string) string {
	out, _ := expand(text, s.get)
	return out
}

// set does the `set` directives of the session's server, in turn.
func (s *session) set() {
	for _, d := range s.unit.all("set") {
		if s.sets == nil {
			s.sets = map[string]string{}
		}
		s.sets[strings.TrimPrefix(d.arg(0), "$")] = s.expand(d.arg(1))
	}
}

func (s *session) get(name string) (string, bool) {
	if v, found := s.sets[name]; found {
		return v, true
	}
	if d := s.unit.conf.defined[name]; d != nil {
		if s.depth >= maxDepth {
			return "", false
		}
		s.depth++
		defer func() { s.depth-- }()
		return d.value(s.get)
	}
	if s.groups != nil {
		if v, found := s.groups(name); found {
			return v, true
		}
	}
	for _, of := range []func(string) (string, bool){s.own, s.addresses, s.times, s.upstream, s.tls, s.proxied} {
		if v, found := of(name); found {
			return v, true
		}
	}
	return "", false
}

// own are variables of the process and of the connection as a whole.
func (s *session) own(name string) (string, bool) {
	switch name {
	case "connection":
		return strconv.FormatUint(s.serial, 10), true
	case "nginx_version":
		return nginxVersion, true
	case "hostname":
		return hostname(), true
	case "pid":
		return strconv.Itoa(os.Getpid()), true
	case "protocol":
		return s.unit.protocol(), true
	case "server_name":
		return s.unit.name(), true
	case "status":
		return strconv.Itoa(s.status()), true
	case "limit_conn_status":
		return s.limitStatus(), true
	case "bytes_sent":
		return s.count(func(r *engine.Record) uint64 { return r.BytesDown }), true
	case "bytes_received":
		return s.count(func(r *engine.Record) uint64 { return r.BytesUp }), true
	}
	return "", false
}

func (s *session) count(of func(*engine.Record) uint64) string {
	if s.record == nil {
		return "0"
	}
	return strconv.FormatUint(of(s.record), 10)
}

func hostname() string {
	h, _ := os.Hostname() // an empty one is what nginx shows then, too
	return strings.ToLower(h)
}

// addresses are variables of who is connected with whom.
func (s *session) addresses(name string) (string, bool) {
	remote, peer := s.remote()
	switch name {
	case "remote_addr":
		return addrText(remote), true
	case "remote_port":
		return portText(remote), true
	case "binary_remote_addr":
		if !remote.IsValid() {
			return "unix:", true
		}
		return string(remote.Addr().Unmap().AsSlice()), true
	case "realip_remote_addr":
		return addrText(peer), true
	case "realip_remote_port":
		return portText(peer), true
	case "server_addr":
		return addrText(s.local), true
	case "server_port":
		return portText(s.local), true
	}
	return "", false
}

// remote is who the client is, by `set_real_ip_from`, and who connected.
func (s *session) remote() (remote, peer netip.AddrPort) {
	peer = s.client
	if s.header == nil {
		return peer, peer
	}
	peer = s.header.peer
	if s.header.source.IsValid() && s.unit.trusts(peer) {
		return s.header.source, peer
	}
	return peer, peer
}

func addrText(a netip.AddrPort) string {
	if !a.IsValid() {
		return "unix:"
	}
	return a.Addr().Unmap().String()
}

func portText(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return strconv.Itoa(int(a.Port()))
}

// times are variables of the clock.
func (s *session) times(name string) (string, bool) {
	switch name {
	case "msec":
		return fmt.Sprintf("%d.%03d", s.now.Unix(), s.now.Nanosecond()/1e6), true
	case "time_local":
		return s.now.Format("02/Jan/2006:15:04:05 -0700"), true
	case "time_iso8601":
		return s.now.Format("2006-01-02T15:04:05-07:00"), true
	case "session_time":
		if s.record == nil {
			return "0.000", true
		}
		return seconds(s.record.End.Sub(s.record.Start)), true
	}
	return "", false
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }
