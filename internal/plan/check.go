package plan

import (
	"fmt"
	"strconv"
	"strings"

	"midspan/internal/config"
)

// Check is how the servers of a route are tested. It is comparable: tests that
// are equal in it share a prober.
type Check struct {
	Kind   CheckKind `json:"kind"`
	Path   string    `json:"path,omitempty"`   // http
	Host   string    `json:"host,omitempty"`   // http, tls: the name that is asked for; "": the server's host
	Status StatusSet `json:"status,omitzero"`  // http: the codes that are up
	Send   Bytes     `json:"send,omitempty"`   // expect; none: the server speaks first
	Expect Bytes     `json:"expect,omitempty"` // expect: in what the server says; http: in the body
	Port   uint16    `json:"port,omitempty"`   // 0: the server's
	// What the route does on connections to its servers, and the test on its own;
	// nothing of it where the test has a port of its own.
	SendProxy SendProxy   `json:"send_proxy,omitempty"` // "": no header
	TLS       UpstreamTLS `json:"tls,omitzero"`
	Every     Duration    `json:"every"`
	Timeout   Duration    `json:"timeout"`
	Rise      int         `json:"rise"`
	Fall      int         `json:"fall"`
}

// CheckKind is the protocol of a check.
type CheckKind string

// The kinds. CheckOff means that only failed connects count.
const (
	CheckOff      CheckKind = "off"
	CheckTCP      CheckKind = "tcp"
	CheckHTTP     CheckKind = "http"
	CheckTLS      CheckKind = "tls"
	CheckTDS      CheckKind = "tds"
	CheckMySQL    CheckKind = "mysql"
	CheckPostgres CheckKind = "postgres"
	CheckKafka    CheckKind = "kafka"
	CheckRedis    CheckKind = "redis"
	CheckExpect   CheckKind = "expect" // raw bytes
)

// Named tells whether a test of this kind may be told the name to ask for.
func (k CheckKind) Named() bool { return k == CheckHTTP || k == CheckTLS }

// Bytes are any bytes; in JSON, what is not text of them is escaped as in Go.
type Bytes string

// MarshalText implements encoding.TextMarshaler.
func (b Bytes) MarshalText() ([]byte, error) {
	quoted := strconv.Quote(string(b))
	return []byte(quoted[1 : len(quoted)-1]), nil
}

// minStatus is the first code of a StatusSet: below are answers that are not
// final.
const minStatus = 200

// StatusSet is a set of HTTP status codes from 200 to 599. The zero StatusSet
// stands for 200 to 399.
type StatusSet [7]uint64

// defaultStatus is what counts as up where the file does not say.
var defaultStatus = StatusSet{}.with(200, 399)

func (s StatusSet) with(from, to int) StatusSet {
	for code := from - minStatus; code <= to-minStatus; code++ {
		s[code/64] |= 1 << (code % 64)
	}
	return s
}

// Has tells whether a code is in s.
func (s StatusSet) Has(code int) bool {
	if s == (StatusSet{}) {
		s = defaultStatus
	}
	i := code - minStatus
	return i >= 0 && i < 64*len(s) && s[i/64]&(1<<(i%64)) != 0
}

func (s StatusSet) String() string {
	var ranges []string
	for from := minStatus; from < minStatus+64*len(s); from++ {
		if !s.Has(from) {
			continue
		}
		to := from
		for s.Has(to + 1) {
			to++
		}
		ranges = append(ranges, config.StatusRange{From: from, To: to}.String())
		from = to
	}
	return strings.Join(ranges, ",")
}

// MarshalText makes a StatusSet a string in JSON: 200-299,404.
func (s StatusSet) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// check is the test of r's servers. What makes its kind (kind, http, send,
// expect) comes as a whole from the route or from `defaults`; all else that the
// route does not say comes from `defaults`.
func (b *builder) check(c *config.Route, r *Route) Check {
	s, d := &c.Check, &b.file.Defaults.Check
	who := fmt.Sprintf("route %q", r.Name)
	b.checkForm(s, who)
	k := Check{
		Port:  uint16(pick(s.Port, d.Port, 0)),
		Every: Duration(pick(s.Every, d.Every, defaultEvery)),
		Rise:  pick(s.Rise, d.Rise, defaultRise),
		Fall:  pick(s.Fall, d.Fall, defaultFall),
	}
	k.Timeout = Duration(pick(s.Timeout, d.Timeout, min(k.Every.D(), maxCheckTimeout)))
	which := s
	if !saysKind(s) {
		which = d
	}
	k.Kind = kindOf(which)
	if r.Mode == ModeKafka && !saysKind(which) {
		k.Kind = CheckKafka // a broker that accepts connections is not always one that answers
	}
	if k.Kind.Named() {
		k.Host = pick(s.Host, d.Host, "")
	}
	switch k.Kind {
	case CheckHTTP:
		k.Path, k.Expect = which.HTTP.V, Bytes(which.Expect.V)
		k.Status = defaultStatus
		if ranges := values(s.Status, d.Status); len(ranges) > 0 {
			k.Status = StatusSet{}
			for _, one := range ranges {
				k.Status = k.Status.with(one.From, one.To)
			}
		}
	case CheckExpect:
		// checkForm has refused what is no byte.
		send, _ := config.Bytes(which.Send.V)
		expect, _ := config.Bytes(which.Expect.V)
		k.Send, k.Expect = Bytes(send), Bytes(expect)
	}
	b.checkFits(c, r, k)
	if k.Kind != CheckOff && k.Port == 0 {
		switch {
		case r.SendProxy != SendNone:
			k.SendProxy = r.SendProxy
		case r.Proxy.Mode == ProxyPassed:
			k.SendProxy = SendV2 // the server waits for the headers of clients
		}
		if k.Kind != CheckTCP {
			k.TLS = r.UpstreamTLS
		}
	}
	return k
}

// saysKind tells whether c says what test it is.
func saysKind(c *config.Check) bool {
	return c.Kind.Set() || c.HTTP.Set() || c.Send.Set() || c.Expect.Set()
}

func kindOf(c *config.Check) CheckKind {
	switch {
	case c.HTTP.Set():
		return CheckHTTP
	case c.Kind.Set():
		return CheckKind(c.Kind.V)
	case saysKind(c):
		return CheckExpect
	}
	return CheckOff
}

// checkForm refuses a check that is two kinds at once, or half of one.
func (b *builder) checkForm(c *config.Check, who string) {
	switch {
	case c.Kind.Set() && c.HTTP.Set():
		b.problems.Addf(c.HTTP.Pos, "%s: a check is %s or http, not both; keep one", who, c.Kind.V)
	case c.HTTP.Set() && c.Send.Set():
		b.problems.Addf(c.Send.Pos, "%s: an http check sends its own request; take `send` out, or `http`", who)
	case c.HTTP.Set():
	case c.Kind.Set() && (c.Send.Set() || c.Expect.Set()):
		b.problems.Addf(firstSet(c.Send.Pos, c.Expect.Pos), "%s: `send` and `expect` are a check of their own, without `kind: %s`; keep one of the two", who, c.Kind.V)
	case c.Send.Set() && !c.Expect.Set():
		b.problems.Addf(c.Send.Pos, "%s: `send` without `expect` tests nothing; add what the server must answer", who)
	case c.Expect.Set():
		if _, r := config.Bytes(c.Expect.V); r >= 0 {
			b.problems.Addf(c.Expect.Pos, `%s: %q in expect is not a byte; write what it is encoded as, such as "\xc3\xa9"`, who, r)
		}
	}
}

// checkFits refuses what the route says of its check and the check has no use for.
func (b *builder) checkFits(c *config.Route, r *Route, k Check) {
	s := &c.Check
	if s.Host.Set() && !k.Kind.Named() {
		b.problems.Addf(s.Host.Pos, "route %q: `host` is for an http or tls check; add http: /path or take it out", r.Name)
	}
	if len(s.Status) > 0 && k.Kind != CheckHTTP {
		b.problems.Addf(s.Status[0].Pos, "route %q: `status` is for an http check; add http: /path or take it out", r.Name)
	}
	if r.Mode == UDP && k.Kind != CheckOff && k.Port == 0 {
		b.problems.Addf(firstSet(s.Kind.Pos, s.HTTP.Pos, s.Send.Pos, s.Expect.Pos, c.Name.Pos), "route %q: a check is over TCP, and the route is udp; give it the `port` of something on the same server that answers there", r.Name)
	}
	if s.Port.Set() && k.Kind == CheckOff {
		b.problems.Addf(s.Port.Pos, "route %q: `port` is given but no check; add kind: tcp or http: /path", r.Name)
	}
}
